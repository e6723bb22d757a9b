"""Which objects belong to a workload: adoption and release by selector, and the queueing that follows from it.

Rules of upstream's ``ControllerRefManager``: a workload adopts what matches its selector and has no controller, and
releases what it controls but no longer matches.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from kmn.controlplane.podstate import terminating
from kmn.controlplane.runtime import LoopClient, Reconciler
from kmn.k8s.client import WatchEvent
from kmn.k8s.errors import NotFound
from kmn.k8s.objects import Key, Object, controller_of, key_of, labels, namespace_of, owner_reference, uid_of
from kmn.k8s.resources import PODS, Resource
from kmn.k8s.selectors import LabelSelector

__all__ = ["Workloads", "claim", "get_or_none", "put_status"]

# Changes of children lead to a reconcile of their owner at once, but not oftener than this.
_WINDOW = 0.01


def claim(
    client: LoopClient, owner: Object, selector: LabelSelector, owned: Iterable[Object], orphans: Iterable[Object]
) -> list[Object]:
    """What belongs to ``owner`` of ``owned`` and ``orphans``, after adopting and releasing."""
    uid, going = uid_of(owner), terminating(owner)
    claimed = []
    for obj in owned:
        ref = controller_of(obj)
        if ref is None or ref["uid"] != uid:
            continue
        if selector.matches(labels(obj)):
            claimed.append(obj)
        elif not going and not terminating(obj):
            refs = [r for r in obj["metadata"]["ownerReferences"] if r["uid"] != uid]
            client.update(_with_owners(obj, refs))
    if not going:
        for obj in orphans:
            if selector.matches(labels(obj)) and not terminating(obj) and controller_of(obj) is None:
                refs = [*(obj["metadata"].get("ownerReferences") or ()), owner_reference(owner)]
                claimed.append(client.update(_with_owners(obj, refs)))
    return claimed


def _with_owners(obj: Object, refs: list[dict[str, Any]]) -> Object:
    return {**obj, "metadata": {**obj["metadata"], "ownerReferences": refs}}


def get_or_none(client: LoopClient, resource: Resource, key: Key) -> Object | None:
    try:
        return client.get(resource, key.namespace, key.name)
    except NotFound:
        return None


def put_status(client: LoopClient, obj: Object, status: dict[str, Any]) -> Object:
    """Write a status if it differs from the one that ``obj`` has."""
    if (obj.get("status") or {}) == status:
        return obj
    return client.update({**obj, "status": status}, subresource="status")


class Workloads(Reconciler[Key]):
    """What reconcilers of all workload kinds have in common: they own children and hear of their changes."""

    resource: Resource
    children: Resource = PODS

    def __init__(self, client: LoopClient) -> None:
        super().__init__(client)
        self._orphans: dict[str, dict[str, Object]] = defaultdict(dict)  # namespace -> name -> child
        self._selectors: dict[str, dict[Key, LabelSelector]] = defaultdict(dict)  # namespace -> workload -> selector

    @abstractmethod
    def selector(self, workload: Object) -> LabelSelector:
        """The selector of a workload's children."""

    def watches(self) -> Iterable[tuple[Resource, Callable[[WatchEvent], None]]]:
        return ((self.resource, self._on_workload), (self.children, self._on_child))

    def subject(self, key: Key) -> Object | None:
        return get_or_none(self.client, self.resource, key)

    def owned(self, workload: Object) -> list[Object]:
        """Children by owner reference, whether the selector matches or not."""
        kind = self.children.kind
        return [obj for obj in self.client.owned_by(uid_of(workload)) if obj["kind"] == kind]

    def claimed(self, workload: Object) -> list[Object]:
        """Children of a workload, after adopting and releasing."""
        selector = self.selector(workload)
        orphans = self._orphans.get(namespace_of(workload), {})
        # The index is told of changes a moment later and may be out of date: look at the store as well.
        keys = [key_of(orphan) for orphan in orphans.values() if selector.matches(labels(orphan))]
        present = filter(None, (get_or_none(self.client, self.children, key) for key in keys))
        return claim(self.client, workload, selector, self.owned(workload), present)

    def _on_workload(self, event: WatchEvent) -> None:
        if event.type == "BOOKMARK":
            return
        key = key_of(event.object)
        if event.type == "DELETED":
            self._selectors[key.namespace].pop(key, None)
        else:
            self._selectors[key.namespace][key] = self.selector(event.object)
        self.queue.add(key)

    def _on_child(self, event: WatchEvent) -> None:
        if event.type == "BOOKMARK":
            return
        child = event.object
        key, ref = key_of(child), controller_of(child)
        self._orphans[key.namespace].pop(key.name, None)
        if ref is not None:
            if ref["kind"] == self.resource.kind and ref["apiVersion"] == self.resource.api_version:
                self.queue.add_paced(Key(key.namespace, ref["name"]), _WINDOW)
            return
        if event.type != "DELETED":
            self._orphans[key.namespace][key.name] = child
        for workload, selector in self._selectors[key.namespace].items():
            if selector.matches(labels(child)):
                self.queue.add_paced(workload, _WINDOW)
