"""Policies on a node's bridge, as conjunctions.

A rule is a conjunction of up to three dimensions: the pods that it is about (by their ports on the bridge), their peers
(by address), and destination ports. So a rule over N pods, M peers and P ports is N + M + P flows, not N x M x P; and
a flow of one address or port stands for all rules that name it. ``conj_id`` flows say what happens where all dimensions
are met, and are the ones that count and name the rule.

Of NetworkPolicies all rules allow, so they could share one priority, and nearly always do; a rule of one dimension only
needs no conjunction. But a flow must fit one message, and names each rule that it is part of. So rules are divided into
shards, each with flows of its own priority: where a flow of one leads to no allowed packet, Open vSwitch goes on to the
flow of the same match below it (``classifier_lookup__`` in lib/classifier.c).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from controller.family import Family, family_of
from controller.openflow.actions import DROP, Actions, actions, conjunction, goto, set_reg
from controller.openflow.cookie import Owner
from controller.openflow.flow import Flow
from controller.openflow.match import Field, Match, conj_id, in_port, match, nw_dst, nw_src, tp_dst_range
from controller.openflow.match import reg as register
from controller.pipeline import EGRESS_RULE, INGRESS_RULE, OUT_PORT, Feature, Table
from kmn.policy.model import Direction, Network, Policy, PortRange, Rule
from kmn.policy.selection import Address

__all__ = [
    "RULES_OF_A_FLOW",
    "WAYS",
    "Way",
    "dimensions",
    "isolation_flow",
    "plain_flow",
    "port_matches",
    "rule_owner",
    "rules_of",
    "self_flow",
    "shared_flow",
    "verdict_flow",
]

# Priorities; above them is what no policy concerns (see features.connectivity).
_SELF, _PLAIN, _CONJUNCTION, _ISOLATED = 300, 200, 100, 10  # shards: 100 to 199

# How many rules a flow can be part of: 16 bytes each, of the 65,535 of a message.
RULES_OF_A_FLOW = 4000


@dataclass(frozen=True, eq=False, slots=True)
class Way:
    """What differs between ingress and egress. There are two (``WAYS``), compared by identity."""

    direction: Direction
    table: Table
    allowed: Table  # where an allowed packet goes on
    rule_register: int

    def of_pod(self, ofport: int) -> Field:
        """The pod that the rules are about."""
        return in_port(ofport) if self.direction is Direction.EGRESS else register(OUT_PORT, ofport)

    def of_peer(self, peer: Address | Network) -> Match:
        """The other end: one address, or all of a network."""
        family = family_of(peer)
        if peer == family.everything:
            return match(family.ip)
        return match(family.ip, (nw_dst if self.direction is Direction.EGRESS else nw_src)(peer))


WAYS = {
    Direction.EGRESS: Way(Direction.EGRESS, Table.EGRESS_POLICY, Table.ROUTING, EGRESS_RULE),
    Direction.INGRESS: Way(Direction.INGRESS, Table.INGRESS_POLICY, Table.COMMIT, INGRESS_RULE),
}


def rule_owner(policy: Policy, rule: Rule) -> Owner:
    """Whose the flow is that counts what a rule allowed."""
    return Owner(Feature.POLICY, _name(policy, rule))


def rules_of(policy: Policy) -> list[str]:
    """Names of the owners of a policy's flows: ``NetworkPolicy/default/web ingress[0]``."""
    return [_name(policy, rule) for direction in Direction for rule in policy.rules(direction) or ()]


def _name(policy: Policy, rule: Rule) -> str:
    return f"{policy.kind}/{policy.key} {rule.name}"


def dimensions(*, peers: bool, ports: bool) -> tuple[int, int, int]:
    """Numbers of the dimensions pods, peers, ports of a rule (0: it has none such)."""
    return 1, 2 * peers, (2 + peers) * ports


def _allow(way: Way, number: int) -> Actions:
    return actions(set_reg(way.rule_register, number), goto(way.allowed))


def verdict_flow(way: Way, owner: Owner, number: int) -> Flow:
    """What happens where all dimensions of rule ``number`` are met."""
    return owner.flow(way.table, _CONJUNCTION, match(conj_id(number)), _allow(way, number))


def plain_flow(way: Way, owner: Owner, number: int, ofport: int) -> Flow:
    """A rule that allows everything to one pod."""
    return owner.flow(way.table, _PLAIN, match(way.of_pod(ofport)), _allow(way, number))


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


def shared_flow(way: Way, shard: int, wanted: Match, members: Iterable[tuple[int, int, int]]) -> Flow:
    """One flow for all rules of a shard of which this match is a dimension: number of the rule, dimension, of how many.

    The flow that says what happens where all are met has one priority, in whatever shard the rule is.
    """
    return _SHARING.flow(way.table, _CONJUNCTION + shard, wanted, _parts(tuple(sorted(members))))


_SHARING = Owner(Feature.POLICY, "NetworkPolicies")


@lru_cache(maxsize=65536)
def _parts(members: tuple[tuple[int, int, int], ...]) -> Actions:
    """The same for pods that are alike, and on all nodes that have the same rules."""
    return actions(*(conjunction(*member) for member in members))


def isolation_flow(way: Way, pod: str, ofport: int) -> Flow:
    """What no rule allowed of an isolated pod."""
    return Owner(Feature.POLICY, f"Pod/{pod} {way.direction.value}").flow(
        way.table, _ISOLATED, match(way.of_pod(ofport)), DROP
    )


def self_flow(pod: str, ofport: int, address: Address) -> Flow:
    """No policy cuts a pod off from itself."""
    way = WAYS[Direction.EGRESS]
    return Owner(Feature.POLICY, f"Pod/{pod} {way.direction.value}").flow(
        way.table,
        _SELF,
        match(in_port(ofport), *way.of_peer(address).fields),
        actions(goto(way.allowed)),
    )
