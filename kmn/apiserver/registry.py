"""The rules of the Kubernetes API over a store: what a create, an update, a patch or a deletion means.

Both clients, the one in the process and the one over HTTPS, end here. Reactions to a deletion (dependents, contents
of a namespace) are in ``lifecycle``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from kmn.apiserver import strategy
from kmn.apiserver.admission_api import Admission
from kmn.apiserver.store import Record, Store
from kmn.k8s.errors import AlreadyExists, ApiError, Conflict, FieldError, Invalid, NotFound, Reason
from kmn.k8s.objects import Object, describe
from kmn.k8s.resources import NAMESPACES, Resource, by_kind

__all__ = ["DeleteOptions", "Deleted", "Propagation", "Registry", "Reply"]

Propagation = Literal["Background", "Foreground", "Orphan"]

_PROTECTED_NAMESPACES = ("default", "kube-system", "kube-public")
_NAME_ATTEMPTS = 8


class Reply(NamedTuple):
    """The object as it is after a write, and what the writer should know."""

    object: Object
    warnings: list[str]


class Deleted(NamedTuple):
    """The last state of a deleted object; ``gone`` is False while it waits for its end."""

    object: Object
    gone: bool


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """How to delete; ``uid`` and ``resource_version`` are preconditions."""

    grace_seconds: int | None = None
    propagation: Propagation = "Background"
    uid: str | None = None
    resource_version: str | None = None
    dry_run: bool = False


class Registry:
    """Requests on a store. ``trusted`` writers are parts of kmn itself."""

    def __init__(self, store: Store, admission: Admission) -> None:
        self.store = store
        self.admission = admission

    def record(self, resource: Resource, namespace: str, name: str) -> Record:
        """The stored object. Raises NotFound."""
        found = self.store.collections[resource].get(namespace if resource.namespaced else "", name)
        if found is None:
            raise NotFound(resource.qualified, name)
        return found

    def create(self, obj: Object, *, trusted: bool, strict: bool = True, dry_run: bool = False) -> Reply:
        """Store a new object."""
        new = strategy.private_copy(obj)
        resource = _identify(new)
        meta = new["metadata"]
        if resource.namespaced:
            meta.setdefault("namespace", "default")
        self._name(resource, new)
        self._check_namespace(resource, new)
        strategy.start(resource, new, trusted=trusted)
        new, warnings = self.admission.admit("CREATE", resource, new, None, trusted=trusted, strict=strict)
        strategy.first_generation(resource, new)
        if dry_run:
            self.admission.released(resource, new)
            return Reply(new, warnings)
        return Reply(self.store.put(resource, new).object, warnings)

    def _name(self, resource: Resource, new: Object) -> None:
        """Check the name, or make one from ``generateName`` that is free."""
        meta = new["metadata"]
        taken = self.store.collections[resource].namespaces.get(
            meta.get("namespace", "") if resource.namespaced else ""
        )
        if meta.get("name"):
            if taken and meta["name"] in taken:
                raise AlreadyExists(resource.qualified, meta["name"])
            return
        prefix = meta.get("generateName")
        if not prefix:
            raise Invalid(new["kind"], describe(new), [FieldError("metadata.name", "name or generateName is required")])
        for _ in range(_NAME_ATTEMPTS):
            name = prefix[:58] + strategy.random_suffix()
            if not taken or name not in taken:
                meta["name"] = name
                return
        raise AlreadyExists(resource.qualified, name)

    def _check_namespace(self, resource: Resource, new: Object) -> None:
        if not resource.namespaced:
            return
        namespace = new["metadata"]["namespace"]
        found = self.store.collections[NAMESPACES].get("", namespace)
        if found is None:
            raise NotFound(NAMESPACES.qualified, namespace)
        if "deletionTimestamp" in found.object["metadata"]:
            name = new["metadata"]["name"]
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            details = {
                "name": name,
                "kind": resource.plural,
                "causes": [{"reason": "NamespaceTerminating", "message": why, "field": "metadata.namespace"}],
            }
            raise ApiError(403, Reason.FORBIDDEN, f'{resource.qualified} "{name}" is forbidden: {why}', details)

    def update(
        self,
        obj: Object,
        *,
        subresource: Literal["status"] | None = None,
        trusted: bool,
        strict: bool = True,
        dry_run: bool = False,
    ) -> Reply:
        """Replace an object, or its status."""
        resource = _identify(obj)
        meta = obj["metadata"]
        namespace = meta.get("namespace") or "default" if resource.namespaced else ""
        current = self.record(resource, namespace, meta.get("name", ""))
        _check_preconditions(resource, current, meta.get("uid"), meta.get("resourceVersion"))
        return self._replace(resource, current, obj, subresource, trusted=trusted, strict=strict, dry_run=dry_run)

    def patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        change: Callable[[Object], Object],
        *,
        subresource: Literal["status"] | None = None,
        trusted: bool,
        strict: bool = True,
        dry_run: bool = False,
    ) -> Reply:
        """Replace an object by what ``change`` (which must not touch its argument) makes of it."""
        current = self.record(resource, namespace, name)
        obj = change(current.object)
        meta = obj.get("metadata") or {}
        before = current.object["metadata"]
        if (meta.get("name"), meta.get("namespace")) != (before["name"], before.get("namespace")):
            raise ApiError(
                400, Reason.BAD_REQUEST, f"{describe(current.object)}: a patch cannot change name or namespace"
            )
        if _identify(obj) is not resource:
            raise ApiError(
                400, Reason.BAD_REQUEST, f"{describe(current.object)}: a patch cannot change apiVersion or kind"
            )
        _check_preconditions(resource, current, meta.get("uid"), meta.get("resourceVersion"))
        return self._replace(resource, current, obj, subresource, trusted=trusted, strict=strict, dry_run=dry_run)

    def _replace(
        self,
        resource: Resource,
        current: Record,
        obj: Object,
        subresource: str | None,
        *,
        trusted: bool,
        strict: bool,
        dry_run: bool,
    ) -> Reply:
        old = current.object
        warnings: list[str] = []
        if subresource is not None:
            if not resource.status:
                raise ApiError(404, Reason.NOT_FOUND, f"{resource.qualified} have no subresource {subresource!r}")
            new = strategy.replace_status(old, obj)
            if not trusted:
                new = strategy.private_copy(new)
        else:
            new = strategy.replace(resource, old, obj)
        if new == old:
            return Reply(old, [])
        if subresource is None or not trusted:
            new, warnings = self.admission.admit("UPDATE", resource, new, old, trusted=trusted, strict=strict)
            strategy.count_generation(old, new)
            if new == old:
                return Reply(old, warnings)
        if dry_run:
            # Undo what admission has allocated for the change that does not happen.
            self.admission.admit("UPDATE", resource, strategy.private_copy(old), new, trusted=True)
            return Reply(new, warnings)
        return Reply(self._put(resource, new), warnings)

    def _put(self, resource: Resource, new: Object) -> Object:
        stored = self.store.put(resource, new).object
        if strategy.is_finished(stored) and self._may_go(resource, stored):
            return self._remove(resource, stored)
        return stored

    def _may_go(self, resource: Resource, obj: Object) -> bool:
        return resource is not NAMESPACES or self.store.is_empty(obj["metadata"]["name"])

    def _remove(self, resource: Resource, obj: Object) -> Object:
        meta = obj["metadata"]
        last = self.store.remove(resource, meta.get("namespace", ""), meta["name"]).object
        self.admission.released(resource, last)
        return last

    def delete(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        options: DeleteOptions = DeleteOptions(),
    ) -> Deleted:
        """Delete an object, or mark it for deletion."""
        current = self.record(resource, namespace, name)
        _check_preconditions(resource, current, options.uid, options.resource_version)
        obj = current.object
        if resource is NAMESPACES and name in _PROTECTED_NAMESPACES:
            raise ApiError(
                403, Reason.FORBIDDEN, f'namespaces "{name}" is forbidden: this namespace may not be deleted'
            )
        grace = strategy.grace_period(resource, obj, options.grace_seconds)
        finalizers = list(obj["metadata"].get("finalizers") or ())
        if options.propagation == "Foreground" and strategy.FOREGROUND not in finalizers:
            finalizers.append(strategy.FOREGROUND)
        if options.dry_run:
            return Deleted(obj, True)
        if options.propagation == "Orphan":
            self._orphan_dependents(obj["metadata"]["uid"])
        if not grace and not finalizers and self._may_go(resource, obj):
            return Deleted(self._remove(resource, obj), True)
        return Deleted(self._mark(resource, obj, grace, finalizers), False)

    def _mark(self, resource: Resource, obj: Object, grace: int, finalizers: list[str]) -> Object:
        meta = obj["metadata"]
        if "deletionTimestamp" in meta:
            left = meta.get("deletionGracePeriodSeconds") or 0
            if finalizers == (meta.get("finalizers") or []) and grace >= left:
                return obj  # a second deletion can only make it sooner
            grace = min(grace, left)
        marked = strategy.mark_deleted(obj, grace, finalizers)
        if resource is NAMESPACES:
            marked["status"] = {**(obj.get("status") or {}), "phase": "Terminating"}
        return self.store.put(resource, marked).object

    def _orphan_dependents(self, uid: str) -> None:
        for resource, namespace, name in self.store.owned_by(uid):
            self.drop_owners(resource, namespace, name, {uid})

    def drop_owners(self, resource: Resource, namespace: str, name: str, uids: set[str]) -> None:
        """Take owners off an object that stays."""
        obj = self.record(resource, namespace, name).object
        meta = dict(obj["metadata"])
        meta["ownerReferences"] = [r for r in meta.get("ownerReferences") or () if r["uid"] not in uids]
        if not meta["ownerReferences"]:
            del meta["ownerReferences"]
        self._put(resource, {**obj, "metadata": meta})

    def drop_finalizer(self, resource: Resource, namespace: str, name: str, finalizer: str) -> None:
        """Take a finalizer of the server's own off an object, which may be what it waited for."""
        obj = self.record(resource, namespace, name).object
        meta = dict(obj["metadata"])
        meta["finalizers"] = [f for f in meta.get("finalizers") or () if f != finalizer]
        if not meta["finalizers"]:
            del meta["finalizers"]
        self._put(resource, {**obj, "metadata": meta})

    def finish_namespace(self, name: str) -> None:
        """Remove a terminating namespace if nothing is in it any more."""
        found = self.store.collections[NAMESPACES].get("", name)
        if found is not None and strategy.is_finished(found.object) and self.store.is_empty(name):
            self._remove(NAMESPACES, found.object)


def _identify(obj: Any) -> Resource:
    """The resource of an object that somebody sent. Raises ApiError (400) for what is not even an object."""
    if not isinstance(obj, dict) or not isinstance(obj.get("apiVersion"), str) or not isinstance(obj.get("kind"), str):
        raise ApiError(400, Reason.BAD_REQUEST, "not a Kubernetes object: apiVersion and kind are required")
    if not isinstance(obj.get("metadata"), dict):
        raise ApiError(400, Reason.BAD_REQUEST, f"{obj['kind']}: metadata: required, with a name")
    return by_kind(obj["apiVersion"], obj["kind"])


def _check_preconditions(resource: Resource, current: Record, uid: str | None, version: str | None) -> None:
    meta = current.object["metadata"]
    if uid and uid != meta["uid"]:
        why = f"Precondition failed: UID in precondition: {uid}, UID in object: {meta['uid']}"
        raise Conflict(resource.qualified, meta["name"], why)
    if version and version != meta["resourceVersion"]:
        raise Conflict(resource.qualified, meta["name"])
