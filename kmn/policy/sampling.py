"""Which connections to try, of all that a matrix is about: all of them, or some of each cell."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from kmn.policy.answers import bits
from kmn.policy.matrix import Matrix

__all__ = ["Trial", "Trials", "trials"]

_PROTOCOLS = ("TCP", "UDP")  # that packets can be sent of


@dataclass(frozen=True, slots=True)
class Trial:
    """One connection: places of its ends in the answers, the port's number in :attr:`Answers.ports`, and its cell."""

    source: int
    destination: int
    port: int
    expected: bool
    cell: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Trials:
    """Those to make, and how many there are in all."""

    chosen: tuple[Trial, ...]
    total: int


def trials(matrix: Matrix, able: Collection[int], most: int) -> Trials:
    """Connections between pods that are ``able`` (by their places), at most so many: in turn one of each half of each
    cell at each port, so that as many cells as possible are tried."""
    answers = matrix.answers
    possible = sum(1 << number for number, port in enumerate(answers.ports) if port.protocol in _PROTOCOLS)
    total = sum((answers.asked[place] & possible).bit_count() * (len(able) - 1) for place in able)
    lines = [
        _line(matrix, (row, column), near, port, frozenset(able))
        for row in range(len(matrix.parties))
        for column, party in enumerate(matrix.parties)
        for near in (True, False)
        for port in bits(party.ports & possible)
    ]
    chosen: list[Trial] = []
    while lines and len(chosen) < most:
        going = []
        for line in lines:
            if len(chosen) == most:
                break
            trial = next(line, None)
            if trial is not None:
                chosen.append(trial)
                going.append(line)
        lines = going
    return Trials(tuple(chosen), total)


def _line(matrix: Matrix, cell: tuple[int, int], near: bool, port: int, able: Collection[int]) -> Iterator[Trial]:
    """All trials of half a cell at a port."""
    for source, destination in _spread(matrix.pairs(*cell, near=near)):
        if source != destination and source in able and destination in able:
            expected = bool(matrix.answers.of(source, destination) >> port & 1)
            yield Trial(source, destination, port, expected, cell)


def _spread(products: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> Iterator[tuple[int, int]]:
    """All pairs of all products, in turn one of each, such that the first ones have many different ends."""
    going = [_diagonals(mine, theirs) for mine, theirs in products]
    while going:
        still = []
        for pairs in going:
            pair = next(pairs, None)
            if pair is not None:
                yield pair
                still.append(pairs)
        going = still


def _diagonals(mine: tuple[int, ...], theirs: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    for turn in range(len(theirs)):
        for number, source in enumerate(mine):
            yield source, theirs[(turn + number) % len(theirs)]
