"""HTTP/1 of the emulated containers: every request is answered with who was asked, and how the client looked."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import orjson
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

if TYPE_CHECKING:
    from kmn.emulator.runtime.containers import Listener

__all__ = ["PROBE_AGENT", "PROBE_KIND", "Connection", "body", "looks_like", "server"]

# A kubelet's HTTP probe is known by its user agent; ours says in a header which of the three it is.
PROBE_AGENT = "kube-probe/"
PROBE_KIND = "X-Kmn-Probe"

_METHOD = re.compile(rb"[A-Z]{3,16} ")
_START_OF_METHOD = re.compile(rb"[A-Z]{1,16}\Z")
_REQUEST_LINE = re.compile(rb"[A-Z]{3,16} [^\s]+ HTTP/1\.[01]\r?\n")
_MAX_REQUEST_LINE = 8190


def looks_like(data: bytes) -> bool | None:
    """Whether a connection that begins with ``data`` speaks HTTP/1; None: more is needed to tell."""
    if _METHOD.match(data):
        if b"\n" in data[:_MAX_REQUEST_LINE]:
            return _REQUEST_LINE.match(data) is not None
        return None if len(data) < _MAX_REQUEST_LINE else False
    return None if _START_OF_METHOD.match(data) else False


def body(listener: Listener, client: str, path: str, host: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """The answer: a JSON object with exactly these fields. Header lines of one name are joined by a comma."""
    joined: dict[str, str] = {}
    for name, value in headers:
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    spec = listener.container.spec
    return orjson.dumps(
        {
            "pod": spec.pod,
            "namespace": spec.namespace,
            "node": spec.node,
            "container": spec.name,
            "port": listener.port,
            "client": client,
            "path": path,
            "host": host,
            "headers": joined,
        },
        option=orjson.OPT_APPEND_NEWLINE,
    )


class Connection(RequestHandler):
    """One HTTP/1 connection to one port of one container."""

    def __init__(self, manager: web.Server, listener: Listener, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(manager, loop=loop, access_log=None, keepalive_timeout=75.0)  # type: ignore[arg-type]
        self.listener = listener

    def eof_received(self) -> bool:  # type: ignore[override]
        """A client that has sent all it will send (``nc -N``) still gets its answer; who waits for none is gone."""
        idle = self._waiter is not None and not self._waiter.done()
        self.close()
        return not idle  # the base class closes nothing for want of another request

    def connection_lost(self, exc: BaseException | None) -> None:
        if self.transport is not None:
            self.listener.container.transports.discard(self.transport)
        super().connection_lost(exc)


def server() -> web.Server:
    """What all HTTP/1 connections share. Needs a running loop."""
    return web.Server(_answer)


async def _answer(request: web.BaseRequest) -> web.StreamResponse:
    connection = request.protocol
    assert isinstance(connection, Connection)
    headers = request.headers
    if request.body_exists:
        if headers.get("Expect", "").lower() == "100-continue":
            assert request.transport is not None
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        async for _ in request.content.iter_any():
            pass  # read and forget: nothing in the answer depends on it
    container = connection.listener.container
    if fixed := container.answer:
        return web.Response(
            status=fixed.status, text=fixed.body, content_type="application/json", headers=list(fixed.headers)
        )
    status = 200
    if headers.get("Upgrade", "").lower() == "websocket":
        refusal = web.Response(status=501, text="WebSocket is not emulated\n")
        refusal.force_close()
        return refusal
    if headers.get("User-Agent", "").startswith(PROBE_AGENT) and not container.passes(headers.get(PROBE_KIND)):
        status = 503
    sent = ((name.decode("ascii", "replace"), value.decode("utf-8", "replace")) for name, value in request.raw_headers)
    # As it was sent: two slashes at its beginning are not a host's.
    path = request.raw_path if request.raw_path.startswith("/") else request.path_qs
    answer = body(connection.listener, request.remote or "", path, request.host, sent)
    return web.Response(status=status, body=answer, content_type="application/json")
