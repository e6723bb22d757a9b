"""The table of who may talk to whom, folded until a person can read it: first pods, then namespaces that are alike.

Pods of a namespace are one group if nothing tells them apart. Namespaces are folded as wholes, if nobody would notice
were they swapped. So fifty tenants that may talk within their own namespace only are one row, whose one cell has two
halves: its own namespace, and the others.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from operator import itemgetter
from typing import TypeAlias

from kmn.policy.answers import Answers

__all__ = ["Cell", "Matrix", "Party", "fold"]

_Layers: TypeAlias = tuple[tuple[int, ...], ...]

_NAMED = 2  # namespaces of one row that are called by their names


@dataclass(frozen=True, slots=True)
class Party:
    """A row and a column: pods by their places in :attr:`Answers.subjects`, of one namespace or of several."""

    places: tuple[int, ...]
    namespaces: tuple[str, ...]
    workloads: tuple[str, ...]
    whole: bool  # all pods of these namespaces, as far as they are in the table
    ports: int  # that they are asked at, as bits of :attr:`Answers.ports`

    @property
    def name(self) -> str:
        """``shop/frontend (3 pods)``, ``tenant-1 and 48 more namespaces (980 pods)``."""
        where = self.where + (" namespaces" if len(self.namespaces) > _NAMED else "")
        count = _count(self.places, "pod")
        if self.whole and len(self.places) > 1:
            return f"{where} ({count})"
        return f"{where}/{self.who()}" + (f" ({count})" if len(self.places) > 1 else "")

    @property
    def where(self) -> str:
        """``shop``, ``shop, blog``, ``tenant-1 and 48 more``."""
        if len(self.namespaces) <= _NAMED:
            return ", ".join(self.namespaces)
        return f"{self.namespaces[0]} and {len(self.namespaces) - 1} more"

    def who(self, most: int = 3) -> str:
        """Names of the workloads, the first ones of many."""
        shown = self.workloads if len(self.workloads) <= most else self.workloads[: most - 1]
        rest = len(self.workloads) - len(shown)
        return ", ".join(shown) + (f" and {rest} more" if rest else "")


@dataclass(frozen=True, slots=True)
class Cell:
    """Layers in which a row may connect to a column: ``near`` within a namespace, ``far`` from one to another. None
    where there are no two such pods."""

    near: int | None
    far: int | None

    @property
    def values(self) -> tuple[int, ...]:
        """The different ones of the two."""
        return tuple(dict.fromkeys(value for value in (self.near, self.far) if value is not None))


@dataclass(frozen=True, slots=True)
class Matrix:
    """``cells[i][j]`` is about ``parties[i]`` as clients of ``parties[j]``."""

    answers: Answers
    parties: tuple[Party, ...]
    cells: tuple[tuple[Cell, ...], ...]

    def pairs(self, source: int, destination: int, *, near: bool) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """The pairs of one half of a cell, as products of places. (A pod and itself are in it, where those are one.)"""
        sources, destinations = (self._by_namespace(self.parties[n]) for n in (source, destination))
        if near:
            return [(places, destinations[name]) for name, places in sources.items() if name in destinations]
        found = []
        for name, places in sources.items():
            others = tuple(place for other, theirs in destinations.items() if other != name for place in theirs)
            if others:
                found.append((places, others))
        return found

    def _by_namespace(self, party: Party) -> dict[str, tuple[int, ...]]:
        found: defaultdict[str, list[int]] = defaultdict(list)
        for place in party.places:
            found[self.answers.subjects[place].key.namespace].append(place)
        return {name: tuple(places) for name, places in found.items()}


def fold(answers: Answers) -> Matrix:
    """Fold pods, then namespaces."""
    groups = _groups(answers)
    world = _World(
        tuple(answers.subjects[places[0]].key.namespace for places in groups),
        tuple(_projected(layer, [places[0] for places in groups]) for layer in answers.layers),
    )
    classes = world.classes([answers.asked[places[0]] for places in groups])
    populations = Counter(subject.key.namespace for subject in answers.subjects)
    found = [(_party(answers, [groups[group] for group in members], populations), members) for members in classes]
    found.sort(key=lambda each: (each[0].namespaces, answers.subjects[each[0].places[0]].key))
    single = [all(len(groups[group]) == 1 for group in members) for _, members in found]
    cells = tuple(
        tuple(
            world.cell(sources, destinations, alone=sources is destinations and single[row])
            for _, destinations in found
        )
        for row, (_, sources) in enumerate(found)
    )
    return Matrix(answers, tuple(party for party, _ in found), cells)


def _party(answers: Answers, groups: Sequence[tuple[int, ...]], populations: Mapping[str, int]) -> Party:
    places = tuple(sorted(place for places in groups for place in places))
    subjects = [answers.subjects[place] for place in places]
    namespaces = tuple(dict.fromkeys(subject.key.namespace for subject in subjects))
    workloads = tuple(dict.fromkeys(subject.workload for subject in subjects))
    whole = len(places) == sum(populations[name] for name in namespaces)
    return Party(places, namespaces, workloads, whole, answers.asked[places[0]])


def _groups(answers: Answers) -> list[tuple[int, ...]]:
    """Pods of one namespace that nothing tells apart: what they reach, who reaches them, their ports."""
    size = len(answers.subjects)
    rows = [tuple(layer[place] for layer in answers.layers) for place in range(size)]
    # Pods with equal rows have equal bits in each column: one of them stands for all, and columns become short.
    texts = [_text(row, size) for distinct in dict.fromkeys(rows) for row in distinct]
    columns = list(map("".join, zip(*texts, strict=True)))
    alike: defaultdict[Hashable, list[int]] = defaultdict(list)
    for place, subject in enumerate(answers.subjects):
        alike[subject.key.namespace, answers.asked[place], rows[place], columns[place]].append(place)
    return [tuple(places) for places in alike.values()]


def _text(row: int, size: int) -> str:
    """The bits of a row as characters, the first pod first."""
    return format(row, f"0{size}b")[::-1]


def _projected(layer: Sequence[int], chosen: Sequence[int]) -> tuple[int, ...]:
    """Rows and columns of these pods only."""
    if not chosen:
        return ()
    pick = itemgetter(*reversed(chosen))
    return tuple(int("".join(pick(_text(layer[place], len(layer)))), 2) for place in chosen)


@dataclass(frozen=True, slots=True)
class _World:
    """Groups of pods, each of a namespace, and who of them may talk to whom: ``layers[n][i]`` has bit j."""

    namespaces: tuple[str, ...]
    layers: _Layers

    def classes(self, colours: Sequence[Hashable]) -> list[list[int]]:
        """Groups that may share a row, of those that have the same colour: one of each namespace of a class of twins.

        Two namespaces are twins if they can be swapped, groups and all, and nobody notices. So every pair of a class is
        like every other one, and a cell has one value for pairs within a namespace and one for all other pairs.
        """
        mirrored = tuple(map(_transposed, self.layers))
        homes = dict(zip(self.namespaces, self._homes(), strict=True))
        numbers = self._refined(_numbered(colours), mirrored)
        groups: defaultdict[str, list[int]] = defaultdict(list)
        for group in sorted(range(len(numbers)), key=lambda group: (numbers[group], group)):
            groups[self.namespaces[group]].append(group)
        found: defaultdict[Hashable, list[list[list[int]]]] = defaultdict(list)  # classes by what their members show
        for namespace, mine in groups.items():
            alike = found[tuple(numbers[group] for group in mine)]
            for members in alike:
                theirs = members[0]
                both = homes[namespace] | homes[self.namespaces[theirs[0]]]
                if self._are_twins(mine, theirs, ~both, mirrored):
                    members.append(mine)
                    break
            else:
                alike.append([mine])
        return [list(column) for alike in found.values() for members in alike for column in zip(*members, strict=True)]

    def _are_twins(self, mine: Sequence[int], theirs: Sequence[int], others: int, mirrored: _Layers) -> bool:
        pairs = list(zip(mine, theirs, strict=True))
        if any((layer[here] ^ layer[there]) & others for layer in (*self.layers, *mirrored) for here, there in pairs):
            return False
        return all(
            layer[a] >> b & 1 == layer[x] >> y & 1 and layer[a] >> y & 1 == layer[x] >> b & 1
            for layer in self.layers
            for (a, x), (b, y) in product(pairs, pairs)
        )

    def cell(self, sources: Sequence[int], destinations: Sequence[int], *, alone: bool) -> Cell:
        """The cell of two classes; ``alone``: they are one, and its groups are of one pod."""
        source = sources[0]
        near = far = None
        for destination in destinations:
            value = sum((layer[source] >> destination & 1) << number for number, layer in enumerate(self.layers))
            if self.namespaces[destination] != self.namespaces[source]:
                far = value
            elif not alone:
                near = value
        return Cell(near, far)

    def _homes(self) -> list[int]:
        """For each group, as bits, the groups of its namespace."""
        found: defaultdict[str, int] = defaultdict(int)
        for group, namespace in enumerate(self.namespaces):
            found[namespace] |= 1 << group
        return [found[namespace] for namespace in self.namespaces]

    def _refined(self, numbers: list[int], mirrored: _Layers) -> list[int]:
        """Colours such that groups of one colour see as many of each colour, at home and abroad, as clients and as
        servers, and so do their namespaces (colour refinement, as for graphs): twins have the same ones."""
        homes = self._homes()
        while True:
            masks = _masks(numbers)
            seen = [
                (number, *(
                    ((layer[group] & mask & home).bit_count(), (layer[group] & mask & ~home).bit_count())
                    for layer in (*self.layers, *mirrored)
                    for mask in masks
                ))
                for group, (number, home) in enumerate(zip(numbers, homes, strict=True))
            ]  # fmt: skip
            kinds = _numbered(seen)
            homely: defaultdict[str, list[int]] = defaultdict(list)
            for namespace, kind in zip(self.namespaces, kinds, strict=True):
                homely[namespace].append(kind)
            finer = _numbered(
                [(kind, *sorted(homely[namespace])) for namespace, kind in zip(self.namespaces, kinds, strict=True)]
            )
            if len(set(finer)) in (len(masks), len(finer)):
                return finer
            numbers = finer


def _transposed(layer: Sequence[int]) -> tuple[int, ...]:
    """Columns as rows."""
    size = len(layer)
    return tuple(int("".join(column)[::-1], 2) for column in zip(*(_text(row, size) for row in layer), strict=True))


def _numbered(values: Iterable[Hashable]) -> list[int]:
    """The same number for the same value, in the order of their first appearance."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(value, len(numbers)) for value in values]


def _masks(numbers: Iterable[int]) -> list[int]:
    """For each number, as bits, who has it."""
    found: defaultdict[int, int] = defaultdict(int)
    for place, number in enumerate(numbers):
        found[number] |= 1 << place
    return list(found.values())


def _count(things: Sequence[object], what: str) -> str:
    return f"{len(things)} {what}" if len(things) == 1 else f"{len(things)} {what}s"
