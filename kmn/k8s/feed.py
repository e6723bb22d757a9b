"""Objects of several resources, from the reflectors' threads into the event loop, one change after the other."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterable
from typing import TypeVar

from kmn.k8s.client import Listing, WatchEvent
from kmn.k8s.objects import Key, Object, key_of
from kmn.k8s.reflector import Reflector
from kmn.k8s.resources import Resource
from kmn.k8s.rest import RestClient

__all__ = ["Feed"]

T = TypeVar("T")


class Feed:
    """Calls ``apply(resource, key, object or None)`` in the loop for whatever differs from what was last told.

    ``synced`` is set when all resources have been listed, and what was on the lists has been applied.
    """

    def __init__(
        self,
        client: RestClient,
        resources: Iterable[Resource],
        apply: Callable[[Resource, Key, Object | None], None],
    ) -> None:
        self.synced = asyncio.Event()
        self._apply = apply
        self._loop = asyncio.get_running_loop()
        self._known: dict[Resource, set[Key]] = {}
        self._reflectors = [
            Reflector(
                client,
                resource,
                functools.partial(self._hand_over, self.replace, resource),
                functools.partial(self._hand_over, self.change, resource),
            )
            for resource in resources
        ]

    def start(self) -> None:
        """Begin to list and watch."""
        for reflector in self._reflectors:
            reflector.start()

    def stop(self) -> None:
        """End all watches."""
        for reflector in self._reflectors:
            reflector.stop(timeout=1.0)

    def replace(self, resource: Resource, listing: Listing) -> None:
        """Take a whole list in: what is not on it is gone."""
        objects = {key_of(obj): obj for obj in listing.items}
        for key in self._known.get(resource, set()) - objects.keys():
            self._apply(resource, key, None)
        for key, obj in objects.items():
            self._apply(resource, key, obj)
        self._known[resource] = set(objects)
        if len(self._known) == len(self._reflectors):
            self.synced.set()

    def change(self, resource: Resource, event: WatchEvent) -> None:
        """Take one change in."""
        key = key_of(event.object)
        gone = event.type == "DELETED"
        (self._known[resource].discard if gone else self._known[resource].add)(key)
        self._apply(resource, key, None if gone else event.object)

    def _hand_over(self, work: Callable[[Resource, T], None], resource: Resource, what: T) -> None:
        """From a reflector's thread."""
        try:
            self._loop.call_soon_threadsafe(work, resource, what)
        except RuntimeError:
            pass  # the loop is closed: the process ends
