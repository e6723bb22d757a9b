"""One line of the log of verdicts: what a bridge sent, named and explained. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from kmn.openflow.messages import PacketIn
from kmn.policy.deciders import Decider, Isolation
from kmn.policy.flows import table_of
from kmn.policy.model import Action, Direction, Policy, Rule
from kmn.policy.packets import Packet, read_packet
from kmn.policy.places import Place
from kmn.policy.selection import Address
from kmn.policy.verdicts import default_deny
from kmn.policy.world import World

__all__ = ["Differences", "Entry", "entry_of"]

_WORDS = {Action.ALLOW: "allowed", Action.DENY: "denied", Action.PASS: "passed on"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A verdict. ``policies`` are the one whose ``rule`` decided, or without a rule those whose default it was."""

    time: datetime
    node: str
    source: Place
    destination: Place
    packet: Packet
    service: tuple[Place, int] | None  # what the client asked for, where that was not the destination
    direction: Direction
    staged: bool
    action: Action | None  # None: it is not known any more (or not yet) who decided
    policies: tuple[Policy, ...] = ()
    rule: Rule | None = None
    cookie: int = 0

    @property
    def explained(self) -> bool:
        """Whether it is known who decided. If not, news of the object may be on their way."""
        return bool(self.policies)

    @property
    def reason(self) -> str:
        """Who decided, in the words of ``kmn policy explain``."""
        if self.rule is not None:
            return ", ".join(f"{policy} {self.rule.name}" for policy in self.policies)
        if self.policies:
            return default_deny(self.policies)
        if self.action is Action.DENY:
            return "default deny of a policy that is gone"
        return f"a flow of a rule that is not known (cookie {self.cookie:#x})"

    @property
    def verdict(self) -> str:
        return _WORDS[self.action] if self.action is not None else "decided"

    def __str__(self) -> str:
        through = ""
        if self.service is not None:
            place, port = self.service
            through = f" (through {place}, port {port})"
        verdict = f"would be {self.verdict}" if self.staged else self.verdict
        return (
            f"{self.time:%H:%M:%S}.{self.time.microsecond // 1000:03} {self.node}: {'staged: ' if self.staged else ''}"
            f"{self.source} -> {self.destination}, {self.packet.service}{through}: "
            f"{self.direction.value.lower()} {verdict}: {self.reason}"
        )

    def as_json(self) -> dict[str, Any]:
        """For programs; what is not known, or does not apply, is left out."""
        packet = self.packet
        shown: dict[str, Any] = {
            "time": self.time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "node": self.node,
            "verdict": self.verdict,
            "staged": self.staged,
            "direction": self.direction.value.lower(),
            "source": _end(self.source, packet.source_port),
            "destination": _end(self.destination, packet.port),
            "protocol": packet.protocol,
        }
        if packet.icmp_type is not None:
            shown["icmpType"] = packet.icmp_type
        if self.service is not None:
            shown["through"] = _end(*self.service)
        shown["policies"] = [str(policy) for policy in self.policies]
        if self.rule is not None:
            shown["rule"] = self.rule.name
        shown["reason"] = self.reason
        return shown


def _end(place: Place, port: int | None) -> dict[str, Any]:
    shown: dict[str, Any] = {"kind": place.kind or "address", "address": str(place.address)}
    if place.kind:
        shown["name"] = place.name
    if port is not None:
        shown["port"] = port
    return shown


def entry_of(world: World, time: datetime, node: str, told: PacketIn) -> Entry | None:
    """What the bridge of ``node`` told, explained by what is known now. None for what is no verdict."""
    packet = read_packet(told.packet)
    table = table_of(told.table)
    if packet is None or table is None:
        return None
    direction = table.direction
    decider = _decider(world, told.cookie, direction, packet)
    action: Action | None = None
    policies: tuple[Policy, ...] = ()
    rule = None
    if isinstance(decider, Isolation):
        action = Action.DENY
        policies = world.isolating(decider.pod, direction, staged=table.staged)
    elif decider is not None:
        action, policies, rule = decider.rule.action, (decider.policy,), decider.rule
    return Entry(
        time, node, world.places.at(packet.source), world.places.at(packet.destination), packet,
        _through(world, packet, told.asked), direction, table.staged, action, policies, rule, told.cookie,
    )  # fmt: skip


def _decider(world: World, cookie: int, direction: Direction, packet: Packet) -> Decider | None:
    """Names of pods that share a hash are told apart by the pod's address, which is one of the packet's."""
    found = world.deciders.of(cookie, direction)
    if len(found) > 1:
        own = packet.source if direction is Direction.EGRESS else packet.destination
        name = world.places.at(own).name
        found = tuple(each for each in found if not isinstance(each, Isolation) or str(each.pod) == name) or found
    return found[-1] if found else None


def _through(world: World, packet: Packet, asked: tuple[Address, int] | None) -> tuple[Place, int] | None:
    """The Service, where the connection was translated."""
    if (
        asked is None
        or packet.port is None
        or asked in ((packet.destination, packet.port), (packet.source, packet.source_port))
    ):
        return None
    return world.places.at(asked[0]), asked[1]


class Differences:
    """Leaves out what would be if policies were in force that are only tried out, where that is what is.

    A bridge tells both of one packet, what would be first, and nothing in between. Of what is it tells nothing where no
    policy decides: then it is allowed.
    """

    _PATIENCE = timedelta(seconds=0.1)  # between the two; it takes much less

    def __init__(self) -> None:
        self._kept: dict[str, Entry] = {}  # by node, in order of time: what would be, while it is not known what is

    @property
    def due(self) -> datetime | None:
        """When to ask for the rest; None: nothing is kept back."""
        return next(iter(self._kept.values())).time + self._PATIENCE if self._kept else None

    def put(self, entry: Entry) -> list[Entry]:
        """What is to be shown after this one came, in order."""
        kept = self._kept.pop(entry.node, None)
        paired = kept is not None and not entry.staged and _same(kept, entry)
        shown = _different(kept, entry.action if paired else Action.ALLOW)
        if entry.staged:
            self._kept[entry.node] = entry
        else:
            shown.append(entry)
        return shown

    def rest(self, now: datetime) -> list[Entry]:
        """What was kept back until now, and is alone."""
        due = [entry for entry in self._kept.values() if entry.time + self._PATIENCE <= now]
        for entry in due:
            del self._kept[entry.node]
        return [entry for each in due for entry in _different(each, Action.ALLOW)]


def _same(one: Entry, other: Entry) -> bool:
    return (one.packet, one.direction) == (other.packet, other.direction)


def _different(kept: Entry | None, what_is: Action | None) -> list[Entry]:
    return [kept] if kept is not None and kept.action is not what_is else []
