"""What follows from a deletion: dependents of owners that are gone, and the contents of namespaces.

Incremental: each change of the store leads to the few checks that it may have made necessary, deferred to the loop
and run in order. There is no sweep over all objects.
"""

from __future__ import annotations

from functools import partial

from kmn.apiserver.registry import DeleteOptions, Registry
from kmn.apiserver.store import Event, Where
from kmn.apiserver.strategy import FOREGROUND
from kmn.k8s.errors import NotFound
from kmn.k8s.objects import Object
from kmn.k8s.resources import NAMESPACES, Resource

__all__ = ["GarbageCollector", "NamespaceLifecycle"]


class GarbageCollector:
    """Deletes objects whose owners are all gone, and finishes foreground deletions."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._store = registry.store
        self._store.observers.append(self._observe)

    def _observe(self, resource: Resource, event: Event) -> None:
        meta = event.record.object["metadata"]
        references = meta.get("ownerReferences")
        if event.type == "DELETED":
            for dependent in self._store.owned_by(meta["uid"]):
                self._store.defer(partial(self._collect, dependent))
            for reference in references or ():
                self._store.defer(partial(self._finish_foreground, reference["uid"]))
            return
        if references:
            before = event.previous.object["metadata"].get("ownerReferences") if event.previous else None
            if references != before:
                self._store.defer(partial(self._collect, (resource, meta.get("namespace", ""), meta["name"])))
        if FOREGROUND in (meta.get("finalizers") or ()) and "deletionTimestamp" in meta:
            self._store.defer(partial(self._finish_foreground, meta["uid"]))

    def _collect(self, where: Where) -> None:
        """Delete an object if none of its owners exists; drop the references to those that do not."""
        found = self._store.collections[where[0]].get(where[1], where[2])
        if found is None:
            return
        references = found.object["metadata"].get("ownerReferences") or ()
        absent = {r["uid"] for r in references if not self._is_owner(r["uid"], where[1])}
        if not absent:
            return
        if len(absent) < len(references):
            self._registry.drop_owners(*where, absent)
        elif "deletionTimestamp" not in found.object["metadata"]:
            self._delete(where, found.object)

    def _is_owner(self, uid: str, namespace: str) -> bool:
        """Owners live in the same namespace, or in none."""
        owner = self._store.where(uid)
        return owner is not None and owner[1] in ("", namespace)

    def _finish_foreground(self, uid: str) -> None:
        """Delete the dependents of an object that waits for them, and let it go after the last."""
        where = self._store.where(uid)
        owner = self._store.collections[where[0]].get(where[1], where[2]) if where else None
        if where is None or owner is None:
            return
        meta = owner.object["metadata"]
        if FOREGROUND not in (meta.get("finalizers") or ()) or "deletionTimestamp" not in meta:
            return
        for dependent in self._store.owned_by(uid):
            found = self._store.collections[dependent[0]].get(dependent[1], dependent[2])
            if found is not None and "deletionTimestamp" not in found.object["metadata"]:
                self._delete(dependent, found.object, foreground=True)
        if not any(self._blocks(dependent, uid) for dependent in self._store.owned_by(uid)):
            self._registry.drop_finalizer(*where, FOREGROUND)

    def _blocks(self, where: Where, owner: str) -> bool:
        found = self._store.collections[where[0]].get(where[1], where[2])
        references = found.object["metadata"].get("ownerReferences") or () if found else ()
        return any(r["uid"] == owner and r.get("blockOwnerDeletion") for r in references)

    def _delete(self, where: Where, obj: Object, *, foreground: bool = False) -> None:
        uid = obj["metadata"]["uid"]
        waits = foreground and bool(self._store.owned_by(uid))
        options = DeleteOptions(uid=uid, propagation="Foreground" if waits else "Background")
        self._registry.delete(*where, options)


class NamespaceLifecycle:
    """Empties namespaces that are being deleted, and removes them when the last object has gone."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._store = registry.store
        self._terminating: set[str] = set()
        self._store.observers.append(self._observe)

    def _observe(self, resource: Resource, event: Event) -> None:
        meta = event.record.object["metadata"]
        if resource is NAMESPACES:
            name = meta["name"]
            if event.type == "DELETED":
                self._terminating.discard(name)
            elif "deletionTimestamp" in meta and name not in self._terminating:
                self._terminating.add(name)
                self._store.defer(partial(self._empty, name))
        elif event.type == "DELETED" and meta.get("namespace") in self._terminating:
            self._finish_when_empty(meta["namespace"])

    def _empty(self, name: str) -> None:
        for resource, records in list(self._store.contents(name)):
            for record in records:
                self._store.defer(partial(self._delete, resource, record.object))
        self._finish_when_empty(name)

    def _delete(self, resource: Resource, obj: Object) -> None:
        meta = obj["metadata"]
        if "deletionTimestamp" in meta:
            return
        try:
            self._registry.delete(resource, meta["namespace"], meta["name"], DeleteOptions(uid=meta["uid"]))
        except NotFound:
            pass  # garbage collection was faster

    def _finish_when_empty(self, name: str) -> None:
        if self._store.is_empty(name):
            self._store.defer(partial(self._registry.finish_namespace, name))
