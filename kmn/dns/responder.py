"""A packet in, a packet out: what the server does with a query, without sockets.

Replies are kept packed, by the bytes of the query after its id, until the zone changes; so most queries cost a look
into a dictionary. Replies with several addresses are kept in several rotations and handed out in turn, as CoreDNS'
``loadbalance`` does, so that clients that take the first address spread.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import dnslib
from dnslib.label import DNSLabelError

from kmn.dns.answer import Answer, Names, Rcode, answer
from kmn.dns.config import DnsConfig
from kmn.dns.records import RRType
from kmn.dns.wire import Query, Refusal, encode, extend, parse

__all__ = ["Outside", "Responder"]

log = logging.getLogger(__name__)

_CACHE_SIZE = 16384  # replies; the cache starts over when it is full
_CACHEABLE = 128  # bytes of a query: with a name of 253 bytes each, made-up names could fill the memory
_ROTATIONS = 8


@dataclass(frozen=True, slots=True)
class Outside:
    """A query that upstream has to answer: all of it, or (``partial``) from the end of a chain of CNAMEs on."""

    query: Query
    packet: bytes
    name: str
    upstreams: tuple[str, ...]
    partial: Answer | None = None


class ServedNames(Names, Protocol):
    """Names, and what else the server must know of them."""

    @property
    def version(self) -> int: ...

    @property
    def config(self) -> DnsConfig: ...


class Responder:
    """Answers packets from a zone."""

    def __init__(self, zone: ServedNames) -> None:
        self.zone = zone
        self._cached: tuple[dict[bytes, Iterator[bytes]], dict[bytes, Iterator[bytes]]] = ({}, {})  # UDP, TCP
        self._version = -1

    def respond(self, packet: bytes, *, tcp: bool = False) -> bytes | Outside | None:
        """The reply. None: none is due. :class:`Outside`: somebody else knows; see :meth:`finish`."""
        if self._version != self.zone.version:
            self._forget()
        cache = self._cached[tcp]
        hit = cache.get(packet[2:])
        if hit is not None:
            return packet[:2] + next(hit)
        replies = self._replies(packet, tcp)
        if not isinstance(replies, list):
            return replies
        if len(packet) > _CACHEABLE:
            return replies[0]
        if len(cache) >= _CACHE_SIZE:
            cache.clear()
        turns = cache[packet[2:]] = itertools.cycle([reply[2:] for reply in replies])
        return packet[:2] + next(turns)

    def finish(self, outside: Outside, rcode: int, records: Sequence[Any], *, tcp: bool = False) -> bytes:
        """The reply to a query whose chain of CNAMEs ended outside, with the records found there."""
        inside = self._encode(outside.query, outside.partial or Answer(), tcp)
        return extend(inside, rcode, records, limit=None if tcp else outside.query.udp_size)

    def fail(self, outside: Outside, why: str, *, tcp: bool = False) -> bytes:
        """SERVFAIL, with the reason for those who can read it."""
        return self._encode(outside.query, Answer(Rcode.SERVFAIL), tcp, authoritative=False, note=why)

    def _forget(self) -> None:
        for cache in self._cached:
            cache.clear()
        self._version = self.zone.version

    def _replies(self, packet: bytes, tcp: bool) -> list[bytes] | Outside | bytes | None:
        """Replies to give in turn; alone what must not be kept."""
        query = parse(packet)
        if query is None:
            return None
        if isinstance(query, Refusal):
            return encode(query, Answer(query.rcode), authoritative=False)
        found = answer(self.zone, query.name, query.rrtype)
        if found is None or found.chase is not None:
            name = query.name if found is None else found.chase
            assert name is not None
            upstreams = self.zone.config.upstreams_of(name.lower())
            if upstreams:
                return Outside(query, packet, name, upstreams, found)
            if found is None:
                return [self._encode(query, Answer(Rcode.SERVFAIL), tcp, authoritative=False, note=_no_upstream(name))]
            # The CNAME alone is true, and all that is known.
        assert found is not None
        return [self._encode(query, turned, tcp) for turned in _rotations(found)]

    def _encode(
        self, query: Query, reply: Answer, tcp: bool, *, authoritative: bool = True, note: str | None = None
    ) -> bytes:
        limit = None if tcp else query.udp_size
        recursion = bool(self.zone.config.upstreams)
        try:
            return encode(query, reply, authoritative=authoritative, recursion=recursion, limit=limit, note=note)
        except (dnslib.DNSError, DNSLabelError, ValueError) as error:
            # A name of an object that DNS cannot carry, such as a target of more than 253 bytes.
            log.warning("%s %s: the records cannot be sent: %s", query.name, query.rrtype, error)
            note = f"records cannot be sent: {error}"
            return encode(query, Answer(Rcode.SERVFAIL), authoritative=False, recursion=recursion, note=note)


def _no_upstream(name: str) -> str:
    return f"{name} is outside the cluster and no upstream is configured (spec.dns.upstreams of the cluster file)"


def _rotations(reply: Answer) -> list[Answer]:
    """The reply with its addresses in different orders, the others before them in place."""
    addresses = [record for record in reply.answers if record.type in (RRType.A, RRType.AAAA)]
    if len(addresses) < 2:
        return [reply]
    others = tuple(record for record in reply.answers if record.type not in (RRType.A, RRType.AAAA))
    step = max(1, len(addresses) // _ROTATIONS)
    starts = range(0, len(addresses), step)[:_ROTATIONS]
    return [replace(reply, answers=(*others, *addresses[start:], *addresses[:start])) for start in starts]
