"""The two Rich consoles of the command line, made on first use."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["console", "errors"]

_FILE_WIDTH = 200  # of tables, where no terminal wraps them


@cache
def console() -> Console:
    """Standard output: what was asked for."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_FILE_WIDTH)


@cache
def errors() -> Console:
    """Standard error: progress and what went wrong."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    return console if console.is_terminal else Console(stderr=True, highlight=False, width=_FILE_WIDTH)
