"""Where pods are: nodes, the pods placed on them, and counts that are kept up as pods come and go.

The state follows from the store's nodes, pods and namespaces. A pod counts from the moment that it is bound, before
the store tells of it (upstream calls that an assumed pod).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Network

from kmn.controlplane.podstate import node_of, terminating
from kmn.controlplane.scheduling.nodematch import effective_taints
from kmn.controlplane.scheduling.wants import PodSet, PodTerm, Wants, signature, wants_of
from kmn.k8s.hostports import HostPort
from kmn.k8s.objects import Object, controller_of, labels, name_of, uid_of

__all__ = ["NodeState", "SchedulingState"]

_UNUSABLE = 3  # addresses of a pod network that no pod gets: network, gateway, broadcast


@dataclass(slots=True, eq=False)
class NodeState:
    """A node, as far as scheduling goes."""

    name: str
    order: int  # in which nodes appeared: the tie-break
    labels: dict[str, str] = field(default_factory=dict)
    taints: list[dict[str, str]] = field(default_factory=list)
    capacity: int = 0  # pods with an address of their own
    present: bool = False
    pods: int = 0
    addresses: int = 0
    ports: Counter[HostPort] = field(default_factory=Counter)
    owners: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class _Placed:
    wants: Wants
    node: str
    owner: str
    terminating: bool


class SchedulingState:
    """Nodes and placed pods. ``version`` changes when any node does."""

    def __init__(self) -> None:
        self.version = 0
        self.namespaces: dict[str, dict[str, str]] = {}
        self._nodes: dict[str, NodeState] = {}
        self._placed: dict[str, _Placed] = {}
        self._counts: dict[PodSet, Counter[str]] = {}
        # Required anti-affinity works both ways: what pods that are placed want to be apart from, and where.
        self.apart: dict[PodTerm, Counter[str]] = {}
        self._wants: dict[str, Wants] = {}

    def nodes(self) -> Iterator[NodeState]:
        return (node for node in self._nodes.values() if node.present)

    def wants(self, pod: Object) -> tuple[str, Wants]:
        """A pod's signature and what it asks for."""
        key = signature(pod)
        wants = self._wants.get(key)
        if wants is None:
            if len(self._wants) > 4096:
                self._wants.clear()
            wants = self._wants[key] = wants_of(pod)
        return key, wants

    def set_node(self, obj: Object) -> bool:
        """Take over a node; False if nothing that matters here changed."""
        node = self._node(name_of(obj))
        fresh = (labels(obj), effective_taints(obj), _capacity((obj.get("spec") or {}).get("podCIDR") or ""), True)
        if (node.labels, node.taints, node.capacity, node.present) == fresh:
            return False
        node.labels, node.taints, node.capacity, node.present = fresh
        self.version += 1
        return True

    def remove_node(self, name: str) -> None:
        node = self._node(name)
        node.present = False
        if not node.pods:
            del self._nodes[name]
        self.version += 1

    def set_namespace(self, obj: Object, *, gone: bool = False) -> None:
        before = self.namespaces.pop(name_of(obj), None)
        if not gone:
            self.namespaces[name_of(obj)] = labels(obj)
        if before != self.namespaces.get(name_of(obj)):
            self._counts = {s: c for s, c in self._counts.items() if s.namespace_selector is None}

    def place(self, pod: Object) -> bool:
        """A pod is on its node; False if that was known."""
        uid, ref = uid_of(pod), controller_of(pod)
        known = self._placed.get(uid)
        if known is not None and known.terminating == terminating(pod) and known.wants.labels == labels(pod):
            return False
        self.remove(uid)
        placed = _Placed(self.wants(pod)[1], node_of(pod), ref["uid"] if ref else "", terminating(pod))
        self._placed[uid] = placed
        self._add(placed, 1)
        return True

    def remove(self, uid: str) -> bool:
        """A pod is gone, or all that it ran has ended."""
        placed = self._placed.pop(uid, None)
        if placed is None:
            return False
        self._add(placed, -1)
        return True

    def counts(self, pods: PodSet) -> Counter[str]:
        """How many pods of a set are on each node."""
        counts = self._counts.get(pods)
        if counts is None:
            counts = self._counts[pods] = Counter(p.node for p in self._placed.values() if self._in(p, pods))
        return counts

    def _in(self, placed: _Placed, pods: PodSet) -> bool:
        if placed.terminating and not pods.terminating:
            return False
        return pods.matches(placed.wants.namespace, placed.wants.labels, self.namespaces)

    def _add(self, placed: _Placed, by: int) -> None:
        node, wants = self._node(placed.node), placed.wants
        node.pods += by
        node.addresses += by if wants.takes_address else 0
        node.owners[placed.owner] += by
        for port in wants.ports:
            node.ports[port] += by
        for term in wants.anti_affinity:
            self.apart.setdefault(term, Counter())[placed.node] += by
        for pods, counts in self._counts.items():
            if self._in(placed, pods):
                counts[placed.node] += by
        if not node.pods and not node.present:
            del self._nodes[node.name]

    def _node(self, name: str) -> NodeState:
        node = self._nodes.get(name)
        if node is None:
            order = 1 + max((n.order for n in self._nodes.values()), default=0)
            node = self._nodes[name] = NodeState(name, order)
        return node


@lru_cache(1024)
def _capacity(pod_cidr: str) -> int:
    return max(0, IPv4Network(pod_cidr).num_addresses - _UNUSABLE) if pod_cidr else 0
