"""A pod against the labels and taints of one node: node selector, node affinity, tolerations. Pure functions.

Rules: https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/ and .../taint-and-toleration/
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kmn.k8s.objects import Object, condition, labels, name_of
from kmn.k8s.selectors import EVERYTHING, LabelSelector, Requirement, selector_of_map

__all__ = [
    "HARD",
    "NodeRequirement",
    "NodeTerm",
    "effective_taints",
    "node_matches",
    "node_requirement",
    "tolerates",
    "untolerated",
]

HARD = ("NoSchedule", "NoExecute")
_NOT_READY = "node.kubernetes.io/not-ready"
_UNSCHEDULABLE = "node.kubernetes.io/unschedulable"


@dataclass(frozen=True, slots=True)
class NodeTerm:
    """One ``nodeSelectorTerm``: all expressions on labels and all on fields (``metadata.name`` is the only field)."""

    labels: LabelSelector
    fields: tuple[Requirement, ...] = ()
    empty: bool = False  # a term without anything selects no node

    @classmethod
    def of(cls, term: Mapping[str, Any]) -> NodeTerm:
        expressions, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
        return cls(
            LabelSelector(_requirements(expressions)), tuple(_requirements(fields)), not expressions and not fields
        )

    def matches(self, name: str, node_labels: Mapping[str, str]) -> bool:
        if self.empty or not self.labels.matches(node_labels):
            return False
        return not self.fields or all(r.matches({"metadata.name": name}) for r in self.fields)


@dataclass(frozen=True, slots=True)
class NodeRequirement:
    """``nodeSelector`` and required node affinity: both must hold, of the terms one."""

    selector: LabelSelector = EVERYTHING
    terms: tuple[NodeTerm, ...] | None = None

    def matches(self, name: str, node_labels: Mapping[str, str]) -> bool:
        if not self.selector.matches(node_labels):
            return False
        return self.terms is None or any(term.matches(name, node_labels) for term in self.terms)


def node_requirement(pod_spec: Mapping[str, Any]) -> NodeRequirement:
    """What a pod requires of a node's labels and name."""
    selector = pod_spec.get("nodeSelector")
    affinity = (pod_spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    terms = None if required is None else tuple(NodeTerm.of(t) for t in required.get("nodeSelectorTerms") or ())
    return NodeRequirement(selector_of_map(selector) if selector else EVERYTHING, terms)


def node_matches(pod_spec: Mapping[str, Any], node: Object) -> bool:
    """Whether a node has what a pod requires of labels and name."""
    return node_requirement(pod_spec).matches(name_of(node), labels(node))


def effective_taints(node: Object) -> list[dict[str, str]]:
    """A node's taints, with those that upstream's node controllers add: for a node that is cordoned or not ready."""
    spec = node.get("spec") or {}
    taints = list(spec.get("taints") or ())
    if spec.get("unschedulable"):
        taints.append({"key": _UNSCHEDULABLE, "effect": "NoSchedule"})
    ready = condition(node, "Ready")
    if ready is None or ready["status"] != "True":
        taints.append({"key": _NOT_READY, "effect": "NoSchedule"})
    return taints


def tolerates(toleration: Mapping[str, Any], taint: Mapping[str, str]) -> bool:
    """Whether one toleration covers one taint."""
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    if toleration.get("key") and toleration["key"] != taint["key"]:
        return False
    if (toleration.get("operator") or "Equal") == "Exists":
        return True
    # Without a key only Exists is allowed; Equal then compares nothing but the value.
    return bool(toleration.get("key")) and (toleration.get("value") or "") == (taint.get("value") or "")


def untolerated(
    taints: Iterable[dict[str, str]], tolerations: Sequence[Mapping[str, Any]], effects: Sequence[str] = HARD
) -> dict[str, str] | None:
    """The first taint with one of ``effects`` that no toleration covers."""
    for taint in taints:
        if taint.get("effect") in effects and not any(tolerates(t, taint) for t in tolerations):
            return taint
    return None


def _requirements(expressions: Iterable[Mapping[str, Any]]) -> list[Requirement]:
    return [Requirement(e["key"], e["operator"], frozenset(e.get("values") or ())) for e in expressions]
