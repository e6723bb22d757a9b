"""A connection to a bridge's management socket, which any number of listeners may open beside the controller's."""

from __future__ import annotations

import asyncio
from pathlib import Path

from kmn.openflow import messages

__all__ = ["Channel"]


class Channel:
    """One connection, after the handshake. All raise OSError when the switch goes away."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._number = 100  # of the last request

    @classmethod
    async def open(cls, socket: Path) -> Channel:
        """Connect, and agree on OpenFlow 1.5."""
        channel = cls(*await asyncio.open_unix_connection(str(socket)))
        try:
            channel.send(messages.hello())
            while messages.kind_of(await channel.read()) != messages.HELLO:
                pass
        except BaseException:
            channel.close()
            raise
        return channel

    def send(self, packed: bytes) -> None:
        """Send a message, or several."""
        self._writer.write(packed)

    async def read(self) -> bytes:
        """The next message. Echo requests are answered, and not told of."""
        while True:
            try:
                header = await self._reader.readexactly(messages.HEADER_SIZE)
                message = header + await self._reader.readexactly(messages.length_of(header) - len(header))
            except asyncio.IncompleteReadError as error:
                raise ConnectionResetError("the switch closed the connection") from error
            match messages.kind_of(message):
                case messages.ECHO_REQUEST:
                    self.send(messages.echo_reply(message))
                case messages.ERROR:
                    raise ConnectionAbortedError(f"the switch refused a message: {message[8:].hex()}")
                case _:
                    return message

    def ask_packets(self, connection: int) -> None:
        """Ask for packets that flows send to connections of this number; a BARRIER_REPLY says that they come now."""
        self.send(messages.ask_packets(connection) + messages.barrier(self._next()))

    async def flow_counts(self, feature: int) -> list[messages.FlowCount]:
        """What the flows of a feature have seen."""
        counts: list[messages.FlowCount] = []
        self.send(messages.flow_counts_request(feature, self._next()))
        while True:
            message = await self.read()
            if messages.kind_of(message) == messages.MULTIPART_REPLY and not messages.read_flow_counts(message, counts):
                return counts

    def _next(self) -> int:
        self._number += 1
        return self._number

    def close(self) -> None:
        """Hang up."""
        self._writer.close()
