"""The flows that every node's bridge has, whatever runs on it: how packets go from table to table."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from controller.features.arp import answer
from controller.openflow.actions import DROP, IN_PORT, Action, actions, ct, goto, output_reg
from controller.openflow.cookie import Owner
from controller.openflow.flow import Flow
from controller.openflow.match import ARP, ARP_REQUEST, IP, SCTP, TCP, UDP, Match, ct_state, in_port, match, nw_dst
from controller.pipeline import (
    AFTER_SERVICE,
    ALLOWED,
    HAIRPIN,
    MARK_ALLOWED,
    MARK_SERVICE,
    NAT_ZONE,
    OUT_PORT,
    RECALL_MASQUERADE,
    SERVICE,
    ZONE,
    Feature,
    Table,
)
from kmn.k8s.dataplane import GATEWAY_MAC, HAIRPIN_IP, HOST_OFPORT, REJECT_IP, REJECT_PORT, UPLINK_OFPORT

__all__ = ["connectivity", "dnat"]

# Nobody outside a link can be meant by these: loopback, link-local, multicast and reserved addresses.
_UNROUTABLE = (IPv4Network("127.0.0.0/8"), IPv4Network("169.254.0.0/16"), IPv4Network("224.0.0.0/3"))


def dnat(address: IPv4Address, port: int) -> Action:
    """Translate a new connection of a Service to an endpoint, and go on behind the Service stage."""
    return ct(ZONE, commit=True, dst=(address, port), mark=MARK_SERVICE, table=AFTER_SERVICE)


def connectivity() -> list[Flow]:
    """Flows common to all nodes."""
    make = Owner(Feature.CONNECTIVITY, "Pipeline").flow
    any_ip, anything = match(IP), match()
    hairpin_address = IPv4Address(HAIRPIN_IP)
    refuse = actions(dnat(IPv4Address(REJECT_IP), REJECT_PORT))

    def state(flags: str) -> Match:
        return match(IP, ct_state(flags))

    return [
        # The fabric asks for the node only (features.node); whoever else came this far asks for any next hop.
        make(Table.ARP, 150, match(ARP, in_port(UPLINK_OFPORT)), DROP),
        make(Table.ARP, 100, match(ARP, ARP_REQUEST), answer(GATEWAY_MAC)),
        make(
            Table.UN_SNAT, 100, match(IP, nw_dst(hairpin_address)),
            actions(ct(NAT_ZONE, nat=True, table=Table.CONNTRACK)),
        ),
        make(Table.UN_SNAT, 0, anything, actions(goto(Table.CONNTRACK))),
        make(Table.RESTORE, 0, anything, actions(goto(Table.CONNTRACK))),
        make(Table.CONNTRACK, 100, any_ip, actions(ct(ZONE, nat=True, table=Table.STATE))),
        make(Table.STATE, 200, state("+inv+trk"), DROP),
        make(Table.STATE, 190, match(IP, ALLOWED), actions(RECALL_MASQUERADE, goto(Table.ROUTING))),
        # An ICMP error about a connection that was never allowed.
        make(Table.STATE, 180, state("+rel+trk"), DROP),
        # Translated by an earlier packet, not allowed by it: it must pass what follows the translation again.
        make(Table.STATE, 170, match(IP, SERVICE), actions(RECALL_MASQUERADE, goto(AFTER_SERVICE))),
        make(Table.STATE, 0, anything, actions(goto(Table.SERVICE))),
        make(Table.SERVICE, 0, anything, actions(goto(AFTER_SERVICE))),
        make(Table.NODE_PORT, 0, anything, actions(goto(AFTER_SERVICE))),
        make(Table.SERVICE_REJECT, 100, match(*TCP), refuse),
        make(Table.SERVICE_REJECT, 100, match(*UDP), refuse),
        make(Table.SERVICE_REJECT, 100, match(*SCTP), refuse),
        *(make(Table.ROUTING, 235, match(IP, nw_dst(network)), DROP) for network in _UNROUTABLE),
        # Nothing that came from the fabric goes back to it.
        make(Table.ROUTING, 50, match(IP, in_port(UPLINK_OFPORT)), DROP),
        make(Table.COMMIT, 200, match(IP, ALLOWED), actions(goto(Table.SNAT))),
        make(Table.COMMIT, 100, any_ip, actions(ct(ZONE, commit=True, mark=MARK_ALLOWED), goto(Table.SNAT))),
        # Answers, whose translation is undone, not made. (A packet that was just committed has no state any more.)
        make(Table.SNAT, 120, state("+rpl+trk"), actions(goto(Table.OUTPUT))),
        # The node's own connection comes back to it: with its own address as source its kernel would not take it.
        make(
            Table.SNAT, 110, match(IP, HAIRPIN, in_port(HOST_OFPORT)),
            actions(ct(NAT_ZONE, commit=True, src=hairpin_address, table=Table.OUTPUT)),
        ),
        make(Table.SNAT, 0, anything, actions(goto(Table.OUTPUT))),
        make(Table.OUTPUT, 110, match(IP, HAIRPIN), actions(IN_PORT)),
        make(Table.OUTPUT, 100, any_ip, actions(output_reg(OUT_PORT))),
    ]  # fmt: skip
