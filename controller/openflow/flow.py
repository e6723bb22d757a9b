"""A flow of one table."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from controller.openflow.actions import Actions
from controller.openflow.match import Match

__all__ = ["Flow", "FlowKey"]

# What identifies a flow in a switch: table, priority, packed match.
FlowKey: TypeAlias = tuple[int, int, bytes]


class Flow(NamedTuple):
    """One flow. ``str()`` is what ``ovs-ofctl -O OpenFlow15 dump-flows --no-stats`` prints of it."""

    table: int
    priority: int
    match: Match
    actions: Actions
    cookie: int = 0

    @property
    def key(self) -> FlowKey:
        return (self.table, self.priority, self.match.packed)

    def __str__(self) -> str:
        head = (f"cookie={self.cookie:#x}, " if self.cookie else "") + (f"table={self.table}, " if self.table else "")
        return f" {head}{self.rule}"

    @property
    def rule(self) -> str:
        """The flow without cookie and table, as golden tests state it."""
        conditions = ",".join(text for text in (f"priority={self.priority}", str(self.match)) if text)
        return f"{conditions} actions={self.actions}"
