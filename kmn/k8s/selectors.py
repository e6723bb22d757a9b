"""Label and field selectors: parsed once, matched often.

Three spellings lead to a :class:`LabelSelector`: kubectl's text (``app=web,tier in (a,b)``), the API's
``LabelSelector`` object (``matchLabels``, ``matchExpressions``) and the map of Services and ReplicationControllers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kmn.k8s.errors import ApiError, Reason
from kmn.k8s.objects import Object

__all__ = [
    "EVERYTHING",
    "NOTHING",
    "FieldSelector",
    "LabelSelector",
    "Requirement",
    "parse_fields",
    "parse_labels",
    "selector_of_map",
    "selector_of_object",
]


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on one label. ``operator``: In, NotIn, Exists, DoesNotExist, and Gt, Lt as node affinity has them.

    As in Kubernetes, NotIn is met by an object without the label.
    """

    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether labels meet the condition."""
        value = labels.get(self.key)
        match self.operator:
            case "In":
                return value in self.values
            case "NotIn":
                return value is None or value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None
            case "Gt" | "Lt":
                return self._compares(value)
        raise ValueError(
            f"label selector: operator {self.operator!r} is none of In, NotIn, Exists, DoesNotExist, Gt, Lt"
        )

    def _compares(self, value: str | None) -> bool:
        try:
            have, bound = int(value or ""), int(next(iter(self.values)))
        except (ValueError, StopIteration):
            return False
        return have > bound if self.operator == "Gt" else have < bound

    def __str__(self) -> str:
        values = ",".join(sorted(self.values))
        match self.operator:
            case "In":
                return f"{self.key}={values}" if len(self.values) == 1 else f"{self.key} in ({values})"
            case "NotIn":
                return f"{self.key}!={values}" if len(self.values) == 1 else f"{self.key} notin ({values})"
            case "Exists":
                return self.key
            case "DoesNotExist":
                return f"!{self.key}"
        return f"{self.key}{'>' if self.operator == 'Gt' else '<'}{values}"


class LabelSelector:
    """All of its requirements must be met; without any it selects everything."""

    __slots__ = ("_equal", "_other", "requirements")

    def __init__(self, requirements: Iterable[Requirement] = ()) -> None:
        self.requirements = tuple(requirements)
        # Nearly every selector is a set of equalities: these are compared without a call for each.
        self._equal = tuple(
            (r.key, next(iter(r.values))) for r in self.requirements if r.operator == "In" and len(r.values) == 1
        )
        self._other = tuple(r for r in self.requirements if not (r.operator == "In" and len(r.values) == 1))

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels is selected."""
        for key, value in self._equal:
            if labels.get(key) != value:
                return False
        return not self._other or all(requirement.matches(labels) for requirement in self._other)

    def __str__(self) -> str:
        return ",".join(str(r) for r in self.requirements)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LabelSelector) and self.requirements == other.requirements

    def __hash__(self) -> int:
        return hash(self.requirements)


class _Nothing(LabelSelector):
    __slots__ = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__


EVERYTHING = LabelSelector()
NOTHING: LabelSelector = _Nothing()


def selector_of_map(wanted: Mapping[str, str] | None) -> LabelSelector:
    """The selector of a Service or ReplicationController. None and {} select nothing: nobody means "all" there."""
    if not wanted:
        return NOTHING
    return LabelSelector(Requirement(key, "In", frozenset((value,))) for key, value in sorted(wanted.items()))


def selector_of_object(spec: Mapping[str, Any] | None) -> LabelSelector:
    """The selector of an API ``LabelSelector`` object: {} selects everything, None (absent) nothing."""
    if spec is None:
        return NOTHING
    requirements = [Requirement(k, "In", frozenset((v,))) for k, v in sorted((spec.get("matchLabels") or {}).items())]
    requirements += [
        Requirement(e["key"], e["operator"], frozenset(e.get("values") or ()))
        for e in spec.get("matchExpressions") or ()
    ]
    return LabelSelector(requirements)


_SET = re.compile(r"^(?P<key>[^\s!=()<>,]+)\s+(?P<operator>in|notin)\s*\((?P<values>[^()]*)\)$")
_EQUALITY = re.compile(r"^(?P<key>[^\s!=()<>,]+)\s*(?P<operator>==|=|!=|>|<)\s*(?P<value>[^\s!=()<>,]*)$")
_PRESENCE = re.compile(r"^(?P<absent>!?)\s*(?P<key>[^\s!=()<>,]+)$")
_COMMA_OUTSIDE_PARENTHESES = re.compile(r",(?![^()]*\))")


def parse_labels(text: str | None) -> LabelSelector:
    """The selector that kubectl writes: ``a=b,c!=d,e in (f,g),h notin (i),j,!k``. Raises ApiError (400)."""
    if not text or not text.strip():
        return EVERYTHING
    return LabelSelector(_parse_requirement(part.strip()) for part in _COMMA_OUTSIDE_PARENTHESES.split(text))


def _parse_requirement(text: str) -> Requirement:
    if found := _SET.match(text):
        values = frozenset(value.strip() for value in found["values"].split(","))
        return Requirement(found["key"], "In" if found["operator"] == "in" else "NotIn", values)
    if found := _EQUALITY.match(text):
        operator = {"!=": "NotIn", ">": "Gt", "<": "Lt"}.get(found["operator"], "In")
        return Requirement(found["key"], operator, frozenset((found["value"],)))
    if found := _PRESENCE.match(text):
        return Requirement(found["key"], "DoesNotExist" if found["absent"] else "Exists")
    raise ApiError(
        400,
        Reason.BAD_REQUEST,
        f"unable to parse label selector: {text!r} is none of key=value, key!=value, key in (a,b), key notin (a,b), "
        "key, !key",
    )


def _path(*names: str) -> Callable[[Object], str]:
    def read(obj: Object) -> str:
        value: Any = obj
        for name in names:
            value = value.get(name)
            if value is None:
                return ""
        if isinstance(value, bool):
            return "true" if value else "false"
        return str(value)

    return read


def _fields(*paths: str) -> dict[str, Callable[[Object], str]]:
    return {path: _path(*path.split(".")) for path in paths}


_METADATA = _fields("metadata.name", "metadata.namespace")
_INVOLVED = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
# What each kind can be selected by, besides its name and namespace: the API server's own list.
_BY_KIND: dict[str, dict[str, Callable[[Object], str]]] = {
    "Pod": _fields(
        "spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
        "status.phase", "status.podIP", "status.nominatedNodeName",
    ),
    "Node": _fields("spec.unschedulable"),
    "Namespace": {**_fields("status.phase"), "name": _path("metadata", "name")},
    "Secret": _fields("type"),
    "Service": _fields("spec.clusterIP", "spec.type"),
    "Event": {
        **_fields(*(f"involvedObject.{name}" for name in _INVOLVED), "reason", "type", "reportingComponent"),
        "source": _path("source", "component"),
    },
    "ReplicaSet": _fields("status.replicas"),
    "ReplicationController": _fields("status.replicas"),
    "Job": _fields("status.successful"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class FieldSelector:
    """Equalities on a kind's selectable fields. ``terms`` are (path, value, whether it must be equal)."""

    kind: str
    terms: tuple[tuple[str, str, bool], ...] = ()

    def matches(self, obj: Object) -> bool:
        """Whether the object is selected."""
        readers = _BY_KIND.get(self.kind, {})
        return all(
            ((_METADATA.get(path) or readers[path])(obj) == value) is wanted for path, value, wanted in self.terms
        )

    @property
    def name(self) -> str | None:
        """The one name that can match, if ``metadata.name=`` is among the terms."""
        return next((value for path, value, wanted in self.terms if wanted and path == "metadata.name"), None)


def parse_fields(text: str | None, kind: str) -> FieldSelector:
    """The selector of ``metadata.name=web,status.phase!=Running`` for a kind. Raises ApiError (400)."""
    terms = []
    for part in filter(None, (p.strip() for p in (text or "").split(","))):
        found = re.match(r"^([^!=\s]+)\s*(==|=|!=)\s*(.*)$", part)
        if not found:
            raise ApiError(
                400, Reason.BAD_REQUEST, f"invalid field selector: {part!r} is not path=value or path!=value"
            )
        path, operator, value = found.groups()
        known = {**_METADATA, **_BY_KIND.get(kind, {})}
        if path not in known:
            raise ApiError(
                400, Reason.BAD_REQUEST,
                f"field label not supported: {path!r}; {kind} can be selected by {', '.join(sorted(known))}",
            )  # fmt: skip
        terms.append((path, value, operator != "!="))
    return FieldSelector(kind, tuple(terms))
