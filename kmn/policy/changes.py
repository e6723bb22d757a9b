"""What a change of policies opens and closes, party by party."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kmn.policy.answers import Port
from kmn.policy.matrix import Matrix

__all__ = ["Change", "changes"]


@dataclass(frozen=True, slots=True)
class Change:
    """Ports that open, or close, from one party to another: in all of a cell (``near`` and ``far``) or in half."""

    opens: bool
    source: int  # places in Matrix.parties
    destination: int
    ports: tuple[Port, ...]
    near: bool
    far: bool

    def text(self, matrix: Matrix) -> str:
        """``shop/frontend (3 pods) -> shop/store, 80/TCP``."""
        cell = matrix.cells[self.source][self.destination]
        half = ""
        if len([value for value in (cell.near, cell.far) if value is not None]) == 2 and self.near != self.far:
            half = " (within a namespace)" if self.near else " (to other namespaces)"
        ends = f"{matrix.parties[self.source].name} -> {matrix.parties[self.destination].name}"
        return f"{ends}{half}, {', '.join(map(str, self.ports))}"

    def objects(self, matrix: Matrix) -> Iterator[dict[str, Any]]:
        """For scripts: each of the sources with each of the destinations, but a pod with itself."""
        for near in (True, False):
            if self.near if near else self.far:
                for sources, destinations in matrix.pairs(self.source, self.destination, near=near):
                    if sources == destinations and len(sources) == 1:
                        continue
                    yield {
                        "allowed": self.opens,
                        "ports": list(map(str, self.ports)),
                        "sources": [str(matrix.answers.subjects[place].key) for place in sources],
                        "destinations": [str(matrix.answers.subjects[place].key) for place in destinations],
                    }


def changes(matrix: Matrix) -> list[Change]:
    """All changes, of a matrix of :meth:`kmn.policy.answers.Answers.difference`."""
    found, width = [], matrix.answers.width
    for source, row in enumerate(matrix.cells):
        for destination, cell in enumerate(row):
            halves: dict[tuple[bool, int], list[bool]] = {}
            for near, value in ((True, cell.near), (False, cell.far)):
                if value is not None:
                    for opens, ports in ((True, value & (1 << width) - 1), (False, value >> width)):
                        if ports:
                            halves.setdefault((opens, ports), []).append(near)
            found += [
                Change(opens, source, destination, matrix.answers.named(ports), True in sides, False in sides)
                for (opens, ports), sides in halves.items()
            ]
    return found
