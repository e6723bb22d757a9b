"""Entry point of ``kmn``: runs the commands, and turns what goes wrong into one clear line and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

__all__ = ["main"]


class _Terminated(SystemExit):
    """SIGTERM or SIGHUP: leave in order, as with Ctrl-C."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``kmn`` with ``argv``; the exit code. ``KMN_DEBUG=1`` shows tracebacks."""
    from kmn.cli.commands import app

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminate)
    try:
        # Typer ends with SystemExit: usage errors, --help, exit codes of commands, Ctrl-C (130), a closed pipe.
        app(args=list(sys.argv[1:] if argv is None else argv), prog_name="kmn")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except Exception as error:
        if os.environ.get("KMN_DEBUG"):
            raise
        return _explain(error)
    return 0


def _terminate(number: int, _frame: FrameType | None) -> None:
    raise _Terminated(128 + number)


def _explain(error: Exception) -> int:
    """Print what went wrong; the exit code."""
    from rich.markup import escape

    from kmn.cli.problems import Failed, describe
    from kmn.cli.terminal import errors

    code = 1
    if isinstance(error, Failed) and isinstance(error.__cause__, Exception):
        code, error = error.code, error.__cause__
    message, hint = describe(error)
    errors().print(f"[bold red]kmn:[/] {escape(message)}", soft_wrap=True)
    if hint:
        errors().print(f"     {escape(hint)}", soft_wrap=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
