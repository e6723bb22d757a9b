"""Services at scale: programming them all, one endpoint's change to the data plane, connections through a VIP.

The change is timed from the API request to the bridges' confirmation of it on every node (``DataPlane`` observed).
Short HTTP requests through VIPs, a connection each, are measured beside the same straight to a server: what other
numbers of Services are compared by is how the VIP's figure stands to the straight one, so that the machine's mood does
not count. Each round has a client of its own, whose ports nobody remembers.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import http, workload
from benchmarks.openflow import messages_of, modifications_per_second
from benchmarks.report import Row, show
from benchmarks.rounds import paired_ratio, percentile
from kmn import Cluster
from kmn.k8s.dataplane import DATAPLANE_NAME
from kmn.k8s.resources import DATAPLANES, ENDPOINTSLICES, SERVICES

__all__ = ["Reached", "main"]

_NODES = 10
_ENDPOINTS = 5
_CHANGES = 60
_CONNECTS = 200
_PORT, _STRAIGHT_PORT = 80, 81


def main(*, quick: bool = False, json_file: Path | None = None) -> None:
    http.require()
    rows: list[Row] = []
    nodes, rounds = (3, 1) if quick else (_NODES, 5)
    sizes = (10, 100) if quick else (10, 100, 1_000, 10_000)
    with Cluster(workload.cluster("bench", nodes)) as cluster, ExitStack() as stack:
        names = [f"server-{n}" for n in range(_ENDPOINTS)]
        clients = [f"client-{n}" for n in range(rounds * len(sizes))]
        cluster.apply(*[workload.place(name, "n1") for name in (*clients, *names)])
        cluster.wait_ready()
        servers = [cluster.pod(name).ip for name in names]
        for name in names:
            stack.enter_context(http.serving(cluster.pod(name).netns, (_PORT, _STRAIGHT_PORT)))
        for name in clients:
            http.client_ports(cluster.pod(name).netns)
        made, first = 0, Reached()
        for number, total in enumerate(sizes):
            start = time.perf_counter()
            for index in range(made, total):
                cluster.client.create(workload.selectorless_service(f"s{index}"))
                cluster.client.create(workload.slice_of(f"s{index}", servers))
            _in_force(cluster)
            seconds = time.perf_counter() - start
            rows.append(Row(f"{total:,} Services: created and in force", (total - made) / seconds, "Services/s"))
            made = total
            p50, p99 = _changes(cluster, servers)
            rows.append(Row(f"{total:,} Services: one endpoint changed, p50", p50 * 1e3, "ms"))
            rows.append(Row(f"{total:,} Services: one endpoint changed, p99", p99 * 1e3, "ms", wanted="< 50"))
            reached = Reached()
            for index, name in enumerate(clients[number * rounds : (number + 1) * rounds]):
                vip = _vip(cluster, index * total // rounds)
                reached.measure(cluster.pod(name).netns, vip, servers[0])
            first = first if number else reached
            rows += reached.rows(f"{total:,} Services", first)
        messages = messages_of(cluster.client)
    rate = modifications_per_second(messages)
    rows.append(Row(f"{len(messages):,} flows and groups in one bundle, one switch", rate, "/s", wanted="≥ 100,000"))
    show(f"Services on {nodes} nodes, {_ENDPOINTS} endpoints each", rows, json_file=json_file)


@dataclass(slots=True)
class Reached:
    """How VIPs are reached with one number of Services, round by round."""

    connect: list[float] = field(default_factory=list)  # seconds
    straight: list[http.Load] = field(default_factory=list)
    vip: list[http.Load] = field(default_factory=list)

    def measure(self, client: str, vip: str, server: str) -> None:
        self.connect.append(_connect(client, vip))
        self.straight.append(http.load(client, server, _STRAIGHT_PORT, 1, close=True))
        self.vip.append(http.load(client, vip, _PORT, 1, close=True))

    def rows(self, what: str, first: Reached) -> list[Row]:
        """Figures, and how they stand to those of the first number of Services."""
        connect = statistics.median(self.connect)
        ratio = connect / statistics.median(first.connect)
        made = [Row(f"{what}: connect through a VIP, median", connect * 1e6, "µs", "10 Services", ratio, "≤ 1.2")]
        for name, unit, scale, figure, wanted in (
            ("connections through a VIP", "/s", 1, "rate", "≥ 0.83"),
            ("request through a VIP, p50", "ms", 1e3, "p50", "≤ 1.2"),
            ("request through a VIP, p99", "ms", 1e3, "p99", ""),
        ):
            median = statistics.median(self._figures(figure)[0]) * scale
            ratio = paired_ratio(*self._figures(figure)) / paired_ratio(*first._figures(figure))
            made.append(Row(f"{what}: {name}", median, unit, "10 Services, each beside straight", ratio, wanted))
        straight = statistics.median(self._figures("rate")[1])
        made.append(Row(f"{what}: connections straight to a pod", straight, "/s"))
        return made

    def _figures(self, name: str) -> tuple[Sequence[float], Sequence[float]]:
        """Through the VIP, and straight."""
        return [getattr(load, name) for load in self.vip], [getattr(load, name) for load in self.straight]


def _vip(cluster: Cluster, index: int) -> str:
    address: str = cluster.client.get(SERVICES, "default", f"s{index}")["spec"]["clusterIP"]
    return address


def _in_force(cluster: Cluster) -> None:
    """Wait until the bridges confirm every EndpointSlice and Service that the API lists now."""
    wanted = {
        r.plural: int(cluster.client.list(r, "default", field_selector="metadata.name=s0").resource_version)
        for r in (SERVICES, ENDPOINTSLICES)
    }
    while True:
        observed = cluster.client.get(DATAPLANES, "", DATAPLANE_NAME)["status"]["observed"]
        if all(int(observed[plural]) >= version for plural, version in wanted.items()):
            return
        time.sleep(0.002)


def _changes(cluster: Cluster, servers: list[str]) -> tuple[float, float]:
    """p50 and p99, in seconds, of one endpoint leaving and coming back, from request to confirmation."""
    samples = []
    for index in range(_CHANGES):
        slice_ = workload.slice_of("s0", servers[: _ENDPOINTS - index % 2])
        start = time.perf_counter()
        version = int(cluster.client.update(slice_)["metadata"]["resourceVersion"])
        while int(cluster.client.get(DATAPLANES, "", DATAPLANE_NAME)["status"]["observed"]["endpointslices"]) < version:
            pass
        samples.append(time.perf_counter() - start)
    return statistics.median(samples), percentile(samples, 99)


_PROBE = """
import socket, statistics, sys, time
samples = []
for _ in range(int(sys.argv[2])):
    with socket.socket() as s:
        start = time.perf_counter()
        s.connect((sys.argv[1], 80))
        samples.append(time.perf_counter() - start)
print(statistics.median(samples))
"""


def _connect(netns: str, address: str) -> float:
    """Median seconds of a TCP handshake, each the first packet of a new connection."""
    argv = ["ip", "netns", "exec", netns, "python3", "-c", _PROBE, address, str(_CONNECTS)]
    return float(subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout)
