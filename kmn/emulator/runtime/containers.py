"""Emulated containers: the listening sockets, and what their probes shall find."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from aiohttp import web

from kmn.emulator.netns import entered
from kmn.emulator.runtime.protocol import Answer, Port
from kmn.emulator.runtime.protocol import Container as Spec
from kmn.emulator.runtime.tcp import Sniffer
from kmn.emulator.runtime.udp import Responder

__all__ = ["Container", "Listener", "PortError", "has_sctp"]

_BACKLOG = 4096  # the kernel's own limit of a fresh namespace
_TYPES = {"TCP": socket.SOCK_STREAM, "UDP": socket.SOCK_DGRAM, "SCTP": socket.SOCK_STREAM}
_PROTOCOLS = {"TCP": socket.IPPROTO_TCP, "UDP": socket.IPPROTO_UDP, "SCTP": socket.IPPROTO_SCTP}


class PortError(Exception):
    """A port could not be opened; the text is what a Go program would print."""


def has_sctp() -> bool:
    """Whether the kernel has SCTP sockets."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
    except OSError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Listener:
    """Where a connection came in."""

    container: Container
    port: int


class Container:
    """One run of one container. Owns its sockets and connections, and the timer of its end."""

    __slots__ = ("_ending", "_open", "alive", "answer", "ready", "spec", "transports")

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.ready = spec.ready
        self.alive = spec.alive
        self.answer: Answer | None = None
        self.transports: set[asyncio.Transport] = set()  # connections to close when it stops
        self._open: dict[Port, list[asyncio.AbstractServer | asyncio.BaseTransport]] = {}
        self._ending: asyncio.TimerHandle | None = None

    def passes(self, kind: str | None) -> bool:
        """Whether a probe of this kind (of any other client: None) finds the container well."""
        return {"liveness": self.alive, "startup": True}.get(kind or "", self.ready)

    def bind(self, ports: Iterable[Port]) -> list[tuple[Port, socket.socket]]:
        """Sockets for ``ports`` in the pod's namespace: all of them or, with PortError, none. Does not await."""
        bound: list[tuple[Port, socket.socket]] = []
        try:
            with entered(self.spec.netns):
                for port in ports:
                    for address in self.spec.addresses:
                        bound.append((port, _bind(port, address)))
        except (OSError, PortError) as error:
            for _, sock in bound:
                sock.close()
            if isinstance(error, PortError):
                raise
            raise PortError(f"network namespace {self.spec.netns}: {(error.strerror or str(error)).lower()}") from None
        return bound

    async def serve(self, bound: Iterable[tuple[Port, socket.socket]], http: web.Server) -> None:
        """Answer on bound sockets from now on."""
        loop = asyncio.get_running_loop()
        for port, sock in bound:
            listener = Listener(self, port[1])
            opened: asyncio.AbstractServer | asyncio.BaseTransport
            if sock.type == socket.SOCK_DGRAM:
                opened, _ = await loop.create_datagram_endpoint(lambda at=listener: Responder(at), sock=sock)  # type: ignore[misc]
            else:
                opened = await loop.create_server(
                    lambda at=listener: Sniffer(at, http),  # type: ignore[misc]
                    sock=sock,
                    backlog=_BACKLOG,
                )
            self._open.setdefault(port, []).append(opened)

    @property
    def ports(self) -> frozenset[Port]:
        return frozenset(self._open)

    def close_port(self, port: Port) -> None:
        """Listen there no more; connections that exist stay."""
        for opened in self._open.pop(port, ()):
            opened.close()

    def end_after(self, seconds: float, ended: Callable[[], None]) -> None:
        self._ending = asyncio.get_running_loop().call_later(seconds, ended)

    def stop(self) -> None:
        """Close everything at once."""
        if self._ending is not None:
            self._ending.cancel()
        for port in tuple(self._open):
            self.close_port(port)
        for transport in tuple(self.transports):
            transport.abort()
        self.transports.clear()


def _bind(port: Port, address: str) -> socket.socket:
    protocol, number = port
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, _TYPES[protocol] | socket.SOCK_NONBLOCK, _PROTOCOLS[protocol])
    try:
        if protocol != "UDP":  # a restart must not wait for connections in TIME_WAIT; UDP would share the port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # IPv4 has a socket of its own
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, number))
        if protocol != "UDP":
            sock.listen(_BACKLOG)  # here, so that an address in use is found by now
    except OSError as error:
        sock.close()
        why = "address already in use" if error.errno == errno.EADDRINUSE else (error.strerror or "").lower()
        raise PortError(f"listen {protocol.lower()} :{number}: bind: {why}") from None
    return sock
