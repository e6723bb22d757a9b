"""The controller's core in the test's process, on the management sockets of bridges: no os-ken, no API.

What it is told of is in ``controller_lab``.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import threading
from pathlib import Path

from controller.census import Census
from controller.megaflows import Purger
from controller.openflow import wire
from controller.report import Report
from controller.sync import Synchronizer

__all__ = ["RESOURCES", "Controller"]

RESOURCES = ("nodes", "pods", "services", "endpointslices", "edges", "clusters", "namespaces", "networkpolicies")


class UnixChannel:
    """A :class:`controller.link.Channel` on a bridge's management socket."""

    def __init__(self, bridge: str, path: Path, synchronizer: Synchronizer) -> None:
        self.bridge = bridge
        self.sent: list[bytes] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._outgoing: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        hello, features = self._read(), struct.pack("!BBHI", 6, 5, 8, 2)
        assert hello[1] == 0
        self._socket.sendall(struct.pack("!BBHIHHI", 6, 0, 16, 1, 1, 8, 1 << 6) + features)
        self.datapath_id: int = struct.unpack_from("!8xQ", self._read())[0]
        self._synchronizer = synchronizer
        synchronizer.up(self)
        self._transmitter = threading.Thread(target=self._transmit)
        self.thread = threading.Thread(target=self._receive)
        self._transmitter.start()
        self.thread.start()

    def send(self, messages: bytes) -> None:
        self.sent.append(messages)
        self._outgoing.put(messages)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._outgoing.put(b"")

    def _transmit(self) -> None:
        with contextlib.suppress(OSError):
            while messages := self._outgoing.get():
                self._socket.sendall(messages)

    def _read(self) -> bytes:
        message = self._exactly(8)
        return message + self._exactly(struct.unpack("!2xH4x", message)[0] - 8)

    def _exactly(self, length: int) -> bytes:
        chunks = b""
        while len(chunks) < length:
            chunk = self._socket.recv(length - len(chunks))
            if not chunk:
                raise EOFError
            chunks += chunk
        return chunks

    def _receive(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                message = self._read()
                if message[1] == 2:  # echo request
                    self._outgoing.put(message[:1] + b"\x03" + message[2:])
                elif message[1] in (wire.MULTIPART_REPLY, wire.BUNDLE_CONTROL, wire.ERROR):
                    self._synchronizer.receive(self, message)
        self._synchronizer.down(self)
        self._outgoing.put(b"")
        self._transmitter.join()
        self._socket.close()


class Controller:
    """The synchroniser in a thread, with objects given directly."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self._runs: dict[str, Path] = {}
        self._purger = Purger(self._runs.__getitem__)
        self._census = Census(self._runs.__getitem__)
        self.synchronizer = Synchronizer(
            RESOURCES, self.reports.append, purge=self._purger.purge, count=self._census.count
        )
        self.channels: dict[str, UnixChannel] = {}
        self._thread = threading.Thread(target=self.synchronizer.run)
        self._thread.start()

    def connect(self, bridge: str, path: Path) -> UnixChannel:
        self._runs[bridge] = path.parent
        channel = self.channels[bridge] = UnixChannel(bridge, path, self.synchronizer)
        return channel

    def in_force(self, resource: str, version: int, connected: int) -> bool:
        """Is a version in force on so many bridges?"""
        if not self.reports:
            return False
        last = self.reports[-1]
        return (
            int(last.observed.get(resource, -1)) >= version and sum(node.connected for node in last.nodes) >= connected
        )

    def stop(self) -> None:
        for channel in self.channels.values():
            channel.close()
            channel.thread.join()
        self.synchronizer.stop()
        self._thread.join()
        self._purger.close()
        self._census.close()
