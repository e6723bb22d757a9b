"""Hears what a bridge's flows send to listeners, through whatever happens to its switch in between."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NoReturn

from kmn.openflow import messages
from kmn.openflow.channel import Channel

__all__ = ["listen"]

_RETRY = 0.2  # seconds


async def listen(
    socket: Path,
    connection: int,
    take: Callable[[messages.PacketIn], Awaitable[None]],
    heard: Callable[[bool], None],
) -> NoReturn:
    """Hand over packets that flows send to connections of this number, until cancelled.

    ``heard`` is told True when the switch sends from now on, and False whenever it cannot be reached, or no more.
    """
    while True:
        try:
            channel = await Channel.open(socket)
            try:
                channel.ask_packets(connection)
                while True:
                    message = await channel.read()
                    if messages.kind_of(message) == messages.BARRIER_REPLY:
                        heard(True)
                    elif (packet := messages.read_packet_in(message)) is not None:
                        await take(packet)
            finally:
                channel.close()
        except OSError:
            heard(False)
        await asyncio.sleep(_RETRY)
