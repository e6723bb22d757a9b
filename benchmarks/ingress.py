"""Requests through the ingress controller's Envoy beside nginx as a plain reverse proxy; and a thousand Ingresses.

Both proxies have a pod on the same node, a load balancer before it, and the same backend (nginx, which answers from
memory) behind; the client is a host outside. So has an Envoy that is configured for nothing but handing requests on:
what the ingress is slower than that is kmn's own share (its access log among it, which nginx writes, too). They are
measured in turn. Beside the rate stands how much processor time a proxy takes for a request, which says more than the
clock where client, proxy, backend and switches share processors.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks import http, ingressscale, workload
from benchmarks.ingressscale import Asker, address_of, envoy_of, until
from benchmarks.peers.reverseproxy import bare_envoy, proxying
from benchmarks.report import Row, show
from benchmarks.rounds import in_turn, paired_ratio
from kmn import Cluster
from kmn.k8s.objects import Object
from kmn.k8s.resources import INGRESSES, SERVICES

__all__ = ["BARE", "CONNECTIONS", "INGRESS", "NGINX", "Measured", "main", "rows"]

CONNECTIONS = (16, 64)
_PORT = 80
_HOST = "shop.example"
INGRESS, NGINX, BARE = "kmn's Envoy", "nginx", "Envoy with nothing else"


def main(*, quick: bool = False, json_file: Path | None = None) -> None:
    http.require()
    seconds, rounds = (1, 1) if quick else (3, 7)
    proxies = _beside_nginx(rounds, seconds)
    show(f"Requests through a proxy, median of {rounds} x {seconds} s", proxies, json_file=json_file)
    few, many, changes, kills = (10, 100, 10, 1) if quick else (10, 1000, 100, 5)
    scale = ingressscale.measure(few, many, changes, kills)
    show(f"{many:,} Ingresses, hosts and Services", scale, json_file=json_file)


class Measured(NamedTuple):
    """One round of one proxy."""

    load: http.Load
    busy: float  # seconds of the proxy's processor time for a request


def _beside_nginx(rounds: int, seconds: int) -> list[Row]:
    name = f"ing{os.getpid()}"
    with Cluster(workload.cluster(name, 1, {"hosts": [{"name": "e1"}]})) as cluster, ExitStack() as stack:
        cluster.apply(workload.place("backend", "n1"), workload.service("backend", "backend", _PORT))
        cluster.apply(workload.ingress("shop", _HOST, "backend"))
        for pod in ("nginx", "bare"):
            cluster.apply(workload.place(pod, "n1"), _balanced(pod))
        cluster.wait_ready()
        backend = cluster.pod("backend")
        stack.enter_context(http.serving(backend.netns, [_PORT]))
        nginx = stack.enter_context(proxying(cluster.pod("nginx").netns, _PORT, f"{backend.ip}:{_PORT}"))
        bare = stack.enter_context(bare_envoy(cluster.pod("bare").netns, _PORT, (backend.ip, _PORT)))
        ways = {
            INGRESS: (address_of(cluster, INGRESSES, "shop"), envoy_of(name)),
            NGINX: (address_of(cluster, SERVICES, "nginx"), nginx),
            BARE: (address_of(cluster, SERVICES, "bare"), bare),
        }
        client = cluster.host("e1").netns
        for address, _ in ways.values():
            asker = Asker(client, address)
            until(lambda asker=asker: asker.ask(_HOST))
        measures = {
            (way, connections): partial(_measure, client, *ways[way], seconds, connections)
            for connections in CONNECTIONS
            for way in ways
        }
        return rows(in_turn(measures, rounds))


def _measure(client: str, address: str, proxy: int, seconds: int, connections: int) -> Measured:
    before = _processor_time(proxy)
    load = http.load(client, address, _PORT, seconds, close=False, host=_HOST, connections=connections)
    return Measured(load, (_processor_time(proxy) - before) / max(1, load.requests))


def rows(samples: Mapping[tuple[str, int], list[Measured]]) -> list[Row]:
    """The ingress, and how it stands to the others."""
    figures: tuple[tuple[str, str, float, Callable[[Measured], float], str], ...] = (
        ("requests", "/s", 1, lambda m: m.load.rate, "≥ 0.9"),
        ("p50", "ms", 1e3, lambda m: m.load.p50, ""),
        ("p99", "ms", 1e3, lambda m: m.load.p99, ""),
        ("processor time of the proxy for a request", "µs", 1e6, lambda m: m.busy, ""),
    )
    found = []
    for connections in CONNECTIONS:
        for what, unit, scale, figure, wanted in figures:
            title = f"{connections} connections: {what}"
            ours = [figure(m) for m in samples[INGRESS, connections]]
            found.append(Row(f"{title}, {INGRESS}", statistics.median(ours) * scale, unit))
            for way in (NGINX, BARE):
                theirs = [figure(m) for m in samples[way, connections]]
                ratio = paired_ratio(ours, theirs)
                value = statistics.median(theirs) * scale
                found.append(Row(f"{title}, {way}", value, unit, "kmn's to it", ratio, wanted))
    failed = sum(m.load.errors for of_way in samples.values() for m in of_way)
    return [*found, Row("failed, all together", failed, "", wanted="0")]


def _processor_time(pid: int) -> float:
    """Seconds that a process has used, in user mode and the kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _balanced(app: str) -> Object:
    """As the controller's Service."""
    service = workload.service(app, app, _PORT)
    service["spec"] |= {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}
    return service
