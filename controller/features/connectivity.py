"""The flows that every node's bridge has, whatever runs on it: how packets go from table to table.

Those of IPv4 are always there, those of IPv6 in dual-stack clusters.
"""

from __future__ import annotations

from controller.family import V4, Family
from controller.features.neighbours import answer, complete_answers
from controller.features.policy import KNOWN, policy_stages
from controller.openflow.actions import DROP, IN_PORT, Action, actions, ct, goto, output_reg
from controller.openflow.cookie import Owner
from controller.openflow.flow import Flow
from controller.openflow.match import Address, Match, ct_state, in_port, match, nw_dst
from controller.pipeline import (
    AFTER_SERVICE,
    ALLOWED,
    HAIRPIN,
    MARK_ALLOWED,
    MARK_SERVICE,
    MASQUERADE,
    NAT_ZONE,
    OUT_PORT,
    RECALL_MASQUERADE,
    REMEMBER_RULES,
    SERVICE,
    TO_POD,
    ZONE,
    Feature,
    Table,
)
from kmn.k8s.dataplane import GATEWAY_MAC, HOST_OFPORT, REJECT_PORT, UPLINK_OFPORT

__all__ = ["connectivity", "dnat", "family_connectivity"]


def dnat(address: Address, port: int) -> Action:
    """Translate a new connection of a Service to an endpoint, and go on behind the Service stage."""
    return ct(ZONE, commit=True, dst=(address, port), mark=MARK_SERVICE, table=AFTER_SERVICE)


_OWNER = Owner(Feature.CONNECTIVITY, "Pipeline")


def connectivity() -> list[Flow]:
    """Flows common to all nodes of all clusters."""
    make, anything = _OWNER.flow, match()
    return [
        make(Table.UN_SNAT, 0, anything, actions(goto(Table.CONNTRACK))),
        make(Table.RESTORE, 0, anything, actions(goto(Table.CONNTRACK))),
        make(Table.STATE, 0, anything, actions(goto(Table.SERVICE))),
        make(Table.SERVICE, 0, anything, actions(goto(AFTER_SERVICE))),
        make(Table.NODE_PORT, 0, anything, actions(goto(AFTER_SERVICE))),
        *policy_stages(),
        # The node's own: its kubelet probes pods, and what it masquerades is its own as well.
        make(TO_POD, KNOWN, match(in_port(HOST_OFPORT)), actions(goto(Table.COMMIT))),
        make(TO_POD, KNOWN, match(MASQUERADE), actions(goto(Table.COMMIT))),
        make(Table.EGRESS_COUNT, 0, anything, actions(goto(Table.INGRESS_COUNT))),
        make(Table.INGRESS_COUNT, 0, anything, actions(goto(Table.SNAT))),
        make(Table.SNAT, 0, anything, actions(goto(Table.OUTPUT))),
        *family_connectivity(V4),
    ]


def family_connectivity(family: Family) -> list[Flow]:
    """Flows common to all nodes, of one family."""
    make, ip = _OWNER.flow, family.ip
    any_ip = match(ip)
    refuse = actions(dnat(family.reject, REJECT_PORT))

    def state(flags: str) -> Match:
        return match(ip, ct_state(flags))

    return [
        # The fabric asks for the node only (features.node); whoever else came this far asks for any next hop.
        make(Table.ARP, 150, match(*family.neighbours, in_port(UPLINK_OFPORT)), DROP),
        make(Table.ARP, 100, match(*family.question), answer(family, GATEWAY_MAC)),
        *complete_answers(_OWNER, family),
        make(
            Table.UN_SNAT, 100, match(ip, nw_dst(family.hairpin)),
            actions(ct(NAT_ZONE, nat=True, table=Table.CONNTRACK)),
        ),
        make(Table.CONNTRACK, 100, any_ip, actions(ct(ZONE, nat=True, table=Table.STATE))),
        make(Table.STATE, 200, state("+inv+trk"), DROP),
        # An ICMP error about a connection that was never allowed.
        make(Table.STATE, 180, state("+rel+trk"), DROP),
        # Translated by an earlier packet, not allowed by it: it must pass what follows the translation again.
        make(Table.STATE, 170, match(ip, SERVICE), actions(RECALL_MASQUERADE, goto(AFTER_SERVICE))),
        *(make(Table.SERVICE_REJECT, 100, match(*protocol), refuse) for protocol in family.protocols.values()),
        *(make(Table.ROUTING, 235, match(ip, nw_dst(network)), DROP) for network in family.unroutable),
        # Nothing that came from the fabric goes back to it.
        make(Table.ROUTING, 50, match(ip, in_port(UPLINK_OFPORT)), DROP),
        make(Table.COMMIT, 200, match(ip, ALLOWED), actions(goto(Table.EGRESS_COUNT))),
        make(
            Table.COMMIT, 100, any_ip,
            actions(ct(ZONE, commit=True, mark=(MARK_ALLOWED, *REMEMBER_RULES)), goto(Table.EGRESS_COUNT)),
        ),
        # Answers, whose translation is undone, not made. (A packet that was just committed has no state any more.)
        make(Table.SNAT, 120, state("+rpl+trk"), actions(goto(Table.OUTPUT))),
        # The node's own connection comes back to it: with its own address as source its kernel would not take it.
        make(
            Table.SNAT, 110, match(ip, HAIRPIN, in_port(HOST_OFPORT)),
            actions(ct(NAT_ZONE, commit=True, src=family.hairpin, table=Table.OUTPUT)),
        ),
        make(Table.OUTPUT, 110, match(ip, HAIRPIN), actions(IN_PORT)),
        make(Table.OUTPUT, 100, any_ip, actions(output_reg(OUT_PORT))),
    ]  # fmt: skip
