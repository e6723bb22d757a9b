"""Who may talk to whom at several ports, before and after a change: what :func:`kmn.policy.reach.reach` says of each.

Each pod may be asked at ports of its own. Answers are layers: one a port, or, of a change, one a port before and one a
port after it. A set of layers is a number whose bits are the layers, as a set of pods is one whose bits are the pods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kmn.k8s.objects import Key, Object, controller_of, labels, name_of
from kmn.policy.model import Direction, NamedPort, PortRange
from kmn.policy.reach import Reach, reach
from kmn.policy.verdicts import Judge

__all__ = ["ANY_PORT", "Answers", "Port", "Subject", "answers", "bits", "workload_of"]

_HASH = "pod-template-hash"


class Port(NamedTuple):
    """A port of a pod."""

    number: int
    protocol: str

    def __str__(self) -> str:
        return f"{self.number}/{self.protocol}"


# Whom nobody can tell a port of is asked here.
ANY_PORT = Port(80, "TCP")


@dataclass(frozen=True, slots=True)
class Subject:
    """A pod in the table, and the ports that it is asked at; none: all that others are asked at."""

    key: Key
    workload: str
    ports: frozenset[Port] = frozenset()


@dataclass(frozen=True, slots=True)
class Answers:
    """``layers[n][i]`` has bit j where ``subjects[i]`` may connect to ``subjects[j]``, and that one is asked."""

    subjects: tuple[Subject, ...]
    ports: tuple[Port, ...]  # of the layers; those of a change follow in the same order once more
    layers: tuple[tuple[int, ...], ...]
    asked: tuple[int, ...]  # by subject: the ports that it is asked at, as bits of ``ports``

    @property
    def width(self) -> int:
        """The number of layers that are about the same moment."""
        return len(self.ports)

    def of(self, source: int, destination: int) -> int:
        """The layers in which a connection is allowed. A pod may always connect to itself."""
        if source == destination:
            asked = self.asked[destination]
            return sum(asked << start for start in range(0, len(self.layers), self.width))
        return sum((rows[source] >> destination & 1) << number for number, rows in enumerate(self.layers))

    def named(self, layers: int) -> tuple[Port, ...]:
        """The ports of a set of layers of one moment."""
        return tuple(self.ports[number] for number in bits(layers))

    def followed_by(self, after: Answers) -> Answers:
        """The same subjects and ports before and after a change."""
        return Answers(self.subjects, self.ports, (*self.layers, *after.layers), self.asked)

    def difference(self, after: Answers) -> Answers:
        """What a change opens, and then what it closes, in a layer a port each. Nothing else tells subjects apart: not
        what stays as it is, nor at which ports they are asked."""
        pairs = list(zip(self.layers, after.layers, strict=True))
        opened = tuple(tuple(y & ~x for x, y in zip(then, now, strict=True)) for then, now in pairs)
        closed = tuple(tuple(x & ~y for x, y in zip(then, now, strict=True)) for then, now in pairs)
        return Answers(self.subjects, self.ports, (*opened, *closed), tuple(0 for _ in self.subjects))


def answers(judge: Judge, subjects: Sequence[Subject]) -> Answers:
    """Ask about these pods. Ports that no policy tells apart are computed once."""
    subjects = sorted(subjects, key=lambda subject: subject.key)
    own = {port for subject in subjects for port in subject.ports}
    # Without a port anywhere there is still something to say: many policies name none.
    ports = tuple(sorted(own, key=lambda port: (port.protocol, port.number))) or (ANY_PORT,)
    everywhere = (1 << len(ports)) - 1
    asked = tuple(
        sum(1 << number for number, port in enumerate(ports) if port in subject.ports) or everywhere
        for subject in subjects
    )
    known: dict[object, tuple[int, ...]] = {}
    layers = []
    sort = _sort_of_port(judge)
    for number, port in enumerate(ports):
        kind = sort(port)
        if kind not in known:
            known[kind] = _chosen(reach(judge, port.protocol, port.number), subjects)
        wanted = sum(1 << place for place, mask in enumerate(asked) if mask >> number & 1)
        layers.append(tuple(row & wanted for row in known[kind]))
    return Answers(tuple(subjects), ports, tuple(layers), asked)


def workload_of(pod: Object) -> str:
    """What a user would call a pod: the name of its Deployment, StatefulSet or other owner, else its own."""
    owner = controller_of(pod)
    if owner is None:
        return name_of(pod)
    suffix = "-" + labels(pod).get(_HASH, "")
    name: str = owner["name"]
    return name.removesuffix(suffix) if owner["kind"] == "ReplicaSet" and len(suffix) > 1 else name


def bits(number: int) -> Iterator[int]:
    """The places of the bits that are set."""
    while number:
        lowest = number & -number
        yield lowest.bit_length() - 1
        number ^= lowest


def _chosen(found: Reach, subjects: Sequence[Subject]) -> tuple[int, ...]:
    """The rows of these pods, with columns of these pods."""
    if [subject.key for subject in subjects] == list(found.pods):
        return found.rows
    places = {key: place for place, key in enumerate(found.pods)}
    wanted = [places[subject.key] for subject in subjects]
    return tuple(
        sum((found.rows[source] >> place & 1) << number for number, place in enumerate(wanted)) for source in wanted
    )


def _sort_of_port(judge: Judge) -> Callable[[Port], object]:
    """Tells ports apart as far as policies do: by the ranges they are in, and the pods that call them by a name."""
    named: dict[NamedPort, None] = {}
    ranges: dict[PortRange, None] = {}
    for policy in judge.policies:
        for direction in Direction:
            for rule in policy.rules(direction) or ():
                for each in rule.ports or ():
                    if isinstance(each, NamedPort):
                        named[each] = None
                    else:
                        ranges[each] = None
    members = judge.selection.members

    def sort(port: Port) -> object:
        within = tuple(r.protocol == port.protocol and r.first <= port.number <= r.last for r in ranges)
        asked = (port.protocol, port.number)
        called = tuple(
            frozenset(key for key, member in members.items() if asked in member.number_of(each.name, each.protocol))
            for each in named
        )
        return within, called

    return sort
