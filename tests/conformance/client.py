"""Connections as a pod, a node or an outside host makes them: sockets of its network namespace, served from here.

One :func:`exchange` is one connection (TCP, SCTP) or one flow of datagrams (UDP): it asks who is at the other end, and
how the client looked from there. The answers are those of kmn's emulated containers (docs/containers.md).
"""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from kmn.emulator import netns

__all__ = ["Conversation", "Outcome", "Result", "exchange", "http_status", "sockets_of"]

PATIENCE = 3.0  # seconds for an answer that is expected
Result = Literal["ok", "refused", "silent"]

_NO_LINGER = struct.pack("ii", 1, 0)  # no TIME_WAIT: the source port is free for the next connection


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one connection."""

    result: Result
    seconds: float
    backend: str = ""  # namespace/name of the pod that answered; the name alone where that is all it tells (UDP)
    port: int | None = None  # the port of the pod; UDP does not tell
    client: str = ""  # the client's address as the backend saw it
    wrong: str = ""  # an answer came, and it was not right

    def __str__(self) -> str:
        if self.result != "ok":
            return f"{self.result} after {self.seconds:.2f} s"
        served = self.backend + (f":{self.port}" if self.port else "")
        return f"{served} saw {self.client or '?'}" + (f" ({self.wrong})" if self.wrong else "")


@contextmanager
def sockets_of(namespace: str, kind: socket.SocketKind, source_port: int | None = None) -> Iterator[socket.socket]:
    """A socket inside a namespace, closed without a trace in the end."""
    with netns.entered(namespace):
        sock = socket.socket(socket.AF_INET, kind)
    try:
        if source_port is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("", source_port))
        yield sock
    finally:
        sock.close()


class Conversation:
    """A connection that stays open between questions. ``ask`` says who answers it."""

    def __init__(
        self, namespace: str, address: str, port: int, protocol: str = "TCP", *, source_port: int | None = None,
        patience: float = PATIENCE,
    ) -> None:  # fmt: skip
        self._to = (address, port)
        self._patience = patience
        self._tcp = protocol == "TCP"
        kind = socket.SOCK_STREAM if self._tcp else socket.SOCK_DGRAM
        self._context = sockets_of(namespace, kind, source_port)
        self._socket = self._context.__enter__()
        self._socket.settimeout(patience)
        self._connected = False

    def ask(self, request_bytes: int = 0, response_bytes: int = 0, *, client: bool = True) -> Outcome:
        begin = time.monotonic()
        try:
            if not self._connected:
                self._socket.connect(self._to)
                self._connected = True
            found = self._over_tcp(request_bytes) if self._tcp else self._over_udp(client)
            wrong = "" if self._tcp else self._echo_udp(max(request_bytes, response_bytes))
        except (ConnectionRefusedError, ConnectionResetError):
            return Outcome("refused", time.monotonic() - begin)
        except (TimeoutError, EOFError, BrokenPipeError):
            return Outcome("silent", time.monotonic() - begin)
        except OSError as error:
            return Outcome("refused", time.monotonic() - begin, wrong=str(error))  # ICMP: no route, prohibited
        backend, port, seen = found
        return Outcome("ok", time.monotonic() - begin, backend, port, seen, wrong)

    def close(self) -> None:
        if self._tcp:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self._context.__exit__(None, None, None)

    def _over_tcp(self, body: int) -> tuple[str, int, str]:
        host = f"{self._to[0]}:{self._to[1]}"
        if body:
            head = f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {body}\r\n\r\n"
        else:
            head = f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"
        self._socket.sendall(head.encode() + b"x" * body)
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._more()
        header, _, content = data.partition(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1]) for line in header.split(b"\r\n") if line.lower().startswith(b"content-length:")
        )
        while len(content) < length:
            content += self._more()
        answer = json.loads(content)
        backend = f"{answer['namespace']}/{answer['pod']}" if answer["namespace"] else f"external:{answer['pod']}"
        return backend, answer["port"], answer["client"]

    def _more(self) -> bytes:
        data = self._socket.recv(65536)
        if not data:
            raise EOFError
        return data

    def _over_udp(self, client: bool) -> tuple[str, None, str]:
        self._socket.send(b"hostname")
        name = self._socket.recv(65536).decode()
        if not client:
            return name, None, ""
        self._socket.send(b"clientip")
        return name, None, self._socket.recv(65536).decode().rpartition(":")[0]

    def _echo_udp(self, size: int) -> str:
        if not size:
            return ""
        sent = os.urandom(size)
        self._socket.send(sent)
        got = self._socket.recv(65536)
        return "" if got == sent else f"sent a datagram of {size} bytes, got another one of {len(got)}"


def exchange(
    namespace: str, address: str, port: int, protocol: str, *, source_port: int | None = None,
    patience: float = PATIENCE, request_bytes: int = 0, response_bytes: int = 0,
) -> Outcome:  # fmt: skip
    """One connection from its beginning to its end."""
    conversation = Conversation(namespace, address, port, protocol, source_port=source_port, patience=patience)
    try:
        outcome = conversation.ask(request_bytes, response_bytes)
    finally:
        conversation.close()
    if protocol == "TCP" and response_bytes and outcome.result == "ok":
        wrong = _echo_tcp(namespace, address, port, response_bytes)
        return Outcome("ok", outcome.seconds, outcome.backend, outcome.port, outcome.client, wrong)
    return outcome


def _echo_tcp(namespace: str, address: str, port: int, size: int) -> str:
    """Bytes that are not HTTP come back as they are: a large answer."""
    sent, got = b"\0" + os.urandom(size - 1), b""
    with sockets_of(namespace, socket.SOCK_STREAM) as sock:
        sock.settimeout(PATIENCE)
        try:
            sock.connect((address, port))
            sock.sendall(sent)
            sock.shutdown(socket.SHUT_WR)
            while data := sock.recv(65536):
                got += data
        except OSError as error:
            return f"{size} bytes to be echoed: {error} after {len(got)}"
    return "" if got == sent else f"{size} bytes to be echoed: {len(got)} came back"


def http_status(namespace: str, address: str, port: int, path: str, patience: float = PATIENCE) -> int | None:
    """Status of an HTTP answer; None: there was none."""
    with sockets_of(namespace, socket.SOCK_STREAM) as sock:
        sock.settimeout(patience)
        try:
            sock.connect((address, port))
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
            data = b""
            while b"\r\n" not in data and (more := sock.recv(4096)):
                data += more
            return int(data.split()[1])
        except (OSError, IndexError):
            return None
