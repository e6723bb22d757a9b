"""Printing objects and tables in the forms of ``-o``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

__all__ = ["dump", "print_rows"]

_GAP = "   "  # between columns, as kubectl has it


def dump(value: Any, form: str) -> None:
    """Print as JSON or YAML."""
    if form == "json":
        print(json.dumps(value, indent=4))
        return
    import yaml

    yaml.safe_dump(value, sys.stdout, sort_keys=False, default_flow_style=False, allow_unicode=True)


def print_rows(header: Sequence[str], rows: Sequence[Sequence[str]], *, headers: bool = True) -> None:
    """A table as kubectl prints it: columns as wide as their widest cell."""
    lines = [list(header), *map(list, rows)] if headers else [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print(_GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
