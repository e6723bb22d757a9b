"""Keeps every connected bridge in step with the objects: one thread, one queue, no locks.

Whatever happens (objects, connections, answers of switches) comes as an item of the queue. All items that are there
are taken in before anything is computed, so that a burst of events costs one bundle a bridge. A change gets an *epoch*
number; the resource versions of an epoch are in force when every connected bridge has confirmed it.
"""

from __future__ import annotations

import logging
import queue
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from controller.census import Pace, Tally
from controller.cluster import Bridge, Cluster
from controller.desired import Changes
from controller.features.stale import forget_installed
from controller.link import Channel, Link, Phase
from controller.openflow import wire
from controller.openflow.readback import Installed, SwitchError
from controller.pipeline import ZONE
from controller.problems import NatWatch
from controller.report import BridgeStatus, Report
from controller.views import NodeView
from kmn.k8s.objects import Object

__all__ = ["Synchronizer"]

LOG = logging.getLogger(__name__)

_ANSWER_TIMEOUT = 60.0  # a switch that says nothing for so long is disconnected
_COMMIT_REPLY = 5
_COUNT_XID = 0x6B6D6F  # of questions about counters; their answers are told by their type
_MAX_BEHIND = 4  # bundles that a switch may have to answer before changes are gathered instead of sent
# After a computation that took long (seconds) more of the same is waited for: until nothing came for a moment, but not
# for ever. Of a burst of policies each changes flows that they all share, and these are sent with each batch.
_LONG, _FEW, _MOMENT, _MAX_REST = 0.02, 4, 0.05, 0.5
_MAX_EPOCHS = 1000  # remembered while a bridge does not confirm


class _Listed(NamedTuple):
    resource: str
    items: list[Object]
    version: str


class _Event(NamedTuple):
    resource: str
    kind: str
    object: Object


class _Up(NamedTuple):
    channel: Channel


class _Down(NamedTuple):
    channel: Channel


class _Message(NamedTuple):
    channel: Channel
    message: bytes


class _Purged(NamedTuple):
    channel: Channel
    number: int


class _Counted(NamedTuple):
    bridge: str
    tally: Tally


class _CountDone(NamedTuple):
    seconds: float


class _Listening(NamedTuple):
    bridge: str
    yes: bool


class _Stop(NamedTuple):
    pass


_Item = _Listed | _Event | _Up | _Down | _Message | _Purged | _Counted | _CountDone | _Listening | _Stop
# Counts connections of bridges: what to tell of each, and at last how many seconds it took.
Count = Callable[[Sequence[str], Callable[[str, Tally], None], Callable[[float], None]], None]


@dataclass(slots=True)
class _Counters:
    """What was done since the start, for tests and measurements."""

    batches: int = 0
    messages: int = 0  # flow and group modifications sent, over all bridges
    reads: int = 0


class Synchronizer:
    """The loop. ``resources`` must all be listed before the first flow is sent: half a picture would remove flows.

    ``on_bridges`` is told which bridges there are, whenever that changes; ``on_report`` what to tell the API. ``purge``
    makes a bridge's switch forget its megaflows, and then calls what it was given. ``count`` counts connections.
    """

    def __init__(
        self,
        resources: Iterable[str],
        on_report: Callable[[Report], None],
        on_bridges: Callable[[dict[str, Bridge]], None] = lambda bridges: None,
        *,
        purge: Callable[[str, Callable[[], None]], None],
        count: Count,
    ) -> None:
        self.cluster = Cluster()
        self.counters = _Counters()
        self._queue: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._unlisted = set(resources)
        self._on_report = on_report
        self._on_bridges = on_bridges
        self._purge = purge
        self._count = count
        self._pace = Pace()
        self._tallies: dict[str, Tally] = {}  # connections as counted last, by bridge
        self._counted: set[str] = set()  # bridges of which this is news
        self._came_or_went = False  # connections did, says the count that is being made
        self._bridges: dict[str, Bridge] = {}
        self._links: dict[str, Link] = {}
        self._listening: dict[str, bool] = {}
        self._versions: dict[str, str] = {}
        self._epoch = 0
        self._epochs: dict[int, dict[str, str]] = {}  # versions of those not in force everywhere
        self._in_force: dict[str, str] = {}
        self._reported: Report | None = None
        self._nat = NatWatch()
        self._changed = False  # objects came in since the last epoch
        self._arrived = 0.0  # the last one of them
        self._arrivals = 0  # how many
        self._rests_until = 0.0

    # Called from any thread.

    def listed(self, resource: str, items: list[Object], version: str) -> None:
        self._queue.put(_Listed(resource, items, version))

    def event(self, resource: str, kind: str, obj: Object) -> None:
        self._queue.put(_Event(resource, kind, obj))

    def up(self, channel: Channel) -> None:
        """A bridge is connected, and its handshake done."""
        self._queue.put(_Up(channel))

    def down(self, channel: Channel) -> None:
        self._queue.put(_Down(channel))

    def receive(self, channel: Channel, message: bytes) -> None:
        """An OpenFlow message from a bridge: multipart replies, bundle replies and errors count."""
        self._queue.put(_Message(channel, message))

    def listening(self, bridge: str, yes: bool) -> None:
        self._queue.put(_Listening(bridge, yes))

    def stop(self) -> None:
        self._queue.put(_Stop())

    # The loop's own thread.

    def run(self) -> None:
        """Until :meth:`stop`."""
        while self._take():
            self._advance(time.monotonic())

    def _take(self) -> bool:
        """Wait for something, and take in all that is there. False: stop."""
        try:
            item = self._queue.get(timeout=self._patience())
            while True:
                if isinstance(item, _Stop):
                    return False
                self._handle(item)
                item = self._queue.get_nowait()
        except queue.Empty:
            return True

    def _patience(self) -> float | None:
        now = time.monotonic()
        times = [link.retry_at for link in self._links.values() if link.phase is Phase.FAILED]
        times += [since + _ANSWER_TIMEOUT for link in self._links.values() if (since := link.oldest_request())]
        if (question := self._nat.next_question()) is not None:
            times.append(question)
        if self.cluster.leveler and self._countable() and (count := self._pace.next) is not None:
            times.append(count)
        if self._changed and (rests := self._rest()) > now:
            times.append(rests)
        return max(0.0, min(min(times) - now, _ANSWER_TIMEOUT)) if times else None

    def _rest(self) -> float:
        """When to compute what has changed. A few changes are no burst."""
        return min(self._rests_until, self._arrived + _MOMENT) if self._arrivals > _FEW else 0.0

    def _note(self) -> None:
        self._changed, self._arrived = True, time.monotonic()
        self._arrivals += 1

    def _handle(self, item: _Item) -> None:
        match item:
            case _Event(resource, kind, obj):
                self.cluster.apply(resource, kind, obj)
                self._versions[resource] = obj["metadata"]["resourceVersion"]
                self._note()
            case _Listed(resource, items, version):
                self.cluster.replace(resource, items)
                self._versions[resource] = version
                self._unlisted.discard(resource)
                self._note()
            case _Message(channel, message):
                link = self._links.get(channel.bridge)
                if link is not None and link.channel is channel:
                    self._answer(link, message)
            case _Up(channel):
                self._connect(channel)
            case _Down(channel):
                link = self._links.get(channel.bridge)
                if link is not None and link.channel is channel:
                    LOG.info("%s: disconnected", channel.bridge)
                    del self._links[channel.bridge]
            case _Purged(channel, number):
                link = self._links.get(channel.bridge)
                if link is not None and link.channel is channel:
                    link.purged(number)
                    self._confirmed(link)
            case _Counted(bridge, tally):
                self._came_or_went |= tally != self._tallies.get(bridge)
                self._tallies[bridge] = tally
                self._counted.add(bridge)
            case _CountDone(seconds):
                self._pace.ended(time.monotonic(), seconds, changed=self._came_or_went)
            case _Listening(bridge, yes):
                self._listening[bridge] = yes

    def _connect(self, channel: Channel) -> None:
        old = self._links.pop(channel.bridge, None)
        if old is not None:
            old.channel.close()
        LOG.info("%s: connected, datapath %016x", channel.bridge, channel.datapath_id)
        link = self._links[channel.bridge] = Link(channel, -1)
        self._read(link)

    def _read(self, link: Link) -> None:
        self.counters.reads += 1
        link.ask(time.monotonic())

    # Answers of switches.

    def _answer(self, link: Link, message: bytes) -> None:
        kind = message[1]
        packets = wire.aggregate_packets(message)
        if packets is not None:
            self._nat.answer(link.channel.bridge, packets, time.monotonic())
        elif kind == wire.MULTIPART_REPLY:
            installed = link.read(message)
            if installed is not None and link.phase is Phase.READING:
                self._write(link, installed)
        elif kind == wire.BUNDLE_CONTROL:
            xid, reply = struct.unpack_from("!4xI4xH", message)
            if reply == _COMMIT_REPLY and link.confirm(xid):
                self._confirmed(link)
        elif kind == wire.ERROR:
            self._error(link, SwitchError.read(message))

    def _confirmed(self, link: Link) -> None:
        """A switch has a bundle, or has forgotten what it derived from flows of before it."""
        number = link.purge() if link.behind else None
        if number is not None:
            channel = link.channel
            self._purge(channel.bridge, lambda: self._queue.put(_Purged(channel, number)))
        if link.phase is Phase.WRITING and not link.behind:
            LOG.info("%s: in step", link.channel.bridge)
            link.phase, link.failures = Phase.IN_STEP, 0
            link.reported.clear()

    def _error(self, link: Link, error: SwitchError) -> None:
        bridge = link.channel.bridge
        if error.flow is not None:
            cookie, table, priority = error.flow
            feature, owners = self.cluster.owner_of(cookie)
            text = next(
                (
                    str(flow)
                    for scope in self.cluster.scopes(bridge)
                    for flow in scope.flows.values()
                    if (flow.cookie, flow.table, flow.priority) == (cookie, table, priority)
                ),
                f"cookie={cookie:#x}, table={table}, priority={priority}",
            )
            what = f"flow of {feature} {' or '.join(owners) or 'an object that is gone'}: {text.strip()}"
        elif error.group is not None:
            what = f"group {error.group}"
        else:
            what = f"message type {error.about[1] if len(error.about) > 1 else '?'}"
        if error.about not in link.reported:
            link.reported.add(error.about)
            LOG.error("%s: the switch refused %s (%s); will be synchronised anew", bridge, what, error)
        link.fail(time.monotonic())

    def _write(self, link: Link, installed: Installed) -> None:
        """Send the difference between what a switch has and what it should have."""
        if self._unlisted or link.channel.bridge not in self._bridges:
            # Not known yet, or not any more: read again when it is.
            link.phase = Phase.FAILED
            link.retry_at = float("inf") if self._unlisted else time.monotonic() + 1.0
            return
        self._compute()
        bridge = self._bridges[link.channel.bridge]
        if bridge.datapath_id != link.channel.datapath_id:
            LOG.error(
                "%s: datapath %016x connected, %016x expected; disconnected",
                bridge.name, link.channel.datapath_id, bridge.datapath_id,
            )  # fmt: skip
            link.channel.close()
            return
        difference = self.cluster.difference(bridge.name, installed)
        LOG.info(
            "%s: has %d flows and %d groups, %d modifications needed",
            bridge.name, len(installed.flows), len(installed.groups), len(difference),
        )  # fmt: skip
        link.phase = Phase.WRITING
        # Even an empty bundle is committed: its answer says that the switch is alive and in step. And megaflows are
        # purged even if nothing changes: a controller may have ended after the last change, and before their purge.
        self.counters.messages += link.commit([difference], self._epoch, time.monotonic(), purge=True)
        if difference and installed.flows:
            wanted = {
                number: group for scope in self.cluster.scopes(bridge.name) for number, group in scope.groups.items()
            }
            flushes = forget_installed(installed.groups, wanted)
            link.forget(flushes, ZONE)

    # Changes of objects.

    def _advance(self, now: float) -> None:
        rested = now >= self._rest()
        if (
            not self._unlisted
            and rested
            and max((link.behind for link in self._links.values()), default=0) < _MAX_BEHIND
        ):
            self._compute()
        for link in list(self._links.values()):
            since = link.oldest_request()
            if since is not None and now - since > _ANSWER_TIMEOUT:
                LOG.error("%s: no answer for %d seconds; disconnected", link.channel.bridge, _ANSWER_TIMEOUT)
                del self._links[link.channel.bridge]
                link.channel.close()
            elif link.phase is Phase.FAILED and link.retry_at <= now:
                self._read(link)
        self._watch_nat(now)
        self._watch_connections(now)
        self._observe()
        self._report()

    def _watch_nat(self, now: float) -> None:
        for name, bridge in self._bridges.items():
            link = self._links.get(name)
            if link is None or link.phase is not Phase.IN_STEP:
                self._nat.forget(name)
            elif question := self._nat.question(bridge, self.cluster.masquerade, now, _COUNT_XID):
                link.channel.send(question)

    def _countable(self) -> list[str]:
        """Nodes whose connections can be counted, and turns be changed."""
        return [
            name
            for name, link in self._links.items()
            if link.phase is Phase.IN_STEP
            and link.behind < _MAX_BEHIND
            and isinstance(self._bridges.get(name), NodeView)
        ]

    def _watch_connections(self, now: float) -> None:
        """Where connections decide who gets the next ones, have them counted when it is time."""
        self._level()
        count, nodes = self._pace.next, self._countable()
        if not self.cluster.leveler or not nodes or count is None or now < count:
            return
        self._pace.began()
        self._came_or_went = False
        self._count(
            nodes,
            lambda bridge, tally: self._queue.put(_Counted(bridge, tally)),
            lambda seconds: self._queue.put(_CountDone(seconds)),
        )

    def _level(self) -> None:
        """Turns that follow from what was counted, to the switches.

        No megaflows are purged for them: a connection's first packet, which takes a turn, shares its megaflow with no
        other connection.
        """
        counted, self._counted = self._counted, set()
        for name in counted & set(self._countable()):
            link = self._links[name]
            begin = self.cluster.leveler.counted(name, self._tallies[name], self._pace.gap)
            changes = self.cluster.scopes(name)[-1].take()
            if begin or changes:
                parts = [changes, Changes(gone_flows=tuple(begin))]
                self.counters.messages += link.commit(parts, self._epoch, time.monotonic(), purge=False)

    def _compute(self) -> None:
        """A new epoch: recompute what changed, and send it to the bridges that are in step or about to be."""
        if not self._changed:
            return
        self._changed, self._arrivals = False, 0
        began = time.monotonic()
        stale = self.cluster.compute()
        self._pace.hurry()
        self._epoch += 1
        self._epochs[self._epoch] = dict(self._versions)
        if len(self._epochs) > _MAX_EPOCHS:
            del self._epochs[min(self._epochs)]
        common = self.cluster.common.take()
        bridges = self.cluster.bridges()
        now = time.monotonic()
        for name in bridges:
            scopes = self.cluster.scopes(name)
            parts = [common if scope is self.cluster.common else scope.take() for scope in scopes]
            link = self._links.get(name)
            if link is None or link.phase not in (Phase.IN_STEP, Phase.WRITING):
                continue
            parts = [part for part in parts if part]
            if parts:
                self.counters.messages += link.commit(parts, self._epoch, now)
            forgotten = stale if scopes[0] is self.cluster.common else self.cluster.stale_outside
            if forgotten:
                link.forget(forgotten, ZONE)
        self.counters.batches += 1
        ended = time.monotonic()
        self._rests_until = ended + _MAX_REST if ended - began >= _LONG else 0.0
        if bridges != self._bridges:
            self._change_bridges(bridges)

    def _change_bridges(self, bridges: dict[str, Bridge]) -> None:
        known, self._bridges = self._bridges, bridges
        for name in known.keys() - bridges.keys():
            link = self._links.pop(name, None)
            if link is not None:
                link.channel.close()
        for name in known.keys() & bridges.keys():
            if known[name].datapath_id != bridges[name].datapath_id and name in self._links:
                self._links.pop(name).channel.close()
        for link in self._links.values():
            if link.phase is Phase.FAILED:
                link.retry_at = 0.0
        self._on_bridges(bridges)

    # What is in force.

    def _observe(self) -> None:
        """Take the newest epoch that all connected bridges have confirmed as what is in force."""
        reached = min([link.confirmed(self._epoch) for link in self._links.values()], default=self._epoch)
        for epoch in [epoch for epoch in self._epochs if epoch <= reached]:
            self._in_force = self._epochs.pop(epoch)

    def _report(self) -> None:
        if self._unlisted:
            return
        statuses = []
        for name in self._bridges:
            link = self._links.get(name)
            connected = link is not None and link.phase is Phase.IN_STEP
            listening = self._listening.get(name, False)
            statuses.append(BridgeStatus(name, listening, connected, *self.cluster.size(name)))
        report = Report(
            dict(self._in_force),
            tuple(statuses),
            tuple(sorted({*self.cluster.malformed.values(), *self.cluster.outside.problems})),
            self._nat.problems(time.monotonic()),
        )
        if report != self._reported:
            self._reported = report
            self._on_report(report)
