"""Queries per second of the DNS server: 10,000 Services, UDP through a namespace's loopback, one core for the server.

What the responder does alone, and what comes out of the socket. The client is a Python program on the other core: where
the server's share is below 100 %, the figure is the client's limit.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import dnslib
import uvloop

from benchmarks.report import Row, show
from kmn.dns.responder import Responder
from kmn.dns.server import PodServer
from kmn.dns.sockets import in_netns
from kmn.dns.zone import Zone
from kmn.emulator import netns
from kmn.emulator.netlink import Netlink, link_up
from kmn.k8s.objects import Key
from kmn.k8s.resources import ENDPOINTSLICES, SERVICES

SERVICE_COUNT = 10_000
ENDPOINTS = 5
UNDER_WAY = 64
SPACE = f"kmn.bench-dns-{os.getpid()}.pod.dns"


def fill(zone: Zone) -> list[bytes]:
    """Services with endpoints, and a question for each."""
    packets = []
    for n in range(SERVICE_COUNT):
        key = Key(f"ns-{n % 20}", f"svc-{n}")
        meta = {"name": key.name, "namespace": key.namespace}
        spec = {"clusterIP": f"10.96.{n // 250}.{n % 250}", "ports": [{"name": "http", "port": 80}]}
        zone.update(SERVICES, key, {"metadata": meta, "spec": spec})
        zone.update(ENDPOINTSLICES, key, slice_of(key, n, ENDPOINTS))
        packets.append(bytes(dnslib.DNSRecord.question(f"{key.name}.{key.namespace}.svc.cluster.local").pack()))
    return packets


def slice_of(key: Key, n: int, endpoints: int) -> dict[str, object]:
    addresses = [f"10.244.{n // 50 % 250}.{n % 50 * 5 + e}" for e in range(endpoints)]
    return {
        "metadata": {"labels": {"kubernetes.io/service-name": key.name}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 80}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
    }


def ask(packets: Sequence[bytes], seconds: float) -> float:
    """Replies a second over one socket with UNDER_WAY questions outstanding."""

    def connect() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(1)
        sock.connect(("127.0.0.1", 53))
        return sock

    sock = in_netns(SPACE, connect)
    for packet in packets[:UNDER_WAY]:
        sock.send(packet)
    got, began = 0, time.perf_counter()
    while True:
        sock.recv(4096)
        sock.send(packets[got % len(packets)])
        got += 1
        if not got % 1000 and time.perf_counter() - began > seconds:
            return got / (time.perf_counter() - began)


def client(packets: Sequence[bytes], seconds: float, result: multiprocessing.Queue[float], core: int) -> None:
    os.sched_setaffinity(0, {core})
    result.put(ask(packets, seconds))


async def over_sockets(responder: Responder, packets: Sequence[bytes], seconds: float) -> tuple[float, float]:
    """Replies a second, and the share of a core that the server used."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    server = PodServer(responder, SPACE, ["127.0.0.1"])
    await server.start()
    result: multiprocessing.Queue[float] = multiprocessing.Queue()
    child = multiprocessing.Process(target=client, args=(packets, seconds, result, max(cores)))
    cpu, began = time.process_time(), time.perf_counter()
    child.start()
    rate = await asyncio.get_running_loop().run_in_executor(None, result.get, True, seconds * 5 + 10)
    share = (time.process_time() - cpu) / (time.perf_counter() - began)
    child.join()
    await server.stop()
    os.sched_setaffinity(0, cores)
    return rate, share


def main(*, quick: bool = False, json_file: Path | None = None) -> None:
    seconds = 0.5 if quick else 3.0
    zone = Zone()
    began = time.perf_counter()
    packets = fill(zone)
    rows = [Row("Services indexed", len(packets) / (time.perf_counter() - began), "Services/s")]
    gc.collect()
    gc.freeze()  # as the process does
    responder = Responder(zone)
    for what in ("first question for a name", "packets computed anew", "packets known"):
        if what == "packets computed anew":
            zone.version += 1
        began = time.perf_counter()
        for packet in packets:
            responder.respond(packet)
        rows.append(Row(f"in process: {what}", len(packets) / (time.perf_counter() - began), "answers/s"))
    began = time.perf_counter()
    for n in range(1000):
        key = Key(f"ns-{n % 20}", f"svc-{n}")
        zone.update(ENDPOINTSLICES, key, slice_of(key, n, ENDPOINTS - 1))
    rows.append(Row("in process: one EndpointSlice changed", (time.perf_counter() - began) * 1000, "µs"))
    with netns.restored():
        netns.create(SPACE)
        with Netlink(SPACE) as netlink:
            netlink.apply([link_up("lo")])
    try:
        rate, share = uvloop.run(over_sockets(responder, packets, seconds))
        rows.append(Row(f"UDP, {UNDER_WAY} questions under way", rate, "answers/s", wanted="> 20,000 on one core"))
        rows.append(Row("UDP, the server's share of its core", 100 * share, "%"))
    finally:
        netns.delete(SPACE)
    show(f"DNS, {SERVICE_COUNT:,} Services, {ENDPOINTS} endpoints each", rows, json_file=json_file)


if __name__ == "__main__":
    main()
