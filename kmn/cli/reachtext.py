"""The matrix of ``kmn reach`` as text: as wide as the terminal, with signs that need no colour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kmn.policy.legend import Kind, Legend, Symbol
from kmn.policy.matrix import Matrix, Party

__all__ = ["print_changes", "print_matrix"]

_STYLES = {
    Kind.ALL: "green",
    Kind.KEPT: "green",
    Kind.NONE: "dim",
    Kind.OWN: "yellow",
    Kind.SOME: "yellow",
    Kind.OPENS: "green",
    Kind.CLOSES: "red",
    Kind.BOTH: "yellow",
    Kind.DIFFERS: "bold red",
    Kind.ITSELF: "",
}
_GAP = 2  # between the columns of names
_NARROWEST = 8  # that a column of names is made
_SHOWN_PORTS = 3


def print_matrix(console: Console, matrix: Matrix, legend: Legend) -> None:
    """Rows are clients, columns servers under the numbers of their rows. What is too wide for the terminal comes in
    several pieces, one below the other."""
    labels = _labels(matrix)
    numbers = [str(number) for number in range(1, len(matrix.parties) + 1)]
    gap, widths, piece = _fit(console.width, labels, len(numbers))
    for start in range(0, len(numbers), piece):
        columns = range(start, min(start + piece, len(numbers)))
        table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold", show_edge=False)
        for place, (title, width) in enumerate(zip(labels[0], widths, strict=True)):
            table.add_column(
                title, no_wrap=True, width=width, justify="right" if place in (0, 3) else "left", vertical="bottom"
            )
        table.add_column(_stacked([numbers[column] for column in columns], gap), no_wrap=True)
        for row, label in enumerate(labels[1:]):
            signs = Text(gap).join(_sign(legend.cells[row][column]) for column in columns)
            table.add_row(*(_cut(text, width) for text, width in zip(label, widths, strict=True)), signs)
        if start:
            console.print()
        console.print(table)
    console.print()
    for line in _legend_lines(legend):
        console.print(line, soft_wrap=True)


def print_changes(console: Console, lines: Sequence[tuple[bool, str]]) -> None:
    """A line each, of what opens (True) and closes."""
    for opens, text in lines:
        word = Text("opens " if opens else "closes", style=_STYLES[Kind.OPENS if opens else Kind.CLOSES])
        console.print(word.append(f" {text}", style="default"), soft_wrap=True)


def _labels(matrix: Matrix) -> list[tuple[str, ...]]:
    """Titles, then a line a party. Ports are shown where they are not the same for all."""
    different = len({party.ports for party in matrix.parties}) > 1
    lines: list[tuple[str, ...]] = [("", "NAMESPACE", "WORKLOAD", "PODS", *(["PORTS"] if different else []))]
    before: tuple[str, ...] = ()
    for number, party in enumerate(matrix.parties, 1):
        where = "" if party.namespaces == before else party.where
        before = party.namespaces
        who = "all" if party.whole and len(party.places) > 1 else party.who()
        ports = [_ports(matrix, party)] if different else []
        lines.append((str(number), where, who, str(len(party.places)), *ports))
    return lines


def _ports(matrix: Matrix, party: Party) -> str:
    if party.ports == (1 << matrix.answers.width) - 1 and not matrix.answers.subjects[party.places[0]].ports:
        return "any of these"
    names = list(map(str, matrix.answers.named(party.ports)))
    return ", ".join(names[:_SHOWN_PORTS]) + (f" +{len(names) - _SHOWN_PORTS}" if len(names) > _SHOWN_PORTS else "")


def _fit(width: int, labels: Sequence[Sequence[str]], count: int) -> tuple[str, list[int], int]:
    """What is between signs, the widths of the names' columns, and how many columns of signs a piece has."""
    widths = [max(map(len, column)) for column in zip(*labels, strict=True)]
    taken = _GAP * len(widths)
    for gap, room in (" ", 2 * count - 1), ("", count):
        if sum(widths) + taken + room <= width:
            return gap, widths, count
    # Names are shortened, the longest first, to half the width at most.
    while sum(widths) + taken + count > width and sum(widths) + taken > width // 2:
        longest = max(range(len(widths)), key=widths.__getitem__)
        if widths[longest] <= _NARROWEST:
            break
        widths[longest] -= 1
    room = width - sum(widths) - taken
    return "", widths, min(count, max(1, room))


def _stacked(numbers: Sequence[str], gap: str) -> Text:
    """Numbers with their digits below each other."""
    height = max(map(len, numbers))
    lines = (gap.join(number.rjust(height)[line] for number in numbers) for line in range(height))
    return Text("\n".join(lines))


def _sign(symbol: Symbol) -> Text:
    return Text(symbol.sign, style=_STYLES[symbol.kind])


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _legend_lines(legend: Legend) -> Iterator[Text]:
    plain = [symbol for symbol in legend.symbols if symbol.kind is not Kind.SOME]
    if plain:
        yield Text("   ").join(Text.assemble(_sign(symbol), " ", symbol.meaning) for symbol in plain)
    for symbol in legend.symbols:
        if symbol.kind is Kind.SOME:
            yield Text.assemble(_sign(symbol), " ", symbol.meaning)
