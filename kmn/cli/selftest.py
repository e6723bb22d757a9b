"""``kmn test`` and ``kmn bench``: the checks of kmn's own code, as CI runs them, and its measurements."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from kmn.cli.terminal import console, errors
from kmn.errors import UserError

__all__ = ["bench", "run"]

_ROOT = Path(__file__).resolve().parents[2]
_CHECKS = (("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",), ("pytest",))


def run(pytest_args: Sequence[str]) -> int:
    """All checks, whichever fail; with arguments only pytest with these. 0 when all passed."""
    _require_checkout("test")
    checks = (("pytest", *pytest_args),) if pytest_args else _CHECKS
    failed = [check for check in checks if _run(check) != 0]
    for check in failed:
        errors().print(f"[bold red]failed:[/] {shlex.join(check)}")
    if not failed:
        console().print("[bold green]all passed[/]")
    return 1 if failed else 0


def bench(arguments: Sequence[str]) -> int:
    """Run measurements of ``benchmarks/``."""
    _require_checkout("bench")
    return _run(("benchmarks", *arguments))


def _require_checkout(command: str) -> None:
    if not (_ROOT / "pyproject.toml").is_file() or not (_ROOT / "tests").is_dir():
        raise UserError(
            f"{_ROOT}: not a checkout of kmn", f"kmn {command} works from the source tree, through ./kmn.sh"
        )


def _run(check: Sequence[str]) -> int:
    console().print(f"[bold]$ {shlex.join(check)}[/]")
    sys.stdout.flush()
    try:
        return subprocess.run([sys.executable, "-m", *check], cwd=_ROOT, env=dict(os.environ), check=False).returncode
    except KeyboardInterrupt:
        errors().print("interrupted")
        raise
