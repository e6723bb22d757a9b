"""Ingresses as ingress-nginx reads them."""

from __future__ import annotations

from collections.abc import Iterable

from kmn.ingress.model import Routing
from kmn.ingress.routing import Find, plain_routing
from kmn.k8s.objects import Object

__all__ = ["routing_of"]


def routing_of(ingresses: Iterable[Object], find: Find) -> Routing:
    """What the Ingresses of the controller say together."""
    return plain_routing(ingresses, find)
