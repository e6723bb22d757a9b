"""May this connection be, and who decided? Answers from the objects alone, without a packet.

Both ends have a say: egress policies of the source, ingress policies of the destination. Tier by tier: of the
administrators' rules the first that matches decides, unless it passes the connection on; the rules of all
NetworkPolicies that select a pod are united, and what none allows is denied; for a pod that none selects there is the
baseline; and what that says nothing of is allowed. (Semantics: the API documentation of NetworkPolicySpec, and of
AdminNetworkPolicySpec and ClusterNetworkPolicySpec of policy.networking.k8s.io.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeAlias

from kmn.k8s.objects import Key
from kmn.policy.model import Action, Block, Direction, NamedPort, Network, Policy, Rule, Tier
from kmn.policy.selection import Address, Group, Member, Selection

__all__ = ["Decision", "End", "Judge", "Match", "Miss", "ResolvedRule", "Verdict", "contains", "default_deny", "rank"]

# One end of a connection: a pod, or an address that is no pod's.
End: TypeAlias = Member | Address


@dataclass(frozen=True, slots=True)
class Match:
    """A rule that matches a connection."""

    policy: Policy
    rule: Rule

    def __str__(self) -> str:
        return f"{self.policy} {self.rule.name}"


@dataclass(frozen=True, slots=True)
class Miss:
    """A rule that would have to allow a connection, and does not match it: for whom and what it is instead."""

    policy: Policy
    rule: Rule
    peers: bool  # does the other end match?
    ports: bool

    def __str__(self) -> str:
        wanted = []
        if not self.peers:
            side = "from" if self.rule.name.startswith("ingress") else "to"
            wanted.append(f"{side} {' or '.join(map(str, self.rule.peers or ()))}")
        if not self.ports:
            wanted.append(f"to ports {', '.join(map(str, self.rule.ports or ()))}")
        return f"{self.policy} {self.rule.name}: only {' and '.join(wanted)}"


@dataclass(frozen=True, slots=True)
class Decision:
    """What one end's policies say of a connection.

    ``by``: the rules that decide: all NetworkPolicies' that allow it, or the one of another tier; empty where no policy
    concerns the pod, or where it is denied for want of a rule: then ``isolating`` are the NetworkPolicies that would
    have had to allow it.
    """

    direction: Direction
    allowed: bool
    by: tuple[Match, ...] = ()
    isolating: tuple[Policy, ...] = ()
    misses: tuple[Miss, ...] = ()  # rules of the isolating policies, where none allows it
    passed: tuple[Match, ...] = ()  # rules that passed it on to the next tier

    @property
    def reason(self) -> str:
        """In words: which policy and rule, or of which policies it is the default."""
        if self.by:
            return ", ".join(map(str, self.by))
        return default_deny(self.isolating) if self.isolating else "no policy"


def default_deny(isolating: Sequence[Policy]) -> str:
    """In words: no rule of these allows it."""
    names = ", ".join(str(policy.key) for policy in isolating)
    return f"default deny of {'policy' if len(isolating) == 1 else 'policies'} {names}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What both ends say."""

    egress: Decision
    ingress: Decision

    @property
    def allowed(self) -> bool:
        return self.egress.allowed and self.ingress.allowed


@dataclass(eq=False, slots=True)
class ResolvedRule:
    """A rule with the groups of its peers."""

    rule: Rule
    groups: tuple[Group, ...]
    blocks: tuple[Block, ...]


@dataclass(eq=False, slots=True)
class _Policy:
    policy: Policy
    subject: Group
    rules: dict[Direction, tuple[ResolvedRule, ...]]


class Judge:
    """Policies over a :class:`Selection`, asked about single connections. Both may change in between."""

    def __init__(self, selection: Selection, policies: Iterable[Policy] = ()) -> None:
        self.selection = selection
        self._policies: dict[tuple[str, Key], _Policy] = {}
        self._ordered: dict[Tier, list[_Policy]] | None = None
        for policy in policies:
            self.set_policy(policy)

    @property
    def policies(self) -> Iterator[Policy]:
        return (each.policy for each in self._policies.values())

    def set_policy(self, policy: Policy) -> None:
        """A policy came, or changed."""
        self.remove_policy(policy.kind, policy.key)
        self._ordered = None
        self._policies[policy.kind, policy.key] = _Policy(
            policy,
            self.selection.use(policy.subject),
            {
                direction: tuple(self._rule(rule) for rule in rules)
                for direction in Direction
                if (rules := policy.rules(direction)) is not None
            },
        )

    def remove_policy(self, kind: str, key: Key) -> None:
        """A policy is gone, if it was there."""
        old = self._policies.pop((kind, key), None)
        if old is not None:
            self._ordered = None
            self.selection.release(old.subject)
            for rules in old.rules.values():
                for each in rules:
                    for group in each.groups:
                        self.selection.release(group)

    def _rule(self, rule: Rule) -> ResolvedRule:
        peers = rule.peers or ()
        return ResolvedRule(
            rule,
            tuple(self.selection.use(peer) for peer in peers if not isinstance(peer, Block)),
            tuple(peer for peer in peers if isinstance(peer, Block)),
        )

    def resolved(self, tier: Tier, direction: Direction) -> Iterator[tuple[Group, tuple[ResolvedRule, ...]]]:
        """Of each policy of a tier with rules of a direction: the pods that it selects, and its rules. In order."""
        return ((each.subject, each.rules[direction]) for each in self._tier(tier) if direction in each.rules)

    def _tier(self, tier: Tier) -> list[_Policy]:
        if self._ordered is None:
            self._ordered = {each: [] for each in Tier}
            for policy in sorted(self._policies.values(), key=lambda each: rank(each.policy)):
                self._ordered[policy.policy.tier].append(policy)
        return self._ordered[tier]

    def isolating(self, pod: Key, direction: Direction) -> tuple[Policy, ...]:
        """The policies whose rules would have to allow what goes to or from a pod; none of them: all is denied."""
        mine = self._tier(Tier.NETWORK_POLICY)
        return tuple(each.policy for each in mine if direction in each.rules and pod in each.subject.members)

    def judge(self, source: End, destination: End, protocol: str, port: int) -> Verdict:
        """A new connection (or datagram) to a port of the destination, as the destination's pod has it."""
        if isinstance(source, Member) and isinstance(destination, Member) and source.key == destination.key:
            # No policy cuts a pod off from itself.
            return Verdict(Decision(Direction.EGRESS, True), Decision(Direction.INGRESS, True))
        return Verdict(
            self._decide(Direction.EGRESS, source, destination, destination, protocol, port),
            self._decide(Direction.INGRESS, destination, source, destination, protocol, port),
        )

    def _decide(
        self, direction: Direction, pod: End, other: End, destination: End, protocol: str, port: int
    ) -> Decision:
        if not isinstance(pod, Member):
            return Decision(direction, True)
        passed: list[Match] = []
        for tier in Tier:
            mine = [each for each in self._tier(tier) if direction in each.rules and pod.key in each.subject.members]
            if tier is Tier.NETWORK_POLICY:
                if mine:
                    return replace(_united(direction, mine, other, destination, protocol, port), passed=tuple(passed))
                continue
            match = _first(direction, mine, other, destination, protocol, port)
            if match is None:
                continue
            if match.rule.action is not Action.PASS:
                return Decision(direction, match.rule.action is Action.ALLOW, (match,), passed=tuple(passed))
            passed.append(match)
        return Decision(direction, True, passed=tuple(passed))


def rank(policy: Policy) -> tuple[int, str, str]:
    """Sorts policies of one tier: who speaks first comes first. Upstream leaves open who does at equal priorities."""
    return policy.priority, policy.key.name, policy.kind


def _first(
    direction: Direction, policies: Iterable[_Policy], other: End, destination: End, protocol: str, port: int
) -> Match | None:
    for each in policies:
        for rule in each.rules[direction]:
            if _peers_match(rule, other) and _ports_match(rule.rule, destination, protocol, port):
                return Match(each.policy, rule.rule)
    return None


def _united(
    direction: Direction, policies: Sequence[_Policy], other: End, destination: End, protocol: str, port: int
) -> Decision:
    allowing, misses = [], []
    for each in policies:
        for rule in each.rules[direction]:
            peers = _peers_match(rule, other)
            ports = _ports_match(rule.rule, destination, protocol, port)
            if peers and ports:
                allowing.append(Match(each.policy, rule.rule))
            else:
                misses.append(Miss(each.policy, rule.rule, peers, ports))
    isolating = tuple(each.policy for each in policies)
    if allowing:
        return Decision(direction, True, tuple(allowing), isolating)
    return Decision(direction, False, (), isolating, tuple(misses))


def _peers_match(rule: ResolvedRule, other: End) -> bool:
    if rule.rule.peers is None:
        return True
    if isinstance(other, Member):
        if any(other.key in group.members for group in rule.groups):
            return True
        return any(contains(block, address) for block in rule.blocks for address in other.addresses)
    if any(contains(block, other) for block in rule.blocks):
        return True
    nodes = (node for group in rule.groups if group.peer.namespace == "" for node in group.members.values())
    return any(other in node.addresses for node in nodes)


@lru_cache(maxsize=65536)
def _in(network: Network, address: Address) -> bool:
    return address in network


def contains(block: Block, address: Address) -> bool:
    """Whether an address is of a block."""
    return _in(block.network, address) and not any(_in(hole, address) for hole in block.excepts)


def _ports_match(rule: Rule, destination: End, protocol: str, port: int) -> bool:
    if rule.ports is None:
        return True
    for each in rule.ports:
        if isinstance(each, NamedPort):
            if isinstance(destination, Member) and (protocol, port) in destination.number_of(each.name, each.protocol):
                return True
        elif each.protocol == protocol and each.first <= port <= each.last:
            return True
    return False
