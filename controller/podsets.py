"""Sets of pods that policies' flows are made of: where they are, and what has changed of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

from kmn.k8s.objects import Key
from kmn.policy.model import Block, NamedPort
from kmn.policy.selection import Address, Group, Member
from kmn.policy.verdicts import contains

__all__ = ["NOWHERE", "Filter", "Place", "PodSet", "Whereabouts"]

T = TypeVar("T")


class Place(NamedTuple):
    """A pod's port on a bridge."""

    node: str
    ofport: int


class Whereabouts(NamedTuple):
    """What flows need to know of a pod."""

    addresses: frozenset[Address]
    place: Place | None


NOWHERE = Whereabouts(frozenset(), None)


class Filter(NamedTuple):
    """Of a group only pods that call this port so, and only those with an address in one of the blocks."""

    port: NamedPort
    protocol: str
    number: int
    blocks: tuple[Block, ...] | None = None

    def holds(self, member: Member) -> bool:
        if (self.protocol, self.number) not in member.number_of(self.port.name, self.port.protocol):
            return False
        return self.blocks is None or any(contains(b, address) for b in self.blocks for address in member.addresses)


class PodSet:
    """The pods of a group (that a filter holds), as they were at the last :meth:`update`."""

    def __init__(self, group: Group, only: Filter | None, place_of: Callable[[Key], Place | None]) -> None:
        self.group = group
        self.only = only
        self._place_of = place_of
        self.pods: dict[Key, Whereabouts] = {}
        self._made: dict[Callable[[Address], Any], list[Any]] = {}
        self.update(group.members)

    def update(self, keys: Iterable[Key]) -> list[tuple[Key, Whereabouts, Whereabouts]]:
        """Look at some pods again: those whose whereabouts changed, with what they were and are."""
        changes = []
        for key in keys:
            before, now = self.pods.get(key, NOWHERE), self._whereabouts(key)
            if now == before:
                continue
            changes.append((key, before, now))
            if now == NOWHERE:
                del self.pods[key]
            else:
                self.pods[key] = now
        if changes:
            self._made.clear()
        return changes

    def of_addresses(self, make: Callable[[Address], T]) -> list[T]:
        """What ``make`` makes of all addresses of the pods, made once."""
        made = self._made.get(make)
        if made is None:
            made = [make(address) for whereabouts in self.pods.values() for address in whereabouts.addresses]
            self._made[make] = made
        return made

    def _whereabouts(self, key: Key) -> Whereabouts:
        member = self.group.members.get(key)
        if member is None or (self.only is not None and not self.only.holds(member)):
            return NOWHERE
        return Whereabouts(frozenset(member.addresses), self._place_of(key))
