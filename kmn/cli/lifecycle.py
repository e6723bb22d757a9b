"""``kmn down``, ``clean`` and ``list``."""

from __future__ import annotations

import time

from kmn import front
from kmn.cli.terminal import console
from kmn.errors import NotRunning, UserError

__all__ = ["clean", "down", "list_clusters"]


def down(name: str | None, *, everything: bool) -> None:
    """Take one cluster down, or all. What a crashed run left under the name goes, too."""
    front.require_root("kmn down")
    if everything:
        names = [state.name for state in front.running()]
        if not names:
            console().print("no cluster is running")
    elif name is not None:
        names = [name]
    else:
        names = [_only_one()]
    for each in names:
        begin = time.monotonic()
        if not front.stop(each):
            raise NotRunning(f"cluster {each}: not running, and it left nothing behind", _running_hint())
        console().print(f"cluster {each} is down ({time.monotonic() - begin:.1f} s)")


def clean(name: str | None) -> None:
    """Remove what crashed runs left."""
    cleaned = front.clean(name)
    for each in cleaned:
        console().print(f"removed what cluster {each} had left")
    if not cleaned:
        console().print("nothing to clean")


def list_clusters(output: str) -> None:
    """Running clusters, and names under which a crashed run left something."""
    front.require_root("kmn list")
    found = [
        {"name": s.name, "state": "running", "pid": s.pid, "started": int(s.started), "file": s.file,
         "detached": s.detached}
        for s in front.running()
    ]  # fmt: skip
    found += [{"name": name, "state": "crashed"} for name in front.leftovers()]
    if output in ("json", "yaml"):
        from kmn.cli.output import dump

        dump(found, output)
    elif output == "name":
        for cluster in found:
            print(cluster["name"])
    elif output == "table":
        _print_table(found)
    else:
        raise UserError(f"-o {output}: not known", "table, json, yaml or name")


def _print_table(found: list[dict[str, object]]) -> None:
    from rich.table import Table

    if not found:
        console().print("no cluster is running")
        return
    table = Table("NAME", "STATE", "PID", "UP FOR", "FILE", box=None, pad_edge=False, header_style="bold")
    for cluster in found:
        started = cluster.get("started")
        up_for = f"{int(time.time()) - started} s" if isinstance(started, int) else "-"
        state = "crashed: kmn clean removes it" if cluster["state"] == "crashed" else str(cluster["state"])
        table.add_row(
            str(cluster["name"]), state, str(cluster.get("pid", "-")), up_for, str(cluster.get("file") or "-")
        )
    console().print(table)


def _only_one() -> str:
    """The running cluster; without one, the only one that left something."""
    running = [state.name for state in front.running()]
    names = running or front.leftovers()
    if len(names) == 1:
        return names[0]
    if not names:
        raise NotRunning("no cluster is running", "kmn list shows what there is")
    raise UserError(f"which one? {', '.join(names)}", "kmn down NAME, or kmn down --all")


def _running_hint() -> str:
    names = [state.name for state in front.running()]
    return f"running: {', '.join(names)}" if names else "no cluster is running"
