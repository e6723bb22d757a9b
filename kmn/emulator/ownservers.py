"""Servers of the emulator's own, beside those of pods: the container runtime runs them, and this keeps them running.

Who wants which is in ``edgehosts`` and ``healthchecks``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from kmn.emulator.runtime.protocol import Answer, Container

__all__ = ["OwnServers", "Server"]

log = logging.getLogger(__name__)

_RETRY = 0.5  # seconds: a port may be in use, a namespace not there yet


class Server(NamedTuple):
    """A container, and what its HTTP port answers if that is not what containers answer anyway."""

    container: Container
    answer: Answer | None = None


class OwnServers:
    """Ids begin with whose they are (``edge/…``, ``health/…``); those of pods begin with a uid."""

    def __init__(self, send: Callable[[str, Any], None]) -> None:
        self._send = send
        self._running: dict[str, Server] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def want(self, prefix: str, servers: Mapping[str, Server]) -> None:
        """These by id, and no others whose id begins with ``prefix``."""
        for key in [key for key in self._running if key.startswith(prefix)]:
            if key not in servers or servers[key].container != self._running[key].container:
                del self._running[key]
                self._send("stop", key)
        for key, server in servers.items():
            before = self._running.get(key)
            self._running[key] = server
            if before is None:
                self._start(server)
            elif server.answer is not None and server.answer != before.answer:
                self._send("answer", server.answer)

    def connected(self) -> None:
        """There is a new runtime."""
        for server in self._running.values():
            self._start(server)

    def exited(self, key: str, message: str) -> None:
        """One could not start: try again as long as it is wanted."""
        log.debug("%s: %s", key, message)
        if key not in self._timers:
            self._timers[key] = asyncio.get_running_loop().call_later(_RETRY, self._again, key)

    def stop(self) -> None:
        """Try nothing again."""
        for timer in self._timers.values():
            timer.cancel()

    def _again(self, key: str) -> None:
        del self._timers[key]
        if server := self._running.get(key):
            self._start(server)

    def _start(self, server: Server) -> None:
        self._send("start", server.container)
        if server.answer is not None:
            self._send("answer", server.answer)
