"""Which pods a program of kmn's own runs in: those whose annotation ``kmn.io/program`` names it, as soon as they have a
namespace. Objects that are no pods may be places for it, too. What it does there is its own business
(``kmn.dns.server``, ``kmn.ingress.proxy``)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Generic, NamedTuple, Protocol, TypeVar

from kmn.k8s.dataplane import NETNS, PROGRAM
from kmn.k8s.objects import Key, Object, annotation, uid_of
from kmn.naming import NETNS_DIR

__all__ = ["Place", "Placement", "PodProgram"]

log = logging.getLogger(__name__)

_RETRY_FIRST = 0.05  # seconds until the namespace of a bound pod is looked for again
_RETRY_LIMIT = 1.0


class Place(NamedTuple):
    """Where to run. A pod of the same name with another uid is another place, and so is one with another ``detail``."""

    uid: str
    netns: str
    addresses: tuple[str, ...]
    detail: str = ""  # what else of the pod the program goes by


class PodProgram(Protocol):
    """What runs in one pod."""

    async def start(self) -> None:
        """Raises OSError when it cannot be started yet; :meth:`stop` is called then, too."""
        ...

    async def stop(self) -> None: ...


P = TypeVar("P", bound=PodProgram)


class Placement(Generic[P]):
    """Starts and stops a program as its pods come and go. ``make`` makes what runs in one pod.

    ``started`` is called whenever one has started. ``place`` tells where objects that are no pods want the program.
    """

    def __init__(
        self,
        program: str,
        make: Callable[[Place], P],
        *,
        detail: Callable[[Object], str] | None = None,
        started: Callable[[], None] = lambda: None,
        place: Callable[[Object], Place | None] | None = None,
    ) -> None:
        self._program = program
        self._make = make
        self._detail = detail or (lambda pod: "")
        self._started = started
        self._place = place or self._in_pod
        self._wanted: dict[Key, Place] = {}
        self._running: dict[Key, tuple[Place, int, P]] = {}  # with the namespace's inode
        self._failures: dict[Key, str] = {}
        self._changed = asyncio.Event()

    def update(self, key: Key, obj: Object | None) -> None:
        """Take the new state of a pod, or of what else places are, in; None: it is gone."""
        place = self._place(obj) if obj is not None else None
        if place is not None:
            self._wanted[key] = place
            self._changed.set()
        elif self._wanted.pop(key, None) is not None:
            self._changed.set()

    @property
    def serving(self) -> dict[Key, P]:
        """What runs, by pod."""
        return {key: program for key, (_, _, program) in self._running.items()}

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
            for key in list(self._running):
                await self._stop(key)

    async def _settle(self) -> bool:
        """Make what runs match what is wanted; whether all of it could be done."""
        for key, (place, inode, _) in list(self._running.items()):
            if self._wanted.get(key) != place or _inode(place.netns) != inode:
                await self._stop(key)
        self._failures = {key: why for key, why in self._failures.items() if key in self._wanted}
        for key, place in list(self._wanted.items()):
            if key not in self._running:
                await self._start(key, place)
        return len(self._running) == len(self._wanted)

    async def _start(self, key: Key, place: Place) -> None:
        inode = _inode(place.netns)
        if inode is None:
            return
        program = self._make(place)
        try:
            await program.start()
        except OSError as error:
            await program.stop()
            if self._failures.get(key) != str(error):
                self._failures[key] = str(error)
                log.warning("%s: %s cannot start yet: %s", key, self._program, error)
            return
        self._failures.pop(key, None)
        self._running[key] = (place, inode, program)
        self._started()
        log.info("%s: %s on %s", key, self._program, ", ".join(place.addresses))

    async def _stop(self, key: Key) -> None:
        _, _, program = self._running.pop(key)
        await program.stop()
        log.info("%s: %s stopped", key, self._program)

    def _in_pod(self, pod: Object) -> Place | None:
        """Where a pod wants the program, None if it does not or is not bound to an address yet."""
        status = pod.get("status") or {}
        netns = annotation(pod, NETNS)
        addresses = tuple(entry["ip"] for entry in status.get("podIPs") or ())
        if annotation(pod, PROGRAM) != self._program or not netns or not addresses:
            return None
        if status.get("phase") in ("Succeeded", "Failed"):
            return None
        return Place(uid_of(pod), netns, addresses, self._detail(pod))


def _inode(netns: str) -> int | None:
    """Identity of a namespace, None while there is none: the name may be that of an earlier one."""
    try:
        return (NETNS_DIR / netns).stat().st_ino
    except FileNotFoundError:
        return None
