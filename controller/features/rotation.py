"""Endpoints one after the other: the switch itself remembers whose turn it is.

Table ROTATION has one learned flow a port, which loads the number of the next turn. Table TURN has a flow for each
turn: it learns the following one, and sends the connection to its endpoint. So each connection must pass the tables
itself, once: the flows read the client's address and port, which no megaflow then leaves open.

Turns are each node's own, as with IPVS, and those of all ways to a port together (IPVS counts for each address).
"""

from __future__ import annotations

from collections.abc import Sequence

from controller.features.affinity import found
from controller.features.connectivity import dnat
from controller.openflow.actions import Action, actions, goto, learn, move, resubmit, set_reg
from controller.openflow.cookie import Owner
from controller.openflow.flow import Flow
from controller.openflow.match import Protocol, match, reg
from controller.pipeline import GROUP, SCRATCH, SCRATCH_NUMBER, TURN, Feature, Table
from controller.service_views import Endpoint

__all__ = ["NEXT", "rotation_cookie", "rotation_flows", "take_turn"]

# Whose turn it is, for a port whose number is in its register; comes back.
NEXT: tuple[Action, ...] = resubmit(Table.ROTATION), resubmit(Table.TURN)


def take_turn(number: int) -> tuple[Action, ...]:
    """What a Service's flow does, with the number of the port's turns."""
    return set_reg(GROUP, number), resubmit(Table.ROTATION), goto(Table.TURN)


def rotation_flows(
    owner: Owner, protocol: Protocol, number: int, turns: Sequence[Endpoint], *, sticky: bool
) -> list[Flow]:
    """Flows of one port's turns. ``sticky``: the endpoint goes into registers, for session affinity to learn."""
    # Reads the client, and leaves no trace of it: connection tracking would keep apart what differs in a register.
    client = move("nw_src", SCRATCH), move(f"{protocol.name}_src", SCRATCH), set_reg(SCRATCH_NUMBER, 0)
    cookie = rotation_cookie(owner, number)
    flows = []
    for turn, endpoint in enumerate(turns):
        following = learn(Table.ROTATION, 100, cookie, (GROUP, number), ((TURN, (turn + 1) % len(turns)),))
        choose = found(endpoint) if sticky else (dnat(endpoint.address, endpoint.port),)
        do = actions(*client, following, *choose)
        flows.append(owner.flow(Table.TURN, 200, match(*protocol, reg(GROUP, number), reg(TURN, turn)), do))
        if turn == 0:
            # For turns that there are no more, as endpoints went.
            flows.append(owner.flow(Table.TURN, 100, match(*protocol, reg(GROUP, number)), do))
    return flows


def rotation_cookie(owner: Owner, number: int) -> int:
    """The cookie of what is learned about whose turn it is: it goes with the port."""
    return owner.cookie(Feature.ROTATION, number)
