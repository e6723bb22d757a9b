"""``kubectl apply`` and ``delete -f`` as functions: objects in, what became of each out.

An applied object carries what was applied in the annotation that kubectl uses, so both can take turns. The next apply
is a three-way merge: what the last one set and this one does not is removed, what this one sets is set, and the rest
(defaults, allocated addresses, fields of other writers) stays.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kmn.errors import UserError
from kmn.k8s.client import Client
from kmn.k8s.errors import AlreadyExists, ApiError, Conflict, NotFound
from kmn.k8s.objects import Object, annotation, describe, draft, name_of, resource_of
from kmn.k8s.resources import Resource

__all__ = ["LAST_APPLIED", "Change", "apply", "delete", "three_way"]

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

# Lists of objects that are merged item by item, and what identifies an item: the field names and the merge keys of
# the Kubernetes API. A list that is not here, or whose items lack the key, is replaced as a whole.
_MERGE_KEYS: dict[str, tuple[tuple[str, ...], ...]] = {
    "containers": (("name",),),
    "initContainers": (("name",),),
    "env": (("name",),),
    "volumes": (("name",),),
    "volumeMounts": (("mountPath",),),
    "imagePullSecrets": (("name",),),
    "hostAliases": (("ip",),),
    "ports": (("containerPort", "protocol"), ("port", "protocol")),
    "secrets": (("name",),),
    "topologySpreadConstraints": (("topologyKey", "whenUnsatisfiable"),),
}
_KEY_DEFAULTS = {"protocol": "TCP"}

_UNAVAILABLE = 503  # nobody is there: the next object would fare no better
_ATTEMPTS = 5  # on a conflict with another writer


@dataclass(frozen=True, slots=True)
class Change:
    """What became of one object."""

    obj: Object  # as the API has it now; as it was, if deleted
    action: Literal["created", "configured", "unchanged", "deleted"]

    def __str__(self) -> str:
        """kubectl's line: ``deployment.apps/web created``."""
        resource = resource_of(self.obj)
        kind = f"{resource.singular}.{resource.group}" if resource.group else resource.singular
        name = f'"{name_of(self.obj)}"' if self.action == "deleted" else name_of(self.obj)
        return f"{kind} {name} deleted" if self.action == "deleted" else f"{kind}/{name} {self.action}"


def apply(client: Client, objects: Iterable[Object], namespace: str | None = None) -> Iterator[Change]:
    """Create or update each object, in the given order, and tell as it goes.

    ``namespace`` is for objects that name none. An object that the API refuses does not stop the others: after the
    last one a UserError names all that were refused.
    """
    refused: list[str] = []
    for obj in objects:
        try:
            yield _apply_one(client, _placed(obj, namespace))
        except ApiError as error:
            if error.code == _UNAVAILABLE:
                raise
            refused.append(_refusal(obj, error))
        except UserError as error:
            refused.append(str(error))
    if refused:
        raise UserError("\n".join(refused))


def delete(
    client: Client, objects: Sequence[Object], namespace: str | None = None, *, ignore_missing: bool = False
) -> Iterator[Change]:
    """Delete each object, the last one first. A missing object is an error after all others are gone."""
    refused: list[str] = []
    for obj in reversed(objects):
        try:
            placed = _placed(obj, namespace)
            resource = resource_of(placed)
            client.delete(resource, placed["metadata"].get("namespace", ""), name_of(placed))
            yield Change(placed, "deleted")
        except NotFound as error:
            if not ignore_missing:
                refused.append(error.message)
        except ApiError as error:
            if error.code == _UNAVAILABLE:
                raise
            refused.append(_refusal(obj, error))
        except UserError as error:
            refused.append(str(error))
    if refused:
        raise UserError("\n".join(refused))


def three_way(last: Any, wanted: Any, current: Any, field: str = "") -> Any:
    """``current`` with what ``wanted`` sets, and without what ``last`` set and ``wanted`` no longer does."""
    if isinstance(wanted, Mapping) and isinstance(current, Mapping):
        before = last if isinstance(last, Mapping) else {}
        kept = {key: value for key, value in current.items() if key in wanted or key not in before}
        merged = {key: three_way(before.get(key), value, current.get(key), key) for key, value in wanted.items()}
        # A null in a manifest asks for the field's absence.
        return {key: value for key, value in {**kept, **merged}.items() if value is not None}
    if isinstance(wanted, list) and isinstance(current, list):
        for key in _MERGE_KEYS.get(field, ()):
            items = _keyed(wanted, key), _keyed(current, key), _keyed(last if isinstance(last, list) else [], key)
            if items[0] is not None and items[1] is not None:
                return _merge_items(items[2] or {}, items[0], items[1])
    return wanted


def _merge_items(last: dict[Any, Any], wanted: dict[Any, Any], current: dict[Any, Any]) -> list[Any]:
    """Wanted items in their order, then those of other writers."""
    merged = [three_way(last.get(key), item, current.get(key, {})) for key, item in wanted.items()]
    return merged + [item for key, item in current.items() if key not in wanted and key not in last]


def _keyed(items: list[Any], key: tuple[str, ...]) -> dict[Any, Any] | None:
    """Items by merge key; None when some item has none or two have the same."""
    keyed = {}
    for item in items:
        if not isinstance(item, Mapping) or key[0] not in item:
            return None
        keyed[tuple(item.get(part, _KEY_DEFAULTS.get(part)) for part in key)] = item
    return keyed if len(keyed) == len(items) else None


def _apply_one(client: Client, obj: Object) -> Change:
    resource = resource_of(obj)
    stamped = _stamped(obj)
    namespace, name = obj["metadata"].get("namespace", ""), name_of(obj)
    if not name:
        # generateName: every apply makes a new one, as kubectl create does (kubectl apply refuses it).
        return Change(client.create(obj), "created")
    for attempt in range(_ATTEMPTS):
        try:
            if attempt == 0:
                return Change(client.create(stamped), "created")
        except AlreadyExists:
            pass
        try:
            current = client.get(resource, namespace, name)
        except NotFound:
            return Change(client.create(stamped), "created")
        merged = three_way(_last_applied(current), stamped, current)
        if merged == current:
            return Change(current, "unchanged")
        try:
            stored = client.update(merged)
        except Conflict:
            continue
        same = stored["metadata"]["resourceVersion"] == current["metadata"]["resourceVersion"]
        return Change(stored, "unchanged" if same else "configured")
    raise Conflict(resource.qualified, name)


def _stamped(obj: Object) -> Object:
    """The object with the annotation of what was applied, as kubectl writes it; without status."""
    plain = draft(obj)
    plain.pop("status", None)
    notes = dict(plain["metadata"].get("annotations") or {})
    notes.pop(LAST_APPLIED, None)
    plain["metadata"]["annotations"] = notes
    text = json.dumps(plain, separators=(",", ":"), sort_keys=True) + "\n"
    plain["metadata"]["annotations"] = {**notes, LAST_APPLIED: text}
    return plain


def _last_applied(current: Object) -> Any:
    text = annotation(current, LAST_APPLIED)
    try:
        return json.loads(text) if text else {}
    except ValueError:
        return {}


def _placed(obj: Object, namespace: str | None) -> Object:
    """The object in its namespace: its own, the one asked for, or ``default``."""
    resource: Resource = resource_of(obj)
    own = obj["metadata"].get("namespace")
    if not resource.namespaced:
        return obj
    if own and namespace and own != namespace:
        raise UserError(f"{describe(obj)}: is in namespace {own}, not in {namespace}", "leave out -n, or change it")
    return obj if own else {**obj, "metadata": {**obj["metadata"], "namespace": namespace or "default"}}


def _refusal(obj: Object, error: ApiError) -> str:
    """The API's message, with the object in front where it does not name it itself."""
    return error.message if describe(obj) in error.message else f"{describe(obj)}: {error.message}"
