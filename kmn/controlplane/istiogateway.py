"""Istio's ingress gateway is there when the first Gateway of Istio is; its load balancer has the ports of servers.

Which requests go where is the business of ``kmn.ingress.istio``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from kmn.controlplane.runtime import LoopClient, Reconciler
from kmn.ingress.istio.manifests import istio_objects, selects_ours
from kmn.k8s.client import WatchEvent
from kmn.k8s.errors import AlreadyExists, NotFound
from kmn.k8s.objects import Object, key_of
from kmn.k8s.resources import ISTIO_DESTINATIONRULES, ISTIO_GATEWAYS, ISTIO_VIRTUALSERVICES, SERVICES, Resource

__all__ = ["IstioGateway"]

log = logging.getLogger(__name__)

_OBJECTS = (ISTIO_GATEWAYS, ISTIO_VIRTUALSERVICES, ISTIO_DESTINATIONRULES)
_ALL = "all"  # the only key: there is one ingress gateway


class IstioGateway(Reconciler[str]):
    """``serve`` starts the process that its pods need. It also tells of objects what of them has no effect, so it is
    called when there are any."""

    component = "istio"

    def __init__(self, client: LoopClient, serve: Callable[[], None]) -> None:
        super().__init__(client)
        self._serve = serve
        self._installed = False

    def watches(self) -> Iterable[tuple[Resource, Callable[[WatchEvent], None]]]:
        return [(resource, self._on_object) for resource in _OBJECTS]

    def reconcile(self, key: str) -> None:
        self._serve()
        gateways = [each for each in self.client.list(ISTIO_GATEWAYS).items if selects_ours(each)]
        if not gateways:
            return
        if not self._installed:
            self._installed = True
            log.info("istio-ingressgateway")
            for obj in istio_objects(gateways):
                try:
                    self.client.create(obj)
                except AlreadyExists:
                    pass  # a manifest brought one of its own
        self._open_ports(istio_objects(gateways)[-1])

    def _open_ports(self, wanted: Object) -> None:
        """Those that servers have; a port that somebody has opened beside stays."""
        try:
            present = self.client.get(SERVICES, *key_of(wanted))
        except NotFound:
            return  # deleted by somebody who wants none
        ports = list(present["spec"].get("ports") or ())
        known = {port["port"] for port in ports}
        missing = [port for port in wanted["spec"]["ports"] if port["port"] not in known]
        if missing:
            self.client.update({**present, "spec": {**present["spec"], "ports": ports + missing}})

    def _on_object(self, event: WatchEvent) -> None:
        self.queue.add(_ALL)
