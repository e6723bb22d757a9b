"""SCTP ports that a Service would have to translate, and that Open vSwitch's userspace datapath leaves as they are.

The datapath tracks SCTP by addresses: those are translated, ports are not. (The kernel's datapath translates both.) A
port that is another number at the endpoints never reaches them; a Warning Event on the Service says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from kmn.controlplane.runtime import LoopClient, Reconciler
from kmn.controlplane.workloads.ownership import get_or_none
from kmn.k8s.client import WatchEvent
from kmn.k8s.objects import Key, Object, describe, key_of, labels
from kmn.k8s.resources import ENDPOINTSLICES, SERVICES, Resource

__all__ = ["SctpPorts", "untranslated"]

_SERVICE_NAME = "kubernetes.io/service-name"
_WHY = "Open vSwitch's userspace datapath translates addresses of SCTP, not ports"


def untranslated(service: Object, slices: Iterable[Object]) -> Iterator[str]:
    """What is wrong with each port or node port of a Service that is not its endpoints' number.

    Numbers are those in EndpointSlices; before there are any, ``targetPort`` where a selector makes it count.
    """
    spec = service.get("spec") or {}
    if spec.get("type") == "ExternalName" or spec.get("clusterIP") in (None, "", "None"):
        return
    slices = list(slices)
    for index, port in enumerate(spec.get("ports") or ()):
        if port.get("protocol") != "SCTP":
            continue
        name = port.get("name") or ""
        targets = {
            entry["port"]
            for piece in slices
            for entry in piece.get("ports") or ()
            if (entry.get("name") or "", entry.get("protocol")) == (name, "SCTP") and entry.get("port")
        }
        wish = port.get("targetPort", port["port"])
        if spec.get("selector") and isinstance(wish, int):
            targets.add(wish)
        for field in ("port", "nodePort"):
            number = port.get(field)
            for target in sorted(targets - {number}) if number else ():
                yield (
                    f"spec.ports[{index}].{field}: SCTP {number} does not reach port {target} of the endpoints: "
                    f"{_WHY}; let the endpoints listen on {number}"
                )


class SctpPorts(Reconciler[Key]):
    """Tells once for each such port, where bridges have the userspace datapath."""

    component = "kmn"

    def __init__(self, client: LoopClient, datapath_type: Callable[[], str]) -> None:
        """``datapath_type`` is asked when a Service has such a port: the machine is looked at after this is made."""
        super().__init__(client)
        self._datapath_type = datapath_type

    def watches(self) -> Iterable[tuple[Resource, Callable[[WatchEvent], None]]]:
        return ((SERVICES, self._on_service), (ENDPOINTSLICES, self._on_slice))

    def reconcile(self, key: Key) -> None:
        service = get_or_none(self.client, SERVICES, key)
        if service is None or self._datapath_type() != "netdev":
            return
        slices = self.client.list(ENDPOINTSLICES, key.namespace, label_selector=f"{_SERVICE_NAME}={key.name}").items
        for text in untranslated(service, slices):
            self.recorder.once(service, "Warning", "NotEmulated", f"{describe(service)}: {text}")

    def _on_service(self, event: WatchEvent) -> None:
        if event.type in ("ADDED", "MODIFIED") and _has_sctp((event.object.get("spec") or {}).get("ports")):
            self.queue.add(key_of(event.object))

    def _on_slice(self, event: WatchEvent) -> None:
        if event.type in ("ADDED", "MODIFIED") and _has_sctp(event.object.get("ports")):
            service = labels(event.object).get(_SERVICE_NAME)
            if service:
                self.queue.add(Key(key_of(event.object).namespace, service))


def _has_sctp(ports: Iterable[Object] | None) -> bool:
    return any(port.get("protocol") == "SCTP" for port in ports or ())
