"""What upstream said, for as long as it may be believed: replies by question, their TTLs counting down.

A reply is kept by the bytes of its query after the id, so that case, flags and EDNS options agree; no longer than its
smallest TTL (for a negative answer: what its SOA says, RFC 2308), nor than 30 seconds, as kubeadm's Corefile has it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import dnslib

__all__ = ["ReplyCache", "lifetime", "ttl_offsets"]

_LIMIT = 30  # seconds
_SIZE = 4096  # replies; the cache starts over when it is full
_CACHEABLE = (0, 3)  # NOERROR, NXDOMAIN
_TRUNCATED = 0x02
_HEADER = struct.Struct("!6H")
_TTL = struct.Struct("!I")


@dataclass(frozen=True, slots=True)
class _Kept:
    reply: bytes
    at: float
    until: float
    offsets: tuple[int, ...]


class ReplyCache:
    """Times are the caller's: seconds of any clock that does not go back."""

    def __init__(self) -> None:
        self._kept: dict[bytes, _Kept] = {}

    def get(self, query: bytes, now: float) -> bytes | None:
        """The reply to a query, with the query's id and the TTLs that are left."""
        kept = self._kept.get(query[2:])
        if kept is None:
            return None
        if now >= kept.until:
            del self._kept[query[2:]]
            return None
        age = int(now - kept.at)
        reply = bytearray(kept.reply)
        reply[:2] = query[:2]
        for offset in kept.offsets:
            (ttl,) = _TTL.unpack_from(reply, offset)
            _TTL.pack_into(reply, offset, max(0, ttl - age))
        return bytes(reply)

    def put(self, query: bytes, reply: bytes, now: float) -> None:
        """Keep a reply, if it may be kept."""
        try:
            seconds = lifetime(reply)
            offsets = ttl_offsets(reply)
        except (dnslib.DNSError, struct.error, IndexError, ValueError):
            return  # it makes no sense to us; the client may judge for itself
        if seconds > 0:
            if len(self._kept) >= _SIZE:
                self._kept.clear()
            self._kept[query[2:]] = _Kept(reply, now, now + min(seconds, _LIMIT), offsets)


def lifetime(reply: bytes) -> int:
    """Seconds for which a reply holds; 0 for one that must not be kept."""
    message = dnslib.DNSRecord.parse(reply)
    if reply[2] & _TRUNCATED or message.header.rcode not in _CACHEABLE:
        return 0
    if message.header.rcode == 0 and any(rr.rtype == message.q.qtype for rr in message.rr):
        return int(min(rr.ttl for rr in message.rr))
    negative = [min(rr.ttl, rr.rdata.times[4]) for rr in message.auth if rr.rtype == dnslib.QTYPE.SOA]
    return int(min(negative + [rr.ttl for rr in message.rr])) if negative else 0


def ttl_offsets(reply: bytes) -> tuple[int, ...]:
    """Where the TTLs of a reply's records are; OPT has none."""
    _, _, questions, *sections = _HEADER.unpack_from(reply)
    at = _HEADER.size
    for _ in range(questions):
        at = _after_name(reply, at) + 4
    found = []
    for _ in range(sum(sections)):
        at = _after_name(reply, at)
        kind, _, _, length = struct.unpack_from("!HHIH", reply, at)
        if kind != dnslib.QTYPE.OPT:
            found.append(at + 4)
        at += 10 + length
    return tuple(found)


def _after_name(packet: bytes, at: int) -> int:
    while packet[at]:
        if packet[at] & 0xC0:
            return at + 2
        at += packet[at] + 1
    return at + 1
