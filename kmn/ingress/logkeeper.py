"""Reads a proxy's access log as it grows, hands the lines over, and keeps the file from filling the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from kmn.ingress.logfile import LogReader, older

__all__ = ["LogKeeper"]

_FULL = 16 << 20  # bytes, some 40,000 requests: then a new file is begun, and one before it is kept
_PAUSE = 0.1  # seconds between looks


class LogKeeper:
    """From :meth:`start` to :meth:`stop`. ``reopen`` makes the writer begin a new file; ``take`` gets each line
    once."""

    def __init__(
        self, path: Path, reopen: Callable[[], Awaitable[None]], take: Callable[[Sequence[bytes]], None]
    ) -> None:
        self._path = path
        self._reopen = reopen
        self._take = take
        self._reader = LogReader(path)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """What an earlier one has left is handed over, too."""
        before = LogReader(older(self._path))
        while lines := before.read():
            self._take(lines)
        before.close()
        self._task = asyncio.create_task(self._run(), name=f"log-{self._path}")

    async def stop(self) -> None:
        """Once nobody writes any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.look()
        self._reader.close()

    def look(self) -> None:
        """Take what is there now."""
        while lines := self._reader.read():
            self._take(lines)

    async def _run(self) -> None:
        while True:
            lines = self._reader.read()
            if lines:
                self._take(lines)
            if self._size() >= _FULL and not self._reader.behind:
                self._path.rename(older(self._path))
                await self._reopen()
            await asyncio.sleep(0 if lines else _PAUSE)  # many lines take some time: others' turn in between

    def _size(self) -> int:
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0
