"""``kmn ingress log``: requests as they end, out of the access logs of all ingress proxies of a cluster."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from dataclasses import dataclass
from ipaddress import ip_address

from kmn.cluster import Cluster
from kmn.errors import UserError
from kmn.front import select_cluster
from kmn.ingress.accesslog import Entry, entry_of
from kmn.ingress.logfile import LogReader, kept_lines
from kmn.ingress.proxy import access_logs, folder_of
from kmn.k8s import reflector
from kmn.k8s.feed import Feed
from kmn.k8s.objects import Key, Object, uid_of
from kmn.k8s.resources import APPLICATIONLOADBALANCERS, PODS, Resource
from kmn.k8s.rest import RestClient
from kmn.naming import Paths
from kmn.policy.places import Places

__all__ = ["Filter", "Query", "follow"]

_FORMS = ("text", "json")
_PAUSE = 0.1  # seconds between looks at the files


@dataclass(frozen=True, slots=True)
class Filter:
    """Which requests are wanted. ``status`` is a number or a class such as ``5xx``; ``owner`` is NAME or NS/NAME of the
    Ingress, or of whatever else has the rule."""

    namespace: str | None = None
    host: str | None = None
    status: str | None = None
    owner: str | None = None

    def check(self) -> None:
        """Raises UserError for a status that there cannot be."""
        text = (self.status or "200").lower()
        if len(text) != 3 or text[0] not in "12345" or not (text[1:] == "xx" or text.isdigit()):
            raise UserError(f"--status {self.status}: not understood", "a number such as 404, or a class such as 5xx")

    def wants(self, entry: Entry) -> bool:
        owner = entry.owner
        if self.namespace is not None and (owner is None or owner.namespace != self.namespace):
            return False
        if self.owner is not None and (owner is None or self.owner not in (owner.name, str(owner.key))):
            return False
        host = (entry.host or "").lower()
        if self.host is not None and self.host.lower() not in (host, host.rpartition(":")[0]):
            return False
        return self.status is None or self._has_status(entry.status or 0)

    def _has_status(self, status: int) -> bool:
        wanted = (self.status or "").lower()
        return str(status // 100) == wanted[0] if wanted.endswith("xx") else str(status) == wanted


@dataclass(frozen=True, slots=True)
class Query:
    """``past``: how many requests of those that are kept are shown first; ``on``: whether to go on with what comes."""

    wanted: Filter
    form: str = "text"
    past: int = 0
    on: bool = True


def follow(query: Query, cluster: str | None) -> int:
    """Print requests, a line each, until interrupted or the cluster ends."""
    if query.form not in _FORMS:
        raise UserError(f"-o {query.form}: not known", ", ".join(_FORMS))
    query.wanted.check()
    # Without the API, names are known as they were: nothing to complain about.
    logging.getLogger(reflector.__name__).setLevel(logging.ERROR)
    state = select_cluster(cluster)
    ends = os.pidfd_open(state.pid)
    try:
        with Cluster.attach(state.name) as running:
            ended = asyncio.run(_follow(running.client, running.paths, ends, query))
        if ended:
            _note(f"cluster {state.name} has ended")
    except KeyboardInterrupt:
        pass
    finally:
        os.close(ends)
    return 0


def _note(text: str) -> None:
    print(f"kmn: {text}", file=sys.stderr, flush=True)


async def _follow(client: RestClient, paths: Paths, ends: int, query: Query) -> bool:
    """Whether it was the cluster that ended it."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(ends, ended.set)
    logs = _Logs(paths, query)
    feed = Feed(client, (*Places.resources, APPLICATIONLOADBALANCERS), logs.put)
    feed.start()
    try:
        synced = asyncio.create_task(feed.synced.wait())
        waiting = asyncio.create_task(ended.wait())
        await asyncio.wait((synced, waiting), return_when=asyncio.FIRST_COMPLETED)
        synced.cancel()
        logs.begin()
        while query.on and not ended.is_set():
            await asyncio.wait((waiting,), timeout=0 if logs.look() else _PAUSE)
        waiting.cancel()
        return ended.is_set()
    finally:
        loop.remove_reader(ends)
        feed.stop()


class _Logs:
    """The access log of each ingress proxy, and what is known to explain what they say."""

    def __init__(self, paths: Paths, query: Query) -> None:
        self._run = paths.root
        self._query = query
        self._places = Places()
        # Pods and application load balancers, by the folder that their proxy has, if one runs there.
        self._proxies: dict[str, str] = {}
        self._readers: dict[str, LogReader] = {}  # by folder

    def put(self, resource: Resource, key: Key, obj: Object | None) -> None:
        """An object came, changed or (None) went."""
        if resource is not APPLICATIONLOADBALANCERS:
            self._places.put(resource, key, obj)
        if resource in (PODS, APPLICATIONLOADBALANCERS) and obj is not None:
            self._proxies[folder_of(self._run, uid_of(obj)).name] = str(key)

    def begin(self) -> None:
        """What is kept of the past, in order of time; from now on all that comes."""
        past: list[Entry] = []
        for folder, file in access_logs(self._run).items():
            self._readers[folder] = LogReader(file, from_end=True)
            if self._query.past:
                entries = (self._entry(folder, line) for line in kept_lines(file))
                past = sorted([*past, *filter(None, entries)], key=lambda entry: entry.time)[-self._query.past :]
        for entry in past:
            self._print(entry)
        if self._query.on:
            proxies = [self._proxies.get(folder, folder) for folder in self._readers]
            _note(f"listening to the ingress proxies of {', '.join(proxies) or 'pods that are to come'}")

    def look(self) -> bool:
        """Show what came; whether there may be more."""
        files = access_logs(self._run)
        for folder in files.keys() - self._readers.keys():
            self._readers[folder] = LogReader(files[folder])
        more = [self._show(folder, reader) for folder, reader in self._readers.items()]
        for folder in self._readers.keys() - files.keys():
            while self._show(folder, self._readers[folder]):
                pass
            self._readers.pop(folder).close()
        return any(more)

    def _show(self, folder: str, reader: LogReader) -> bool:
        lines = reader.read()
        for line in lines:
            entry = self._entry(folder, line)
            if entry is not None:
                self._print(entry)
        return bool(lines)

    def _entry(self, folder: str, line: bytes) -> Entry | None:
        """One that is wanted. A proxy that was killed may have left half a line."""
        proxy = self._proxies.get(folder, folder)
        try:
            entry = entry_of(line, proxy, self._name)
        except ValueError as error:
            _note(f"{proxy}: {error}")
            return None
        return entry if self._query.wanted.wants(entry) else None

    def _name(self, address: str) -> str | None:
        place = self._places.at(ip_address(address))
        return str(place) if place.kind else None

    def _print(self, entry: Entry) -> None:
        print(json.dumps(entry.as_json()) if self._query.form == "json" else entry, flush=True)
