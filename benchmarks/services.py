"""Services at scale: programming them all, one endpoint's change to the data plane, the first packet through a VIP.

The change is timed from the API request to the bridges' confirmation of it on every node (``DataPlane`` observed).
"""

from __future__ import annotations

import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks import workload
from benchmarks.openflow import modifications_per_second
from benchmarks.report import Row, show
from kmn import Cluster
from kmn.k8s.dataplane import DATAPLANE_NAME, NETNS
from kmn.k8s.objects import annotations
from kmn.k8s.resources import DATAPLANES, ENDPOINTSLICES, PODS, SERVICES

__all__ = ["main"]

_NODES = 10
_ENDPOINTS = 5
_CHANGES = 60
_CONNECTS = 200


def main(*, quick: bool = False, json_file: Path | None = None) -> None:
    rows: list[Row] = []
    with Cluster(workload.cluster("bench", 3 if quick else _NODES)) as cluster:
        cluster.apply(_pod("client"), *[_pod(f"server-{n}") for n in range(_ENDPOINTS)])
        cluster.wait_ready()
        client = annotations(cluster.client.get(PODS, "default", "client"))[NETNS]
        servers = [cluster.client.get(PODS, "default", f"server-{n}")["status"]["podIP"] for n in range(_ENDPOINTS)]
        made, first = 0, 0.0
        for total in (10, 100) if quick else (10, 1_000, 10_000):
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
            vip = cluster.client.get(SERVICES, "default", "s0")["spec"]["clusterIP"]
            connect = _connect(client, vip)
            first = first or connect
            rows.append(
                Row(
                    f"{total:,} Services: connect through a VIP, median",
                    connect * 1e6,
                    "µs",
                    "10 Services",
                    connect / first,
                    "≤ 1.2",
                )
            )
        count, rate = modifications_per_second(cluster.client)
        rows.append(Row(f"{count:,} flows and groups in one bundle, one switch", rate, "/s", wanted="≥ 100,000"))
    show(f"Services on {_NODES} nodes, {_ENDPOINTS} endpoints each", rows, json_file=json_file)


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
    return statistics.median(samples), statistics.quantiles(samples, n=100)[98]


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


def _pod(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"nodeName": "n1", "containers": [{"name": "web", "image": "web", "ports": [{"containerPort": 80}]}]},
    }
