"""Which pods the server listens in: those that carry ``kmn.io/program: dns``, as soon as they have a namespace."""

from __future__ import annotations

import asyncio
import logging
from typing import NamedTuple

from kmn.dns.manifests import DNS_PROGRAM
from kmn.dns.responder import Responder
from kmn.dns.server import PodServer
from kmn.dns.sockets import PORT
from kmn.k8s.dataplane import NETNS, PROGRAM
from kmn.k8s.objects import Key, Object, annotation, uid_of
from kmn.naming import NETNS_DIR

__all__ = ["Placement"]

log = logging.getLogger(__name__)

_RETRY_FIRST = 0.05  # seconds until the namespace of a bound pod is looked for again
_RETRY_LIMIT = 1.0


class _Place(NamedTuple):
    """Where to listen. A pod of the same name with another uid is another place."""

    uid: str
    netns: str
    addresses: tuple[str, ...]


class Placement:
    """Starts and stops the servers as pods come and go."""

    def __init__(self, responder: Responder, *, port: int = PORT) -> None:
        self._responder = responder
        self._port = port
        self._wanted: dict[Key, _Place] = {}
        self._servers: dict[Key, tuple[_Place, int, PodServer]] = {}  # with the namespace's inode
        self._failures: dict[Key, str] = {}
        self._changed = asyncio.Event()

    def update(self, key: Key, pod: Object | None) -> None:
        """Take a pod's new state in; None: it is gone."""
        place = _place(pod) if pod is not None else None
        if place is not None:
            self._wanted[key] = place
            self._changed.set()
        elif self._wanted.pop(key, None) is not None:
            self._changed.set()

    @property
    def serving(self) -> tuple[Key, ...]:
        """Pods in which the sockets are open."""
        return tuple(self._servers)

    async def run(self) -> None:
        """Work until cancelled; then everything is closed."""
        delay = _RETRY_FIRST
        try:
            while True:
                complete = await self._settle()
                delay = _RETRY_FIRST if complete else min(delay * 2, _RETRY_LIMIT)
                try:
                    await asyncio.wait_for(self._changed.wait(), None if complete else delay)
                    delay = _RETRY_FIRST
                except TimeoutError:
                    pass  # namespaces are made after the pod was bound: look again
                self._changed.clear()
        finally:
            for key in list(self._servers):
                await self._stop(key)

    async def _settle(self) -> bool:
        """Make servers match what is wanted; whether all of it could be done."""
        for key, (place, inode, _) in list(self._servers.items()):
            if self._wanted.get(key) != place or _inode(place.netns) != inode:
                await self._stop(key)
        self._failures = {key: why for key, why in self._failures.items() if key in self._wanted}
        for key, place in list(self._wanted.items()):
            if key not in self._servers:
                await self._start(key, place)
        return len(self._servers) == len(self._wanted)

    async def _start(self, key: Key, place: _Place) -> None:
        inode = _inode(place.netns)
        if inode is None:
            return
        server = PodServer(self._responder, place.netns, (*place.addresses, "127.0.0.1"), port=self._port)
        try:
            await server.start()
        except OSError as error:
            await server.stop()
            if self._failures.get(key) != str(error):
                self._failures[key] = str(error)
                log.warning("Pod %s: port %d cannot be opened yet: %s", key, self._port, error)
            return
        self._failures.pop(key, None)
        self._servers[key] = (place, inode, server)
        log.info("Pod %s: DNS on %s", key, ", ".join(place.addresses))

    async def _stop(self, key: Key) -> None:
        _, _, server = self._servers.pop(key)
        await server.stop()
        log.info("Pod %s: DNS stopped", key)


def _place(pod: Object) -> _Place | None:
    """Where a pod wants the server, None if it does not or is not bound to an address yet."""
    status = pod.get("status") or {}
    netns = annotation(pod, NETNS)
    addresses = tuple(entry["ip"] for entry in status.get("podIPs") or ())
    if annotation(pod, PROGRAM) != DNS_PROGRAM or not netns or not addresses:
        return None
    if status.get("phase") in ("Succeeded", "Failed"):
        return None
    return _Place(uid_of(pod), netns, addresses)


def _inode(netns: str) -> int | None:
    """Identity of a namespace, None while there is none: the name may be that of an earlier one."""
    try:
        return (NETNS_DIR / netns).stat().st_ino
    except FileNotFoundError:
        return None
