"""How many connections each endpoint has, as the switches' connection tracking knows: counted now and then.

OpenFlow has no message that asks for connections. ``ovs-vswitchd`` tells them through its control socket
(``ovs-appctl dpctl/dump-conntrack``), one line each; its main thread writes them all before it goes on, and no packet
passes meanwhile (with the userspace datapath: some 2 µs each, 20 ms for 10,000). Hence :class:`Pace`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple, TypeAlias

from controller.openflow.match import Address
from controller.pipeline import SERVICE_BIT, ZONE
from controller.service_views import Endpoint
from kmn.ovstools import control_socket

__all__ = ["CONNECTION", "Census", "Entry", "Pace", "Tally", "tally"]

LOG = logging.getLogger(__name__)

_QUESTION = json.dumps({"id": 0, "method": "dpctl/dump-conntrack", "params": [f"zone={ZONE}"]}).encode()
_CHUNK = 1 << 16
_TIMEOUT = 5.0  # seconds; 100,000 connections take a quarter of one
_SILENCE = 30.0  # seconds for which a switch that did not answer is not asked


class Entry(NamedTuple):
    """Connections of one kind: whom they asked, and who answers. ``protocol`` is as in the API."""

    protocol: str
    address: Address
    port: int
    endpoint: Endpoint


# What the connections weigh, as IPVS reckons (``ip_vs_dest_conn_overhead``).
Tally: TypeAlias = Mapping[Entry, int]
CONNECTION, _OTHER = 256, 1  # one that is established, and one that is not (any more)

# Of one connection: protocol, whom it asked, who answers, its mark, and the state of a TCP connection. Of UDP all weigh
# the same, whatever that is. (SCTP is tracked by addresses only.)
_LINE = re.compile(
    r"(tcp|udp),orig=\(src=[^,]+,dst=([^,]+),sport=\d+,dport=(\d+)\),"
    r"reply=\(src=([^,]+),dst=[^,]+,sport=(\d+),dport=\d+\)"
    r"(?:,zone=\d+)?(?:,mark=(\d+))?(?:,labels=\w+)?(?:,protoinfo=\(state=(\w+)\))?"
)
_Line = tuple[str, str, str, str, str, str, str]


def tally(lines: Mapping[_Line, int]) -> Tally:
    """The weight of connections, from how often each kind of line is there."""
    found: Counter[Entry] = Counter()
    for (protocol, address, port, server, server_port, mark, state), count in lines.items():
        if int(mark or 0) & SERVICE_BIT:
            entry = Entry(
                protocol.upper(), ip_address(address), int(port), Endpoint(ip_address(server), int(server_port))
            )
            found[entry] += count * (CONNECTION if state in ("ESTABLISHED", "") else _OTHER)
    return found


class Pace:
    """When to count: often while connections come and go, seldom otherwise; and for a small part of the time only,
    however long it takes. Times are in seconds."""

    _OFTEN, _SELDOM = 0.1, 1.0
    # So many times as long as a count takes: the quickest of the last ones, as nothing else on the machine is its cost.
    _REST, _LAST = 50, 3

    def __init__(self) -> None:
        self._counting = False
        self._ended = 0.0
        self._took: deque[float] = deque(maxlen=self._LAST)
        self._pause = self._OFTEN

    @property
    def gap(self) -> float:
        """From one count to the next."""
        return max(self._pause, self._REST * min(self._took, default=0.0))

    @property
    def next(self) -> float | None:
        """When to count; None: it is being done."""
        return None if self._counting else self._ended + self.gap

    def began(self) -> None:
        self._counting = True

    def ended(self, now: float, took: float, *, changed: bool) -> None:
        """``changed``: connections came or went."""
        self._took.append(took)
        self._counting, self._ended = False, now
        self._pause = self._OFTEN if changed else min(self._SELDOM, 2 * self._pause)

    def hurry(self) -> None:
        """There is something new to count."""
        self._pause = self._OFTEN


class Census:
    """Counts in a thread of its own, all switches side by side. ``run_dir`` is that of a bridge's ``ovs-vswitchd``."""

    def __init__(self, run_dir: Callable[[str], Path]) -> None:
        self._run_dir = run_dir
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._silent: dict[str, float] = {}  # until when not to ask

    def count(
        self, bridges: Iterable[str], counted: Callable[[str, Tally], None], done: Callable[[float], None]
    ) -> None:
        """Tell the connections of each bridge as soon as they are known; at last how long it took.

        Both are called from the thread, which there is from the first time on. Switches that do not answer are left
        out.
        """
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="census", daemon=True)
            self._thread.start()
        asyncio.run_coroutine_threadsafe(self._count(list(bridges), counted, done), self._loop)

    def close(self) -> None:
        """End the thread; what was asked for is not waited for."""
        if self._loop is None or self._thread is None:
            return
        asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _count(
        self, bridges: Sequence[str], counted: Callable[[str, Tally], None], done: Callable[[float], None]
    ) -> None:
        began = ended = time.monotonic()

        async def one(bridge: str) -> None:
            nonlocal ended
            try:
                found = await asyncio.wait_for(self._ask(bridge), _TIMEOUT)
            except TimeoutError:
                LOG.error("%s: dpctl/dump-conntrack: no answer for %d seconds", bridge, _TIMEOUT)
                self._silent[bridge] = time.monotonic() + _SILENCE
            except (OSError, ValueError) as error:
                LOG.warning("%s: dpctl/dump-conntrack: %s", bridge, error)
            else:
                ended = time.monotonic()
                counted(bridge, found)

        try:
            await asyncio.gather(*[one(bridge) for bridge in bridges if self._silent.get(bridge, 0.0) <= began])
        except Exception:
            LOG.exception("connections are not counted")
        finally:
            done(ended - began)

    async def _ask(self, bridge: str) -> Tally:
        reader, writer = await asyncio.open_unix_connection(control_socket(self._run_dir(bridge)))
        try:
            writer.write(_QUESTION)
            lines: Counter[_Line] = Counter()
            rest = ""
            while not rest.endswith("}"):
                chunk = await reader.read(_CHUNK)
                if not chunk:
                    raise ValueError("the switch went away")
                # Line breaks are escaped in the answer, which is JSON; nothing else is that lines consist of.
                whole, _, rest = (rest + chunk.decode()).rpartition(r"\n")
                lines.update(_LINE.findall(whole))
            if not lines and '"error":null' not in rest:
                raise ValueError(rest)
            return tally(lines)
        finally:
            writer.close()


async def _cancel_all() -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
