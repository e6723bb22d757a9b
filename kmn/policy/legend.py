"""What the cells of a matrix are called: one sign each, and a sentence that says what it means."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from string import ascii_lowercase, ascii_uppercase

from kmn.policy.answers import Answers
from kmn.policy.matrix import Cell, Matrix

__all__ = ["Kind", "Legend", "Symbol", "describe", "legend_of", "legend_of_change", "with_differences"]

_SHOWN_PORTS = 6
_LETTERS = (ascii_lowercase + ascii_uppercase).replace("o", "")  # "o" is taken
_OWN, _OTHERS = "its own namespace", "other namespaces"


class Kind(Enum):
    """How a cell looks."""

    ALL = "all"
    KEPT = "kept"  # all, before a change and after it
    NONE = "none"
    OWN = "own"  # all within a namespace, none from one to another
    SOME = "some"
    OPENS = "opens"
    CLOSES = "closes"
    BOTH = "both"
    DIFFERS = "differs"
    ITSELF = "itself"  # a pod and itself: nobody can say anything of that


@dataclass(frozen=True, slots=True)
class Symbol:
    kind: Kind
    sign: str  # one character
    meaning: str


_ALLOWED = Symbol(Kind.ALL, "+", "allowed")
_DENIED = Symbol(Kind.NONE, ".", "denied")
_OWN_ONLY = Symbol(Kind.OWN, "o", "allowed within a namespace, denied to others")
_KEPT = Symbol(Kind.KEPT, "=", "allowed, as before")
_KEPT_DENIED = Symbol(Kind.NONE, ".", "denied, as before")
_KEPT_SOME = Symbol(Kind.SOME, "~", "allowed in part, as before")
_OPENS = Symbol(Kind.OPENS, "+", "opens")
_CLOSES = Symbol(Kind.CLOSES, "-", "closes")
_ITSELF = Symbol(Kind.ITSELF, " ", "itself")
_DIFFERS = Symbol(Kind.DIFFERS, "!", "packets do otherwise")
_BOTH = Symbol(Kind.BOTH, "±", "opens at some ports or namespaces, closes at others")


@dataclass(frozen=True, slots=True)
class Legend:
    """``cells[i][j]`` is the sign of that cell; ``symbols`` are those that occur, the plain ones first."""

    cells: tuple[tuple[Symbol, ...], ...]
    symbols: tuple[Symbol, ...]


def legend_of(matrix: Matrix) -> Legend:
    """Signs for who may talk to whom. Cells that are neither all nor nothing share a letter with those like them."""
    letters: dict[str, Symbol] = {}

    def symbol(cell: Cell, asked: int) -> Symbol:
        values = cell.values
        if not values:
            return _ITSELF
        if all(value == asked for value in values):
            return _ALLOWED
        if not any(values):
            return _DENIED
        if (cell.near, cell.far) == (asked, 0):
            return _OWN_ONLY
        meaning = _cell(matrix.answers, cell, asked)
        if meaning not in letters:
            letter = _LETTERS[len(letters)] if len(letters) < len(_LETTERS) else "?"
            letters[meaning] = Symbol(Kind.SOME, letter, meaning)
        return letters[meaning]

    parties = matrix.parties
    cells = tuple(
        tuple(symbol(cell, party.ports) for cell, party in zip(row, parties, strict=True)) for row in matrix.cells
    )
    return _legend(cells, (_ALLOWED, _DENIED, _OWN_ONLY))


def legend_of_change(matrix: Matrix) -> Legend:
    """Signs for what opens and closes, where the layers are those of before and after."""

    def symbol(cell: Cell, asked: int) -> Symbol:
        if not cell.values:
            return _ITSELF
        opened = closed = 0
        for value in cell.values:
            opens, closes = _changed(matrix.answers, value)
            opened, closed = opened | opens, closed | closes
        if opened and closed:
            return _BOTH
        if opened or closed:
            return _OPENS if opened else _CLOSES
        now = [value >> matrix.answers.width for value in cell.values]
        return _KEPT if all(value == asked for value in now) else _KEPT_SOME if any(now) else _KEPT_DENIED

    parties = matrix.parties
    cells = tuple(
        tuple(symbol(cell, party.ports) for cell, party in zip(row, parties, strict=True)) for row in matrix.cells
    )
    return _legend(cells, (_OPENS, _CLOSES, _BOTH, _KEPT, _KEPT_DENIED, _KEPT_SOME))


def with_differences(legend: Legend, cells: Collection[tuple[int, int]]) -> Legend:
    """The same with other signs where packets did other than computed."""
    if not cells:
        return legend
    shown = tuple(
        tuple(_DIFFERS if (i, j) in cells else symbol for j, symbol in enumerate(row))
        for i, row in enumerate(legend.cells)
    )
    return Legend(shown, (_DIFFERS, *legend.symbols))


def _changed(answers: Answers, value: int) -> tuple[int, int]:
    """Of the layers of before and after: the ports at which they open, and at which they close."""
    before, after = value & (1 << answers.width) - 1, value >> answers.width
    return after & ~before, before & ~after


def describe(matrix: Matrix, source: int, destination: int) -> str:
    """A cell in words: for who has no legend at hand."""
    cell, party = matrix.cells[source][destination], matrix.parties[destination]
    before = f"{matrix.parties[source].name} → {party.name}: "
    answers = matrix.answers
    if not cell.values:
        return before + "itself"
    if len(answers.layers) == answers.width:
        return before + _cell(answers, cell, party.ports)
    low = (1 << answers.width) - 1
    then, now = (
        Cell(*(None if value is None else value >> shift & low for value in (cell.near, cell.far)))
        for shift in (0, answers.width)
    )
    if then == now:
        return before + f"{_cell(answers, now, party.ports)}, as before"
    return before + f"{_cell(answers, now, party.ports)}; before: {_cell(answers, then, party.ports)}"


def _legend(cells: tuple[tuple[Symbol, ...], ...], plain: tuple[Symbol, ...]) -> Legend:
    used = {symbol for row in cells for symbol in row if symbol is not _ITSELF}
    letters = sorted(used.difference(plain), key=lambda symbol: (symbol.sign == "?", symbol.sign.swapcase()))
    shown = [symbol for symbol in letters if symbol.sign != "?"]
    if len(shown) < len(letters):
        shown.append(Symbol(Kind.SOME, "?", "allowed in other parts: -o json"))
    return Legend(cells, (*(symbol for symbol in plain if symbol in used), *shown))


def _cell(answers: Answers, cell: Cell, asked: int) -> str:
    if len(cell.values) == 1:
        return _ways(answers, cell.values[0], asked)
    near, far = cell.near or 0, cell.far or 0
    return f"within {_OWN} {_ways(answers, near, asked)}; to {_OTHERS} {_ways(answers, far, asked)}"


def _ways(answers: Answers, value: int, asked: int) -> str:
    """The ports at which a destination may be asked, of those at which it is."""
    if not value:
        return f"denied at {_ports(answers, asked)}"
    if value == asked:
        return f"allowed at {_ports(answers, asked)}"
    return f"allowed at {_ports(answers, value)}, denied at {_ports(answers, asked & ~value)}"


def _ports(answers: Answers, layers: int) -> str:
    names = list(map(str, answers.named(layers)))
    more = len(names) - _SHOWN_PORTS
    return ", ".join(names[:_SHOWN_PORTS]) + (f" and {more} more" if more > 0 else "")
