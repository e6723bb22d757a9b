"""The runtime's end of the socket: carries out what the kubelet says, in order, and tells what happens."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from kmn.emulator.runtime import http1
from kmn.emulator.runtime.containers import Container, PortError, has_sctp
from kmn.emulator.runtime.probes import Prober
from kmn.emulator.runtime.protocol import (
    MAX_LINE,
    Answer,
    Exited,
    Health,
    Hello,
    PortFailed,
    Ports,
    Probe,
    ProbeResult,
    decode,
    encode,
)
from kmn.emulator.runtime.protocol import Container as Spec

__all__ = ["Server"]

log = logging.getLogger("kmn.runtime")

_BREATH = 50  # containers to start between two looks at everything else
_ALONE = 2.0  # seconds without a kubelet until the runtime ends


class Server:
    """All containers and probes of a cluster, and the one kubelet's connection."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._http = http1.server()
        self._sctp = has_sctp()
        self._containers: dict[str, Container] = {}
        self._prober = Prober(self._probed)
        self._kubelet: asyncio.StreamWriter | None = None
        self._outbox: dict[str, list[Any]] = {}
        self._ended = asyncio.Event()
        self._alone: asyncio.TimerHandle | None = None
        self._operations: dict[str, Callable[[list[Any]], Awaitable[None]]] = {
            "start": self._start,
            "stop": self._stop,
            "ports": self._ports,
            "health": self._health,
            "answer": self._answer,
            "probe": self._probe,
            "unprobe": self._unprobe,
            "sync": self._sync,
        }

    async def run(self) -> None:
        """Serve until the kubelet is gone."""
        self._path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            server = await asyncio.start_unix_server(self._serve, self._path, limit=MAX_LINE)
        finally:
            os.umask(before)
        log.info("serving on %s", self._path)
        await self._ended.wait()
        server.close()
        self._stop_all()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._kubelet is not None:
            log.error("a second kubelet was turned away")
            writer.close()
            return
        if self._alone is not None:
            self._alone.cancel()
        self._kubelet = writer
        self._tell("hello", Hello(sctp=self._sctp))
        try:
            while line := await reader.readline():
                message = decode(line)
                await self._operations[message["op"]](message["items"])
        except ConnectionError:
            pass
        finally:
            self._kubelet = None
            self._outbox.clear()
            self._stop_all()
            self._alone = asyncio.get_running_loop().call_later(_ALONE, self._ended.set)
            writer.close()

    def _stop_all(self) -> None:
        self._prober.stop_all()
        for container in self._containers.values():
            container.stop()
        self._containers.clear()

    # What the kubelet says.

    async def _start(self, items: list[dict[str, Any]]) -> None:
        for count, item in enumerate(items, 1):
            container = Container(Spec.load(item))
            spec = container.spec
            try:
                bound = container.bind(self._possible(spec.ports))
            except PortError as error:
                self._tell("exited", Exited(spec.id, 1, "Error", str(error)))
                continue
            self._containers[spec.id] = container
            await container.serve(bound, self._http)
            self._tell("started", spec.id)
            if spec.run_seconds is not None:
                container.end_after(spec.run_seconds, functools.partial(self._end, spec.id))
            if count % _BREATH == 0:
                await asyncio.sleep(0)

    def _possible(self, ports: Any) -> list[Any]:
        return [port for port in ports if port[0] != "SCTP" or self._sctp]

    def _end(self, container_id: str) -> None:
        if container := self._containers.pop(container_id, None):
            container.stop()
            self._tell("exited", Exited(container_id, 0, "Completed"))

    async def _answer(self, items: list[dict[str, Any]]) -> None:
        for item in items:
            if container := self._containers.get(item["id"]):
                container.answer = Answer(
                    **{**item, "headers": tuple((name, value) for name, value in item["headers"])}
                )

    async def _stop(self, items: list[str]) -> None:
        for container_id in items:
            if container := self._containers.pop(container_id, None):
                container.stop()

    async def _ports(self, items: list[dict[str, Any]]) -> None:
        for item in items:
            wanted = Ports.load(item)
            container = self._containers.get(wanted.id)
            if container is None:
                continue  # it has ended, and the kubelet is about to hear of it
            possible = self._possible(wanted.ports)
            for port in container.ports.difference(possible):
                container.close_port(port)
            for port in possible:
                if port in container.ports:
                    continue
                try:
                    bound = container.bind([port])
                except PortError as error:
                    self._tell("ports", PortFailed(wanted.id, str(error)))
                else:
                    await container.serve(bound, self._http)

    async def _health(self, items: list[dict[str, Any]]) -> None:
        for item in items:
            health = Health(**item)
            if container := self._containers.get(health.id):
                container.ready, container.alive = health.ready, health.alive

    async def _probe(self, items: list[dict[str, Any]]) -> None:
        for item in items:
            probe = Probe.load(item)
            self._prober.start(probe, self._containers.get(probe.container))

    async def _unprobe(self, items: list[str]) -> None:
        for probe_id in items:
            self._prober.stop(probe_id)

    async def _sync(self, items: list[int]) -> None:
        # Sockets that were closed are gone from the kernel when the loop has come round.
        await asyncio.sleep(0)
        for number in items:
            self._tell("sync", number)

    # What the kubelet is told: at the end of the loop's round, all of one kind in one line.

    def _probed(self, result: ProbeResult) -> None:
        self._tell("probe", result)

    def _tell(self, event: str, item: Any) -> None:
        if self._kubelet is None:
            return
        if not self._outbox:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outbox.setdefault(event, []).append(item)

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, {}
        if self._kubelet is not None:
            for event, items in outbox.items():
                self._kubelet.write(encode("event", event, items))
