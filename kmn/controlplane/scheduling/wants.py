"""What a pod asks of its place, parsed once for all pods that ask alike."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from kmn.controlplane.scheduling.nodematch import NodeRequirement, NodeTerm, node_requirement
from kmn.k8s.hostports import HostPort, host_ports
from kmn.k8s.objects import Object, labels, namespace_of
from kmn.k8s.selectors import LabelSelector, Requirement, selector_of_object

__all__ = ["PodSet", "PodTerm", "Spread", "Wants", "signature", "wants_of"]

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


@dataclass(frozen=True, slots=True)
class PodSet:
    """Pods of some namespaces with some labels. ``namespace_selector`` widens the names listed."""

    namespaces: frozenset[str]
    namespace_selector: LabelSelector | None
    selector: LabelSelector
    terminating: bool = True  # whether pods that are being deleted count

    def matches(
        self, namespace: str, pod_labels: Mapping[str, str], namespaces: Mapping[str, Mapping[str, str]]
    ) -> bool:
        """``namespaces`` has the labels of every namespace."""
        if not self.selector.matches(pod_labels):
            return False
        if namespace in self.namespaces:
            return True
        return self.namespace_selector is not None and self.namespace_selector.matches(namespaces.get(namespace, {}))


class PodTerm(NamedTuple):
    """A ``podAffinityTerm``: the same value of the node label ``key`` as pods of ``pods``."""

    pods: PodSet
    key: str


class Spread(NamedTuple):
    """A ``topologySpreadConstraint``."""

    pods: PodSet
    key: str
    max_skew: int
    hard: bool
    min_domains: int
    honor_affinity: bool
    honor_taints: bool


@dataclass(frozen=True, slots=True)
class Wants:
    """All that the choice of a node depends on, of the pod's side."""

    namespace: str
    labels: dict[str, str]
    node: NodeRequirement
    tolerations: tuple[dict[str, Any], ...]
    takes_address: bool
    ports: tuple[HostPort, ...] = ()
    preferred_nodes: tuple[tuple[int, NodeTerm], ...] = ()
    affinity: tuple[PodTerm, ...] = ()
    anti_affinity: tuple[PodTerm, ...] = ()
    preferred_pods: tuple[tuple[int, PodTerm], ...] = ()  # anti-affinity has negative weight
    spread: tuple[Spread, ...] = ()

    @property
    def static(self) -> bool:
        """Which nodes are possible does not depend on where other pods are (but for the number of pods)."""
        return not (self.ports or self.affinity or self.anti_affinity or self.spread or self.preferred_pods)


def signature(pod: Object) -> str:
    """Equal for pods that ask alike: a key for what was computed for one of them."""
    spec = pod["spec"]
    parts = [spec.get(k) for k in ("nodeSelector", "affinity", "tolerations", "topologySpreadConstraints")]
    asked = (namespace_of(pod), labels(pod), spec.get("hostNetwork"), host_ports(pod), parts)
    return json.dumps(asked, sort_keys=True)


def wants_of(pod: Object) -> Wants:
    """Parse a pod."""
    spec = pod["spec"]
    affinity = spec.get("affinity") or {}
    node = affinity.get("nodeAffinity") or {}
    together, apart = affinity.get("podAffinity") or {}, affinity.get("podAntiAffinity") or {}
    preferred = [(e["weight"], _term(pod, e["podAffinityTerm"])) for e in together.get(_PREFERRED) or ()]
    preferred += [(-e["weight"], _term(pod, e["podAffinityTerm"])) for e in apart.get(_PREFERRED) or ()]
    return Wants(
        namespace=namespace_of(pod),
        labels=labels(pod),
        node=node_requirement(spec),
        tolerations=tuple(spec.get("tolerations") or ()),
        takes_address=not spec.get("hostNetwork"),
        ports=host_ports(pod),
        preferred_nodes=tuple((e["weight"], NodeTerm.of(e["preference"])) for e in node.get(_PREFERRED) or ()),
        affinity=tuple(_term(pod, t) for t in together.get(_REQUIRED) or ()),
        anti_affinity=tuple(_term(pod, t) for t in apart.get(_REQUIRED) or ()),
        preferred_pods=tuple(preferred),
        spread=tuple(_spread(pod, c) for c in spec.get("topologySpreadConstraints") or ()),
    )


def _term(pod: Object, term: Mapping[str, Any]) -> PodTerm:
    names = frozenset(term.get("namespaces") or ())
    namespace_selector = term.get("namespaceSelector")
    if not names and namespace_selector is None:
        names = frozenset((namespace_of(pod),))
    widened = None if namespace_selector is None else selector_of_object(namespace_selector)
    return PodTerm(PodSet(names, widened, _selector(pod, term)), term["topologyKey"])


def _spread(pod: Object, constraint: Mapping[str, Any]) -> Spread:
    pods = PodSet(frozenset((namespace_of(pod),)), None, _selector(pod, constraint), terminating=False)
    return Spread(
        pods,
        constraint["topologyKey"],
        constraint["maxSkew"],
        constraint.get("whenUnsatisfiable", "DoNotSchedule") == "DoNotSchedule",
        constraint.get("minDomains") or 1,
        constraint.get("nodeAffinityPolicy", "Honor") == "Honor",
        constraint.get("nodeTaintsPolicy", "Ignore") == "Honor",
    )


def _selector(pod: Object, source: Mapping[str, Any]) -> LabelSelector:
    """The label selector, narrowed by ``matchLabelKeys`` (and ``mismatchLabelKeys``) to the pod's own values."""
    selector = selector_of_object(source.get("labelSelector"))
    extra = [
        Requirement(key, operator, frozenset((labels(pod)[key],)))
        for field, operator in (("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn"))
        for key in source.get(field) or ()
        if key in labels(pod)
    ]
    return LabelSelector((*selector.requirements, *extra)) if extra else selector
