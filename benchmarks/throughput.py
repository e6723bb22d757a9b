"""TCP throughput of one connection on every path of kmn, beside bare bridges and stock Mininet.

The paths are measured in turn, many short rounds. A ratio is the median of the ratios within the rounds: what a
neighbour on a shared machine does in the meantime then counts for both alike.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

from benchmarks import workload
from benchmarks.iperf import tcp_gbps
from benchmarks.peers import bridges, stock_mininet
from benchmarks.report import Row, show
from benchmarks.rounds import in_turn, paired_ratio
from kmn import Cluster
from kmn.k8s.dataplane import NETNS
from kmn.k8s.objects import annotations
from kmn.k8s.resources import PODS, SERVICES

__all__ = ["main"]

_PORT = 5201


def main(*, quick: bool = False, json_file: Path | None = None) -> None:
    seconds, rounds = (2, 1) if quick else (2, 11)
    with Cluster(workload.cluster("bench", 2)) as cluster:
        cluster.apply(*[workload.place(*each) for each in (("client", "n1"), ("near", "n1"), ("far", "n2"))])
        cluster.apply(_service("near"), _service("far"))
        cluster.wait_ready()
        pods = {name: cluster.client.get(PODS, "default", name) for name in ("client", "near", "far")}
        netns = {name: annotations(pod)[NETNS] for name, pod in pods.items()}
        vip = {name: cluster.client.get(SERVICES, "default", name)["spec"]["clusterIP"] for name in ("near", "far")}

        def to(server: str, address: str) -> Callable[[], float]:
            return lambda: tcp_gbps(netns["client"], netns[server], address, seconds, _PORT)

        paths: dict[str, Callable[[], float]] = {
            "kmn, same node": to("near", pods["near"]["status"]["podIP"]),
            "kmn, across nodes": to("far", pods["far"]["status"]["podIP"]),
            "kmn, ClusterIP, same node": to("near", vip["near"]),
            "kmn, ClusterIP, across nodes": to("far", vip["far"]),
            "bare Open vSwitch, one bridge": lambda: bridges.bare_same(seconds),
            "bare Open vSwitch, two bridges": lambda: bridges.bare_across(seconds),
            "Linux bridge": lambda: bridges.linux_bridge(seconds),
            "stock Mininet, userspace switch": lambda: stock_mininet.run("throughput", seconds)["gbps"],
        }
        samples = in_turn(paths, rounds)
    show(f"TCP throughput, one connection, median of {rounds} x {seconds} s", _rows(samples), json_file=json_file)


def _rows(samples: dict[str, list[float]]) -> list[Row]:
    """``samples``: Gbit/s of each path, by round."""

    def row(name: str, against: str = "", wanted: str = "", shown: str = "") -> Row:
        ratio = paired_ratio(samples[name], samples[against]) if against else None
        return Row(name, statistics.median(samples[name]), "Gbit/s", shown or against, ratio, wanted)

    compared = {
        "kmn, same node": ("bare Open vSwitch, one bridge", "≥ 0.9"),
        "kmn, across nodes": ("bare Open vSwitch, two bridges", "≥ 0.9"),
        "kmn, ClusterIP, same node": ("kmn, same node", "≥ 0.95"),
        "kmn, ClusterIP, across nodes": ("kmn, across nodes", "≥ 0.95"),
    }
    return [
        *(row(name, *compared.get(name, ())) for name in samples),
        row("kmn, same node", "stock Mininet, userspace switch", "≥ 5", "stock Mininet"),
        row("kmn, same node", "Linux bridge"),
    ]


def _service(app: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": app, "namespace": "default"},
        "spec": {"selector": {"app": app}, "ports": [{"port": _PORT}]},
    }
