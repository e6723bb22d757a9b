"""The two Rich consoles of the command line, made on first use."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["console", "errors"]


@cache
def console() -> Console:
    """Standard output: what was asked for."""
    from rich.console import Console

    return Console(highlight=False)


@cache
def errors() -> Console:
    """Standard error: progress and what went wrong."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)
