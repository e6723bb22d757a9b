"""A TCP connection to an emulated container: the first bytes say whether it is HTTP/1, HTTP/2 or something to echo."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from aiohttp import web

from kmn.emulator.runtime import http1, http2

if TYPE_CHECKING:
    from kmn.emulator.runtime.containers import Listener

__all__ = ["Sniffer"]

# A client may send its request line in pieces. Who says no more for this long, and has not said enough to tell, is
# echoed.
_PATIENCE = 1.0


class Sniffer(asyncio.Protocol):
    """Decides, hands the connection over, and is gone."""

    __slots__ = ("_data", "_http", "_listener", "_timer", "_transport")

    def __init__(self, listener: Listener, http: web.Server) -> None:
        self._listener = listener
        self._http = http
        self._data = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not derived from it
        self._listener.container.transports.add(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._listener.container.transports.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        h2 = http2.looks_like(self._data)
        h1 = http1.looks_like(self._data)
        if h2:
            self._become(http2.Connection(self._listener))
        elif h1:
            self._become(http1.Connection(self._http, self._listener, asyncio.get_running_loop()))
        elif h1 is None or h2 is None:
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(_PATIENCE, self._echo)
        else:
            self._echo()

    def eof_received(self) -> bool:
        if self._data:
            self._echo()
        self._transport.write_eof()
        return False

    def _echo(self) -> None:
        self._become(_Echo(self._listener))

    def _become(self, protocol: asyncio.Protocol) -> None:
        self._stop_timer()
        data, self._data = self._data, b""
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(data)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Echo(asyncio.Protocol):
    """Sends back what comes, no faster than the client takes it, until the client has sent all."""

    __slots__ = ("_listener", "_transport")

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not derived from it

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.container.transports.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)

    def eof_received(self) -> bool:
        return False  # the transport closes when what is left to echo has been sent

    def pause_writing(self) -> None:
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._transport.resume_reading()
