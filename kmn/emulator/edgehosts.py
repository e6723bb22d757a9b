"""The programs on the hosts of the emulated internet: HTTP and echo, served by the container runtime as for pods."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from kmn.emulator.runtime.protocol import Container
from kmn.k8s.client import WatchEvent
from kmn.k8s.objects import key_of

__all__ = ["PREFIX", "EdgeHosts"]

log = logging.getLogger(__name__)

PREFIX = "edge/"  # of the ids of these containers; those of pods begin with a uid
_PORTS = (("TCP", 80), ("UDP", 80), ("TCP", 7), ("UDP", 7))  # http and echo
_RETRY = 0.5  # seconds: an Edge may be there before the namespaces of its hosts


class EdgeHosts:
    """Keeps one container a host running."""

    def __init__(self, send: Callable[[str, Any], None]) -> None:
        self._send = send
        self._wanted: dict[str, Container] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def observe(self, event: WatchEvent) -> None:
        """An Edge has come, changed or gone."""
        prefix = f"{PREFIX}{key_of(event.object)}/"
        hosts = (event.object.get("spec") or {}).get("hosts") or () if event.type != "DELETED" else ()
        wanted = {prefix + host["name"]: _container(prefix, host) for host in hosts}
        for gone in [key for key in self._wanted if key.startswith(prefix) and self._wanted[key] != wanted.get(key)]:
            del self._wanted[gone]
            self._send("stop", gone)
        for key, container in wanted.items():
            if key not in self._wanted:
                self._wanted[key] = container
                self._send("start", container)

    def connected(self) -> None:
        """There is a new runtime."""
        for container in self._wanted.values():
            self._send("start", container)

    def exited(self, key: str, message: str) -> None:
        """A host's container could not start: try again as long as it is wanted."""
        log.debug("%s: %s", key, message)
        if key not in self._timers:
            self._timers[key] = asyncio.get_running_loop().call_later(_RETRY, self._again, key)

    def stop(self) -> None:
        for timer in self._timers.values():
            timer.cancel()

    def _again(self, key: str) -> None:
        del self._timers[key]
        if container := self._wanted.get(key):
            self._send("start", container)


def _container(prefix: str, host: dict[str, Any]) -> Container:
    name = host["name"]
    return Container(
        id=prefix + name,
        netns=host["netns"],
        addresses=("0.0.0.0",),
        pod=name,
        namespace="",
        node="",
        name="",
        ports=_PORTS,  # type: ignore[arg-type]
    )
