"""What policies say, typed. Here is NetworkPolicy (networking.k8s.io/v1); ``kmn.policy.clusterwide`` has its betters.

Policies are asked tier by tier. A NetworkPolicy isolates the pods that it selects: what no rule of any such policy
allows is denied. Rules of the other tiers are in an order, and the first that matches decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, IntEnum
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from typing import Any, TypeAlias, TypeVar

from kmn.k8s.objects import Key, Object, describe, key_of
from kmn.k8s.selectors import EVERYTHING, LabelSelector, selector_of_object

__all__ = [
    "STAGED",
    "Action",
    "Block",
    "Direction",
    "Log",
    "NamedPort",
    "Network",
    "Peer",
    "Policy",
    "PodPeer",
    "PortRange",
    "Rule",
    "Tier",
    "network_policy",
    "node_peer",
    "staged",
]

Network: TypeAlias = IPv4Network | IPv6Network


# Annotation of a policy that is tried out: "true" means that its verdicts are counted and logged, and nothing more.
STAGED = "kmn.io/policy-staged"


class Tier(IntEnum):
    """Who speaks first. What a tier does not decide goes on to the next; what none decides is allowed."""

    ADMIN = 1  # of the cluster's administrators: AdminNetworkPolicy, ClusterNetworkPolicy
    NETWORK_POLICY = 2  # of the owners of namespaces; decides whatever is about a pod that one of them isolates
    BASELINE = 3  # what holds where they are silent: BaselineAdminNetworkPolicy, ClusterNetworkPolicy


class Action(Enum):
    """What a rule does with what it matches. NetworkPolicy's rules all allow."""

    ALLOW = "Allow"
    DENY = "Deny"
    PASS = "Pass"  # on to the next tier


class Log(Enum):
    """Which verdicts are told to who asks for them: values of the cluster file's ``policy.log``."""

    DENIED = "denied"
    ALL = "all"
    NONE = "none"


class Direction(Enum):
    """Which of a connection's two ends a rule is about."""

    INGRESS = "Ingress"
    EGRESS = "Egress"


@dataclass(frozen=True, slots=True)
class PodPeer:
    """Pods by labels: of one namespace, or of all namespaces with certain labels. Or nodes: those are in none."""

    namespace: str | None  # a name; None: ``namespaces`` says which; "": nodes are meant, see :func:`node_peer`
    namespaces: LabelSelector
    pods: LabelSelector

    def __str__(self) -> str:
        if self.namespace == "":
            return f"nodes {self.pods}" if self.pods.requirements else "all nodes"
        pods = f"pods {self.pods}" if self.pods.requirements else "all pods"
        if self.namespace is not None:
            return f"{pods} of namespace {self.namespace}"
        namespaces = f"namespaces {self.namespaces}" if self.namespaces.requirements else "all namespaces"
        return f"{pods} of {namespaces}"


def node_peer(nodes: LabelSelector) -> PodPeer:
    """Nodes by labels."""
    return PodPeer("", EVERYTHING, nodes)


@dataclass(frozen=True, slots=True)
class Block:
    """Addresses of a network, without those of others."""

    network: Network
    excepts: tuple[Network, ...] = ()

    def networks(self) -> tuple[Network, ...]:
        """Disjoint networks that together are the block."""
        if isinstance(self.network, IPv4Network):
            return _carved(self.network, [hole for hole in self.excepts if isinstance(hole, IPv4Network)])
        return _carved(self.network, [hole for hole in self.excepts if isinstance(hole, IPv6Network)])

    def __str__(self) -> str:
        return f"{self.network}" + (f" except {', '.join(map(str, self.excepts))}" if self.excepts else "")


N = TypeVar("N", IPv4Network, IPv6Network)


def _carved(whole: N, holes: Iterable[N]) -> tuple[N, ...]:
    left = [whole]
    for hole in holes:
        left = [part for each in left for part in _without(each, hole)]
    return tuple(collapse_addresses(left))


def _without(whole: N, hole: N) -> list[N]:
    if not whole.overlaps(hole):
        return [whole]
    return [] if whole.subnet_of(hole) else list(whole.address_exclude(hole))


Peer: TypeAlias = PodPeer | Block


@dataclass(frozen=True, slots=True)
class PortRange:
    """Destination ports of a protocol, ``first`` to ``last``; ``ANY`` bounds: the whole protocol."""

    protocol: str  # TCP, UDP, SCTP
    first: int = 0
    last: int = 65535

    def __str__(self) -> str:
        if (self.first, self.last) == (0, 65535):
            return self.protocol
        ports = f"{self.first}-{self.last}" if self.last != self.first else f"{self.first}"
        return f"{ports}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class NamedPort:
    """The port that the destination pod calls so, for a protocol ("" for whichever the pod's port has)."""

    protocol: str
    name: str

    def __str__(self) -> str:
        return f"{self.name}/{self.protocol}" if self.protocol else self.name


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. ``peers`` and ``ports``: any of them must match; None: all do."""

    name: str  # as messages call it: "ingress[0]"
    peers: tuple[Peer, ...] | None = None
    ports: tuple[PortRange | NamedPort, ...] | None = None
    action: Action = Action.ALLOW


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy. A direction whose rules are None is none of its business; () has no rule that matches."""

    kind: str
    key: Key
    subject: PodPeer
    ingress: tuple[Rule, ...] | None
    egress: tuple[Rule, ...] | None
    tier: Tier = Tier.NETWORK_POLICY
    priority: int = 0  # within the tier: the lowest speaks first; NetworkPolicies have none
    staged: bool = False  # only as if

    @property
    def isolates(self) -> bool:
        """Whether what none of its kind allows is denied to the pods that it selects."""
        return self.tier is Tier.NETWORK_POLICY

    def rules(self, direction: Direction) -> tuple[Rule, ...] | None:
        return self.ingress if direction is Direction.INGRESS else self.egress

    def __str__(self) -> str:
        return f"{self.kind} {self.key}"


def network_policy(obj: Object) -> Policy:
    """A NetworkPolicy that the API server has taken. Raises ValueError, naming object and field, on what it would not.

    Defaults are those of NetworkPolicySpec: without ``policyTypes`` always Ingress, and Egress where there are egress
    rules.
    """
    key, spec = key_of(obj), obj.get("spec") or {}
    types = spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") else [])]
    try:
        rules = {
            direction: _rules(key.namespace, spec, direction) if direction.value in types else None
            for direction in Direction
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{describe(obj)}: spec: {error}") from error
    return Policy(
        "NetworkPolicy",
        key,
        PodPeer(key.namespace, EVERYTHING, selector_of_object(spec.get("podSelector") or {})),
        rules[Direction.INGRESS],
        rules[Direction.EGRESS],
        staged=staged(obj),
    )


def staged(obj: Object) -> bool:
    """Whether a policy is only tried out."""
    return (obj["metadata"].get("annotations") or {}).get(STAGED) == "true"


def _rules(namespace: str, spec: dict[str, Any], direction: Direction) -> tuple[Rule, ...]:
    field, peers_field = ("ingress", "from") if direction is Direction.INGRESS else ("egress", "to")
    return tuple(
        Rule(
            f"{field}[{number}]",
            peers=tuple(_peer(namespace, peer) for peer in rule.get(peers_field) or ()) or None,
            ports=tuple(_port(port) for port in rule.get("ports") or ()) or None,
        )
        for number, rule in enumerate(each or {} for each in spec.get(field) or ())
    )


def _peer(namespace: str, peer: dict[str, Any]) -> Peer:
    block = peer.get("ipBlock")
    if block is not None:
        excepts = tuple(ip_network(text, strict=False) for text in block.get("except") or ())
        return Block(ip_network(block["cidr"], strict=False), excepts)
    namespaces, pods = peer.get("namespaceSelector"), peer.get("podSelector")
    selected = selector_of_object(pods) if pods is not None else EVERYTHING
    if namespaces is None:
        return PodPeer(namespace, EVERYTHING, selected)
    return PodPeer(None, selector_of_object(namespaces), selected)


def _port(port: dict[str, Any]) -> PortRange | NamedPort:
    protocol, number = port.get("protocol") or "TCP", port.get("port")
    if number is None:
        return PortRange(protocol)
    if isinstance(number, str):
        return NamedPort(protocol, number)
    return PortRange(protocol, number, port.get("endPort") or number)
