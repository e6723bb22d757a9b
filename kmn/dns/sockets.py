"""Sockets inside a pod's namespace. A socket stays in the namespace that it was made in, whoever serves it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from kmn.emulator.netns import enter

__all__ = ["PORT", "in_netns", "listeners", "udp_client"]

PORT = 53
_IP_FREEBIND = 15  # the address may come later than the socket; not in the socket module
_IPV6_FREEBIND = 78
_BACKLOG = 512
_RECEIVE_BUFFER = 4 << 20  # queries that wait while the server is busy elsewhere

T = TypeVar("T")


def in_netns(netns: str, make: Callable[[], T]) -> T:
    """Run ``make`` in a namespace and return what it returns. Raises OSError, FileNotFoundError if there is none.

    In a thread of its own, which ends there: no way back is needed, and no other work can be carried along.
    """
    result: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            enter(netns)
            result.append(make())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, name=f"enter-{netns}")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


def listeners(addresses: Sequence[str], port: int = PORT) -> list[tuple[socket.socket, socket.socket]]:
    """A UDP and a TCP socket for each address, in the namespace of the calling thread.

    Bound to addresses rather than to all: so replies leave from the address that was asked, in the namespace of a node
    (hostNetwork), too. Raises OSError when the port is taken; then none is left open.
    """
    made: list[socket.socket] = []
    try:
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                sock = socket.socket(family, kind | socket.SOCK_NONBLOCK)
                made.append(sock)
                _free_bind(sock)
                if kind == socket.SOCK_STREAM:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                else:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
                sock.bind((address, port))
                if kind == socket.SOCK_STREAM:
                    sock.listen(_BACKLOG)
    except BaseException:
        for sock in made:
            sock.close()
        raise
    return list(zip(made[::2], made[1::2], strict=True))


def udp_client(address: str, port: int) -> socket.socket:
    """A UDP socket that talks to one server only, in the namespace of the calling thread."""
    sock = socket.socket(
        socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
    )
    try:
        sock.connect((address, port))
    except BaseException:
        sock.close()
        raise
    return sock


def _free_bind(sock: socket.socket) -> None:
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
