"""Events about what the controller says is lost in the data plane (``DataPlane`` ``status.drops``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from kmn.controlplane.runtime import LoopClient, Reconciler
from kmn.controlplane.workloads.ownership import get_or_none
from kmn.k8s.client import WatchEvent
from kmn.k8s.objects import Key, key_of
from kmn.k8s.resources import DATAPLANES, EDGES, NODES, Resource

__all__ = ["DataPlaneProblems"]


class DataPlaneProblems(Reconciler[Key]):
    """Tells of each problem when it begins, on the object that it is of."""

    component = "kmn-controller"

    def __init__(self, client: LoopClient) -> None:
        super().__init__(client)
        self._told: set[tuple[str, str, str]] = set()

    def watches(self) -> Iterable[tuple[Resource, Callable[[WatchEvent], None]]]:
        return ((DATAPLANES, self._on_dataplane),)

    def reconcile(self, key: Key) -> None:
        dataplane = get_or_none(self.client, DATAPLANES, key)
        problems = ((dataplane or {}).get("status") or {}).get("drops") or ()
        present = {(p["kind"], p["name"], p["reason"]): p["message"] for p in problems}
        for problem in present.keys() - self._told:
            kind, name, reason = problem
            resource = next((each for each in (EDGES, NODES) if each.kind == kind), None)
            about = get_or_none(self.client, resource, Key("", name)) if resource else None
            if about is not None:
                self.recorder.event(about, "Warning", reason, f"{kind} {name}: {present[problem]}")
        self._told = set(present)

    def _on_dataplane(self, event: WatchEvent) -> None:
        if self._told or ((event.object.get("status") or {}).get("drops")):
            self.queue.add(key_of(event.object))
