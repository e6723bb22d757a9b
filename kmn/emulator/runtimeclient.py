"""The kubelet's end of the runtime's socket: batches what is said in one turn of the loop, and connects again."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kmn.emulator.runtime.protocol import MAX_LINE, Hello, decode, encode

__all__ = ["RuntimeClient"]

log = logging.getLogger(__name__)

_RETRY = 0.02  # seconds between attempts to connect: a runtime that died is back in a moment


class RuntimeClient:
    """A connection to the runtime as long as it is wanted.

    While there is none, what is sent is dropped: ``connected`` is called with each new connection, and has to say all
    over again what shall run. ``lost`` is called when a connection ends.
    """

    def __init__(
        self,
        path: Path,
        *,
        connected: Callable[[Hello], None],
        lost: Callable[[], None],
        event: Callable[[str, list[Any]], None],
    ) -> None:
        self._path = path
        self._on_connected = connected
        self._on_lost = lost
        self._on_event = event
        self._writer: asyncio.StreamWriter | None = None
        self._outbox: list[tuple[str, list[Any]]] = []
        self._syncs: dict[int, asyncio.Future[None]] = {}
        self._numbers = itertools.count(1)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="runtime-client")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def send(self, op: str, item: Any) -> None:
        """Say one thing; it goes out, in order, at the end of the loop's turn."""
        if self._writer is None:
            return
        if not self._outbox:
            asyncio.get_running_loop().call_soon(self._flush)
        if self._outbox and self._outbox[-1][0] == op:
            self._outbox[-1][1].append(item)
        else:
            self._outbox.append((op, [item]))

    async def sync(self) -> None:
        """Wait until all that was said is done. A runtime that is gone has nothing left to do."""
        if self._writer is None:
            return
        number = next(self._numbers)
        done = self._syncs[number] = asyncio.get_running_loop().create_future()
        self.send("sync", number)
        await done

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, []
        if self._writer is not None:
            for op, items in outbox:
                self._writer.write(encode("op", op, items))

    async def _run(self) -> None:
        while True:
            try:
                reader, self._writer = await asyncio.open_unix_connection(self._path, limit=MAX_LINE)
            except OSError:
                await asyncio.sleep(_RETRY)
                continue
            try:
                await self._read(reader)
            except ConnectionError as error:
                log.warning("container runtime: %s", error)
            finally:
                self._disconnect()
            self._on_lost()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            message = decode(line)
            items = message["items"]
            match message["event"]:
                case "hello":
                    self._on_connected(Hello(**items[0]))
                case "sync":
                    for number in items:
                        self._done(number)
                case event:
                    try:
                        self._on_event(event, items)
                    except Exception:  # one pod's trouble must not cut the others off
                        log.exception("event %r of the container runtime: %s", event, items[:3])

    def _done(self, number: int) -> None:
        future = self._syncs.pop(number, None)
        if future is not None and not future.done():
            future.set_result(None)

    def _disconnect(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._outbox.clear()
        for number in tuple(self._syncs):
            self._done(number)
