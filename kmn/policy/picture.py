"""The matrix as a picture: SVG, PNG, or an HTML page with the SVG in it and the same as a table.

Shapes say what colours say (full, dot, ring, half, signs), and in SVG and HTML each cell says in words what it is when
the mouse rests on it. Drawn by Matplotlib, which is not installed with kmn itself.
"""

from __future__ import annotations

import datetime as dt
import html
import io
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from kmn.errors import UserError
from kmn.policy.legend import Kind, Legend, Symbol, describe
from kmn.policy.matrix import Matrix, Party

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

__all__ = ["draw"]

# Colours that people who see few of them can tell apart (Okabe and Ito).
_COLOURS = {
    Kind.ALL: "#0072b2",
    Kind.KEPT: "#a9cce3",
    Kind.NONE: "#9a9a9a",
    Kind.OWN: "#0072b2",
    Kind.SOME: "#e69f00",
    Kind.OPENS: "#009e73",
    Kind.CLOSES: "#d55e00",
    Kind.BOTH: "#cc79a7",
    Kind.DIFFERS: "#c00000",
}
_SIGNED = (Kind.OPENS, Kind.CLOSES, Kind.BOTH, Kind.DIFFERS)  # white on a full cell
_INK, _FAINT, _BAND, _LINE = "#222222", "#666666", "#f3f6f9", "#b8c2cc"

# Inches.
_LARGEST_CELL, _SMALLEST_CELL = 0.34, 0.11
_WANTED = 10.0  # of all cells together
_MARGIN, _SPACE = 0.25, 0.1
_POINTS = 72  # an inch has
_TITLE, _TEXT, _SMALLEST_TEXT = 12.0, 9.0, 5.0  # points
_LINE_HEIGHT = 0.22
_LONGEST_NAME = 34  # characters
_SHOWN_LETTERS = 16
_SHOWN_PORTS = 2
_DPI = 150
_MOST_TITLES = 80  # rows, up to which each cell has words of its own: 6,400 cells are some megabytes

_FONT = {"font.family": "DejaVu Sans", "svg.fonttype": "none", "svg.hashsalt": "kmn"}


def draw(matrix: Matrix, legend: Legend, form: str, *, title: str, when: dt.datetime) -> bytes:
    """The picture as ``svg``, ``png`` or ``html``. Raises UserError when Matplotlib is not installed."""
    try:
        import matplotlib as mpl
    except ModuleNotFoundError:
        raise UserError(
            "pictures are drawn by Matplotlib, which is not installed",
            f"{sys.executable} -m pip install 'matplotlib>=3.8'",
        ) from None
    with mpl.rc_context(_FONT):
        layout = _layout(matrix, legend, title)
        figure = _figure(matrix, legend, layout, title, f"{when:%Y-%m-%d %H:%M:%S %Z}".strip())
        file = io.BytesIO()
        if form == "png":
            figure.savefig(file, format="png", dpi=_DPI, metadata={"Title": title})
            return file.getvalue()
        figure.savefig(file, format="svg", metadata={"Title": title, "Date": None})
    svg = _with_words(file.getvalue().decode(), matrix, layout, title)
    return svg.encode() if form == "svg" else _page(svg, matrix, legend, title).encode()


@dataclass(frozen=True, slots=True)
class _Layout:
    """Sizes in inches. The origin of cells is the upper left corner of the first one, y grows downwards."""

    cell: float
    text: float  # points
    left: float  # of the first cell
    top: float
    width: float  # of the whole
    height: float
    names: float  # the room for workloads on the left; namespaces are beyond
    heads: float  # and above
    count: int

    @property
    def cells(self) -> float:
        return self.cell * self.count


def _layout(matrix: Matrix, legend: Legend, title: str) -> _Layout:
    count = len(matrix.parties)
    cell = min(_LARGEST_CELL, max(_SMALLEST_CELL, _WANTED / max(1, count)))
    text = min(_TEXT, max(_SMALLEST_TEXT, cell * _POINTS * 0.6))
    parties = matrix.parties
    names = _SPACE + max((_width(_who(party) + _ports(matrix, party), text) for party in parties), default=0)
    heads = _SPACE + max((_width(_who(party), text) for party in parties), default=0)
    beside = max((_width(_where(party), text, bold=True) for party in parties), default=0)
    above = max((_head(party, length * cell, text)[1] for _, length, party in _blocks(matrix)), default=0)
    left = _MARGIN + names + beside + 2 * _SPACE
    top = _MARGIN + 2.5 * _LINE_HEIGHT + heads + above + 2 * _SPACE
    shown = _shown(legend)
    widest = max([_width(title, _TITLE, bold=True), *(_width(symbol.meaning, _TEXT) + 0.5 for symbol in shown)])
    width = max(left + cell * count, widest + _MARGIN) + _MARGIN
    height = top + cell * count + (len(shown) + 1) * _LINE_HEIGHT + _MARGIN
    return _Layout(cell, text, left, top, width, height, names, heads, count)


def _head(party: Party, room: float, text: float) -> tuple[str, float, bool]:
    """The name of namespaces above columns that are so wide: in a line, in two, else upright. And its height."""
    name, line = _where(party), 1.3 * text / _POINTS
    for number, lines in enumerate((name, name.replace(" and ", "\n+")), 1):
        if max(_width(each, text, bold=True) for each in lines.split("\n")) <= room:
            return lines, number * line, False
    return name, _width(name, text, bold=True), True


def _figure(matrix: Matrix, legend: Legend, layout: _Layout, title: str, when: str) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(layout.width, layout.height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(-layout.left, layout.width - layout.left)
    axes.set_ylim(layout.height - layout.top, -layout.top)
    x, y = -layout.left + _MARGIN, -layout.top + _MARGIN
    axes.text(x, y, title, fontsize=_TITLE, fontweight="bold", color=_INK, va="top")
    axes.text(x, y + 0.25, f"rows connect to columns; {when}", fontsize=_TEXT, color=_FAINT, va="top")
    _bands(axes, matrix, layout)
    _labels(axes, matrix, layout)
    shapes: defaultdict[Kind, list[Patch]] = defaultdict(list)
    for row, symbols in enumerate(legend.cells):
        for column, symbol in enumerate(symbols):
            at = ((column + 0.5) * layout.cell, (row + 0.5) * layout.cell)
            _put(axes, shapes, symbol, at, layout.cell)
    _put_legend(axes, shapes, legend, layout)
    _add(axes, shapes)
    return figure


def _bands(axes: Axes, matrix: Matrix, layout: _Layout) -> None:
    """A faint ground under every other namespace, and lines between them."""
    from matplotlib.patches import Rectangle

    size, cells = layout.cell, layout.cells
    for number, (start, length, _) in enumerate(_blocks(matrix)):
        if number % 2 == 0:
            for at, width, height in (
                ((start * size, 0), length * size, cells),
                ((0, start * size), cells, length * size),
            ):
                axes.add_patch(Rectangle(at, width, height, facecolor=_BAND, edgecolor="none", zorder=0))
        for edge in (start, start + length):
            axes.plot([0, cells], [edge * size] * 2, color=_LINE, linewidth=0.8, zorder=1)
            axes.plot([edge * size] * 2, [0, cells], color=_LINE, linewidth=0.8, zorder=1)


def _labels(axes: Axes, matrix: Matrix, layout: _Layout) -> None:
    """Workloads beside their rows and over their columns, namespaces beyond, each with a line along what is its own."""
    size, near, left, above = layout.cell, -_SPACE / 2, -layout.names - _SPACE, -layout.heads - _SPACE
    style: dict[str, Any] = {"fontsize": layout.text, "color": _INK}
    for place, party in enumerate(matrix.parties):
        at = (place + 0.5) * size
        axes.text(near, at, _who(party) + _ports(matrix, party), ha="right", va="center_baseline", **style)
        axes.text(at, near, _who(party), ha="center", va="bottom", rotation=90, **style)
    for start, length, party in _blocks(matrix):
        first, last, middle = start * size, (start + length) * size, (start + length / 2) * size
        ends = [first + 0.03, last - 0.03]
        for line in ([left, left], ends), (ends, [above, above]):
            axes.plot(*line, color=_FAINT, linewidth=1.2, solid_capstyle="butt")
        bold = {**style, "fontweight": "bold"}
        axes.text(left - _SPACE / 2, middle, _where(party), ha="right", va="center_baseline", **bold)
        head, _, upright = _head(party, length * size, layout.text)
        turn = 90 if upright else 0
        axes.text(middle, above - _SPACE / 2, head, ha="center", va="bottom", rotation=turn, **bold)


def _put(
    axes: Axes, shapes: defaultdict[Kind, list[Patch]], symbol: Symbol, middle: tuple[float, float], size: float
) -> None:
    """A cell's shape, and its letter if it has one."""
    from matplotlib.patches import Circle, Polygon, Rectangle

    x, y = middle
    half = size * 0.42
    square = Rectangle((x - half, y - half), 2 * half, 2 * half)
    match symbol.kind:
        case Kind.ITSELF:
            pass
        case Kind.NONE:
            shapes[symbol.kind].append(Circle(middle, size * 0.07))
        case Kind.OWN:
            shapes[symbol.kind].append(Circle(middle, size * 0.3))
        case Kind.SOME:
            corners = [(x - half, y - half), (x - half, y + half), (x + half, y + half)]
            shapes[symbol.kind].append(Polygon(corners))
            _sign(axes, symbol.sign, (x + half * 0.42, y - half * 0.38), size * 0.48, _INK)
        case kind if kind in _SIGNED:
            shapes[kind].append(square)
            _sign(axes, symbol.sign.replace("-", "\u2212"), middle, size * 0.75, "white")
        case kind:
            shapes[kind].append(square)


def _sign(axes: Axes, sign: str, middle: tuple[float, float], size: float, colour: str) -> None:
    axes.text(
        *middle, sign, ha="center", va="center_baseline", fontsize=size * _POINTS, fontweight="bold", color=colour
    )


def _add(axes: Axes, shapes: dict[Kind, list[Patch]]) -> None:
    """All shapes of a kind at once: thousands of them one by one are slow, and large."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    dots = shapes.pop(Kind.NONE, [])
    if dots:
        xs, ys = zip(*(dot.center for dot in dots), strict=True)
        size = 2 * dots[0].radius * _POINTS
        axes.plot(xs, ys, "o", markersize=size, markeredgewidth=0, color=_COLOURS[Kind.NONE], zorder=2, clip_on=False)
    for kind, patches in shapes.items():
        hollow = kind is Kind.OWN
        whole = Path.make_compound_path(*(patch.get_transform().transform_path(patch.get_path()) for patch in patches))
        axes.add_patch(
            PathPatch(
                whole, facecolor="white" if hollow else _COLOURS[kind],
                edgecolor=_COLOURS[kind] if hollow else "none", linewidth=2.0 if hollow else 0, zorder=2, clip_on=False,
            )
        )  # fmt: skip


def _put_legend(axes: Axes, shapes: defaultdict[Kind, list[Patch]], legend: Legend, layout: _Layout) -> None:
    x = -layout.left + _MARGIN
    for number, symbol in enumerate(_shown(legend)):
        y = layout.cells + (number + 1.2) * _LINE_HEIGHT
        _put(axes, shapes, symbol, (x + _LINE_HEIGHT / 2, y), _LINE_HEIGHT * 0.85)
        axes.text(x + 0.35, y, symbol.meaning, fontsize=_TEXT, color=_INK, va="center")


def _shown(legend: Legend) -> Sequence[Symbol]:
    """The symbols that the legend explains: many letters would be longer than the picture."""
    plain = [symbol for symbol in legend.symbols if symbol.kind is not Kind.SOME]
    letters = [symbol for symbol in legend.symbols if symbol.kind is Kind.SOME]
    if len(letters) > _SHOWN_LETTERS:
        rest = Symbol(Kind.SOME, "…", f"{len(letters) - _SHOWN_LETTERS} more: kmn reach -o text explains them")
        letters = [*letters[:_SHOWN_LETTERS], rest]
    return [*plain, *letters]


def _blocks(matrix: Matrix) -> Iterator[tuple[int, int, Party]]:
    """First row, number of rows, and one party of each namespace (or namespaces that are alike)."""
    start = 0
    for _, parties in groupby(matrix.parties, key=lambda party: party.namespaces):
        block = list(parties)
        yield start, len(block), block[0]
        start += len(block)


def _where(party: Party) -> str:
    return _cut(party.where)


def _who(party: Party) -> str:
    count = len(party.places)
    who = "all" if party.whole and count > 1 else _cut(party.who())
    return f"{who} ({count})" if count > 1 else who


def _ports(matrix: Matrix, party: Party) -> str:
    """The ports that a party is asked at, where others are asked at others."""
    if len({other.ports for other in matrix.parties}) == 1:
        return ""
    names = list(map(str, matrix.answers.named(party.ports)))
    if party.ports == (1 << matrix.answers.width) - 1:
        return " · any port"
    return " · " + " ".join(names[:_SHOWN_PORTS]) + (f" +{len(names) - _SHOWN_PORTS}" if names[_SHOWN_PORTS:] else "")


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_NAME else text[: _LONGEST_NAME - 1] + "…"


def _width(text: str, size: float, *, bold: bool = False) -> float:
    """Of a text, in inches. A little more, as browsers may have another font."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal", size=size)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return 1.12 * float(width) / _POINTS


def _with_words(svg: str, matrix: Matrix, layout: _Layout, title: str) -> str:
    """The SVG with a name for who cannot see it, and a title on each cell."""
    head, tail = svg.split("<svg ", 1)
    summary = html.escape(f"{title}: a matrix of {layout.count} rows, which connect to {layout.count} columns")
    svg = f'{head}<svg role="img" aria-label="{summary}" {tail}'
    if layout.count > _MOST_TITLES:
        return svg
    # In points, as Matplotlib's SVG is.
    left, top, size = (_POINTS * length for length in (layout.left, layout.top, layout.cell))
    areas = "\n".join(
        f'<rect x="{left + column * size:.1f}" y="{top + row * size:.1f}" width="{size:.1f}" height="{size:.1f}">'
        f"<title>{html.escape(describe(matrix, row, column))}</title></rect>"
        for row in range(layout.count)
        for column in range(layout.count)
    )
    end = svg.rindex("</svg>")
    return f'{svg[:end]}<g id="cells" fill="transparent">\n{areas}\n</g>\n{svg[end:]}'


def _page(svg: str, matrix: Matrix, legend: Legend, title: str) -> str:
    """A page that needs nothing else: the picture, and for who cannot see it a table."""
    picture = svg[svg.index("<svg ") :]
    names = [html.escape(party.name) for party in matrix.parties]
    columns = "".join(f'<th scope="col">{name}</th>' for name in names)
    rows = "\n".join(
        f'<tr><th scope="row">{name}</th>{"".join(f"<td>{html.escape(s.meaning)}</td>" for s in symbols)}</tr>'
        for name, symbols in zip(names, legend.cells, strict=True)
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>
body {{ margin: 1rem; font-family: system-ui, sans-serif; color: {_INK}; background: white }}
figure {{ margin: 0; overflow: auto }}
#cells rect:hover {{ stroke: {_INK}; stroke-width: 1.5 }}
table {{ border-collapse: collapse; font-size: 0.8rem }}
th, td {{ border: 1px solid {_LINE}; padding: 0.2rem 0.4rem; text-align: left; vertical-align: top }}
</style>
</head>
<body>
<figure>
{picture}
</figure>
<details>
<summary>The same as a table</summary>
<table>
<thead><tr><td></td>{columns}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
</details>
</body>
</html>
"""
