"""A resource kept in step with the API server by a thread: list once, then watch, whatever happens in between."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable

from kmn.k8s.client import Listing, WatchEvent
from kmn.k8s.errors import ApiError
from kmn.k8s.resources import Resource
from kmn.k8s.rest import RestClient, Watch

__all__ = ["Reflector"]

log = logging.getLogger(__name__)

_BACKOFF_FIRST = 0.05
_BACKOFF_LIMIT = 5.0
_GONE = 410


class Reflector:
    """Calls ``on_list`` with the whole, then ``on_event`` with each ADDED, MODIFIED and DELETED after it, in order.

    ``on_list`` is called again, and replaces what was known, when the server no longer knows the changes in between
    (it was restarted, or its log was outrun). Both are called in the reflector's own thread, which is a daemon.
    """

    def __init__(
        self,
        client: RestClient,
        resource: Resource,
        on_list: Callable[[Listing], None],
        on_event: Callable[[WatchEvent], None],
        *,
        namespace: str | None = None,
    ) -> None:
        self.resource = resource
        self.synced = threading.Event()  # the first list was delivered
        self._client = client
        self._on_list = on_list
        self._on_event = on_event
        self._namespace = namespace
        self._version: str | None = None  # None: list before watching
        self._watch: Watch | None = None
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"reflector-{resource.plural}", daemon=True)

    def start(self) -> None:
        """Begin. Once only."""
        self._thread.start()

    def stop(self, timeout: float | None = 5.0) -> None:
        """End; no callback is running any more when this returns (within ``timeout``)."""
        self._stopped.set()
        with self._lock:
            if self._watch is not None:
                self._watch.close()
        if self._thread is not threading.current_thread() and self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        backoff = _BACKOFF_FIRST
        while not self._stopped.is_set():
            try:
                self._follow()
                backoff = _BACKOFF_FIRST
            except ApiError as error:
                if self._stopped.is_set():
                    return
                if error.code == _GONE:
                    self._version = None
                    continue
                log.warning("%s: %s; trying again in %.2f s", self.resource.plural, error, backoff)
                self._stopped.wait(backoff * random.uniform(0.8, 1.2))
                backoff = min(backoff * 2, _BACKOFF_LIMIT)

    def _follow(self) -> None:
        """List if need be, then watch until the watch ends."""
        if self._version is None:
            listing = self._client.list(self.resource, self._namespace)
            self._on_list(listing)
            self._version = listing.resource_version
            self.synced.set()
        watch = self._client.watch(self.resource, self._version, namespace=self._namespace)
        with self._lock:
            self._watch = watch
            if self._stopped.is_set():
                watch.close()
        with watch:
            for event in watch:
                if event.type != "BOOKMARK":
                    self._on_event(event)
                self._version = event.object["metadata"]["resourceVersion"]
