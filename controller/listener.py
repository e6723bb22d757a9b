"""TCP listeners inside other network namespaces: where the bridges of nodes and edge find the controller.

A socket stays in the namespace that it was made in. So a thread enters a namespace, makes the listener, and ends; from
then on it is an ordinary socket of this process, and nothing of it shows in the namespace that the process runs in.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import selectors
import socket
import threading
from collections.abc import Callable, Mapping

from kmn.k8s.dataplane import CONTROLLER_PORT

__all__ = ["Listeners", "listen_in"]

LOG = logging.getLogger(__name__)

_CLONE_NEWNET = 0x40000000
_IP_FREEBIND = 15
_RETRY = 0.02  # seconds between two looks for a namespace that is not there yet

_libc = ctypes.CDLL(None, use_errno=True)


def listen_in(netns: str, port: int = CONTROLLER_PORT) -> socket.socket:
    """A listener on 127.0.0.1 in a named network namespace. Raises OSError, FileNotFoundError while it is not there."""
    made: list[socket.socket | OSError] = []

    def make() -> None:
        try:
            made.append(_listen(netns, port))
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=make, name=f"listen-{netns}")  # it stays in the namespace until it ends
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]


def _listen(netns: str, port: int) -> socket.socket:
    descriptor = os.open(f"/run/netns/{netns}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"setns: {os.strerror(code)}", netns)
    finally:
        os.close(descriptor)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_IP, _IP_FREEBIND, 1)  # lo may not be up yet
        listener.bind(("127.0.0.1", port))
        listener.listen(8)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


class Listeners:
    """One listener per bridge, following :meth:`want`; a thread accepts for all of them.

    ``on_accept`` gets the connection and the bridge's name, ``on_listening`` the state of each bridge's listener.
    """

    def __init__(
        self, on_accept: Callable[[socket.socket, str], None], on_listening: Callable[[str, bool], None]
    ) -> None:
        self._on_accept = on_accept
        self._on_listening = on_listening
        self._lock = threading.Lock()
        self._wanted: dict[str, str] = {}
        self._open: dict[str, tuple[str, socket.socket]] = {}  # bridge: namespace, listener
        self._missing: dict[str, int] = {}  # bridge: error already told
        self._selector = selectors.DefaultSelector()
        self._wake, wakened = socket.socketpair()
        wakened.setblocking(False)
        self._selector.register(wakened, selectors.EVENT_READ, None)

    def start(self) -> None:
        threading.Thread(target=self._run, name="listeners", daemon=True).start()

    def want(self, namespaces: Mapping[str, str]) -> None:
        """From now on: the bridges by name, and the namespace of each."""
        with self._lock:
            self._wanted = dict(namespaces)
        self._wake.send(b"!")

    def _run(self) -> None:
        while True:
            complete = self._follow()
            for key, _ in self._selector.select(None if complete else _RETRY):
                if key.data is None:
                    key.fileobj.recv(4096)  # type: ignore[union-attr]
                else:
                    self._accept(key.fileobj, key.data)  # type: ignore[arg-type]

    def _follow(self) -> bool:
        """Open and close as wanted; False while a namespace is not there yet."""
        with self._lock:
            wanted = dict(self._wanted)
        for bridge, (netns, listener) in list(self._open.items()):
            if wanted.get(bridge) != netns:
                self._selector.unregister(listener)
                listener.close()
                del self._open[bridge]
                self._on_listening(bridge, False)
        for bridge, netns in wanted.items():
            if bridge not in self._open:
                self._try(bridge, netns)
        return len(self._open) == len(wanted)

    def _try(self, bridge: str, netns: str) -> None:
        try:
            listener = listen_in(netns)
        except OSError as error:
            # Missing, or a file that is not mounted on yet: the emulator announces namespaces before it makes them.
            if error.errno not in (errno.ENOENT, errno.EINVAL) and self._missing.get(bridge) != error.errno:
                LOG.error("%s: cannot listen in namespace %s: %s; trying again", bridge, netns, error)
            self._missing[bridge] = error.errno or 0
            return
        self._missing.pop(bridge, None)
        self._open[bridge] = (netns, listener)
        self._selector.register(listener, selectors.EVENT_READ, bridge)
        self._on_listening(bridge, True)

    def _accept(self, listener: socket.socket, bridge: str) -> None:
        try:
            connection, _ = listener.accept()
        except OSError as error:
            LOG.warning("%s: accept: %s", bridge, error)
            return
        connection.setblocking(True)
        self._on_accept(connection, bridge)
