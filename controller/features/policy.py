"""Policies on a node's bridge, as conjunctions.

A rule is a conjunction of up to three dimensions: the pods that it is about (by their ports on the bridge), their peers
(by address), and destination ports. So a rule over N pods, M peers and P ports is N + M + P flows, not N x M x P; and
a flow of one address or port stands for all rules that name it. ``conj_id`` flows say what happens where all dimensions
are met, and are the ones that count and name the rule. A rule of one dimension only needs no conjunction.

Of NetworkPolicies all rules allow, so they could share one priority, and nearly always do. But a flow must fit one
message, and names each rule that it is part of. So these rules are divided into shards, each with a priority of its
own: where a flow of one leads to no verdict, Open vSwitch goes on to the flow of the same match below it
(``classifier_lookup__`` in lib/classifier.c). Rules of the other tiers are in an order: each has a priority of its own.
Each tier of each direction has a table; and once more as if the policies were in force that are only tried out, where
verdicts are counted and logged, and the packet goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from controller.family import Family, family_of
from controller.openflow.actions import (
    DROP,
    Action,
    Actions,
    actions,
    conjunction,
    ct,
    goto,
    set_reg,
    to_controller,
)
from controller.openflow.cookie import Owner
from controller.openflow.flow import Flow
from controller.openflow.match import Field, Match, conj_id, ct_state, in_port, match, nw_dst, nw_src, tp_dst_range
from controller.openflow.match import reg as register
from controller.pipeline import (
    AFTER_SERVICE,
    ALLOWED,
    EGRESS_RULE,
    INGRESS_RULE,
    MARK_DENIED,
    OUT_PORT,
    RECALL,
    TO_POD,
    ZONE,
    Feature,
    Table,
)
from kmn.k8s.dataplane import POLICY_LOG_BYTES, POLICY_LOG_CONNECTION
from kmn.policy.flows import ISOLATED, isolation_name, rule_name
from kmn.policy.model import Action as Decision
from kmn.policy.model import Direction, Log, Network, Policy, PortRange, Rule, Tier
from kmn.policy.selection import Address

__all__ = [
    "HIGHEST",
    "KNOWN",
    "RULES_OF_A_FLOW",
    "STAGED_WAYS",
    "WAYS",
    "Way",
    "Ways",
    "count_flow",
    "dimensions",
    "established_flows",
    "isolation_flow",
    "plain_flow",
    "policy_stages",
    "port_matches",
    "priority_of",
    "rule_owner",
    "self_flow",
    "shard_of",
    "shared_flow",
    "verdict_flow",
]

# Priorities. Above all tiers is what none concerns; below an isolated pod's rules what none of them allowed.
KNOWN = 65000
_SELF = 64000
HIGHEST = 60000  # of a rule in an order; the lowest is 1
_PLAIN, _CONJUNCTION = 200, 100  # above ISOLATED; shards are from 100 to 199

# How many rules a flow can be part of: 16 bytes each, of the 65,535 of a message.
RULES_OF_A_FLOW = 4000


@dataclass(frozen=True, eq=False, slots=True)
class Way:
    """A table: a tier of one direction. Compared by identity, as there are few (``WAYS``, ``STAGED_WAYS``)."""

    direction: Direction
    tier: Tier
    table: Table
    allowed: Table  # where an allowed packet goes on
    denied: Table
    passed: Table  # where one goes on that this tier says nothing of
    staged: bool = False

    @property
    def rule_register(self) -> int:
        """Keeps the number of the rule that allowed."""
        return EGRESS_RULE if self.direction is Direction.EGRESS else INGRESS_RULE

    def of_pod(self, ofport: int) -> Field:
        """The pod that the rules are about."""
        return in_port(ofport) if self.direction is Direction.EGRESS else register(OUT_PORT, ofport)

    def of_peer(self, peer: Address | Network) -> Match:
        """The other end: one address, or all of a network."""
        family = family_of(peer)
        if peer == family.everything:
            return match(family.ip)
        return match(family.ip, (nw_dst if self.direction is Direction.EGRESS else nw_src)(peer))


Ways = Mapping[tuple[Direction, Tier], Way]


def _ways(direction: Direction, tables: tuple[Table, Table, Table], beyond: Table, *, staged: bool) -> list[Way]:
    return [
        Way(
            direction,
            tier,
            table,
            allowed=beyond,
            denied=beyond if staged else Table.DENIED,
            passed=following,
            staged=staged,
        )
        for tier, table, following in zip(Tier, tables, (*tables[1:], beyond), strict=True)
    ]


def _by_tier(*ways: list[Way]) -> Ways:
    return {(way.direction, way.tier): way for each in ways for way in each}


WAYS = _by_tier(
    _ways(
        Direction.EGRESS,
        (Table.EGRESS_ADMIN, Table.EGRESS_POLICY, Table.EGRESS_BASELINE),
        Table.ROUTING,
        staged=False,
    ),
    _ways(
        Direction.INGRESS,
        (Table.INGRESS_ADMIN, Table.INGRESS_POLICY, Table.INGRESS_BASELINE),
        Table.COMMIT,
        staged=False,
    ),
)
STAGED_WAYS = _by_tier(
    _ways(
        Direction.EGRESS,
        (Table.STAGED_EGRESS_ADMIN, Table.STAGED_EGRESS_POLICY, Table.STAGED_EGRESS_BASELINE),
        Table.EGRESS_ADMIN,
        staged=True,
    ),
    _ways(
        Direction.INGRESS,
        (Table.STAGED_INGRESS_ADMIN, Table.STAGED_INGRESS_POLICY, Table.STAGED_INGRESS_BASELINE),
        Table.INGRESS_ADMIN,
        staged=True,
    ),
)
_PIPELINE = Owner(Feature.CONNECTIVITY, "Pipeline")


def policy_stages() -> list[Flow]:
    """How packets go on that a tier says nothing of."""
    ways = [*STAGED_WAYS.values(), *WAYS.values()]
    return [_PIPELINE.flow(way.table, 0, match(), actions(goto(way.passed))) for way in ways]


def established_flows(family: Family, *, cut: bool) -> list[Flow]:
    """What connections see of policies that were allowed once.

    Nothing; or (``cut``) the packets in their own direction are judged like the first one, and where that denies them
    the connection is as if it had never been allowed, so that answers are dropped, too.
    """
    make, ip = _PIPELINE.flow, family.ip
    on, in_ = actions(*RECALL, goto(Table.ROUTING)), actions(goto(Table.COMMIT))
    if not cut:
        return [
            make(Table.STATE, 190, match(ip, ALLOWED), on),
            make(TO_POD, KNOWN + 10, match(ip, ALLOWED), in_),
        ]
    flows = []
    for state in ("+rpl+trk", "+rel+trk"):
        flows += [
            make(Table.STATE, 190, match(ip, ct_state(state), ALLOWED), on),
            make(TO_POD, KNOWN + 10, match(ip, ct_state(state), ALLOWED), in_),
        ]
    return [
        *flows,
        make(Table.STATE, 188, match(ip, ALLOWED), actions(*RECALL, goto(AFTER_SERVICE))),
        # Nobody answers what was never allowed: this one is allowed no more.
        make(Table.STATE, 175, match(ip, ct_state("+rpl+trk")), DROP),
        make(Table.DENIED, 100, match(ip, ALLOWED), actions(ct(ZONE, commit=True, mark=(MARK_DENIED,)))),
    ]


def rule_owner(policy: Policy, rule: Rule) -> Owner:
    """Whose the flow is that counts what a rule decided."""
    return Owner(Feature.POLICY, rule_name(policy, rule))


def priority_of(shard: int) -> int:
    """The priority of a rule's flows in the tier whose rules are in no order."""
    return _CONJUNCTION + shard


def shard_of(priority: int) -> int:
    """Of a rule in that tier."""
    return priority - _CONJUNCTION


def dimensions(*, peers: bool, ports: bool) -> tuple[int, int, int]:
    """Numbers of the dimensions pods, peers, ports of a rule (0: it has none such)."""
    return 1, 2 * peers, (2 + peers) * ports


_TELL = to_controller(POLICY_LOG_CONNECTION, POLICY_LOG_BYTES)


def _verdict(way: Way, decision: Decision, number: int, log: Log) -> Actions:
    steps: list[Action] = []
    if decision is Decision.DENY:
        if log is not Log.NONE:
            steps.append(_TELL)
        return actions(*steps, goto(way.denied))
    if decision is Decision.PASS:
        return actions(goto(way.passed))
    if log is Log.ALL:
        steps.append(_TELL)
    if not way.staged:
        steps.append(set_reg(way.rule_register, number))
    return actions(*steps, goto(way.allowed))


def verdict_flow(way: Way, owner: Owner, priority: int, decision: Decision, number: int, log: Log) -> Flow:
    """What happens where all dimensions of rule ``number`` are met."""
    return owner.flow(way.table, priority, match(conj_id(number)), _verdict(way, decision, number, log))


def plain_flow(way: Way, owner: Owner, priority: int, decision: Decision, number: int, log: Log, ofport: int) -> Flow:
    """A rule about everything to or from one pod."""
    if way.tier is Tier.NETWORK_POLICY:
        priority = _PLAIN
    return owner.flow(way.table, priority, match(way.of_pod(ofport)), _verdict(way, decision, number, log))


def count_flow(way: Way, owner: Owner, number: int) -> Flow:
    """Counts all packets, of both directions, of connections that rule ``number`` allowed."""
    table, beyond = {
        Direction.EGRESS: (Table.EGRESS_COUNT, Table.INGRESS_COUNT),
        Direction.INGRESS: (Table.INGRESS_COUNT, Table.SNAT),
    }[way.direction]
    return owner.flow(table, 100, match(register(way.rule_register, number)), actions(goto(beyond)))


def port_matches(ports: Iterable[PortRange], families: Iterable[Family]) -> Iterator[Match]:
    """All packets to these ports."""
    ports = tuple(ports)
    for family in families:
        for each in ports:
            protocol = family.protocols[each.protocol]
            if (each.first, each.last) == (0, 65535):
                yield match(*protocol)
            else:
                for field in tp_dst_range(protocol, each.first, each.last):
                    yield match(*protocol, field)


def shared_flow(way: Way, priority: int, wanted: Match, members: Iterable[tuple[int, int, int]]) -> Flow:
    """One flow for all rules of which this match is a dimension: number of the rule, dimension, of how many."""
    return _SHARING.flow(way.table, priority, wanted, _parts(tuple(sorted(members))))


_SHARING = Owner(Feature.POLICY, "NetworkPolicies")


@lru_cache(maxsize=65536)
def _parts(members: tuple[tuple[int, int, int], ...]) -> Actions:
    """The same for pods that are alike, and on all nodes that have the same rules."""
    return actions(*(conjunction(*member) for member in members))


def isolation_flow(way: Way, pod: str, ofport: int, log: Log) -> Flow:
    """What no rule allowed of an isolated pod."""
    return _of_pod(way, pod).flow(way.table, ISOLATED, match(way.of_pod(ofport)), _verdict(way, Decision.DENY, 0, log))


def self_flow(way: Way, pod: str, ofport: int, address: Address) -> Flow:
    """No policy cuts a pod off from itself. ``way`` is the first of its direction."""
    return _of_pod(way, pod).flow(
        way.table, _SELF, match(in_port(ofport), *way.of_peer(address).fields), actions(goto(way.allowed))
    )


def _of_pod(way: Way, pod: str) -> Owner:
    return Owner(Feature.POLICY, isolation_name(pod, way.direction))
