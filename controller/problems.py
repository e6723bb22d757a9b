"""What goes wrong in the data plane itself and shows in counters only: exhaustion of the NAT gateway, and of nodes.

Asks an edge, and nodes that masquerade, now and then how many packets the flow for untranslated connections dropped.
Which problems there are is told on ``DataPlane/default``; that somebody should know is the control plane's business.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from controller.features.masquerade import exhausted_owner
from controller.openflow import wire
from controller.openflow.cookie import base_mask
from controller.pipeline import Table
from controller.views import EdgeView, Masquerade, NodeView

__all__ = ["NatWatch", "Problem"]

_INTERVAL = 1.0  # seconds between two questions; Open vSwitch itself counts packets of megaflows as often
_EXHAUSTED = "NATPortsExhausted"
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
    """Drops of gateways and nodes, as counted so far."""

    def __init__(self) -> None:
        self._asked: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._seen: dict[str, float] = {}
        self._problems: dict[str, Problem] = {}  # what it would be, by bridge

    def question(
        self, bridge: EdgeView | NodeView, masquerade: Masquerade | None, now: float, xid: int
    ) -> bytes | None:
        """The message to send to a bridge, when it is time; ``masquerade`` is that of nodes."""
        if isinstance(bridge, NodeView) and masquerade is None:
            self.forget(bridge.name)
            return None
        if now < self._asked.get(bridge.name, 0.0) + _INTERVAL:
            return None
        if isinstance(bridge, EdgeView):
            problem = _gateway_exhausted(bridge)
        elif masquerade is not None:
            problem = _node_exhausted(bridge, masquerade)
        self._asked[bridge.name], self._problems[bridge.name] = now, problem
        owner = exhausted_owner(problem.kind, problem.name)
        return wire.aggregate_request(Table.NATTED, owner.base, base_mask(), xid)

    def next_question(self) -> float | None:
        """When the next question is due."""
        return min(self._asked.values(), default=-_INTERVAL) + _INTERVAL if self._asked else None

    def forget(self, bridge: str) -> None:
        """It is not connected any more, or has nothing to count."""
        self._asked.pop(bridge, None)

    def answer(self, bridge: str, packets: int, now: float) -> None:
        """What the switch counted. A switch that was restarted counts from zero."""
        before = self._counts.get(bridge, 0)
        self._counts[bridge] = packets
        if packets > before:
            self._seen[bridge] = now

    def problems(self, now: float) -> tuple[Problem, ...]:
        """Those that were seen lately."""
        self._seen = {bridge: since for bridge, since in self._seen.items() if now < since + _REMEMBERED}
        return tuple(self._problems[bridge] for bridge in sorted(self._seen))


def _gateway_exhausted(edge: EdgeView) -> Problem:
    count = sum(len(net.nat_addresses) for net in edge.nets)
    addresses = f"{count} address" + ("es" if count != 1 else "")
    message = _message(edge.nat_ports, addresses, "more addresses or ports under spec.internet.nat")
    return Problem("Edge", edge.name, _EXHAUSTED, message)


def _node_exhausted(node: NodeView, masquerade: Masquerade) -> Problem:
    message = _message(masquerade.ports, "the node's address", "more ports under spec.masquerade, or none (false),")
    return Problem("Node", node.name, _EXHAUSTED, message)


def _message(ports: tuple[int, int], whose: str, remedy: str) -> str:
    return (
        f"packets of new connections are dropped, as all ports {ports[0]}-{ports[1]} of {whose} are in use to their "
        f"destination; {remedy} of the cluster file make room"
    )
