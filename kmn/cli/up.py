"""``kmn up``: start a cluster, show how it comes up, and say what did not."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from kmn.cli.manifests import read
from kmn.cli.terminal import console, errors
from kmn.cluster import Cluster
from kmn.ready import NotReady, Problem, Progress

__all__ = ["bring_up", "up"]

_SHOWN_PROBLEMS = 30


def up(
    cluster_file: str | None,
    manifests: Sequence[str],
    *,
    name: str | None,
    detach: bool,
    timeout: float,
    recursive: bool = False,
) -> int:
    """The exit code: 1 when something did not become ready."""
    # Read now: the Mininet CLI reads the terminal later, and nothing is started for manifests that cannot be used.
    objects = read(manifests, recursive=recursive) if manifests else []
    cluster = Cluster(cluster_file, name=name, manifests=objects, start_timeout=timeout)
    try:
        complete = bring_up(cluster, detach=detach, timeout=timeout)
        if detach:
            cluster.detach()
            _say_how_to_go_on(cluster, complete)
        else:
            from kmn.cli.shell import interact

            interact(cluster.net)
    except KeyboardInterrupt:
        errors().print(f"interrupted: taking cluster {cluster.name} down")
        raise
    finally:
        cluster.close()
    return 0 if complete else 1


def wait(name: str | None, timeout: float) -> int:
    """Wait for a cluster that is running; 0 when all is ready. What is not is printed."""
    begin = time.monotonic()
    with Cluster.attach(name) as cluster:
        try:
            remarks = cluster.wait_ready(timeout)
        except NotReady as late:
            _print_problems(late.problems)
            errors().print(f"[bold red]cluster {cluster.name} is not ready[/]: {_count(late.problems)}")
            return 1
        took = time.monotonic() - begin
        _print_problems(remarks, "NOT WAITED FOR")
        console().print(f"cluster [bold]{cluster.name}[/] is ready, and all of it in force ({took:.1f} s)")
    return 0


def bring_up(cluster: Cluster, *, detach: bool, timeout: float) -> bool:
    """Start, apply, wait; whether everything became ready. What did not is printed."""
    begin = time.monotonic()
    with _display() as show:
        cluster.start(detach=detach, on_event=lambda event: show(_progress_of(event)))
        try:
            remarks = cluster.wait_ready(max(0.0, timeout - (time.monotonic() - begin)), on_progress=show)
        except NotReady as late:
            missing = late.problems
        else:
            missing = []
    took = time.monotonic() - begin
    if missing:
        _print_problems(missing)
        errors().print(f"[bold red]cluster {cluster.name} is not ready[/] after {took:.1f} s: {_count(missing)}")
        return False
    _print_problems(remarks, "NOT WAITED FOR")
    console().print(f"cluster [bold]{cluster.name}[/] is ready after {took:.1f} s")
    return True


def _progress_of(event: dict[str, Any]) -> list[Progress]:
    if event["event"] == "progress":
        return [Progress(event["what"], event["done"], event["total"])]
    return []


@contextmanager
def _display() -> Iterator[Any]:
    """Bars for nodes, pods and data plane; the function it gives takes a list of Progress."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=errors(), transient=True, disable=not errors().is_terminal) as bars:
        tasks = {what: bars.add_task(what, total=None) for what in ("nodes", "pods", "data plane")}

        def show(steps: Iterable[Progress]) -> None:
            for step in steps:
                bars.update(tasks[step.what], completed=step.done, total=step.total)

        yield show


def _print_problems(missing: list[Problem], heading: str = "NOT READY") -> None:
    if not missing:
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, wrapped in ((heading, False), ("REASON", False), ("MESSAGE", True)):
        table.add_column(title, no_wrap=not wrapped, overflow="fold")
    for problem in missing[:_SHOWN_PROBLEMS]:
        table.add_row(problem.what, problem.reason, problem.message)
    errors().print(table)
    if len(missing) > _SHOWN_PROBLEMS:
        errors().print(f"… and {len(missing) - _SHOWN_PROBLEMS} more")


def _count(missing: list[Problem]) -> str:
    return "1 problem" if len(missing) == 1 else f"{len(missing)} problems"


def _say_how_to_go_on(cluster: Cluster, complete: bool) -> None:
    if not complete:
        errors().print(f"it stays for inspection; kmn down {cluster.name} takes it down")
        return
    console().print(f"  export KUBECONFIG={cluster.kubeconfig}")
    console().print(f"  kmn cli --name {cluster.name}; kmn down {cluster.name}")
