"""Reading Kubernetes objects, which are plain dictionaries here as they are on the wire.

Objects that come from a store, a client or a watch are shared: read them, and copy (:func:`draft`) before changing.
"""

import copy
import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

from kmn.k8s.resources import Resource, by_kind

__all__ = [
    "Key",
    "Object",
    "annotation",
    "annotations",
    "condition",
    "controller_of",
    "describe",
    "draft",
    "key_of",
    "labels",
    "name_of",
    "namespace_of",
    "now",
    "owner_reference",
    "parse_time",
    "resource_of",
    "set_condition",
    "uid_of",
]

Object: TypeAlias = dict[str, Any]


class Key(NamedTuple):
    """Identity of an object within its resource. ``namespace`` is "" for cluster-scoped objects."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


def name_of(obj: Mapping[str, Any]) -> str:
    return obj["metadata"].get("name", "")  # type: ignore[no-any-return]


def namespace_of(obj: Mapping[str, Any]) -> str:
    return obj["metadata"].get("namespace", "")  # type: ignore[no-any-return]


def uid_of(obj: Mapping[str, Any]) -> str:
    return obj["metadata"]["uid"]  # type: ignore[no-any-return]


def key_of(obj: Mapping[str, Any]) -> Key:
    return Key(namespace_of(obj), name_of(obj))


def resource_of(obj: Mapping[str, Any]) -> Resource:
    return by_kind(obj["apiVersion"], obj["kind"])


def labels(obj: Mapping[str, Any]) -> dict[str, str]:
    return obj["metadata"].get("labels") or {}


def annotations(obj: Mapping[str, Any]) -> dict[str, str]:
    return obj["metadata"].get("annotations") or {}


def annotation(obj: Mapping[str, Any], name: str) -> str | None:
    return annotations(obj).get(name)


def describe(obj: Mapping[str, Any]) -> str:
    """``Service default/web``: how messages name an object."""
    meta = obj.get("metadata") or {}
    name = meta.get("name") or f"{meta.get('generateName', '<unnamed>')}"
    return f"{obj.get('kind', '<no kind>')} {meta['namespace'] + '/' if meta.get('namespace') else ''}{name}"


def draft(obj: Object) -> Object:
    """A deep copy that may be changed and handed to ``update``."""
    return copy.deepcopy(obj)


def now() -> str:
    """The current time as the API writes it: RFC 3339, UTC, whole seconds."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> dt.datetime:
    """A point in time from an API timestamp (RFC 3339)."""
    return dt.datetime.fromisoformat(text)


def owner_reference(owner: Mapping[str, Any], *, controller: bool = True) -> dict[str, Any]:
    """The ``ownerReferences`` entry that makes ``owner`` the (managing) owner of another object."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": name_of(owner),
        "uid": uid_of(owner),
        "controller": controller,
        "blockOwnerDeletion": True,
    }


def controller_of(obj: Mapping[str, Any]) -> dict[str, Any] | None:
    """The owner reference marked ``controller: true``, None for an object that nobody manages."""
    for ref in obj["metadata"].get("ownerReferences") or ():
        if ref.get("controller"):
            return ref  # type: ignore[no-any-return]
    return None


def condition(obj: Mapping[str, Any], kind: str) -> dict[str, Any] | None:
    """The entry of ``status.conditions`` whose type is ``kind``."""
    conditions: Iterable[dict[str, Any]] = (obj.get("status") or {}).get("conditions") or ()
    return next((c for c in conditions if c["type"] == kind), None)


def set_condition(
    obj: Object, kind: str, status: bool, reason: str = "", message: str = "", *, at: str | None = None
) -> bool:
    """Set one condition on a draft; the transition time moves only when the status does. True if anything changed."""
    conditions: list[dict[str, Any]] = obj.setdefault("status", {}).setdefault("conditions", [])
    wanted = {"type": kind, "status": "True" if status else "False"}
    if reason:
        wanted["reason"] = reason
    if message:
        wanted["message"] = message
    current = next((c for c in conditions if c["type"] == kind), None)
    if current is None:
        conditions.append({**wanted, "lastTransitionTime": at or now()})
        return True
    moved = current["status"] != wanted["status"]
    if not moved and (current.get("reason", ""), current.get("message", "")) == (reason, message):
        return False
    since = (at or now()) if moved else current.get("lastTransitionTime", at or now())
    current.clear()
    current.update(wanted, lastTransitionTime=since)
    return True
