"""EndpointSlices and Endpoints of Services with a selector.

A pod's change leads to its own Services by an index (a label that the selector asks for), and a Service to its pods by
another: neither looks at all objects. A change by itself is written at once, those that follow within a few
milliseconds together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from kmn.controlplane.endpoints.compute import (
    HEADLESS,
    Desired,
    endpoints_by_ports,
    families_of,
    fingerprint,
    is_headless,
    selects,
)
from kmn.controlplane.endpoints.compute import subsets as subsets_of
from kmn.controlplane.endpoints.writing import MANAGED_BY, SERVICE_NAME, delete_slices, write_slices
from kmn.controlplane.podstate import terminating
from kmn.controlplane.runtime import LoopClient, Reconciler
from kmn.controlplane.workloads.ownership import get_or_none
from kmn.k8s.client import WatchEvent
from kmn.k8s.errors import NotFound
from kmn.k8s.objects import Key, Object, key_of, labels, name_of
from kmn.k8s.resources import ENDPOINTS, ENDPOINTSLICES, NODES, PODS, SERVICES, Resource

__all__ = ["EndpointSlices"]

_MANAGER = "endpointslice-controller.k8s.io"
_OLD_MANAGER = {"endpoints.kubernetes.io/managed-by": "endpoint-controller"}
_OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"
_ZONE = "topology.kubernetes.io/zone"
_WINDOW = 0.01  # seconds between two writes for one Service

_Pair = tuple[str, str, str]  # namespace, label, value


class _Pods:
    """Pods that can be endpoints, by each of their labels."""

    def __init__(self) -> None:
        self._by_pair: defaultdict[_Pair, dict[str, Object]] = defaultdict(dict)
        self._known: dict[Key, tuple[Any, ...]] = {}

    def set(self, pod: Object, *, gone: bool) -> list[dict[str, str]]:
        """Take over a pod; the label sets (before and after) of which the Services have something to do."""
        key = key_of(pod)
        before, after = self._known.get(key), None if gone else fingerprint(pod)
        if before == after:
            return []
        if before is not None:
            for pair in before[-1].items():
                names = self._by_pair[(key.namespace, *pair)]
                names.pop(key.name, None)
                if not names:
                    del self._by_pair[(key.namespace, *pair)]
        if after is None:
            self._known.pop(key, None)
        else:
            self._known[key] = after
            for pair in after[-1].items():
                self._by_pair[(key.namespace, *pair)][key.name] = pod
        return [known[-1] for known in (before, after) if known is not None]

    def selected(self, namespace: str, selector: dict[str, str]) -> list[Object]:
        """The pods that a (non-empty) selector matches, in the order in which they got their addresses."""
        candidates = [self._by_pair.get((namespace, *pair), {}) for pair in selector.items()]
        fewest = min(candidates, key=len)
        return [pod for pod in fewest.values() if selector.items() <= labels(pod).items()]


class EndpointSlices(Reconciler[Key]):
    """Keeps the EndpointSlices and Endpoints of every Service with a selector."""

    component = "endpoint-slice-controller"

    def __init__(self, client: LoopClient) -> None:
        super().__init__(client)
        self._pods = _Pods()
        self._services: dict[Key, dict[str, str]] = {}  # Service -> selector
        self._by_anchor: defaultdict[_Pair, dict[Key, None]] = defaultdict(dict)
        self._zones: dict[str, str] = {}  # node -> zone

    def watches(self) -> Iterable[tuple[Resource, Callable[[WatchEvent], None]]]:
        return (
            (NODES, self._on_node),
            (PODS, self._on_pod),
            (SERVICES, self._on_service),
            (ENDPOINTSLICES, self._on_slice),
        )

    def subject(self, key: Key) -> Object | None:
        return get_or_none(self.client, SERVICES, key)

    def reconcile(self, key: Key) -> None:
        service = get_or_none(self.client, SERVICES, key)
        if service is None:
            self._forget(key)
            return
        if terminating(service):
            return
        selector = selects(service)
        if not selector:
            delete_slices(self.client, service, _MANAGER)
            return
        pods = self._pods.selected(key.namespace, selector)
        desired = {family: endpoints_by_ports(service, pods, self._zones, family) for family in families_of(service)}
        extra = dict(labels(service))
        if is_headless(service):
            extra[HEADLESS] = ""
        write_slices(self.client, service, _MANAGER, desired, extra)
        # The older object has no families: it lists the primary one.
        self._write_old(service, desired[families_of(service)[0]], extra)

    def _write_old(self, service: Object, desired: Desired, extra: dict[str, str]) -> None:
        """The Endpoints object, which older readers still look at."""
        publish = bool(service["spec"].get("publishNotReadyAddresses"))
        subsets, truncated = subsets_of(desired, publish_not_ready=publish)
        key = key_of(service)
        current = get_or_none(self.client, ENDPOINTS, key)
        wanted = {**extra, **_OLD_MANAGER}
        notes = {_OVER_CAPACITY: "truncated"} if truncated else {}
        if current is None:
            meta = {"name": key.name, "namespace": key.namespace, "labels": wanted, "annotations": notes}
            self.client.create({"apiVersion": "v1", "kind": "Endpoints", "metadata": meta, "subsets": subsets})
        elif (current.get("subsets") or [], labels(current)) != (subsets, wanted):
            meta = {**current["metadata"], "labels": wanted, "annotations": notes}
            self.client.update({**current, "metadata": meta, "subsets": subsets})

    def _forget(self, key: Key) -> None:
        """The Service is gone: its slices go with it as dependents, its Endpoints by name."""
        current = get_or_none(self.client, ENDPOINTS, key)
        if current is not None and _OLD_MANAGER.items() <= labels(current).items():
            try:
                self.client.delete(ENDPOINTS, *key)
            except NotFound:
                pass

    def _on_service(self, event: WatchEvent) -> None:
        if event.type == "BOOKMARK":
            return
        service = event.object
        key = key_of(service)
        selector = {} if event.type == "DELETED" else selects(service)
        before = self._services.pop(key, None)
        if before:
            anchor = _anchor(key, before)
            self._by_anchor[anchor].pop(key, None)
            if not self._by_anchor[anchor]:
                del self._by_anchor[anchor]
        if selector:
            self._services[key] = selector
            self._by_anchor[_anchor(key, selector)][key] = None
        if selector or before:
            self.queue.add_paced(key, _WINDOW)

    def _on_pod(self, event: WatchEvent) -> None:
        if event.type == "BOOKMARK":
            return
        namespace = key_of(event.object).namespace
        for pod_labels in self._pods.set(event.object, gone=event.type == "DELETED"):
            for pair in pod_labels.items():
                for service in self._by_anchor.get((namespace, *pair), ()):
                    if self._services[service].items() <= pod_labels.items():
                        self.queue.add_paced(service, _WINDOW)

    def _on_slice(self, event: WatchEvent) -> None:
        """A slice that somebody deleted or changed by hand is put right."""
        name = labels(event.object).get(SERVICE_NAME)
        if event.type in ("DELETED", "MODIFIED") and name and labels(event.object).get(MANAGED_BY) == _MANAGER:
            key = Key(key_of(event.object).namespace, name)
            if key in self._services and event.type == "DELETED":
                self.queue.add_paced(key, _WINDOW)

    def _on_node(self, event: WatchEvent) -> None:
        name = name_of(event.object)
        zone = labels(event.object).get(_ZONE) if event.type != "DELETED" else None
        if self._zones.get(name) == zone:
            return
        if zone:
            self._zones[name] = zone
        else:
            self._zones.pop(name, None)
        for service in self._services:
            self.queue.add_paced(service, _WINDOW)


def _anchor(service: Key, selector: dict[str, str]) -> _Pair:
    """The label by which a pod finds the Service: any one of the selector's."""
    label, value = min(selector.items())
    return service.namespace, label, value
