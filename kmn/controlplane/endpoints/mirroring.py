"""Endpoints that a user made for a Service without selector, mirrored into EndpointSlices.

Rules: https://kubernetes.io/docs/concepts/services-networking/service/#endpointslice-mirroring
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from kmn.controlplane.endpoints.compute import Desired, Ports
from kmn.controlplane.endpoints.writing import delete_slices, write_slices
from kmn.controlplane.podstate import terminating
from kmn.controlplane.runtime import Reconciler
from kmn.controlplane.workloads.ownership import get_or_none
from kmn.k8s.client import WatchEvent
from kmn.k8s.families import FAMILIES, family_of
from kmn.k8s.objects import Key, Object, annotation, key_of, labels
from kmn.k8s.resources import ENDPOINTS, SERVICES, Resource

__all__ = ["Mirroring"]

_MANAGER = "endpointslicemirroring-controller.k8s.io"
_SKIP = "endpointslice.kubernetes.io/skip-mirror"
_LEADER = "control-plane.alpha.kubernetes.io/leader"


class Mirroring(Reconciler[Key]):
    """Keeps slices for Endpoints of Services that select no pods."""

    component = "endpoint-slice-mirroring-controller"

    def watches(self) -> Iterable[tuple[Resource, Callable[[WatchEvent], None]]]:
        return ((SERVICES, self._on_service), (ENDPOINTS, self._on_endpoints))

    def subject(self, key: Key) -> Object | None:
        return get_or_none(self.client, ENDPOINTS, key)

    def reconcile(self, key: Key) -> None:
        endpoints = get_or_none(self.client, ENDPOINTS, key)
        if endpoints is None or terminating(endpoints):
            return  # slices go with the Endpoints that own them
        service = get_or_none(self.client, SERVICES, key)
        if service is None or not _mirrored(service, endpoints):
            delete_slices(self.client, endpoints, _MANAGER)
            return
        # Slices of both families where there are addresses of both, as upstream: the Service's families are not asked.
        desired = {family: desired_of(endpoints, family) for family in FAMILIES}
        if not desired["IPv6"]:
            del desired["IPv6"]
        write_slices(self.client, endpoints, _MANAGER, desired, dict(labels(endpoints)))

    def _on_service(self, event: WatchEvent) -> None:
        if event.type != "BOOKMARK" and get_or_none(self.client, ENDPOINTS, key_of(event.object)) is not None:
            self.queue.add(key_of(event.object))

    def _on_endpoints(self, event: WatchEvent) -> None:
        key = key_of(event.object)
        if event.type in ("ADDED", "MODIFIED") and "endpoints.kubernetes.io/managed-by" not in labels(event.object):
            self.queue.add(key)


def _mirrored(service: Object, endpoints: Object) -> bool:
    if service["spec"].get("selector") or service["spec"].get("type") == "ExternalName":
        return False
    return labels(endpoints).get(_SKIP) != "true" and annotation(endpoints, _LEADER) is None


def desired_of(endpoints: Object, family: str = "IPv4") -> Desired:
    """The endpoints of one family that the subsets of an Endpoints object list."""
    desired: Desired = {}
    for subset in endpoints.get("subsets") or ():
        ports: Ports = tuple(
            (p.get("name") or "", p.get("protocol") or "TCP", p["port"], p.get("appProtocol") or "")
            for p in subset.get("ports") or ()
        )
        found = [
            _endpoint(address, ready)
            for name, ready in (("addresses", True), ("notReadyAddresses", False))
            for address in subset.get(name) or ()
            if family_of(address["ip"]) == family
        ]
        if found:
            desired.setdefault(ports, []).extend(found)
    return desired


def _endpoint(address: dict[str, Any], ready: bool) -> dict[str, Any]:
    kept = {k: address[k] for k in ("hostname", "nodeName", "targetRef") if address.get(k)}
    return {"addresses": [address["ip"]], "conditions": {"ready": ready}, **kept}
