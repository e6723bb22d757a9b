"""Tables of figures with ratios, printed for people and, with ``--json FILE``, kept for machines."""

from __future__ import annotations

import json
import platform
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

__all__ = ["Row", "number", "show"]


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement. ``ratio`` compares with ``against``; ``wanted`` says what the ratio or value should be."""

    what: str
    value: float
    unit: str
    against: str = ""
    ratio: float | None = None
    wanted: str = ""


def show(title: str, rows: list[Row], *, json_file: Path | None = None) -> None:
    """Print one table; append it to ``json_file`` as one line."""
    table = Table(title=title, caption=_machine(), title_justify="left")
    table.add_column("measured")
    table.add_column("value", justify="right")
    table.add_column("ratio", justify="right")
    table.add_column("against")
    table.add_column("wanted")
    for row in rows:
        ratio = f"{row.ratio:.2f} x" if row.ratio is not None else ""
        table.add_row(row.what, f"{number(row.value)} {row.unit}", ratio, row.against, row.wanted)
    Console(width=130).print(table)
    if json_file is not None:
        with json_file.open("a") as out:
            out.write(json.dumps({"title": title, "rows": [asdict(row) for row in rows]}) + "\n")


def number(value: float) -> str:
    """Three digits that count, without an exponent: ``0.123``, ``12.3``, ``12,300``."""
    return f"{value:,.3g}" if abs(value) < 1000 else f"{float(f'{value:.3g}'):,.0f}"


def _machine() -> str:
    cores = subprocess.run(["nproc"], capture_output=True, text=True, check=True).stdout.strip()
    return f"{cores} cores, Linux {platform.release().split('-')[0]}, Python {platform.python_version()}"
