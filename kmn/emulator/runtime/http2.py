"""HTTP/2 with prior knowledge (h2c) of the emulated containers: the answers of ``http1``, and gRPC health checks."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError

from kmn.emulator.runtime import grpc
from kmn.emulator.runtime.http1 import PROBE_AGENT, PROBE_KIND, body

if TYPE_CHECKING:
    from kmn.emulator.runtime.containers import Listener

__all__ = ["PREFACE", "Connection", "looks_like"]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

_Headers = list[tuple[str, str]]


def looks_like(data: bytes) -> bool | None:
    """Whether a connection that begins with ``data`` speaks HTTP/2; None: more is needed to tell."""
    if data.startswith(PREFACE):
        return True
    return None if PREFACE.startswith(data) else False


@dataclass(slots=True)
class _Answer:
    """What is still to be sent on a stream, as the client's flow control lets it."""

    data: bytes
    trailers: _Headers = field(default_factory=list)


class Connection(asyncio.Protocol):
    """One HTTP/2 connection to one port of one container."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self._requests: dict[int, dict[str, str]] = {}
        self._answers: dict[int, _Answer] = {}
        self._client = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not derived from it
        self._client = transport.get_extra_info("peername")[0]
        self._h2.initiate_connection()
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.container.transports.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        try:
            events = self._h2.receive_data(data)
        except ProtocolError:
            self._flush()  # h2 has put the GOAWAY there
            self._transport.close()
            return
        for event in events:
            self._handle(event)
        self._flush()

    def _flush(self) -> None:
        if data := self._h2.data_to_send():
            self._transport.write(data)

    def _handle(self, event: Event) -> None:
        match event:
            case RequestReceived(stream_id=stream, headers=headers) if stream is not None:
                joined: dict[str, str] = {}
                for raw_name, raw_value in headers or ():
                    name, value = str(raw_name), str(raw_value)
                    joined[name] = f"{joined[name]}, {value}" if name in joined else value
                self._requests[stream] = joined
            case DataReceived(stream_id=stream, flow_controlled_length=length) if stream is not None and length:
                self._h2.acknowledge_received_data(length, stream)
            case StreamEnded(stream_id=stream) if stream in self._requests:
                self._respond(stream, self._requests.pop(stream))
            case StreamReset(stream_id=stream) if stream is not None:
                self._requests.pop(stream, None)
                self._answers.pop(stream, None)
            case WindowUpdated(stream_id=stream):
                for waiting in [stream] if stream else list(self._answers):
                    self._continue(waiting)
            case ConnectionTerminated():
                self._flush()
                self._transport.close()
            case _:
                pass  # settings, pings, priorities: h2 answers them

    def _respond(self, stream: int, request: dict[str, str]) -> None:
        if request.get("content-type", "").startswith("application/grpc"):
            self._respond_grpc(stream, request)
            return
        headers = ((name, value) for name, value in request.items() if not name.startswith(":"))
        host = request.get(":authority") or request.get("host", "")
        data = body(self._listener, self._client, request.get(":path", ""), host, headers)
        status = "200" if self._passes(request) or not self._is_probe(request) else "503"
        reply = [(":status", status), ("content-type", "application/json"), ("content-length", str(len(data)))]
        if request.get(":method") == "HEAD":
            self._h2.send_headers(stream, reply, end_stream=True)
            return
        self._h2.send_headers(stream, reply)
        self._answers[stream] = _Answer(data)
        self._continue(stream)

    def _respond_grpc(self, stream: int, request: dict[str, str]) -> None:
        reply = [(":status", "200"), ("content-type", "application/grpc")]
        path = request.get(":path", "")
        if path != grpc.HEALTH_CHECK:
            message = f"{path}: emulated containers serve grpc.health.v1.Health/Check only"
            self._h2.send_headers(
                stream, [*reply, ("grpc-status", grpc.UNIMPLEMENTED), ("grpc-message", message)], end_stream=True
            )
            return
        status = grpc.SERVING if self._passes(request) else grpc.NOT_SERVING
        self._h2.send_headers(stream, reply)
        self._answers[stream] = _Answer(grpc.check_response(status), [("grpc-status", "0")])
        self._continue(stream)

    @staticmethod
    def _is_probe(request: dict[str, str]) -> bool:
        return request.get("user-agent", "").startswith(PROBE_AGENT)

    def _passes(self, request: dict[str, str]) -> bool:
        return self._listener.container.passes(request.get(PROBE_KIND.lower()))

    def _continue(self, stream: int) -> None:
        """Send as much of a stream's answer as the windows allow."""
        answer = self._answers.get(stream)
        if answer is None:
            return
        while answer.data:
            room = min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size)
            if room <= 0:
                return
            piece, answer.data = answer.data[:room], answer.data[room:]
            self._h2.send_data(stream, piece, end_stream=not answer.data and not answer.trailers)
        if answer.trailers:
            self._h2.send_headers(stream, answer.trailers, end_stream=True)
        del self._answers[stream]
