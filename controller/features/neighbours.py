"""Answering in the bridge who asks for the MAC of a next hop: by ARP, or for IPv6 by neighbour discovery.

Pods, nodes and routers have fixed entries for theirs and do not ask; programs may.
"""

from __future__ import annotations

from functools import cache

from controller.family import Family
from controller.openflow.actions import (
    IN_PORT,
    Actions,
    actions,
    goto,
    move,
    set_arp_op,
    set_arp_sha,
    set_eth_src,
    set_icmpv6_type,
    set_nd_options_type,
    set_nd_reserved,
)
from controller.openflow.cookie import Owner
from controller.openflow.flow import Flow
from controller.openflow.match import (
    ND_ADVERTISEMENT,
    Address,
    Field,
    arp_sha,
    arp_spa,
    arp_tpa,
    match,
    nd_sll,
    nd_target,
    nw_src,
)
from controller.pipeline import SCRATCH, Table

__all__ = ["answer", "asked_for", "asker", "complete_answers"]

_ADVERTISEMENT, _TARGET_ADDRESS = 136, 2  # ICMPv6 type, type of the option with the MAC
_SOLICITED_OVERRIDE = 0x60000000


def asker(address: Address, mac: str) -> tuple[Field, ...]:
    """Who asks says so of itself."""
    return (arp_spa(address), arp_sha(mac)) if address.version == 4 else (nw_src(address), nd_sll(mac))


def asked_for(address: Address) -> Field:
    """Whose MAC is asked for."""
    return arp_tpa(address) if address.version == 4 else nd_target(address)


@cache
def answer(family: Family, mac: str) -> Actions:
    """Turn a question into the answer "the address that you asked for is at ``mac``", and send it back."""
    if family.version == 6:
        return actions(
            move("eth_src", "eth_dst"),
            set_eth_src(mac),
            move("ipv6_src", "ipv6_dst"),
            move("nd_target", "ipv6_src"),
            set_icmpv6_type(_ADVERTISEMENT),
            set_nd_options_type(_TARGET_ADDRESS),
            set_nd_reserved(_SOLICITED_OVERRIDE),
            goto(Table.ADVERTISEMENT),
        )
    return actions(
        move("eth_src", "eth_dst"),
        set_eth_src(mac),
        set_arp_op(2),
        move("arp_sha", "arp_tha"),
        set_arp_sha(mac),
        move("arp_tpa", SCRATCH),
        move("arp_spa", "arp_tpa"),
        move(SCRATCH, "arp_spa"),
        IN_PORT,
    )


def complete_answers(owner: Owner, family: Family) -> list[Flow]:
    """Open vSwitch writes the MAC into an advertisement only where it has matched on one: in a table of its own."""
    if family.version == 4:
        return []
    return [owner.flow(Table.ADVERTISEMENT, 100, match(*ND_ADVERTISEMENT), actions(move("eth_src", "nd_tll"), IN_PORT))]
