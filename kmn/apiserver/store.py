"""The objects of a cluster, their versions, and what happened to them: the part that is etcd in Kubernetes.

Nothing here knows the rules of the API (``registry`` does). A store belongs to one thread, that of the asyncio loop;
stored objects are shared and never changed in place.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from typing import Literal

import orjson

from kmn.k8s.errors import ApiError, Reason
from kmn.k8s.objects import Object
from kmn.k8s.resources import ALL, Resource

__all__ = ["Collection", "Event", "EventType", "Record", "Store", "Where"]

EventType = Literal["ADDED", "MODIFIED", "DELETED"]
Where = tuple[Resource, str, str]  # resource, namespace, name

_BATCH = 500  # deferred jobs run in one turn of the loop: a few milliseconds


class Record:
    """One version of one object, with its JSON once somebody asked for it."""

    __slots__ = ("_json", "object", "version")

    def __init__(self, obj: Object, version: int) -> None:
        self.object = obj
        self.version = version
        self._json: bytes | None = None

    @property
    def json(self) -> bytes:
        """The object as it goes over the wire; made once for all readers."""
        if self._json is None:
            self._json = orjson.dumps(self.object)
        return self._json


class Event:
    """One change. ``previous`` is what a selector has to look at to tell that an object left its selection."""

    __slots__ = ("_line", "previous", "record", "type")

    def __init__(self, type: EventType, record: Record, previous: Record | None) -> None:
        self.type = type
        self.record = record
        self.previous = previous
        self._line: bytes | None = None

    @property
    def line(self) -> bytes:
        """The event as one line of a watch response; made once for all watchers."""
        if self._line is None:
            self._line = b'{"type":"%b","object":%b}\n' % (self.type.encode(), self.record.json)
        return self._line


class Collection:
    """All objects of one resource, and the log of their changes.

    ``version`` is that of the last change here, deletions included. The log keeps at least the last ``log_size``
    changes; whoever wants to continue from before that is told 410 Gone and lists again.
    """

    def __init__(self, resource: Resource, version: int, log_size: int) -> None:
        self.resource = resource
        self.version = version
        self.namespaces: dict[str, dict[str, Record]] = {}
        self.waiters: set[Callable[[], None]] = set()  # called once at the next change
        self._log: list[Event] = []
        self._log_versions: list[int] = []
        self._log_floor = version  # changes up to this one are no longer in the log
        self._log_size = log_size
        self._sorted: tuple[int, list[Record]] = (-1, [])

    def get(self, namespace: str, name: str) -> Record | None:
        """The current record of an object."""
        names = self.namespaces.get(namespace)
        return names.get(name) if names is not None else None

    def records(self, namespace: str | None = None) -> list[Record]:
        """Current records by namespace and name, of one namespace or (None) of all. Do not change the list."""
        if namespace is not None:
            names = self.namespaces.get(namespace, {})
            return [names[name] for name in sorted(names)]
        if self._sorted[0] != self.version:
            found = [names[name] for _, names in sorted(self.namespaces.items()) for name in sorted(names)]
            self._sorted = (self.version, found)
        return self._sorted[1]

    def __len__(self) -> int:
        return sum(len(names) for names in self.namespaces.values())

    def since(self, version: int) -> list[Event]:
        """Changes after ``version``. Raises ApiError (410) when the log does not reach back so far."""
        if version < self._log_floor:
            raise ApiError(410, Reason.EXPIRED, f"too old resource version: {version} ({self._log_floor})")
        if version >= self.version:
            return []
        return self._log[bisect_right(self._log_versions, version) :]

    def _append(self, event: Event) -> None:
        self._log.append(event)
        self._log_versions.append(event.record.version)
        if len(self._log) >= 2 * self._log_size:  # cut rarely, so that it costs nothing on average
            cut = len(self._log) - self._log_size
            self._log_floor = self._log_versions[cut - 1]
            del self._log[:cut], self._log_versions[:cut]
        if self.waiters:
            waiters, self.waiters = self.waiters, set()
            for wake in waiters:
                wake()

    def commit(self, event: Event) -> None:
        """Make an event the current state. Only the store calls this."""
        meta = event.record.object["metadata"]
        namespace, name = meta.get("namespace", ""), meta["name"]
        self.version = event.record.version
        if event.type == "DELETED":
            names = self.namespaces[namespace]
            del names[name]
            if not names:
                del self.namespaces[namespace]
        else:
            names = self.namespaces.setdefault(namespace, {})
            names[name] = event.record
        self._append(event)


class Store:
    """Collections under one counter of versions, indices by uid and by owner, and work deferred to the loop.

    ``observers`` are called inside each change and may only take note. What reacts to a change is deferred
    (:meth:`defer`): it runs from the loop, first in, first out, never inside a write. Without a running loop the work
    waits for the next write inside one, or for :meth:`drain`.
    """

    def __init__(self, *, log_size: int = 16384) -> None:
        self.version = 1
        self.collections = {resource: Collection(resource, self.version, log_size) for resource in ALL}
        self.observers: list[Callable[[Resource, Event], None]] = []
        self._by_uid: dict[str, Where] = {}
        self._by_owner: dict[str, dict[Where, None]] = {}
        self._jobs: deque[Callable[[], None]] = deque()
        self._scheduled = False

    def where(self, uid: str) -> Where | None:
        """Where the object with this uid is."""
        return self._by_uid.get(uid)

    def owned_by(self, uid: str) -> list[Where]:
        """Objects that name this uid among their owners, in the order in which they began to."""
        return list(self._by_owner.get(uid, ()))

    def contents(self, namespace: str) -> Iterator[tuple[Resource, list[Record]]]:
        """What is in a namespace, resource by resource."""
        for resource, collection in self.collections.items():
            if resource.namespaced and namespace in collection.namespaces:
                yield resource, collection.records(namespace)

    def is_empty(self, namespace: str) -> bool:
        """Whether a namespace holds nothing at all."""
        return not any(namespace in c.namespaces for r, c in self.collections.items() if r.namespaced)

    def put(self, resource: Resource, obj: Object) -> Record:
        """Store a new version of an object, which the store owns from now on."""
        collection = self.collections[resource]
        meta = obj["metadata"]
        previous = collection.get(meta.get("namespace", ""), meta["name"])
        self.version += 1
        meta["resourceVersion"] = str(self.version)
        record = Record(obj, self.version)
        self._commit(resource, Event("MODIFIED" if previous else "ADDED", record, previous))
        return record

    def remove(self, resource: Resource, namespace: str, name: str) -> Record:
        """Take an object out; the record returned is its last state under the version of the removal."""
        previous = self.collections[resource].get(namespace, name)
        if previous is None:
            raise KeyError((resource.plural, namespace, name))
        self.version += 1
        meta = {**previous.object["metadata"], "resourceVersion": str(self.version)}
        record = Record({**previous.object, "metadata": meta}, self.version)
        self._commit(resource, Event("DELETED", record, previous))
        return record

    def _commit(self, resource: Resource, event: Event) -> None:
        self._index(resource, event)
        self.collections[resource].commit(event)
        for observer in self.observers:
            observer(resource, event)

    def _index(self, resource: Resource, event: Event) -> None:
        meta = event.record.object["metadata"]
        where = (resource, meta.get("namespace", ""), meta["name"])
        before = event.previous.object["metadata"].get("ownerReferences") if event.previous else None
        after = meta.get("ownerReferences") if event.type != "DELETED" else None
        if event.type == "ADDED":
            self._by_uid[meta["uid"]] = where
        elif event.type == "DELETED":
            self._by_uid.pop(meta["uid"], None)
        if before == after:
            return
        kept = {reference["uid"] for reference in after or ()}
        for reference in before or ():
            if reference["uid"] not in kept:
                owned = self._by_owner.get(reference["uid"], {})
                owned.pop(where, None)
                if not owned:
                    self._by_owner.pop(reference["uid"], None)
        for uid in kept:
            self._by_owner.setdefault(uid, {}).setdefault(where)

    def defer(self, job: Callable[[], None]) -> None:
        """Run a job from the loop, after all that were deferred before. An error of one does not stop the others."""
        self._jobs.append(job)
        if not self._scheduled:
            self._schedule()

    def _schedule(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        self._scheduled = True
        loop.call_soon(self._run_batch, loop)

    def _run_batch(self, loop: asyncio.AbstractEventLoop) -> None:
        for _ in range(min(_BATCH, len(self._jobs))):
            job = self._jobs.popleft()
            try:
                job()
            except Exception as error:
                loop.call_exception_handler({"message": "deferred work of the store failed", "exception": error})
        self._scheduled = False
        if self._jobs:
            self._schedule()

    def drain(self) -> None:
        """Run everything deferred, also what that defers, now. For programs without a loop, and tests."""
        while self._jobs:
            self._jobs.popleft()()
