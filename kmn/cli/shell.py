"""The Mininet CLI, from ``kmn up``, ``kmn demo`` and ``kmn cli``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kmn.mininet.net import ClusterNet

__all__ = ["attach", "interact"]


def attach(name: str | None, commands: Sequence[str] = ()) -> int:
    """``kmn cli``: on a running cluster, which stays. With ``commands``, these lines and no prompt; the exit code then
    tells whether all could be done."""
    from kmn.cluster import Cluster

    with Cluster.attach(name) as cluster:
        if commands:
            return _run(cluster.net, commands)
        interact(cluster.net)
    return 0


def interact(net: ClusterNet) -> None:
    """Prompt (or read standard input, if it is no terminal) until the user leaves."""
    from kmn.cli.terminal import console
    from kmn.mininet.cli import ClusterCLI

    _print_to_stdout()
    if sys.stdin.isatty():
        console().print(
            "Mininet CLI: [bold]pods[/], [bold]services[/], [bold]POD command[/], [bold]pingall[/], [bold]help[/]; "
            "[bold]exit[/] leaves"
        )
    ClusterCLI(net)


def _run(net: ClusterNet, commands: Sequence[str]) -> int:
    import os
    import tempfile

    from kmn.mininet.cli import ClusterCLI

    _print_to_stdout()
    with tempfile.NamedTemporaryFile("w", suffix=".mininet") as script, open(os.devnull) as nothing:
        script.write("\n".join(commands) + "\n")
        script.flush()
        return 1 if ClusterCLI(net, stdin=nothing, script=script.name).failed else 0


def _print_to_stdout() -> None:
    """Mininet prints what was asked for to standard error, as log messages: not here."""
    from mininet.log import lg, setLogLevel

    setLogLevel("output")
    lg.ch.setStream(sys.stdout)
