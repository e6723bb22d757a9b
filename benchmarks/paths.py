"""Every way to a pod, and out: short HTTP requests and bulk TCP, beside the direct way between the same ends.

The peer has the same ways with kube-proxy's nftables rules in the kernel. On ways that leave the cluster bulk data flow
from the pod to the host outside, whoever connected; elsewhere from client to server.

A way has a server port of its own, and rounds begin so far apart that the switches have forgotten the connections of
the round before: else a client's port that comes around meets what the translations remember of it. What that costs is
measured by itself, with a client that has few ports.
"""

from __future__ import annotations

import os
import statistics
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import http, workload
from benchmarks.iperf import tcp_gbps
from benchmarks.peers import kubeproxy
from benchmarks.report import Row, show
from benchmarks.rounds import in_turn, paired_ratio
from kmn import Cluster
from kmn.k8s.resources import SERVICES

__all__ = ["Way", "main", "rows"]

_BULK = 5201
_PORTS = {"direct": 8080, "ClusterIP": 8081, "NodePort": 8082, "LoadBalancer": 8083, "LoadBalancer, IP mode": 8084}
_OUT, _OUT_DIRECT = 8085, 8086
_REUSED = 8090  # for the client with few ports
_LISTEN = (*_PORTS.values(), _OUT, _OUT_DIRECT, _REUSED)
_FEW_PORTS = "20000 20999"
_DIED = "died; it is restarted"  # of cluster.log
_FORGOTTEN = 25  # seconds: 2 and up to 20 more by Open vSwitch; kernels take ports again at once


@dataclass(frozen=True, slots=True)
class Way:
    """How a client reaches a server; ``direct`` names the way that it is compared with."""

    client: str  # namespaces
    server: str
    address: str
    port: int  # of HTTP
    bulk: int  # of iperf3
    direct: str = ""
    download: bool = False  # bulk data from the server


# What is measured of a way: a title, and what of it is shown with its unit and what is wanted of its ratio.
_CLOSE, _KEEP, _BULK_TCP = "HTTP, a connection a request", "HTTP, connections kept", "Bulk TCP, one connection"
_Shown = tuple[str, str, Callable[[Any], float], str]
_HTTP: tuple[_Shown, ...] = (
    ("", "/s", lambda load: load.rate, "≥ 0.95"),
    (": p50", "ms", lambda load: load.p50 * 1e3, ""),
    (": p99", "ms", lambda load: load.p99 * 1e3, ""),
)
_SHOWN: Mapping[str, tuple[_Shown, ...]] = {
    _CLOSE: _HTTP,
    _KEEP: _HTTP,
    _BULK_TCP: (("", "Gbit/s", float, "≥ 0.95"),),
}


def main(*, quick: bool = False, json_file: Path | None = None) -> None:
    http.require()
    rounds, seconds = (1, 1) if quick else (5, 1)
    with ExitStack() as stack:
        ways, deaths = stack.enter_context(_kmn())
        note = ""
        try:
            ways |= stack.enter_context(_peer())
        except subprocess.CalledProcessError as error:
            note = f" (no peer: {error})"
        for netns in {way.server for way in ways.values()}:
            stack.enter_context(http.serving(netns, _LISTEN))
        for netns in {way.client for way in ways.values()}:
            http.client_ports(netns)
        # One kind after the other, so that ways that are compared are measured one right after the other.
        measures = {(kind, name): partial(_measure, kind, ways[name], seconds) for kind in _SHOWN for name in ways}
        samples = in_turn(measures, rounds, seconds=_FORGOTTEN)
        died = deaths()
        reused = [(name, _reuse(way)) for name, way in ways.items() if way.port in _REUSABLE]
        tables = rows(samples, {name: way.direct for name, way in ways.items()})
        tables[_CLOSE].append(Row("kmn: switches that died meanwhile", died, "", wanted="0"))
    for title, table in tables.items():
        show(f"{title}, median of {rounds} x {seconds} s{note}", table, json_file=json_file)
    few = [Row(name, load.rate, "/s") for name, load in reused]
    show(f"A connection a request from ports {_FEW_PORTS.replace(' ', ' to ')}", few, json_file=json_file)


def rows(samples: Mapping[tuple[str, str], Sequence[Any]], direct: Mapping[str, str]) -> dict[str, list[Row]]:
    """Tables by title, of results by kind and way. ``direct``: what each way is compared with, or an empty name."""
    tables: dict[str, list[Row]] = {}
    for kind, shown in _SHOWN.items():
        table = tables[kind] = []
        for what, unit, figure, wanted in shown:
            values = {name: [figure(each) for each in samples[kind, name]] for name in direct}
            for name, of_rounds in values.items():
                against = direct[name]
                ratio = paired_ratio(of_rounds, values[against]) if against else None
                wish = wanted if against and name.startswith("kmn") else ""
                table.append(Row(name + what, statistics.median(of_rounds), unit, against, ratio, wish))
    for kind in (_CLOSE, _KEEP):
        errors = {name: sum(load.errors for load in samples[kind, name]) for name in direct}
        tables[kind] += [Row(f"{name}: errors", count, "") for name, count in errors.items() if count]
    return tables


def _measure(kind: str, way: Way, seconds: int) -> http.Load | float:
    if kind == _BULK_TCP:
        return tcp_gbps(way.client, way.server, way.address, seconds, way.bulk, listen=_BULK, download=way.download)
    return http.load(way.client, way.address, way.port, seconds, close=kind == _CLOSE)


# --- the ways of kmn --------------------------------------------------------------------------------------------------


@contextmanager
def _kmn() -> Iterator[tuple[dict[str, Way], Callable[[], int]]]:
    """Two clusters: one as it is by default, and one without NAT gateway, for the direct way out. And how many of
    their switches have died so far: each time connections are lost, and what was measured meanwhile says nothing."""
    name, outside = f"paths{os.getpid()}", {"hosts": [{"name": "e1"}]}
    without = workload.cluster(f"{name}d", 1, {**outside, "nat": {"outgoing": False}})
    with Cluster(workload.cluster(name, 2, outside)) as cluster, Cluster(without) as direct:
        direct.apply(workload.place("client", "n1"))
        cluster.apply(*[workload.place(*each) for each in (("client", "n1"), ("near", "n1"), ("far", "n2"))])
        for pod in ("near", "far"):
            cluster.apply(_service(pod, pod, "ClusterIP"), _service(f"{pod}-node", pod, "NodePort"))
        cluster.apply(
            _service("balanced", "far", "LoadBalancer"), _service("balanced-ip", "far", "LoadBalancer, IP mode")
        )
        cluster.wait_ready()
        direct.wait_ready()
        client, e1 = cluster.pod("client"), cluster.host("e1")
        ways: dict[str, Way] = {}
        for where, pod, node in (("same node", "near", "n1"), ("across nodes", "far", "n2")):
            server, straight = cluster.pod(pod), f"kmn, {where}: direct"
            way = Way(client.netns, server.netns, server.ip, _PORTS["direct"], _BULK)
            ways[straight] = way
            vip = _get(cluster, pod)["clusterIP"]
            ways[f"kmn, {where}: ClusterIP"] = replace(way, address=vip, port=_PORTS["ClusterIP"], direct=straight)
            port, bulk = (each["nodePort"] for each in _get(cluster, f"{pod}-node")["ports"])
            address = cluster.node(node).ip
            ways[f"kmn, {where}: NodePort"] = replace(way, address=address, port=port, bulk=bulk, direct=straight)
        host, out = direct.host("e1"), "kmn, to outside: direct"
        ways[out] = Way(direct.pod("client").netns, host.netns, host.ip, _OUT_DIRECT, _BULK)
        ways["kmn, to outside: NAT gateway"] = Way(client.netns, e1.netns, e1.ip, _OUT, _BULK, out)
        far = cluster.pod("far").netns
        for service, kind in (("balanced", "LoadBalancer"), ("balanced-ip", "LoadBalancer, IP mode")):
            address = cluster.client.get(SERVICES, "default", service)["status"]["loadBalancer"]["ingress"][0]["ip"]
            ways[f"kmn, from outside: {kind}"] = Way(e1.netns, far, address, _PORTS[kind], _BULK, out, download=True)
        logs = [each.paths.log / "cluster.log" for each in (cluster, direct)]
        yield ways, lambda: sum(log.read_text().count(_DIED) for log in logs)


def _get(cluster: Cluster, service: str) -> dict[str, Any]:
    spec: dict[str, Any] = cluster.client.get(SERVICES, "default", service)["spec"]
    return spec


def _service(name: str, app: str, kind: str) -> dict[str, Any]:
    """Load balancers go to the node that has the pod, as in the direct way there is no other node between."""
    made = workload.service(name, app, _PORTS[kind])
    made["spec"]["ports"] = [
        {"name": "http", "port": _PORTS[kind]},
        {"name": "bulk", "port": _BULK},
        *([{"name": "reused", "port": _REUSED}] if kind == "ClusterIP" else []),
    ]
    made["spec"]["type"] = kind.partition(",")[0]
    if kind == "LoadBalancer":
        made["spec"]["externalTrafficPolicy"] = "Local"
    elif kind.startswith("LoadBalancer"):
        made["metadata"]["annotations"] = {"kmn.io/lb-target": "ip"}
    return made


# --- the same ways with kube-proxy's rules ----------------------------------------------------------------------------


@contextmanager
def _peer() -> Iterator[dict[str, Way]]:
    """Ways through the kernel. Raises CalledProcessError when it cannot have the rules."""
    ways: dict[str, Way] = {}
    services: list[kubeproxy.Service] = []
    netns = kubeproxy.netns
    for number, (where, pod) in enumerate((("same node", "near"), ("across nodes", "far"))):
        node, address = kubeproxy.PODS[pod]
        straight, vip, to = f"kernel, {where}: direct", f"10.97.0.{number + 1}", (address,)
        way = Way(netns("client"), netns(pod), address, _PORTS["direct"], _BULK)
        node_ports = {_PORTS["NodePort"]: 30080 + number, _BULK: 30180 + number}
        services += [
            kubeproxy.Service(f"{pod}-{port}", vip, port, to, node_ports.get(port, 0))
            for port in (_PORTS["ClusterIP"], _PORTS["NodePort"], _BULK, _REUSED)
        ]
        ways[straight] = way
        ways[f"kernel, {where}: ClusterIP"] = replace(way, address=vip, port=_PORTS["ClusterIP"], direct=straight)
        port, bulk = node_ports.values()
        ways[f"kernel, {where}: NodePort"] = replace(
            way, address=kubeproxy.NODES[node], port=port, bulk=bulk, direct=straight
        )
    out, balanced, far = "kernel, to outside: direct", "192.0.2.1", kubeproxy.PODS["far"][1]
    services += [
        kubeproxy.Service(f"balanced-{port}", "10.97.0.3", port, (far,), balancer=balanced, local=True)
        for port in (_PORTS["LoadBalancer"], _BULK)
    ]
    ways[out] = Way(netns("client"), netns("e1"), kubeproxy.DIRECT_HOST, _OUT_DIRECT, _BULK)
    ways["kernel, to outside: NAT gateway"] = replace(ways[out], address=kubeproxy.HOST, port=_OUT, direct=out)
    ways["kernel, from outside: LoadBalancer"] = Way(
        netns("e1"), netns("far"), balanced, _PORTS["LoadBalancer"], _BULK, out, download=True
    )
    with kubeproxy.network(services):
        yield ways


# --- ports that come around -------------------------------------------------------------------------------------------

_REUSABLE = (_PORTS["direct"], _PORTS["ClusterIP"])  # ways whose addresses have the port for it, too


def _reuse(way: Way) -> http.Load:
    """Connections from few ports, each used again and again."""
    http.client_ports(way.client, _FEW_PORTS)
    try:
        return http.load(way.client, way.address, _REUSED, 2, close=True)
    finally:
        http.client_ports(way.client)
