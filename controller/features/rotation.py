"""Endpoints one after the other: the switch itself remembers whose turn it is.

Table ROTATION has one learned flow a port, which loads the number of the next turn. Table TURN has a flow for each
turn: it learns the following one, and sends the connection to its endpoint. So each connection must pass the tables
itself, once: the flows read the client's address and port, which no megaflow then leaves open.

Turns are each node's own, as with IPVS, and those of all ways to a port together (IPVS counts for each address). A
node may have turns before those of the cycle, which lead there (:func:`ahead_flows`).
"""

from __future__ import annotations

from collections.abc import Sequence

from controller.family import FAMILIES
from controller.features.affinity import found
from controller.features.connectivity import dnat
from controller.openflow.actions import (
    XXREG3,
    Action,
    Actions,
    actions,
    goto,
    learn,
    move,
    resubmit,
    set_reg,
    set_xxreg3,
)
from controller.openflow.cookie import Owner
from controller.openflow.flow import Flow, FlowKey
from controller.openflow.match import Protocol, match, reg
from controller.pipeline import GROUP, SCRATCH, SCRATCH_NUMBER, TURN, Feature, Table
from controller.service_views import Endpoint

__all__ = ["NEXT", "ahead_flows", "remembered_turn", "rotation_cookie", "rotation_flows", "take_turn"]

# Whose turn it is, for a port whose number is in its register; comes back.
NEXT: tuple[Action, ...] = resubmit(Table.ROTATION), resubmit(Table.TURN)

_LEARNED = 100  # priority in ROTATION
# In TURN: a turn; where to begin, and for turns that there are no more; the same, where turns come before the cycle.
_TURN, _BEGIN, _BEGIN_AHEAD = 200, 100, 110
# Numbers of turns, of the cycle and of those before it: no cycle is as long. 0 is none: nothing was learned yet.
_CYCLE, _AHEAD = 1, 1 << 24


def take_turn(number: int) -> tuple[Action, ...]:
    """What a Service's flow does, with the number of the port's turns."""
    return set_reg(GROUP, number), resubmit(Table.ROTATION), goto(Table.TURN)


def rotation_flows(
    owner: Owner, protocol: Protocol, number: int, turns: Sequence[Endpoint], *, sticky: bool
) -> list[Flow]:
    """Flows of one port's turns. ``sticky``: the endpoint goes into registers, for session affinity to learn."""
    make = _Turns(owner, protocol, number, sticky)
    following = [*range(_CYCLE + 1, _CYCLE + len(turns)), _CYCLE]
    return make.flows(_CYCLE, turns, following, _BEGIN)


def ahead_flows(
    owner: Owner, protocol: Protocol, number: int, turns: Sequence[Endpoint], *, sticky: bool
) -> list[Flow]:
    """Flows of turns that come before those of :func:`rotation_flows`, for a switch that remembers no turn."""
    make = _Turns(owner, protocol, number, sticky)
    following = [*range(_AHEAD + 1, _AHEAD + len(turns)), _CYCLE]
    return make.flows(_AHEAD, turns, following, _BEGIN_AHEAD)


class _Turns:
    """Makes the flows of one port's turns."""

    def __init__(self, owner: Owner, protocol: Protocol, number: int, sticky: bool) -> None:
        self._owner, self._protocol, self._number, self._sticky = owner, protocol, number, sticky
        self._cookie = rotation_cookie(owner, number)

    def flows(self, first: int, turns: Sequence[Endpoint], following: Sequence[int], begin: int) -> list[Flow]:
        """Turns with the numbers from ``first`` on, and the number that follows each. ``begin`` is the priority of the
        flow that does what the first one does, for who has no turn."""
        make, here = self._owner.flow, (*self._protocol, reg(GROUP, self._number))
        does = [self._do(*each) for each in zip(turns, following, strict=True)]
        made = [make(Table.TURN, _TURN, match(*here, reg(TURN, first + n)), do) for n, do in enumerate(does)]
        return [*made, make(Table.TURN, begin, match(*here), does[0])]

    def _do(self, endpoint: Endpoint, following: int) -> Actions:
        # Reads the client, and leaves no trace of it: connection tracking would keep apart what differs in a register.
        version = endpoint.address.version
        address = move("ipv6_src", XXREG3) if version == 6 else move("nw_src", SCRATCH)
        nothing = set_xxreg3(0) if version == 6 else set_reg(SCRATCH_NUMBER, 0)
        client = address, move(f"{self._protocol.name}_src", SCRATCH), nothing
        then = ((TURN, following),)
        remember = learn(Table.ROTATION, _LEARNED, self._cookie, (GROUP, self._number), then, version=version)
        choose = found(endpoint) if self._sticky else (dnat(endpoint.address, endpoint.port),)
        return actions(*client, remember, *choose)


def rotation_cookie(owner: Owner, number: int) -> int:
    """The cookie of what is learned about whose turn it is: it goes with the port."""
    return owner.cookie(Feature.ROTATION, number)


def remembered_turn(version: int, number: int) -> FlowKey:
    """What is learned about whose turn it is: without this flow turns begin anew."""
    return Table.ROTATION, _LEARNED, match(FAMILIES[version].ip, reg(GROUP, number)).packed
