"""What controllers' annotations mean: a dialect is a module, chosen by the ``spec.controller`` of an IngressClass.

A dialect (``routing.Dialect``) is a function from Ingresses to a routing. It reads specs with ``reading``, its own
annotations itself, puts rules together with the parts in ``routing`` (or in a way of its own), and names as a problem
(``NotEmulated``) each annotation of its domain that has no effect. It asks ``find`` for what else it needs: the
routing is made anew when one of the objects that were asked for changes.
"""

from __future__ import annotations

from collections.abc import Mapping

from kmn.ingress.dialects import nginx
from kmn.ingress.dialects.traefik import rules as traefik
from kmn.ingress.routing import Dialect, plain_routing
from kmn.k8s.dataplane import TRAEFIK_CONTROLLER

__all__ = ["DIALECTS", "dialect_of"]

DIALECTS: Mapping[str, Dialect] = {
    "k8s.io/ingress-nginx": nginx.routing_of,
    TRAEFIK_CONTROLLER: traefik.routing_of,
}


def dialect_of(controller: str) -> Dialect:
    """Of a ``spec.controller`` that has none the annotations are all named as problems."""
    return DIALECTS.get(controller, plain_routing)
