"""Memory: what a node costs, and what each pod adds, in processes (PSS) and in the kernel.

PSS divides pages that several processes have (Open vSwitch's libraries, for one) among them, so that the sums are what
the machine really spends. RSS counts them with each process, as ``top`` does.

A node is its Open vSwitch, ports of pods included. Most of what a port takes there are the buffers that Open vSwitch
sets aside for segmentation offload (32 of 64 kB a port, of which each costs a page or two until large packets fill it).
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import workload
from benchmarks.report import Row, show
from kmn import Cluster
from kmn.naming import CLUSTER_VARIABLE

__all__ = ["Memory", "main", "processes"]

_SWITCH = ("ovs-vswitchd", "ovsdb-server")
_MODULES = {
    "kmn.daemon": "API server and control plane",
    "controller.main": "controller",
    "kmn.emulator.runtime": "containers",
    "kmn.dns": "DNS",
    "kmn.ingress": "ingress controllers",
}
_KERNEL = ("Slab", "Percpu", "KernelStack", "PageTables")


def main(*, quick: bool = False, json_file: Path | None = None) -> None:
    nodes, pods = (5, 100) if quick else (50, 1000)
    name = f"mem{os.getpid()}"
    with Cluster(workload.cluster(name, nodes)) as cluster:
        cluster.wait_ready(120)
        empty = Memory.of(name)
        cluster.apply(workload.deployment("web", pods), workload.service("web", "web"))
        cluster.wait_ready(300)
        full = Memory.of(name)
    show(f"Memory, {pods:,} pods on {nodes} nodes", _rows(empty, full, nodes, pods), json_file=json_file)


def _rows(empty: Memory, full: Memory, nodes: int, pods: int) -> list[Row]:
    each = f"node with {pods // nodes} pods"
    rows = [
        Row("node without pods", _switch(empty.pss, nodes), "MB"),
        Row(each, _switch(full.pss, nodes), "MB", wanted="≤ 25 MB"),
        *(Row(f"{each}: {program}", full.pss[program] / nodes / 1024, "MB") for program in _SWITCH),
        Row(f"{each}: in RSS", _switch(full.rss, nodes), "MB"),
    ]
    growth = {program: (full.pss[program] - empty.pss[program]) / pods for program in full.pss}
    ports = sum(growth.pop(program) for program in _SWITCH)
    rows.append(Row("pod: all processes but its node's switch", sum(growth.values()), "kB", wanted="≤ 150 kB"))
    rows += [Row(f"pod: {program}", value, "kB") for program, value in sorted(growth.items(), key=lambda g: -g[1])]
    rows.append(Row("pod: its port on the switch, counted with the node", ports, "kB"))
    grown = {what: (full.kernel[what] - empty.kernel[what]) / pods for what in _KERNEL}
    rows.append(Row("pod: the kernel's own", sum(grown.values()), "kB"))
    rows += [Row(f"pod: the kernel's {what}", value, "kB") for what, value in grown.items()]
    others = sum(value for program, value in empty.pss.items() if program not in _SWITCH)
    return [*rows, Row("cluster: what every one has", others / 1024, "MB")]


def _switch(memory: dict[str, int], nodes: int) -> float:
    """Megabytes of one node's Open vSwitch."""
    return sum(memory[program] for program in _SWITCH) / nodes / 1024


@dataclass(frozen=True, slots=True)
class Memory:
    """Kilobytes by program, and of the kernel."""

    pss: dict[str, int]
    rss: dict[str, int]
    kernel: dict[str, int]

    @classmethod
    def of(cls, cluster: str) -> Memory:
        pss: dict[str, int] = defaultdict(int)
        rss: dict[str, int] = defaultdict(int)
        for folder, program in processes(cluster):
            try:
                figures = _figures(folder / "smaps_rollup")
            except OSError:
                continue  # it has ended
            pss[program] += figures["Pss"]
            rss[program] += figures["Rss"]
        meminfo = _figures(Path("/proc/meminfo"))
        return cls(pss, rss, {what: meminfo.get(what, 0) for what in _KERNEL})


def processes(cluster: str) -> Iterator[tuple[Path, str]]:
    """The folders of a cluster's processes under ``/proc``, and what they run."""
    mark = f"{CLUSTER_VARIABLE}={cluster}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            ours = mark in (folder / "environ").read_bytes().split(b"\0")
            words = (folder / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue  # it has ended
        if ours:
            yield folder, _program(words)


def _program(words: list[str]) -> str:
    module = words[words.index("-m") + 1] if "-m" in words else ""
    return _MODULES.get(module) or Path(words[0]).name


def _figures(path: Path) -> dict[str, int]:
    """``Pss:  123 kB`` and the like."""
    lines = (line.split() for line in path.read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) == 3 and words[2] == "kB"}
