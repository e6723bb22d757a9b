"""One bridge's OpenFlow connection as the synchroniser sees it: what was asked, sent, and confirmed."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from controller.desired import Changes
from controller.openflow import wire
from controller.openflow.readback import Installed, read_flows, read_groups

__all__ = ["Channel", "Link", "Phase"]

_MORE = 1


class Channel(Protocol):
    """A connection to a switch, after the handshake. ``bridge`` is the Node or Edge whose listener took it."""

    @property
    def bridge(self) -> str: ...

    @property
    def datapath_id(self) -> int: ...

    def send(self, messages: bytes) -> None:
        """Queue OpenFlow messages; never blocks for long, and never raises when the connection is gone."""
        ...

    def close(self) -> None: ...


class Phase(Enum):
    """Where a connection is between accepted and in step."""

    READING = "reading"  # waiting for what the switch has
    WRITING = "writing"  # the difference was sent, and is not confirmed yet
    IN_STEP = "in step"  # confirmed; changes are sent as they come
    FAILED = "failed"  # the switch refused something; will be read again


@dataclass(slots=True)
class _Commit:
    """A bundle that is not in force yet."""

    xid: int
    epoch: int
    sent_at: float
    changes: bool
    answered: bool = False


class Link:
    """Bookkeeping of one connection. ``epoch`` numbers are the synchroniser's."""

    def __init__(self, channel: Channel, epoch: int) -> None:
        self.channel = channel
        self.phase = Phase.READING
        self.failures = 0  # in a row
        self.retry_at = 0.0
        self.asked_at = 0.0
        self.reported: set[bytes] = set()  # errors already logged since it was last in step
        self._xid = 0
        self._installed = Installed({}, {})
        self._awaited: set[int] = set()  # numbers of the read-back requests that are not fully answered
        self._commits: deque[_Commit] = deque()
        self._purged_with = 0  # the newest commit whose megaflows are being purged; 0: none are
        self._confirmed = epoch

    def _give_up(self) -> None:
        self._commits.clear()
        self._purged_with = 0

    def _next_xid(self) -> int:
        # Two at a time: a bundle's opening has the number before its commit's.
        self._xid = self._xid % 0x7FFFFFF0 + 2
        return self._xid

    def confirmed(self, current: int) -> int:
        """The newest epoch that is in force."""
        if self.phase is not Phase.IN_STEP:
            return self._confirmed
        return self._commits[0].epoch - 1 if self._commits else current

    def oldest_request(self) -> float | None:
        """When the request was sent that waits for its answer the longest."""
        for commit in self._commits:
            if not commit.answered:
                return commit.sent_at
        return self.asked_at if self.phase is Phase.READING else None

    def ask(self, now: float) -> None:
        """Read back everything."""
        self.phase, self.asked_at = Phase.READING, now
        self._installed = Installed({}, {})
        self._give_up()
        flows, groups = self._next_xid(), self._next_xid()
        self._awaited = {flows, groups}
        self.channel.send(wire.flow_desc_request(flows) + wire.group_desc_request(groups))

    def read(self, message: bytes) -> Installed | None:
        """Take one multipart reply; everything, once it is complete."""
        xid, kind, flags = struct.unpack_from("!4xIHH", message)
        if xid not in self._awaited:
            return None
        if kind == wire.FLOW_DESC:
            read_flows(message, self._installed.flows)
        elif kind == wire.GROUP_DESC:
            read_groups(message, self._installed.groups)
        if not flags & _MORE:
            self._awaited.discard(xid)
        return None if self._awaited else self._installed

    def commit(self, parts: list[Changes], epoch: int, now: float, *, purge: bool | None = None) -> int:
        """Send one bundle; answers with the number of messages in it. ``purge``: whether megaflows must go before it
        counts as in force; without a word, if it changes something."""
        messages = Changes.merge(parts)
        xid = self._next_xid()
        self._commits.append(_Commit(xid, epoch, now, bool(messages) if purge is None else purge))
        self.channel.send(wire.in_bundle(messages, xid))
        return len(messages)

    def forget(self, what: Sequence[wire.Forgotten], zone: int) -> None:
        """Forget connections and learned flows. Sent after a bundle, and done after it."""
        self.channel.send(b"".join([wire.forget(zone, each, self._next_xid()) for each in what]))

    def confirm(self, xid: int) -> bool:
        """A commit was answered. False when nothing was waiting for it.

        One that changed something is in force when megaflows of before it are gone: see :meth:`purge`.
        """
        waiting = next((commit for commit in self._commits if not commit.answered), None)
        if waiting is None or waiting.xid != xid:
            return False
        waiting.answered = True
        self._settle()
        return True

    def purge(self) -> int | None:
        """Whether to purge megaflows now: the number to give to :meth:`purged` afterwards. One at a time."""
        answered = [commit for commit in self._commits if commit.answered]
        if self._purged_with or not answered:
            return None
        self._purged_with = answered[-1].xid
        return self._purged_with

    def purged(self, number: int) -> None:
        """Megaflows of before a commit are gone."""
        if number != self._purged_with:
            return
        self._purged_with = 0
        for commit in self._commits:
            commit.changes = False
            if commit.xid == number:
                break
        self._settle()

    def _settle(self) -> None:
        while self._commits and self._commits[0].answered and not self._commits[0].changes:
            self._confirmed = self._commits.popleft().epoch

    @property
    def behind(self) -> int:
        """Commits that are not in force yet."""
        return len(self._commits)

    def fail(self, now: float) -> None:
        """The switch refused something: what it has must be read again, later and later."""
        if self.phase is not Phase.FAILED:
            self.failures += 1
            self.phase = Phase.FAILED
            self.retry_at = now + min(0.1 * 2**self.failures, 30.0)
        self._give_up()
