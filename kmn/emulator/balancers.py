"""The places of application load balancers: a namespace with a port on the edge's bridge for each, while its object is
there. What runs in it is ``kmn.ingress``; where it is was decided by ``kmn.controlplane.applicationloadbalancers``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from ipaddress import IPv4Interface
from typing import Protocol

from kmn.apiserver.local import LocalClient
from kmn.emulator.model import EdgePort
from kmn.emulator.underlay import UnderlayError
from kmn.k8s.client import WatchEvent
from kmn.k8s.events import Recorder
from kmn.k8s.objects import Object, describe, name_of, uid_of
from kmn.k8s.resources import APPLICATIONLOADBALANCERS

__all__ = ["BalancerPlaces", "place_of"]

log = logging.getLogger(__name__)

_RETRY = 1.0  # seconds


class _Edge(Protocol):
    """The blocking half: ``kmn.emulator.underlay.Underlay``."""

    def plug(self, port: EdgePort) -> None: ...

    def unplug(self, port: EdgePort) -> None: ...


def place_of(balancer: Object) -> EdgePort | None:
    """Where a load balancer is to be, None as long as that is open."""
    status = balancer.get("status") or {}
    try:
        addresses = (IPv4Interface(status["address"]),)
        return EdgePort("alb", name_of(balancer), status["netns"], addresses, status["mac"], int(status["ofport"]))
    except (KeyError, ValueError):
        return None


class BalancerPlaces:
    """Runs on the loop. ``executor`` has one thread, shared with whoever else uses the underlay."""

    def __init__(self, client: LocalClient, edge: _Edge, executor: Executor) -> None:
        self._client = client
        self._edge = edge
        self._executor = executor
        self._recorder = Recorder(client, "kmn")
        self._objects: dict[str, Object] = {}  # by uid: one of the same name may follow
        self._made: dict[str, EdgePort] = {}  # likewise
        self._dirty = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Begin; the edge must be there."""
        self._unsubscribe = self._client.subscribe(APPLICATIONLOADBALANCERS, self._on_balancer)
        self._task = asyncio.create_task(self._run(), name="application load balancers")

    async def stop(self) -> None:
        """Stop watching; what is made stays (``purge`` removes it)."""
        self._unsubscribe()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _on_balancer(self, event: WatchEvent) -> None:
        uid = uid_of(event.object)
        if event.type == "DELETED":
            self._objects.pop(uid, None)
        else:
            self._objects[uid] = event.object
        self._dirty.set()

    async def _run(self) -> None:
        while True:
            self._dirty.clear()
            complete = await self._settle()
            try:
                await asyncio.wait_for(self._dirty.wait(), None if complete else _RETRY)
            except TimeoutError:
                pass

    async def _settle(self) -> bool:
        """Make what is there match what is wanted; whether all of it could be done."""
        loop, complete = asyncio.get_running_loop(), True
        wanted = {uid: place for uid, each in self._objects.items() if (place := place_of(each)) is not None}
        for uid, place in list(self._made.items()):
            if wanted.get(uid) != place:
                await loop.run_in_executor(self._executor, self._edge.unplug, place)
                del self._made[uid]
                log.info("application load balancer %s: removed", place.name)
        for uid, place in wanted.items():
            if uid in self._made:
                continue
            try:
                await loop.run_in_executor(self._executor, self._edge.plug, place)
            except UnderlayError as error:
                complete = False
                if (balancer := self._objects.get(uid)) is not None:
                    self._recorder.once(balancer, "Warning", "NotBuilt", f"{describe(balancer)}: {error}")
                continue
            self._made[uid] = place
            log.info("application load balancer %s: %s on port %d", place.name, place.addresses[0].ip, place.ofport)
        return complete
