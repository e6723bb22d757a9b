"""Requests counted by rule, backend and pod, out of the access logs of all proxies: none is left out, none is sampled.

A count belongs to the name of a rule, not to a configuration, so changes of the configuration do not touch it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from kmn.ingress.accesslog import backend_of, split_address

__all__ = ["Count", "Place", "Tally", "counts_of"]

log = logging.getLogger(__name__)

_UPGRADED = 101  # its duration is that of all that came after


class Place(NamedTuple):
    """What is counted by itself. What is "" there is none of: no rule, no backend, nobody who was asked."""

    controller: str
    rule: str
    backend: str
    pod: str


@dataclass(slots=True)
class Count:
    """``answers`` by class of status: 2 is 200 to 299; 0 is no answer. ``durations`` are numbers of requests by
    :func:`bucket_of` their microseconds."""

    answers: dict[int, int] = field(default_factory=dict)
    received: int = 0  # bytes
    sent: int = 0
    microseconds: int = 0  # of all whose duration is counted
    durations: dict[int, int] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        return sum(self.answers.values())

    @property
    def mean(self) -> float | None:
        """Milliseconds, None without any."""
        timed = sum(self.durations.values())
        return self.microseconds / timed / 1000 if timed else None

    def percentile(self, percent: float) -> float | None:
        """Milliseconds that so many requests took at most, to within 3 %."""
        left = sum(self.durations.values()) * percent / 100
        for bucket in sorted(self.durations):
            left -= self.durations[bucket]
            if left <= 0:
                return middle_of(bucket) / 1000
        return None

    def add(self, other: Count) -> None:
        """Take in what another one has counted."""
        self.received += other.received
        self.sent += other.sent
        self.microseconds += other.microseconds
        for mine, others in ((self.answers, other.answers), (self.durations, other.durations)):
            for key, number in others.items():
                mine[key] = mine.get(key, 0) + number


def bucket_of(value: int) -> int:
    """Sixteen buckets for each power of two; below 32 each value has its own."""
    shift = max(value.bit_length() - 5, 0)
    return (shift << 4) + (value >> shift)


def middle_of(bucket: int) -> float:
    """Of the values of a bucket."""
    if bucket < 32:
        return bucket
    shift = (bucket >> 4) - 1
    return ((bucket & 15) + 16.5) * (1 << shift)


class Tally:
    """Counts lines of access logs. ``pod_at`` names the pod (or node) that has an address, "" for what is none."""

    def __init__(self, pod_at: Callable[[str], str]) -> None:
        self._pod_at = pod_at
        self._counts: dict[Place, Count] = {}
        self._known: dict[tuple[str, Any, Any, Any], Count] = {}  # by what stands in a line: looked up once

    def forget_names(self) -> None:
        """Addresses may have other names now."""
        self._known.clear()

    def take(self, controller: str, lines: Sequence[bytes]) -> None:
        """Count lines of a proxy of a controller."""
        for told in _read(lines):
            key = (controller, told.get("rule"), told["cluster"], told["address"])
            count = self._known.get(key)
            if count is None:
                count = self._known[key] = self._counts.setdefault(self._place(*key), Count())
            status = told.get("status") or 0
            answers = count.answers
            answers[status // 100] = answers.get(status // 100, 0) + 1
            count.received += told["received"]
            count.sent += told["sent"]
            total = told.get("total")
            if total is not None and status != _UPGRADED:
                count.microseconds += total
                bucket = bucket_of(total)
                count.durations[bucket] = count.durations.get(bucket, 0) + 1

    def _place(self, controller: str, rule: str | None, cluster: str | None, address: str | None) -> Place:
        pod = self._pod_at(split_address(address)[0]) or address if address else None
        return Place(controller, rule or "", backend_of(cluster) or "", pod or "")

    def as_json(self) -> list[dict[str, Any]]:
        """For :func:`counts_of`."""
        return [
            {**place._asdict(), "received": count.received, "sent": count.sent, "microseconds": count.microseconds,
             "answers": list(count.answers.items()), "durations": list(count.durations.items())}
            for place, count in self._counts.items()
        ]  # fmt: skip


def _read(lines: Sequence[bytes]) -> list[dict[str, Any]]:
    """All at once takes half the time. A proxy that was killed may have left half a line: it is left out."""
    try:
        told: list[dict[str, Any]] = orjson.loads(b"[" + b",".join(lines) + b"]")
    except orjson.JSONDecodeError:
        if len(lines) == 1:
            log.warning("no line of an access log: %r", lines[0][:200])
            return []
        return [each for line in lines for each in _read([line])]
    return told


def counts_of(told: Iterable[Mapping[str, Any]]) -> dict[Place, Count]:
    """What :meth:`Tally.as_json` said."""
    return {
        Place(*(each[name] for name in Place._fields)): Count(
            dict(each["answers"]), each["received"], each["sent"], each["microseconds"], dict(each["durations"])
        )
        for each in told
    }
