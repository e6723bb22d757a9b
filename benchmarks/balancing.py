"""How even schedulers keep the connections that are open, where some last long and others do not.

The same connections come to four endpoints with each scheduler, and in a computation to IPVS' rule itself. The *spread*
is how many more the fullest endpoint has than the emptiest, looked at whenever a connection has been made.
"""

from __future__ import annotations

import heapq
import itertools
import os
import random
import select
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import workload
from benchmarks.report import Row, show
from kmn import Cluster
from kmn.dns.sockets import in_netns
from kmn.k8s.resources import SERVICES

__all__ = ["Arrival", "ideal", "main"]

_PORT = 80
_ENDPOINTS = 4
_LONG = 10.0  # seconds that long connections last
_KUBE_PROXY: dict[str, dict[str, Any]] = {
    "random": {"mode": "nftables"},
    "rr": {"mode": "ipvs", "ipvs": {"scheduler": "rr"}},
    "lc": {"mode": "ipvs", "ipvs": {"scheduler": "lc"}},
}


class Arrival(NamedTuple):
    """A connection: when it comes, and how long it lasts, in seconds."""

    at: float
    lasts: float


def main(*, quick: bool = False, json_file: Path | None = None) -> None:
    seconds = 6.0 if quick else 40.0
    rows = []
    patterns: dict[str, list[Arrival]] = {
        "every fourth is long, 40/s": list(_fourth(seconds, 40)),
        "a fourth is long, by chance, 40/s": list(_mixed(seconds, 40, 0.25, 0.2)),
        "a twentieth is long, by chance, 400/s": list(_mixed(seconds, 400, 0.05, 0.05)),
    }
    measured = {scheduler: _measure(scheduler, list(patterns.values())) for scheduler in _KUBE_PROXY}
    for index, (pattern, arrivals) in enumerate(patterns.items()):
        best = statistics.mean(_settled(ideal(arrivals, _ENDPOINTS)))
        rows.append(Row(f"{pattern}: IPVS' rule itself, computed", best, "more, mean"))
        for scheduler, spreads in measured.items():
            settled = _settled(spreads[index])
            rows.append(Row(f"{pattern}: {scheduler}", statistics.mean(settled), "more, mean"))
            rows.append(Row(f"{pattern}: {scheduler}", max(settled), "more, at most"))
    title = f"Open connections: the fullest of {_ENDPOINTS} endpoints beside the emptiest"
    show(title, rows, json_file=json_file)


def _fourth(seconds: float, rate: int) -> Iterator[Arrival]:
    for number in range(int(seconds * rate)):
        yield Arrival(number / rate, 0.1 if number % _ENDPOINTS else _LONG)


def _mixed(seconds: float, rate: int, long: float, short: float) -> Iterator[Arrival]:
    """Poisson arrivals, lasting ``short`` seconds on average, or long ones with the chance ``long``."""
    chance, at = random.Random(1), 0.0
    while (at := at + chance.expovariate(rate)) < seconds:
        yield Arrival(at, chance.expovariate(1 / (_LONG if chance.random() < long else short)))


def _settled(spreads: Sequence[int]) -> Sequence[int]:
    """Without the first half, in which connections only gather."""
    return spreads[len(spreads) // 2 :]


def ideal(arrivals: Sequence[Arrival], endpoints: int) -> list[int]:
    """The spread after each connection, if each goes to the endpoint that has the fewest, the first of them."""
    counts = [0] * endpoints
    ends: list[tuple[float, int]] = []
    spreads = []
    for at, lasts in arrivals:
        while ends and ends[0][0] <= at:
            counts[heapq.heappop(ends)[1]] -= 1
        least = counts.index(min(counts))
        counts[least] += 1
        heapq.heappush(ends, (at + lasts, least))
        spreads.append(max(counts) - min(counts))
    return spreads


def _measure(scheduler: str, patterns: Sequence[Sequence[Arrival]]) -> list[list[int]]:
    """The spreads of each pattern, on a cluster of one node."""
    spec = workload.cluster(f"even{os.getpid()}", 1)
    spec["spec"]["kubeProxy"] = _KUBE_PROXY[scheduler]
    names = [f"server-{n}" for n in range(_ENDPOINTS)]
    clients = [f"client-{n}" for n in range(len(patterns))]
    with Cluster(spec) as cluster:
        cluster.apply(*[workload.place(pod, "n1") for pod in (*clients, *names)])
        cluster.wait_ready()
        cluster.apply(workload.selectorless_service("even", _PORT))
        cluster.apply(workload.slice_of("even", [cluster.pod(pod).ip for pod in names], _PORT))
        cluster.wait_ready()
        address: str = cluster.client.get(SERVICES, "default", "even")["spec"]["clusterIP"]
        with _serving([cluster.pod(pod).netns for pod in names]):
            return [
                _come(lambda pod=pod: in_netns(cluster.pod(pod).netns, socket.socket), address, arrivals)
                for pod, arrivals in zip(clients, patterns, strict=True)
            ]


def _come(make: Callable[[], socket.socket], address: str, arrivals: Sequence[Arrival]) -> list[int]:
    """Make connections, and end them, at their times; the spread after each."""
    counts = [0] * _ENDPOINTS
    order = itertools.count()
    ends: list[tuple[float, int, int, socket.socket]] = []
    spreads = []
    began = time.monotonic()

    def end_until(when: float) -> None:
        while ends and ends[0][0] <= when:
            at, _, server, connection = heapq.heappop(ends)
            time.sleep(max(0.0, began + at - time.monotonic()))
            connection.close()
            counts[server] -= 1

    for at, lasts in arrivals:
        end_until(at)
        time.sleep(max(0.0, began + at - time.monotonic()))
        connection = make()
        connection.connect((address, _PORT))
        server = connection.recv(1)[0]
        counts[server] += 1
        heapq.heappush(ends, (at + lasts, next(order), server, connection))
        spreads.append(max(counts) - min(counts))
    for _, _, _, connection in ends:
        connection.close()
    return spreads


@contextmanager
def _serving(namespaces: Sequence[str]) -> Iterator[None]:
    """A server in each, that says which one it is, and keeps connections until the client ends them."""
    listeners = [in_netns(each, lambda: socket.create_server(("", _PORT), backlog=1024)) for each in namespaces]
    stop, stopped = socket.socketpair()

    def serve() -> None:
        names = {listener: bytes([number]) for number, listener in enumerate(listeners)}
        poll = select.epoll()
        sockets = {each.fileno(): each for each in (*listeners, stopped)}
        for number in sockets:
            poll.register(number, select.EPOLLIN)
        while True:
            for number, _ in poll.poll():
                ready = sockets[number]
                if ready is stopped:
                    for each in sockets.values():
                        each.close()
                    poll.close()
                    return
                if ready in names:
                    connection = ready.accept()[0]
                    connection.send(names[ready])
                    sockets[connection.fileno()] = connection
                    poll.register(connection, select.EPOLLIN)
                else:
                    sockets.pop(number).close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        stop.close()
        thread.join()
