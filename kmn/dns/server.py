"""The server of one pod: UDP and TCP on port 53 of its namespace, answered by the shared responder."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Sequence
from functools import partial
from typing import Any

from kmn.dns.forward import Forwarder, UpstreamError
from kmn.dns.manifests import DNS_PROGRAM
from kmn.dns.responder import Outside, Responder
from kmn.dns.sockets import PORT, in_netns, listeners
from kmn.programs.placement import Place, Placement

__all__ = ["PodServer", "placement_of"]

log = logging.getLogger(__name__)

_BATCH = 64  # datagrams read before others of the loop have their turn
_MAX_QUERY = 4096
_IDLE = 10.0  # seconds that a TCP client may be silent, as CoreDNS has it
_MAX_FORWARDING = 1000  # questions to upstream at a time; more are dropped, and clients ask again


class PodServer:
    """Listens from :meth:`start` to :meth:`stop`. Nothing that a client sends ends it."""

    def __init__(self, responder: Responder, netns: str, addresses: Sequence[str], *, port: int = PORT) -> None:
        self.netns = netns
        self._responder = responder
        self._addresses = tuple(addresses)
        self._port = port
        self._forwarder = Forwarder(netns)
        self._udp: list[socket.socket] = []
        self._tcp: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Open the sockets. Raises FileNotFoundError without the namespace, OSError when the port is taken there."""
        loop = asyncio.get_running_loop()
        for udp, tcp in in_netns(self.netns, partial(listeners, self._addresses, self._port)):
            self._udp.append(udp)
            loop.add_reader(udp, self._read, udp)
            self._tcp.append(await asyncio.start_server(self._accept, sock=tcp))

    async def stop(self) -> None:
        """Close everything; conversations end where they are."""
        loop = asyncio.get_running_loop()
        for udp in self._udp:
            loop.remove_reader(udp)
            udp.close()
        for tcp in self._tcp:
            tcp.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- UDP

    def _read(self, sock: socket.socket) -> None:
        for _ in range(_BATCH):
            try:
                packet, client = sock.recvfrom(_MAX_QUERY)
            except BlockingIOError:
                return
            except OSError as error:
                log.warning("%s: %s", self.netns, error)
                return
            try:
                reply = self._responder.respond(packet)
            except Exception:
                log.exception("%s: no reply to %s from %s", self.netns, packet.hex(), client)
                continue
            if isinstance(reply, Outside):
                self._forward(sock, client, reply)
            elif reply is not None:
                self._send(sock, client, reply)

    def _send(self, sock: socket.socket, client: Any, reply: bytes) -> None:
        try:
            sock.sendto(reply, client)
        except OSError as error:  # no way back, or a full buffer: lost like any datagram, and asked again
            log.debug("%s: reply to %s: %s", self.netns, client, error)

    def _forward(self, sock: socket.socket, client: Any, outside: Outside) -> None:
        if len(self._tasks) >= _MAX_FORWARDING:
            log.warning("%s: %d questions are waiting for upstream; one more is dropped", self.netns, len(self._tasks))
            return

        async def relay() -> None:
            reply = await self._ask_upstream(outside, tcp=False)
            if sock.fileno() != -1:
                self._send(sock, client, reply)

        self._keep(asyncio.create_task(relay(), name=f"forward {outside.name}"))

    # -- TCP

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._keep(task)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, TimeoutError, OSError, asyncio.CancelledError):
                while True:
                    async with asyncio.timeout(_IDLE):
                        size = int.from_bytes(await reader.readexactly(2), "big")
                        packet = await reader.readexactly(size)
                    reply = await self._reply(packet)
                    if reply is None:
                        break
                    async with asyncio.timeout(_IDLE):
                        writer.write(len(reply).to_bytes(2, "big") + reply)
                        await writer.drain()
        finally:
            writer.close()

    async def _reply(self, packet: bytes) -> bytes | None:
        try:
            reply = self._responder.respond(packet, tcp=True)
        except Exception:
            log.exception("%s: no reply to %s", self.netns, packet.hex())
            return None
        if isinstance(reply, Outside):
            return await self._ask_upstream(reply, tcp=True)
        return reply

    # -- upstream

    async def _ask_upstream(self, outside: Outside, *, tcp: bool) -> bytes:
        try:
            if outside.partial is None:
                return await self._forwarder.ask(outside.packet, outside.upstreams, tcp=tcp)
            rcode, records = await self._forwarder.resolve(outside.name, outside.query.rrtype, outside.upstreams)
            return self._responder.finish(outside, rcode, records, tcp=tcp)
        except UpstreamError as error:
            return self._responder.fail(outside, str(error), tcp=tcp)
        except Exception as error:
            log.exception("%s: asking %s for %s", self.netns, outside.upstreams, outside.name)
            return self._responder.fail(outside, repr(error), tcp=tcp)

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def placement_of(responder: Responder, *, port: int = PORT) -> Placement[PodServer]:
    """A server in each pod that wants one, all with the same answers."""

    def make(place: Place) -> PodServer:
        return PodServer(responder, place.netns, (*place.addresses, "127.0.0.1"), port=port)

    return Placement(DNS_PROGRAM, make)
