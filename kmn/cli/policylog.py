"""``kmn policy log``: verdicts of policies as they happen, from the bridges of all nodes."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from kmn.cli.policycounters import settings_of
from kmn.cluster import Cluster
from kmn.cluster_spec import PolicySpec
from kmn.errors import UserError
from kmn.front import select_cluster
from kmn.k8s import reflector
from kmn.k8s.dataplane import BRIDGE, POLICY_LOG_CONNECTION
from kmn.k8s.feed import Feed
from kmn.k8s.objects import Key, Object
from kmn.k8s.resources import NODES, Resource
from kmn.k8s.rest import RestClient
from kmn.naming import Paths
from kmn.openflow.listener import listen
from kmn.openflow.messages import PacketIn
from kmn.policy.log import Differences, Entry, entry_of
from kmn.policy.model import Action
from kmn.policy.world import World

__all__ = ["Filter", "follow"]

_FORMS = ("text", "json")
_PATIENCE = 1.0  # seconds that the news of an object may be later than a verdict in its name
_WAITING = 10_000  # verdicts that may wait for a slow reader of the output; then switches have to


@dataclass(frozen=True, slots=True)
class Filter:
    """Which verdicts are wanted. ``pod``: NAMESPACE/NAME of one end."""

    denied: bool = False
    namespace: str | None = None
    pod: str | None = None

    def wants(self, entry: Entry) -> bool:
        if self.denied and entry.action is not Action.DENY:
            return False
        pods = [place.name for place in (entry.source, entry.destination) if place.kind == "pod"]
        if self.pod is not None:
            return self.pod in pods
        return self.namespace is None or any(pod.startswith(f"{self.namespace}/") for pod in pods)


def follow(wanted: Filter, form: str, cluster: str | None) -> int:
    """Print verdicts, a line each, until interrupted or the cluster ends."""
    if form not in _FORMS:
        raise UserError(f"-o {form}: not known", ", ".join(_FORMS))
    # An API server that cannot be reached is one whose cluster ends, which is noted once.
    logging.getLogger(reflector.__name__).setLevel(logging.ERROR)
    state = select_cluster(cluster)
    ends = os.pidfd_open(state.pid)
    try:
        with Cluster.attach(state.name) as running:
            _note(_scope(settings_of(running.client)))
            shown = _Shown(wanted, form)
            asyncio.run(_follow(running.client, running.paths, ends, shown.take))
        _note(f"cluster {state.name} has ended")
    except KeyboardInterrupt:
        pass
    finally:
        os.close(ends)
    return 0


def _scope(settings: PolicySpec) -> str:
    """Which verdicts the cluster's bridges tell at all."""
    match settings.log:
        case "denied":
            return "what is denied is logged, what is allowed is not (policy.log: all in the cluster file logs both)"
        case "none":
            return "nothing is logged: the cluster file says policy.log: none"
    if settings.established == "cut":
        return "all verdicts are logged, and with policy.establishedConnections: cut all packets of clients are judged"
    return "all verdicts are logged"


def _note(text: str) -> None:
    print(f"kmn: {text}", file=sys.stderr, flush=True)


class _Shown:
    def __init__(self, wanted: Filter, form: str) -> None:
        self._wanted = wanted
        self._json = form == "json"

    def take(self, entry: Entry) -> None:
        if self._wanted.wants(entry):
            print(json.dumps(entry.as_json()) if self._json else entry, flush=True)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class _Told(NamedTuple):
    """What a bridge sent, and when it came."""

    time: dt.datetime
    deadline: float  # of the loop's clock: it is explained by what is known then
    node: str
    packet: PacketIn


async def _follow(client: RestClient, paths: Paths, ends: int, take: Callable[[Entry], None]) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(ends, ended.set)
    bridges = _Bridges(paths)
    feed = Feed(client, World.resources, bridges.put)
    explaining = asyncio.create_task(bridges.explain(feed.synced, take))
    waiting = asyncio.create_task(ended.wait())
    feed.start()
    try:
        done, _ = await asyncio.wait((explaining, waiting), return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        loop.remove_reader(ends)
        await bridges.close(explaining, waiting)
        feed.stop()


class _Bridges:
    """A listener for each node's bridge, and what is known to explain what they say."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._world = World()
        self._news = asyncio.Event()  # something became known
        self._told: asyncio.Queue[_Told] = asyncio.Queue(_WAITING)
        self._listeners: dict[str, asyncio.Task[None]] = {}
        self._heard: dict[str, bool] = {}  # nodes whose switch was asked to tell, and whether it does
        self._begun = False

    def put(self, resource: Resource, key: Key, obj: Object | None) -> None:
        """An object came, changed or (None) went."""
        self._world.put(resource, key, obj)
        self._news.set()
        if resource is not NODES:
            return
        if obj is None:
            self._heard.pop(key.name, None)
            self._listeners.pop(key.name).cancel()
        elif key.name not in self._listeners:
            self._listeners[key.name] = asyncio.create_task(self._listen(key.name))

    async def _listen(self, node: str) -> None:
        loop = asyncio.get_running_loop()

        async def take(packet: PacketIn) -> None:
            await self._told.put(_Told(_now(), loop.time() + _PATIENCE, node, packet))

        socket = self._paths.ovs(node) / f"{BRIDGE}.mgmt"
        await listen(socket, POLICY_LOG_CONNECTION, take, lambda heard: self._hear(node, heard))

    def _hear(self, node: str, heard: bool) -> None:
        before = self._heard.get(node)
        self._heard[node] = heard
        if self._begun and before != heard:
            _note(f"{node}: its switch tells verdicts {'again' if before is not None else 'now'}" if heard else
                  f"{node}: its switch cannot be reached; trying again")  # fmt: skip
        self._news.set()

    async def explain(self, synced: asyncio.Event, take: Callable[[Entry], None]) -> None:
        """Hand over what the bridges say, in the order in which it comes."""
        await synced.wait()
        while self._listeners.keys() - self._heard.keys():
            self._news.clear()
            await self._news.wait()
        self._begin()
        differences = Differences()
        while True:
            left = (differences.due - _now()).total_seconds() if differences.due is not None else None
            try:
                told = await asyncio.wait_for(self._told.get(), left)
            except TimeoutError:
                shown = differences.rest(_now())
            else:
                entry = await self._explained(told)
                shown = differences.put(entry) if entry is not None else []
            for each in shown:
                take(each)

    def _begin(self) -> None:
        silent = sorted(node for node, heard in self._heard.items() if not heard)
        _note(f"listening to the switches of {len(self._heard) - len(silent)} nodes")
        if silent:
            _note(f"cannot be reached, and are tried again: {', '.join(silent)}")
        self._begun = True

    async def _explained(self, told: _Told) -> Entry | None:
        while True:
            self._news.clear()
            entry = entry_of(self._world, told.time, told.node, told.packet)
            left = told.deadline - asyncio.get_running_loop().time()
            if entry is None or entry.explained or left <= 0:
                return entry
            try:
                await asyncio.wait_for(self._news.wait(), left)
            except TimeoutError:
                pass

    async def close(self, *tasks: asyncio.Task[object]) -> None:
        """End all listeners, and these tasks."""
        ending = [*self._listeners.values(), *tasks]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
