"""Who may talk to whom: all pods at once, from the objects alone.

A set of pods is a number whose bits are the pods; a thousand by a thousand answers are then a thousand operations a
rule. What is made of them, for several ports and for people, is in ``answers`` and ``matrix``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kmn.k8s.objects import Key
from kmn.policy.model import Action, Direction, NamedPort, Tier
from kmn.policy.selection import Group, Member
from kmn.policy.verdicts import Judge, ResolvedRule, contains

__all__ = ["Reach", "reach"]


@dataclass(frozen=True, slots=True)
class Reach:
    """``rows[i]`` has bit j where ``pods[i]`` may connect to ``pods[j]``. A pod always reaches itself."""

    pods: tuple[Key, ...]
    rows: tuple[int, ...]

    def may(self, source: int, destination: int) -> bool:
        return source == destination or bool(self.rows[source] >> destination & 1)


def reach(judge: Judge, protocol: str, port: int) -> Reach:
    """Who may connect to this port of whom."""
    members = sorted(
        (member for member in judge.selection.members.values() if member.key.namespace),  # nodes have none
        key=lambda member: member.key,
    )
    side = _Side(judge, members, protocol, port)
    egress, ingress = side.allowed(Direction.EGRESS), side.allowed(Direction.INGRESS)
    rows = list(egress)
    for destination, sources in enumerate(ingress):
        bit = 1 << destination
        for source in range(len(rows)) if sources != side.everybody else ():
            if not sources >> source & 1:
                rows[source] &= ~bit
    return Reach(tuple(member.key for member in members), tuple(rows))


class _Side:
    def __init__(self, judge: Judge, members: Sequence[Member], protocol: str, port: int) -> None:
        self._judge = judge
        self._members = members
        self._protocol = protocol
        self._port = port
        self._places = {member.key: place for place, member in enumerate(members)}
        self._groups: dict[Group, int] = {}
        self.everybody = (1 << len(members)) - 1

    def allowed(self, direction: Direction) -> list[int]:
        """For each pod the others that its own policies of a direction allow."""
        everyone = range(len(self._members))
        undecided, allowed = [self.everybody for _ in everyone], [0 for _ in everyone]
        for tier in Tier:
            if tier is Tier.NETWORK_POLICY:
                for place, granted in self._united(direction).items():
                    allowed[place] |= granted & undecided[place]
                    undecided[place] = 0
            else:
                self._in_order(tier, direction, undecided, allowed)
        return [allowed[place] | undecided[place] for place in everyone]

    def _united(self, direction: Direction) -> dict[int, int]:
        """Of isolated pods the others that some NetworkPolicy allows."""
        isolated: dict[int, int] = {}
        for subject, rules in self._judge.resolved(Tier.NETWORK_POLICY, direction):
            for key in subject.members:
                place = self._places[key]
                granted = isolated.get(place, 0)
                for rule in rules:
                    granted |= self._matched(rule, direction, place)
                isolated[place] = granted
        return isolated

    def _in_order(self, tier: Tier, direction: Direction, undecided: list[int], allowed: list[int]) -> None:
        """Let a tier decide whose first matching rule does."""
        here = list(undecided)  # without what was passed on
        for subject, rules in self._judge.resolved(tier, direction):
            for key in subject.members:
                place = self._places[key]
                for rule in rules:
                    matched = self._matched(rule, direction, place) & here[place]
                    here[place] &= ~matched
                    if rule.rule.action is not Action.PASS:
                        undecided[place] &= ~matched
                    if rule.rule.action is Action.ALLOW:
                        allowed[place] |= matched

    def _matched(self, rule: ResolvedRule, direction: Direction, place: int) -> int:
        return self._peers(rule) & self._ports(rule, direction, place)

    def _peers(self, rule: ResolvedRule) -> int:
        if rule.rule.peers is None:
            return self.everybody
        found = 0
        for group in rule.groups:
            if group not in self._groups:
                self._groups[group] = self._bits(self._places[key] for key in group.members if key in self._places)
            found |= self._groups[group]
        for block in rule.blocks:
            found |= self._bits(
                place
                for place, member in enumerate(self._members)
                if any(contains(block, address) for address in member.addresses)
            )
        return found

    def _ports(self, rule: ResolvedRule, direction: Direction, place: int) -> int:
        """The destinations of whose ports the rule says that this one may be asked; all where it is their own rule."""
        if rule.rule.ports is None:
            return self.everybody
        asked, found = (self._protocol, self._port), 0
        for each in rule.rule.ports:
            if not isinstance(each, NamedPort):
                if each.protocol == self._protocol and each.first <= self._port <= each.last:
                    return self.everybody
            elif direction is Direction.INGRESS:
                if asked in self._members[place].number_of(each.name, each.protocol):
                    return self.everybody
            else:
                found |= self._bits(
                    other
                    for other, member in enumerate(self._members)
                    if asked in member.number_of(each.name, each.protocol)
                )
        return found

    @staticmethod
    def _bits(places: Iterable[int]) -> int:
        found = 0
        for place in places:
            found |= 1 << place
        return found
