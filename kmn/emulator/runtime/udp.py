"""A UDP port of an emulated container: the text commands of Kubernetes' agnhost netexec, and echo."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from kmn.emulator.runtime.containers import Listener

__all__ = ["Responder", "answer"]


def answer(pod: str, client: tuple[str, int], data: bytes) -> bytes:
    """``hostname``: the pod's name; ``clientip``: address and port of the client; ``echo X``: X; all else: itself."""
    word, _, rest = data.strip().partition(b" ")
    match word.lower():
        case b"hostname" if not rest:
            return pod.encode()
        case b"clientip" if not rest:
            return f"{client[0]}:{client[1]}".encode()
        case b"echo" if rest:
            return rest
    return data


class Responder(asyncio.DatagramProtocol):
    """Answers datagrams from the address that the socket is bound to."""

    __slots__ = ("_listener", "_transport")

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)  # uvloop's are not derived from it

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._transport.sendto(answer(self._listener.container.spec.pod, addr, data), addr)

    def error_received(self, exc: Exception) -> None:
        """A client that is gone (ICMP port unreachable) is none of our business."""
