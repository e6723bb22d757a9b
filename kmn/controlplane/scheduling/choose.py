"""Choosing a node: filters that rule nodes out, and the order among those left. Pure but for the state's caches.

Filters and their words are those of upstream's plugins (NodeUnschedulable, TaintToleration, NodeAffinity, NodePorts,
NodeResourcesFit, PodTopologySpread, InterPodAffinity). Scores are simpler: not a weighted sum but an order of
importance, so that a reader can predict the choice (:func:`_rank`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from kmn.controlplane.scheduling.nodematch import untolerated
from kmn.controlplane.scheduling.state import NodeState, SchedulingState
from kmn.controlplane.scheduling.wants import Spread, Wants

__all__ = ["Candidates", "Unschedulable", "candidates", "choose"]

_UNSCHEDULABLE = "node.kubernetes.io/unschedulable"


class Unschedulable(Exception):
    """No node will do. The message is the one that kubectl shows."""


class Candidates(NamedTuple):
    """What follows from nodes alone: it holds for all pods that ask alike, until a node changes."""

    version: int
    nodes: list[NodeState]
    refused: Counter[str]
    preference: dict[str, int]  # node name -> sum of weights of preferred node affinity
    soft_taints: dict[str, int]  # node name -> number of PreferNoSchedule taints not tolerated


def candidates(state: SchedulingState, wants: Wants) -> Candidates:
    """Nodes that the pod's tolerations, node selector and node affinity allow."""
    found = Candidates(state.version, [], Counter(), {}, {})
    for node in state.nodes():
        why = _refusal(node, wants)
        if why:
            found.refused[why] += 1
            continue
        found.nodes.append(node)
        found.preference[node.name] = sum(w for w, t in wants.preferred_nodes if t.matches(node.name, node.labels))
        found.soft_taints[node.name] = sum(
            untolerated([taint], wants.tolerations, ("PreferNoSchedule",)) is not None for taint in node.taints
        )
    return found


def _refusal(node: NodeState, wants: Wants) -> str:
    taint = untolerated(node.taints, wants.tolerations) if node.taints else None
    if taint is not None:
        if taint["key"] == _UNSCHEDULABLE:
            return "node(s) were unschedulable"
        return f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value') or ''}}}"
    if not wants.node.matches(node.name, node.labels):
        return "node(s) didn't match Pod's node affinity/selector"
    return ""


def choose(state: SchedulingState, wants: Wants, owner: str, found: Candidates) -> NodeState:
    """The node for a pod whose controller has the uid ``owner`` (or ""). Raises Unschedulable."""
    refused = Counter(found.refused)
    possible = []
    checks = [] if wants.static and not state.apart else _dynamic_filters(state, wants)
    for node in found.nodes:
        why = _full(node) if wants.takes_address and node.addresses >= node.capacity else ""
        if not why and checks:
            why = next((why for check in checks if (why := check(node))), "")
        if why:
            refused[why] += 1
        else:
            possible.append(node)
    if not possible:
        raise Unschedulable(_sentence(refused))
    return min(possible, key=_rank(state, wants, owner, found, possible))


def _sentence(refused: Counter[str]) -> str:
    if not refused:
        return "no nodes available to schedule pods"
    reasons = ", ".join(sorted(f"{count} {why}" for why, count in refused.items()))
    return f"0/{refused.total()} nodes are available: {reasons}."


_Filter = Callable[[NodeState], str]


def _dynamic_filters(state: SchedulingState, wants: Wants) -> list[_Filter]:
    """Checks that depend on where other pods are; domains are counted once for all nodes."""
    filters: list[_Filter] = []
    if wants.ports:
        filters.append(lambda node: _ports_taken(node, wants))
    filters += [_spread_filter(state, wants, s) for s in wants.spread if s.hard]
    if wants.affinity:
        filters.append(_affinity_filter(state, wants))
    for term in wants.anti_affinity:
        domains = _domains(state, state.counts(term.pods), term.key)
        filters.append(_apart_filter(domains, term.key, "node(s) didn't match pod anti-affinity rules"))
    for term, where in state.apart.items():
        if where.total() and term.pods.matches(wants.namespace, wants.labels, state.namespaces):
            domains = _domains(state, where, term.key)
            why = "node(s) didn't satisfy existing pods anti-affinity rules"
            filters.append(_apart_filter(domains, term.key, why))
    return filters


def _full(node: NodeState) -> str:
    """A node holds as many pods as its pod network has addresses: that is what users can change."""
    if not node.capacity:
        return "node(s) had no pod network (spec.podCIDR)"
    return f"Too many pods (a node's podCIDR has addresses for {node.capacity})"


def _ports_taken(node: NodeState, wants: Wants) -> str:
    taken = [mine for mine in wants.ports if any(count > 0 and mine.conflicts(p) for p, count in node.ports.items())]
    if not taken:
        return ""
    ports = ", ".join(f"hostPort {port.protocol} {port.number}" for port in taken)
    return f"node(s) didn't have free ports for the requested pod ports ({ports})"


def _domains(state: SchedulingState, counts: Counter[str], key: str) -> Counter[str]:
    """Pods in each topology domain: values of the node label ``key``."""
    domains: Counter[str] = Counter()
    for node in state.nodes():
        if key in node.labels:
            domains[node.labels[key]] += counts.get(node.name, 0)
    return domains


def _apart_filter(domains: Counter[str], key: str, why: str) -> _Filter:
    return lambda node: why if domains.get(node.labels.get(key, ""), 0) > 0 else ""


def _affinity_filter(state: SchedulingState, wants: Wants) -> _Filter:
    terms = [(term.key, _domains(state, state.counts(term.pods), term.key)) for term in wants.affinity]
    # The first of a group that wants to be with itself could start nowhere: if no pod matches, its own match counts.
    nobody = not any(domains.total() for _, domains in terms)
    first = nobody and all(t.pods.matches(wants.namespace, wants.labels, state.namespaces) for t in wants.affinity)

    def check(node: NodeState) -> str:
        for key, domains in terms:
            if key not in node.labels or not (first or domains[node.labels[key]]):
                return "node(s) didn't match pod affinity rules"
        return ""

    return check


def _spread_filter(state: SchedulingState, wants: Wants, spread: Spread) -> _Filter:
    why = "node(s) didn't match pod topology spread constraints"
    keys = [s.key for s in wants.spread if s.hard]
    eligible = [n for n in state.nodes() if _eligible(n, wants, spread) and all(key in n.labels for key in keys)]
    counts = state.counts(spread.pods)
    domains: Counter[str] = Counter()
    for node in eligible:
        domains[node.labels[spread.key]] += counts.get(node.name, 0)
    least = min(domains.values(), default=0) if len(domains) >= spread.min_domains else 0
    itself = int(spread.pods.selector.matches(wants.labels))

    def check(node: NodeState) -> str:
        domain = node.labels.get(spread.key)
        if domain is None:
            return f"{why} (missing required label)"
        return why if domains[domain] + itself - least > spread.max_skew else ""

    return check


def _eligible(node: NodeState, wants: Wants, spread: Spread) -> bool:
    if spread.honor_affinity and not wants.node.matches(node.name, node.labels):
        return False
    return not spread.honor_taints or untolerated(node.taints, wants.tolerations) is None


def _rank(
    state: SchedulingState, wants: Wants, owner: str, found: Candidates, possible: Iterable[NodeState]
) -> Callable[[NodeState], tuple[int, ...]]:
    """The order of nodes, least first: preferred affinity, ScheduleAnyway spread, PreferNoSchedule, number of pods,
    number of pods of the same owner, and the order in which nodes appeared."""
    preference, soft = found.preference, found.soft_taints
    preferred = [(w, t.key, _domains(state, state.counts(t.pods), t.key)) for w, t in wants.preferred_pods]
    spreads = [(s.key, _domains(state, state.counts(s.pods), s.key)) for s in wants.spread if not s.hard]
    if not preferred and not spreads:
        return lambda n: (-preference[n.name], 0, soft[n.name], n.pods, n.owners.get(owner, 0) if owner else 0, n.order)

    def rank(n: NodeState) -> tuple[int, ...]:
        liked = preference[n.name] + sum(w for w, key, d in preferred if key in n.labels and d[n.labels[key]])
        # A node without the key is in no domain: behind all others.
        crowd = sum(d[n.labels[key]] if key in n.labels else 1 << 30 for key, d in spreads)
        return -liked, crowd, soft[n.name], n.pods, n.owners.get(owner, 0) if owner else 0, n.order

    return rank
