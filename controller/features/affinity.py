"""Session affinity: a client's address stays with its endpoint, as the switch itself remembers.

The flow of a Service asks table AFFINITY, where flows that were learned put a client's endpoint into registers. Table
ENDPOINT translates to what the registers say, and learns it (anew: the time begins again with each connection). Without
a learned endpoint, or when it is none any more, the group chooses, and its bucket fills the registers.

The group chooses by a hash of the client's address and port, so that a client whose time is over is not led to the same
endpoint for ever. Such a hash costs an upcall for each connection of a client that is not known, and this is what
makes affinity exact: the switch learns in the upcall, before the packet goes on, and no megaflow serves another
connection of that client before the switch looked up what it learned.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from zlib import crc32

from controller.features.connectivity import dnat
from controller.openflow.actions import Action, actions, goto, learn, resubmit, set_reg
from controller.openflow.cookie import Owner
from controller.openflow.flow import Flow
from controller.openflow.match import IP, match, reg
from controller.pipeline import ENDPOINT_IP, ENDPOINT_PORT, GROUP, Feature, Table
from controller.service_views import Endpoint

__all__ = ["affinity_flows", "ask", "found", "learned_cookie"]

_MAX_SECONDS = 0xFFFF  # of a flow's timeout: a longer affinity ends after 18 hours without a new connection


def ask(number: int) -> tuple[Action, ...]:
    """What a Service's flow does, with the number of the group to choose from."""
    return set_reg(GROUP, number), resubmit(Table.AFFINITY), goto(Table.ENDPOINT)


def found(endpoint: Endpoint) -> tuple[Action, ...]:
    """What a bucket does."""
    registers = set_reg(ENDPOINT_IP, int(endpoint.address)), set_reg(ENDPOINT_PORT, endpoint.port)
    return (*registers, resubmit(Table.ENDPOINT))


def affinity_flows(
    owner: Owner, number: int, endpoints: Sequence[Endpoint], seconds: int, choose: Sequence[Action]
) -> list[Flow]:
    """Flows of one group of endpoints. ``choose`` leads to what :func:`found` does, of one of them."""
    flows = [owner.flow(Table.ENDPOINT, 100, match(IP, reg(GROUP, number)), actions(*choose))]
    for endpoint in endpoints:
        here = match(
            IP,
            reg(ENDPOINT_IP, int(endpoint.address)),
            reg(ENDPOINT_PORT, endpoint.port),
            reg(GROUP, number),
        )
        remember = learn(
            Table.AFFINITY,
            100,
            learned_cookie(owner, number, endpoint),
            (GROUP, number),
            ((ENDPOINT_IP, int(endpoint.address)), (ENDPOINT_PORT, endpoint.port)),
            seconds=min(seconds, _MAX_SECONDS),
            of_source=True,
        )
        translate = dnat(endpoint.address, endpoint.port)
        flows.append(owner.flow(Table.ENDPOINT, 200, here, actions(remember, translate)))
    return flows


def learned_cookie(owner: Owner, number: int, endpoint: Endpoint) -> int:
    """The cookie of what is learned of an endpoint: it goes when the endpoint goes."""
    packed = struct.pack("!I4sH", number, endpoint.address.packed, endpoint.port)
    return owner.cookie(Feature.AFFINITY, crc32(packed))
