"""A minimal client of an Open vSwitch database (RFC 7047, over the server's Unix socket): transactions, nothing more.

A request and its answer are separate calls, so that one thread keeps fifty databases busy at a time: send to each, then
read from each.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import orjson

__all__ = ["Operation", "Ovsdb", "OvsdbError", "map_of", "named", "set_of"]

Operation: TypeAlias = dict[str, Any]
_RETRY = 0.002


class OvsdbError(Exception):
    """A transaction that the server refused, or a server that does not answer."""


def map_of(values: Mapping[str, str]) -> list[Any]:
    """A map column's value."""
    return ["map", [[key, value] for key, value in values.items()]]


def set_of(values: Sequence[Any]) -> list[Any]:
    """A set column's value."""
    return ["set", list(values)]


def named(name: str) -> list[str]:
    """A reference to a row inserted in the same transaction with this ``uuid-name``."""
    return ["named-uuid", name]


class Ovsdb:
    """A connection to the database server whose run directory is ``directory``; opened on first use and again after
    the server was replaced."""

    def __init__(self, directory: Path, database: str = "Open_vSwitch") -> None:
        self._directory = directory
        self._database = database
        self._socket: socket.socket | None = None
        self._buffer = bytearray()
        self._sent = 0
        self._answered = 0

    def close(self) -> None:
        """Close the connection. Answers that were not read are lost."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self._buffer.clear()
        self._answered = self._sent

    def connect(self, timeout: float = 10.0) -> None:
        """Open the connection, waiting until the server listens."""
        if self._socket is not None:
            return
        deadline = time.monotonic() + timeout
        while not self._try_connect():
            if time.monotonic() > deadline:
                raise OvsdbError(f"{self._directory}/db.sock: the database server does not listen")
            time.sleep(_RETRY)

    def _try_connect(self) -> bool:
        # The path may be longer than a socket address holds: go by the open directory.
        folder = os.open(self._directory, os.O_PATH | os.O_CLOEXEC)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(f"/proc/self/fd/{folder}/db.sock")
        except OSError:
            sock.close()
            return False
        finally:
            os.close(folder)
        self._socket = sock
        return True

    def send(self, operations: Sequence[Operation]) -> None:
        """Send one transaction; :meth:`receive` gives its result."""
        self.connect(timeout=1.0)
        self._sent += 1
        self._write({"method": "transact", "params": [self._database, *operations], "id": self._sent})

    def _write(self, message: dict[str, Any]) -> None:
        assert self._socket is not None
        try:
            self._socket.settimeout(10.0)
            self._socket.sendall(orjson.dumps(message))
        except OSError as error:
            self.close()
            raise OvsdbError(f"{self._directory}/db.sock: {error}") from error

    def receive(self, timeout: float = 10.0) -> list[dict[str, Any]]:
        """The result of the oldest transaction whose result was not read: one entry an operation.

        Raises OvsdbError with the server's words when it was refused as a whole.
        """
        deadline = time.monotonic() + timeout
        while True:
            message = self._message(deadline)
            if message.get("method") == "echo":
                self._write({"id": message["id"], "result": message["params"], "error": None})
            elif message.get("id") is not None and message.get("id", 0) > self._answered:
                self._answered = message["id"]
                break
        if message["error"] is not None:
            raise OvsdbError(f"{self._directory}: {_words(message['error'])}")
        result: list[dict[str, Any]] = message["result"]
        for entry in result:
            if isinstance(entry, dict) and "error" in entry:
                raise OvsdbError(f"{self._directory}: {_words(entry)}")
        return result

    def transact(self, operations: Sequence[Operation], timeout: float = 10.0) -> list[dict[str, Any]]:
        """Send one transaction and wait for its result."""
        self.send(operations)
        return self.receive(timeout)

    def _message(self, deadline: float) -> dict[str, Any]:
        """The next JSON value of the stream. They come without separators: whole when brackets match."""
        while True:
            length = _value_length(self._buffer)
            if length:
                value: dict[str, Any] = orjson.loads(bytes(self._buffer[:length]))
                del self._buffer[:length]
                return value
            if self._socket is None:
                raise OvsdbError(f"{self._directory}/db.sock: not connected")
            try:
                self._socket.settimeout(max(0.001, deadline - time.monotonic()))
                data = self._socket.recv(1 << 18)
            except TimeoutError:
                self.close()
                raise OvsdbError(f"{self._directory}/db.sock: no answer in time") from None
            except OSError as error:
                self.close()
                raise OvsdbError(f"{self._directory}/db.sock: {error}") from error
            if not data:
                self.close()
                raise OvsdbError(f"{self._directory}/db.sock: the database server closed the connection")
            self._buffer += data


def _words(error: Mapping[str, Any]) -> str:
    return f"{error.get('error')}: {error.get('details', '')}"


def _value_length(buffer: bytearray) -> int:
    """Length of the first complete JSON object in a buffer, 0 if there is none."""
    if not buffer.endswith(b"}"):  # the common case costs no scan: one answer at a time, whole
        return 0
    try:
        orjson.loads(buffer)
        return len(buffer)
    except orjson.JSONDecodeError:
        return _scan(buffer)


def _scan(buffer: bytearray) -> int:
    depth = 0
    inside = escaped = False
    for position, byte in enumerate(buffer):
        if escaped:
            escaped = False
        elif inside:
            escaped = byte == 0x5C
            inside = byte != 0x22
        elif byte == 0x22:
            inside = True
        elif byte == 0x7B:
            depth += 1
        elif byte == 0x7D:
            depth -= 1
            if depth == 0:
                return position + 1
    return 0
