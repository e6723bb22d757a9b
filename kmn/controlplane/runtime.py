"""How reconcilers run: keys go into a queue, each at most once, and one task works all queues in turn.

Reconcilers are synchronous: the API is in the same process, so a reconcile never waits. What they must not do is keep
the loop for long, since API requests are answered from it too: the task gives way every few milliseconds, and a
reconciler with a lot to do does a part and asks for another turn.

What is not here: what any reconciler does; that is one module each.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, Protocol, TypeVar

from kmn.k8s.client import Client, WatchEvent
from kmn.k8s.errors import ApiError, Conflict
from kmn.k8s.events import Recorder
from kmn.k8s.objects import Object, uid_of
from kmn.k8s.resources import Resource

__all__ = ["LoopClient", "Reconciler", "Runtime", "WorkQueue"]

log = logging.getLogger("kmn.controlplane")

_SLICE = 0.004  # seconds of work before other tasks of the loop get their turn
_BACKOFF_BASE, _BACKOFF_MAX = 0.005, 30.0
_FAILURES_BEFORE_EVENT = 5
_SLOW = 0.001  # seconds of a reconcile worth remembering
_PACED_KEYS = 20_000  # beyond this, those that were queued long ago are forgotten

K = TypeVar("K", bound=Hashable)


class LoopClient(Client, Protocol):
    """A client in the store's own process: requests are calls, changes are told by callback."""

    def subscribe(
        self, resource: Resource, callback: Callable[[WatchEvent], None], *, replay: bool = True
    ) -> Callable[[], None]:
        """Be told of all changes, from the loop; objects that are there already come as ADDED. Returns the undoing."""
        ...

    def owned_by(self, uid: str) -> list[Object]:
        """All objects with an owner reference to ``uid``."""
        ...


class WorkQueue(Generic[K]):
    """Keys in order of arrival, each at most once; late keys join when their time has come."""

    def __init__(self) -> None:
        self._ready: dict[K, None] = {}  # an ordered set
        self._timers: dict[K, tuple[float, asyncio.TimerHandle]] = {}
        self._failures: dict[K, int] = {}
        self._paced: dict[K, float] = {}  # when a paced key was queued last
        self._slow: dict[K, float] = {}  # seconds that the last reconcile of a slow key took
        self.wake: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return len(self._ready)

    def add(self, key: K) -> None:
        """Queue a key now; a timer that it has is kept, as it may be there for another reason."""
        if key not in self._ready:
            self._ready[key] = None
            self.wake()

    def add_after(self, key: K, seconds: float) -> None:
        """Queue a key in a while, or earlier if that was asked for before."""
        loop = asyncio.get_running_loop()
        when = loop.time() + seconds
        current = self._timers.get(key)
        if current is not None:
            if current[0] <= when:
                return
            current[1].cancel()
        self._timers[key] = (when, loop.call_at(when, self._due, key))

    def add_paced(self, key: K, seconds: float) -> None:
        """Queue a key now, but not oftener than every so many seconds: one change is done at once, a burst together.

        A key whose reconcile takes long gets longer pauses, so that it has a tenth of the time at most.
        """
        at = asyncio.get_running_loop().time()
        due = self._paced.get(key, 0.0) + max(seconds, self._slow.get(key, 0.0) * 10)
        if due > at:
            self.add_after(key, due - at)
            return
        if len(self._paced) > _PACED_KEYS:
            self._paced = {k: since for k, since in self._paced.items() if since > at - 1.0}
        self._paced[key] = at
        self.add(key)

    def add_failed(self, key: K) -> int:
        """Queue a key again after its reconcile failed, later each time; how often it failed in a row."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        self.add_after(key, min(_BACKOFF_BASE * 2 ** (failures - 1), _BACKOFF_MAX))
        return failures

    def succeeded(self, key: K, seconds: float) -> None:
        """A reconcile went well and took so long."""
        self._failures.pop(key, None)
        if seconds > _SLOW:
            self._slow[key] = seconds
        else:
            self._slow.pop(key, None)

    def pop(self) -> K:
        """The key that waits longest. Its reconcile may add it again."""
        key = next(iter(self._ready))
        del self._ready[key]
        return key

    def close(self) -> None:
        for _, timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._ready.clear()

    def _due(self, key: K) -> None:
        del self._timers[key]
        if key in self._paced:
            self._paced[key] = asyncio.get_running_loop().time()
        self.add(key)


class Reconciler(ABC, Generic[K]):
    """Brings one kind of thing to its desired state, key by key.

    ``watches`` says what it wants to be told of; the handlers keep indexes and queue keys. ``reconcile`` reads the
    present state, never an event, and may be called at any time and any number of times.
    """

    component: str  # who it is in Events, as upstream's component is called

    def __init__(self, client: LoopClient) -> None:
        self.client = client
        self.queue: WorkQueue[K] = WorkQueue()
        self.recorder = Recorder(client, self.component)

    @abstractmethod
    def watches(self) -> Iterable[tuple[Resource, Callable[[WatchEvent], None]]]:
        """Resources and handlers, in the order in which present objects are replayed."""

    @abstractmethod
    def reconcile(self, key: K) -> None:
        """Make one step towards the desired state of ``key``. ApiError: tried again later."""

    def subject(self, key: K) -> Object | None:
        """The object that Events about failures of ``key`` go to."""
        return None


class Runtime:
    """Runs reconcilers in one task, fairly: one key of each at a time."""

    def __init__(self, client: LoopClient, reconcilers: Iterable[Reconciler[Hashable]]) -> None:
        self._client = client
        self._reconcilers = list(reconcilers)
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._unsubscribe: list[Callable[[], None]] = []

    def start(self) -> None:
        """Subscribe and run; call from the loop."""
        for reconciler in self._reconcilers:
            reconciler.queue.wake = self._wake.set
            for resource, handler in reconciler.watches():
                self._unsubscribe.append(self._client.subscribe(resource, _guarded(reconciler, handler)))
        self._task = asyncio.create_task(self._run(), name="control plane")

    async def stop(self) -> None:
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self._unsubscribe.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        for reconciler in self._reconcilers:
            reconciler.queue.close()

    async def _run(self) -> None:
        # Replayed objects are all delivered before the first reconcile: indexes are whole.
        await asyncio.sleep(0)
        turns: deque[Reconciler[Hashable]] = deque()
        until = time.monotonic() + _SLICE
        while True:
            if not turns:
                turns.extend(r for r in self._reconcilers if len(r.queue))
            if not turns:
                self._wake.clear()
                await self._wake.wait()
                until = time.monotonic() + _SLICE
                continue
            reconciler = turns.popleft()
            if len(reconciler.queue):
                _reconcile(reconciler)
            if time.monotonic() >= until:
                await asyncio.sleep(0)
                until = time.monotonic() + _SLICE


def _reconcile(reconciler: Reconciler[Hashable]) -> None:
    key = reconciler.queue.pop()
    began = time.monotonic()
    try:
        reconciler.reconcile(key)
    except Conflict:
        reconciler.queue.add_failed(key)  # somebody was faster: read again
    except Exception as error:
        expected = isinstance(error, ApiError)
        failures = reconciler.queue.add_failed(key)
        if not expected or failures == _FAILURES_BEFORE_EVENT:
            log.warning("%s: %s: %s", reconciler.component, key, error, exc_info=not expected)
        if failures >= _FAILURES_BEFORE_EVENT:
            _tell(reconciler, key, error)
    else:
        reconciler.queue.succeeded(key, time.monotonic() - began)


def _tell(reconciler: Reconciler[Hashable], key: Hashable, error: Exception) -> None:
    try:
        subject = reconciler.subject(key)
    except ApiError:
        return
    if subject is not None and uid_of(subject):
        reconciler.recorder.event(subject, "Warning", "FailedReconcile", str(error))


def _guarded(reconciler: Reconciler[Hashable], handler: Callable[[WatchEvent], None]) -> Callable[[WatchEvent], None]:
    """A handler's failure must not keep other subscribers from being told."""

    def handle(event: WatchEvent) -> None:
        try:
            handler(event)
        except Exception:
            log.exception("%s: while handling %s", reconciler.component, event.type)

    return handle
