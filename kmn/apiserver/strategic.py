"""Strategic merge patch: lists of the built-in types are merged by a key of their elements, as ``kubectl`` expects.

Which lists merge, and by which key, is in the types' Go tags upstream (``patchMergeKey``) and in the table here. All
other lists are replaced. The directives ``$patch``, ``$retainKeys``, ``$setElementOrder`` and
``$deleteFromPrimitiveList`` are honoured everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kmn.k8s.errors import ApiError, Reason
from kmn.k8s.objects import Object, describe, resource_of

__all__ = ["strategic_merge"]


@dataclass(frozen=True, slots=True)
class _Shape:
    """What is known of a field: the ``key`` that its elements merge by, if it is a list; the fields below it.

    The key "" is that of a list of plain values which is merged as a set.
    """

    key: str | None = None
    fields: dict[str, _Shape] = field(default_factory=dict)


_NONE = _Shape()


def _map(**fields: _Shape) -> _Shape:
    return _Shape(None, fields)


def _by(key: str, **fields: _Shape) -> _Shape:
    return _Shape(key, fields)


_META = _map(ownerReferences=_by("uid"), finalizers=_by(""))
_CONDITIONS = _map(conditions=_by("type"))
_CONTAINERS = _by(
    "name", ports=_by("containerPort"), env=_by("name"), volumeMounts=_by("mountPath"), volumeDevices=_by("devicePath")
)
_POD_SPEC = _map(
    containers=_CONTAINERS,
    initContainers=_CONTAINERS,
    ephemeralContainers=_CONTAINERS,
    volumes=_by("name"),
    imagePullSecrets=_by("name"),
    hostAliases=_by("ip"),
    topologySpreadConstraints=_by("topologyKey"),
    schedulingGates=_by("name"),
    resourceClaims=_by("name"),
)
_TEMPLATE = _map(metadata=_META, spec=_POD_SPEC)
_WORKLOAD = _map(metadata=_META, spec=_map(template=_TEMPLATE), status=_CONDITIONS)
_JOB_SPEC = _map(template=_TEMPLATE)
_DEFAULT = _map(metadata=_META, status=_CONDITIONS)
_BY_KIND = {
    "Pod": _map(
        metadata=_META,
        spec=_POD_SPEC,
        status=_map(conditions=_by("type"), podIPs=_by("ip"), hostIPs=_by("ip")),
    ),
    "PodTemplate": _map(metadata=_META, template=_TEMPLATE),
    "Node": _map(
        metadata=_META,
        spec=_map(podCIDRs=_by("")),
        status=_map(conditions=_by("type"), addresses=_by("type")),
    ),
    "Service": _map(metadata=_META, spec=_map(ports=_by("port")), status=_CONDITIONS),
    "ServiceAccount": _map(metadata=_META, secrets=_by("name"), imagePullSecrets=_by("name")),
    **dict.fromkeys(("Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "ReplicationController"), _WORKLOAD),
    "Job": _map(metadata=_META, spec=_JOB_SPEC, status=_CONDITIONS),
    "CronJob": _map(metadata=_META, spec=_map(jobTemplate=_map(metadata=_META, spec=_JOB_SPEC))),
    **dict.fromkeys(
        ("ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"), _map(metadata=_META, webhooks=_by("name"))
    ),
}

_ORDER = "$setElementOrder/"
_DELETE_FROM = "$deleteFromPrimitiveList/"


def strategic_merge(obj: Object, patch: Object) -> Object:
    """``obj`` with ``patch`` applied, as a new object. Custom resources have no such patch, kmn's own kinds neither."""
    if resource_of(obj).custom:
        raise ApiError(
            415, Reason.UNSUPPORTED_MEDIA_TYPE, f"{describe(obj)}: custom resources take merge and JSON patches only"
        )
    try:
        merged = _merge_map(obj, patch, _BY_KIND.get(obj["kind"], _DEFAULT))
    except (TypeError, AttributeError) as error:
        raise ApiError(422, Reason.INVALID, f"{describe(obj)}: the patch does not fit the object: {error}") from None
    return merged


def _merge_map(original: dict[str, Any], patch: dict[str, Any], shape: _Shape) -> dict[str, Any]:
    directive = patch.get("$patch", "merge")
    if directive == "delete":
        return {}
    if directive == "replace":
        return {k: v for k, v in patch.items() if k != "$patch"}
    if directive != "merge":
        raise ApiError(400, Reason.BAD_REQUEST, f"$patch: {directive!r} is none of merge, replace, delete")
    kept = patch.get("$retainKeys")
    result = {k: v for k, v in original.items() if kept is None or k in kept}
    for name, value in patch.items():
        if name.startswith(_DELETE_FROM):
            target = name.removeprefix(_DELETE_FROM)
            if target in result:
                result[target] = [item for item in result[target] if item not in value]
        elif not name.startswith("$"):
            _merge_field(result, name, value, shape.fields.get(name, _NONE))
    for name, order in patch.items():
        if name.startswith(_ORDER):
            target = name.removeprefix(_ORDER)
            if isinstance(result.get(target), list):
                key = shape.fields.get(target, _NONE).key
                result[target] = _reorder(result[target], order, key)
    return result


def _merge_field(result: dict[str, Any], name: str, value: Any, shape: _Shape) -> None:
    current = result.get(name)
    if value is None:
        result.pop(name, None)
    elif isinstance(value, dict):
        result[name] = _merge_map(current if isinstance(current, dict) else {}, value, shape)
    elif isinstance(value, list) and shape.key is not None:
        result[name] = _merge_list(current if isinstance(current, list) else [], value, shape)
    else:
        result[name] = value


def _merge_list(original: list[Any], patch: list[Any], shape: _Shape) -> list[Any]:
    if not shape.key:
        return original + [item for item in patch if item not in original]
    if any(item.get("$patch") == "replace" for item in patch):
        return [item for item in patch if "$patch" not in item]
    result = list(original)
    for item in patch:
        if shape.key not in item:
            raise ApiError(422, Reason.INVALID, f"the patch has a list element without its merge key {shape.key!r}")
        index = _find(result, item, shape.key)
        if item.get("$patch") == "delete":
            result = [other for other in result if other.get(shape.key) != item[shape.key]]
        elif index is None:
            result.append(_merge_map({}, item, shape))
        else:
            result[index] = _merge_map(result[index], item, shape)
    return result


def _find(items: list[dict[str, Any]], wanted: dict[str, Any], key: str) -> int | None:
    """The element with the same key. Several can have it (port 53 for TCP and UDP): the one that is most alike."""
    found = [index for index, item in enumerate(items) if item.get(key) == wanted[key]]
    if len(found) <= 1:
        return found[0] if found else None
    return max(found, key=lambda index: sum(items[index].get(k) == v for k, v in wanted.items()))


def _reorder(items: list[Any], order: list[Any], key: str | None) -> list[Any]:
    """Elements in the patch's order; those that it does not name stay behind the one they followed."""

    def identity(item: Any) -> Any:
        return item.get(key) if key and isinstance(item, dict) else item

    ranks = {identity(item): rank for rank, item in enumerate(order)}
    result = sorted((item for item in items if identity(item) in ranks), key=lambda item: ranks[identity(item)])
    for index, item in enumerate(items):
        if identity(item) not in ranks:
            after = result.index(items[index - 1]) + 1 if index else 0
            result.insert(after, item)
    return result
