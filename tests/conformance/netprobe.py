"""Who reaches whom: many connections at once, from pods' namespaces, each to be answered by the pod it is meant for.

Denied packets are dropped in silence, so nothing tells that no answer will come. All probes are sent together; when the
ones that should be answered are, the others get as long again as those took, and a little more.

No source port is used twice soon: it would be the connection of an earlier probe that goes on, which is allowed.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from kmn.emulator import netns

__all__ = ["Probe", "reached"]

_PATIENCE = 5.0  # seconds for answers that are expected: a lost SYN is sent again after 1 and 3
_GRACE = 0.1
_ports: dict[str, Iterator[int]] = defaultdict(lambda: itertools.cycle(range(10_000, 60_000)))


@dataclass(frozen=True, slots=True)
class Probe:
    """One question. ``answer`` is the name that must be in the answer."""

    name: str
    netns: str
    address: str
    port: int
    protocol: str
    answer: str


def reached(probes: Iterable[Probe], expected: Collection[str]) -> set[str]:
    """Names of the probes that were answered, where ``expected`` are those that should be."""
    return asyncio.run(_reached(list(probes), set(expected)))


async def _reached(probes: list[Probe], expected: set[str]) -> set[str]:
    loop = asyncio.get_running_loop()
    tasks = {probe.name: asyncio.create_task(_ask(probe)) for probe in probes}
    begin = loop.time()
    wanted = [task for name, task in tasks.items() if name in expected]
    if wanted:
        await asyncio.wait(wanted, timeout=_PATIENCE)
    others = [task for name, task in tasks.items() if name not in expected]
    if others:
        await asyncio.wait(others, timeout=loop.time() - begin + _GRACE)
    for task in tasks.values():
        task.cancel()
    results = await asyncio.gather(*tasks.values(), return_exceptions=True)
    return {name for name, result in zip(tasks, results, strict=True) if result is True}


async def _ask(probe: Probe) -> bool:
    loop = asyncio.get_running_loop()
    kind = socket.SOCK_STREAM if probe.protocol == "TCP" else socket.SOCK_DGRAM
    with netns.entered(probe.netns):
        sock = socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK)
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("0.0.0.0", next(_ports[probe.netns])))
            await loop.sock_connect(sock, (probe.address, probe.port))
            question = b"GET / HTTP/1.0\r\n\r\n" if probe.protocol == "TCP" else b"hostname"
            await loop.sock_sendall(sock, question)
            data = b""
            while probe.answer.encode() not in data:
                piece = await loop.sock_recv(sock, 65536)
                if not piece:
                    return False
                data += piece
        except OSError:
            return False
    return True
