"""Making switches forget what they derived from flows that have changed.

Open vSwitch goes through its megaflows some milliseconds after a change: until then packets go the old way, although
the change is confirmed. And it keeps a megaflow as long as it is used, and gives it new actions where its flows have
changed. In the userspace datapath (3.1; ``flow_put_on_pmd`` in lib/dpif-netdev.c) it looks for the megaflow to change
by a packet that it was made for, and may find another one, with another mask, that the packet matches, too: the first
then keeps its old actions for good. So after a change all megaflows go, before it counts as in force; the next packet
of each makes it anew.

The controller asks through ``ovs-vswitchd``'s control socket (``ovs-appctl revalidator/purge``), all switches side by
side: one that does not answer keeps no other waiting.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from kmn.ovstools import control_socket

__all__ = ["Purger"]

LOG = logging.getLogger(__name__)

_TIMEOUT = 10.0  # seconds; it takes a millisecond
_QUESTION = json.dumps({"id": 0, "method": "revalidator/purge", "params": []}).encode()

Done = Callable[[], None]


class Purger:
    """Purges megaflows in a thread of its own. ``run_dir`` is the run directory of a bridge's ``ovs-vswitchd``."""

    def __init__(self, run_dir: Callable[[str], Path]) -> None:
        self._run_dir = run_dir
        self._loop = asyncio.new_event_loop()
        self._connections: dict[str, _Connection] = {}
        self._connecting: dict[str, tuple[asyncio.Task[None], list[Done]]] = {}
        self._thread = threading.Thread(target=self._run, name="megaflows", daemon=True)
        self._thread.start()

    def purge(self, bridge: str, done: Done) -> None:
        """Purge a bridge's megaflows, then call ``done`` (from the thread). A switch that is gone has none."""
        self._loop.call_soon_threadsafe(self._begin, bridge, done)

    def close(self) -> None:
        """End the thread; what was asked for is not waited for."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        self._loop.run_forever()
        for connection in self._connections.values():
            connection.close()
        self._loop.run_until_complete(asyncio.sleep(0))  # they close in the loop's next round
        self._loop.close()

    def _begin(self, bridge: str, done: Done) -> None:
        connection = self._connections.get(bridge)
        if connection is not None and connection.open:
            connection.ask(done)
        elif bridge in self._connecting:
            self._connecting[bridge][1].append(done)
        else:
            self._connecting[bridge] = (self._loop.create_task(self._connect(bridge)), [done])

    async def _connect(self, bridge: str) -> None:
        run, connection = self._run_dir(bridge), None
        try:
            path = control_socket(run)
            _, connection = await self._loop.create_unix_connection(lambda: _Connection(bridge), path)
            self._connections[bridge] = connection
        except (OSError, ValueError) as error:
            LOG.warning("%s: revalidator/purge: %s", bridge, error)
        _, waiting = self._connecting.pop(bridge)
        for done in waiting:
            if connection is not None:
                connection.ask(done)
            else:
                done()


class _Connection(asyncio.Protocol):
    """To one switch, for as long as it runs. Answers come in the order of the questions."""

    def __init__(self, bridge: str) -> None:
        self.open = True
        self._bridge = bridge
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[tuple[Done, asyncio.TimerHandle]] = deque()
        self._received = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def ask(self, done: Done) -> None:
        assert self._transport is not None
        timer = asyncio.get_running_loop().call_later(_TIMEOUT, self._give_up)
        self._waiting.append((done, timer))
        self._transport.write(_QUESTION)

    def data_received(self, data: bytes) -> None:
        self._received += data.decode()
        while self._waiting and self._received:
            try:
                answer, end = json.JSONDecoder().raw_decode(self._received)
            except ValueError:  # not all of it yet
                return
            self._received = self._received[end:].lstrip()
            if answer.get("error"):
                LOG.error("%s: revalidator/purge: %s", self._bridge, answer["error"])
            self._answered()

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        if self._waiting:
            LOG.warning("%s: revalidator/purge: the switch went away", self._bridge)
        while self._waiting:
            self._answered()

    def _answered(self) -> None:
        done, timer = self._waiting.popleft()
        timer.cancel()
        done()

    def _give_up(self) -> None:
        LOG.error("%s: revalidator/purge: no answer for %d seconds", self._bridge, _TIMEOUT)
        self.close()
