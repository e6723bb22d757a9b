"""Watches over HTTP: each is a position in its collection's log, so a slow client costs no memory.

A client that falls behind the log is told 410 Gone and lists again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import orjson
from aiohttp import web

from kmn.apiserver.represent import Representation
from kmn.apiserver.store import Collection, Event, EventType, Record
from kmn.k8s.errors import ApiError

__all__ = ["WatchOptions", "stream"]

_BOOKMARK_INTERVAL = 15.0  # seconds without a change
_CHUNK = 1000  # events written at once

Matches = Callable[[Record], bool]


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """``version`` None: from the present objects on. ``initial_events``: those first, then a bookmark that says so."""

    version: int | None
    bookmarks: bool = False
    initial_events: bool = False
    timeout: float | None = None


async def stream(
    request: web.BaseRequest,
    collection: Collection,
    options: WatchOptions,
    representation: Representation,
    matches: Matches | None,
) -> web.StreamResponse:
    """Answer a watch request, until its time is up or the client is gone. ``matches`` None: everything."""
    position = collection.version if options.version is None else options.version
    if options.version is not None:
        collection.since(position)  # too old? then before anything is sent
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Cache-Control": "no-cache, private"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    try:
        await _write_changes(response, collection, options, position, representation, matches)
        await response.write_eof()
    except ConnectionResetError:
        pass  # the client is gone: nobody is left to be told
    return response


async def _write_changes(
    response: web.StreamResponse,
    collection: Collection,
    options: WatchOptions,
    position: int,
    representation: Representation,
    matches: Matches | None,
) -> None:
    """What comes after a version, until time is up."""
    loop = asyncio.get_running_loop()
    end = None if options.timeout is None else loop.time() + options.timeout
    if options.version is None or options.initial_events:
        position = await _write_present(response, collection, options, representation, matches)
    while end is None or loop.time() < end:
        try:
            events = collection.since(position)
        except ApiError as error:
            await response.write(orjson.dumps({"type": "ERROR", "object": error.status()}) + b"\n")
            break
        if events:
            events = events[:_CHUNK]
            position = events[-1].record.version
            lines = [line for event in events if (line := _line(event, representation, matches))]
            if lines:
                await response.write(b"".join(lines))
        elif not await _changed(collection, position, end) and options.bookmarks:
            await response.write(representation.bookmark(position))


async def _write_present(
    response: web.StreamResponse,
    collection: Collection,
    options: WatchOptions,
    representation: Representation,
    matches: Matches | None,
) -> int:
    """The present objects as ADDED; the version that they are of."""
    position = collection.version
    records = [record for record in collection.records() if matches is None or matches(record)]
    for start in range(0, len(records), _CHUNK):
        await response.write(b"".join(representation.added(record) for record in records[start : start + _CHUNK]))
    if options.initial_events and options.bookmarks:
        await response.write(representation.bookmark(position, initial_end=True))
    return position


def _line(event: Event, representation: Representation, matches: Matches | None) -> bytes | None:
    """An event as this watch sees it: an object that leaves the selection is DELETED for it."""
    if matches is None:
        return representation.event(event.type, event)
    before = event.previous is not None and matches(event.previous)
    after = event.type != "DELETED" and matches(event.record)
    seen: EventType
    if after:
        seen = "MODIFIED" if before else "ADDED"
    elif before:
        seen = "DELETED"
    else:
        return None
    return representation.event(seen, event)


async def _changed(collection: Collection, position: int, end: float | None) -> bool:
    """Wait for a change; False when it is time for a bookmark (or the end)."""
    loop = asyncio.get_running_loop()
    changed: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not changed.done():
            changed.set_result(None)

    timeout = _BOOKMARK_INTERVAL if end is None else max(0.0, min(_BOOKMARK_INTERVAL, end - loop.time()))
    collection.waiters.add(wake)
    try:
        await asyncio.wait_for(changed, timeout)
    except TimeoutError:
        return False
    finally:
        collection.waiters.discard(wake)
    return True
