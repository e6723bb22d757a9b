"""What goes wrong in the data plane itself and shows in counters only: the NAT gateway's exhaustion.

Asks an edge now and then how many packets its flow for untranslated connections has dropped (``features.edge``).
Which problems there are is told on ``DataPlane/default``; that somebody should know is the control plane's business.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from controller.features.edge import nat_owner
from controller.openflow import wire
from controller.openflow.cookie import base_mask
from controller.pipeline import EdgeTable
from controller.views import EdgeView

__all__ = ["NatWatch", "Problem"]

_INTERVAL = 1.0  # seconds between two questions; Open vSwitch itself counts packets of megaflows as often
_REMEMBERED = 30.0  # seconds that a problem is told of after it was last seen


class Problem(NamedTuple):
    """One entry of the DataPlane's ``status.drops``."""

    kind: str
    name: str
    reason: str
    message: str

    def status(self) -> dict[str, Any]:
        return self._asdict()


class NatWatch:
    """The gateways' drops, as counted so far."""

    def __init__(self) -> None:
        self._asked: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._seen: dict[str, float] = {}
        self._edges: dict[str, EdgeView] = {}

    def question(self, edge: EdgeView, now: float, xid: int) -> bytes | None:
        """The message to send to an edge's bridge, when it is time."""
        self._edges[edge.name] = edge
        if now < self._asked.get(edge.name, 0.0) + _INTERVAL:
            return None
        self._asked[edge.name] = now
        return wire.aggregate_request(EdgeTable.NATTED, nat_owner(edge.name).base, base_mask(), xid)

    def next_question(self) -> float | None:
        """When the next question is due."""
        return min(self._asked.values(), default=-_INTERVAL) + _INTERVAL if self._asked else None

    def forget(self, edge: str) -> None:
        """Its bridge is not connected any more."""
        self._asked.pop(edge, None)

    def answer(self, edge: str, packets: int, now: float) -> None:
        """What the switch counted. A switch that was restarted counts from zero."""
        before = self._counts.get(edge, 0)
        self._counts[edge] = packets
        if packets > before:
            self._seen[edge] = now

    def problems(self, now: float) -> tuple[Problem, ...]:
        """Those that were seen lately."""
        self._seen = {edge: since for edge, since in self._seen.items() if now < since + _REMEMBERED}
        return tuple(_exhausted(self._edges[edge]) for edge in sorted(self._seen))


def _exhausted(edge: EdgeView) -> Problem:
    first, last = edge.nat_ports
    addresses = f"{len(edge.nat_addresses)} address" + ("es" if len(edge.nat_addresses) != 1 else "")
    message = (
        f"packets of new connections are dropped, as all ports {first}-{last} of {addresses} are in use to their "
        "destination; more addresses or ports under spec.internet.nat of the cluster file make room"
    )
    return Problem("Edge", edge.name, "NATPortsExhausted", message)
