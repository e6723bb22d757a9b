"""Bring-up and teardown: kmn, from command to all pods ready, beside stock Mininet and the bare floor."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import workload
from benchmarks.peers import stock_mininet
from benchmarks.peers.bare import BareNetwork
from benchmarks.report import Row, show

__all__ = ["main"]

_ROUNDS = 3  # of floor and kmn in turn; the medians are shown


def main(*, quick: bool = False, json_file: Path | None = None) -> None:
    rows: list[Row] = []
    for pods, nodes in ((100, 3), (100, 5)) if quick else ((100, 3), (1000, 50)):
        size = f"{pods} pods, {nodes} nodes"
        floors, runs = [], []
        for _ in range(1 if quick else _ROUNDS):
            floors.append(_bare(pods, nodes))
            runs.append(_kmn(pods, nodes))
        floor, ours = _median(floors), _median(runs)
        rows.append(Row(f"{size}: floor up", floor["up"], "s"))
        rows.append(Row(f"{size}: floor down", floor["down"], "s"))
        over = ours["up"] - floor["up"]
        ready = f"{size}: kmn up, all ready"
        wanted = "floor + 3 s" if pods == 100 else ""
        rows.append(Row(ready, ours["up"], "s", f"floor + {over:.2f} s", ours["up"] / floor["up"], wanted))
        rows.append(Row(f"{size}: kmn down", ours["down"], "s", "floor", ours["down"] / floor["down"]))
        total, least = ours["up"] + ours["down"], floor["up"] + floor["down"]
        rows.append(Row(f"{size}: kmn up + down", total, "s", "floor", total / least, "≤ 2" if pods > 100 else ""))
    stock = stock_mininet.run("bringup", pods, nodes)
    rows.append(Row(f"{size}: stock Mininet up", stock["up"], "s"))
    rows.append(Row(f"{size}: stock Mininet down", stock["down"], "s"))
    theirs = stock["up"] + stock["down"]
    rows.append(Row(f"{size}: stock Mininet up + down", theirs, "s", "kmn", theirs / total, "≥ 5"))
    show("Bring-up and teardown", rows, json_file=json_file)


def _median(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Of the round whose whole time is in the middle, its parts."""
    return sorted(rounds, key=lambda each: each["up"] + each["down"])[len(rounds) // 2]


def _bare(pods: int, nodes: int) -> dict[str, float]:
    network = BareNetwork(pods, nodes)
    start = time.perf_counter()
    try:
        network.up()
    finally:
        up = time.perf_counter()
        network.down()
    return {"up": up - start, "down": time.perf_counter() - up}


def _kmn(pods: int, nodes: int) -> dict[str, float]:
    """Both commands as a user gives them, processes and all."""
    with tempfile.TemporaryDirectory() as folder:
        file = _write(folder, "cluster.yaml", workload.cluster("bench", nodes))
        manifest = _write(folder, "web.yaml", workload.deployment("web", pods))
        start = time.perf_counter()
        _command("up", file, "-f", manifest, "--detach")
        up = time.perf_counter()
        _command("down", "bench")
        return {"up": up - start, "down": time.perf_counter() - up}


def _write(folder: str, name: str, obj: dict[str, Any]) -> str:
    path = Path(folder) / name
    path.write_text(json.dumps(obj))
    return str(path)


def _command(*args: str) -> None:
    done = subprocess.run([sys.executable, "-m", "kmn.cli.main", *args], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"kmn {' '.join(args)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
