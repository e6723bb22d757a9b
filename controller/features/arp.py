"""Answering ARP in the bridge."""

from __future__ import annotations

from functools import cache

from controller.openflow.actions import IN_PORT, Actions, actions, move, set_arp_op, set_arp_sha, set_eth_src
from controller.pipeline import SCRATCH

__all__ = ["answer"]


@cache
def answer(mac: str) -> Actions:
    """Turn a request into the answer "the address that you asked for is at ``mac``", and send it back."""
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
