"""Replies of upstream are kept as long as they say, and count down."""

from __future__ import annotations

import dnslib
import pytest

from kmn.dns.cache import ReplyCache, lifetime

QUERY = bytes(dnslib.DNSRecord.question("www.example.org").pack())


def reply(*zone: str, rcode: int = 0, auth: str = "", truncated: bool = False) -> bytes:
    message = dnslib.DNSRecord.parse(QUERY).reply()
    for line in zone:
        message.add_answer(*dnslib.RR.fromZone(line))
    if auth:
        message.add_auth(*dnslib.RR.fromZone(auth))
    message.header.rcode, message.header.tc = rcode, truncated
    message.add_ar(dnslib.EDNS0(udp_len=1232))
    return bytes(message.pack())


CHAIN = ("www.example.org. 60 CNAME a.example.org.", "a.example.org. 20 A 203.0.113.10")
SOA = "example.org. 300 SOA ns.example.org. x.example.org. 1 2 3 4 15"


@pytest.mark.parametrize(
    ("kept", "seconds"),
    [
        (reply(*CHAIN), 20),
        (reply(rcode=3, auth=SOA), 15),
        (reply(auth=SOA), 15),
        (reply(rcode=3), 0),
        (reply(rcode=2, auth=SOA), 0),
        (reply(CHAIN[1], truncated=True), 0),
    ],
)
def test_lifetime(kept: bytes, seconds: int) -> None:
    assert lifetime(kept) == seconds


def test_ttls_count_down_and_the_id_is_the_askers() -> None:
    cache = ReplyCache()
    cache.put(QUERY, reply(*CHAIN), 100.0)
    again = b"\x12\x34" + QUERY[2:]
    found = cache.get(again, 107.5)
    assert found is not None
    assert found[:2] == b"\x12\x34"
    message = dnslib.DNSRecord.parse(found)
    assert [rr.ttl for rr in message.rr] == [53, 13]
    assert message.ar[0].edns_len == 1232  # what stands where others have a TTL is left alone
    assert cache.get(QUERY, 120.0) is None


def test_nothing_is_kept_longer_than_half_a_minute() -> None:
    cache = ReplyCache()
    cache.put(QUERY, reply("www.example.org. 86400 A 203.0.113.10"), 0.0)
    assert cache.get(QUERY, 29.9) is not None
    assert cache.get(QUERY, 30.0) is None


def test_other_questions_are_others() -> None:
    cache = ReplyCache()
    cache.put(QUERY, reply(*CHAIN), 0.0)
    assert cache.get(bytes(dnslib.DNSRecord.question("www.example.org", "AAAA").pack()), 1.0) is None


@pytest.mark.parametrize("cut", [3, 12, 30, 70])
def test_packets_that_make_no_sense_are_not_kept(cut: int) -> None:
    cache = ReplyCache()
    cache.put(QUERY, reply(*CHAIN)[:cut], 0.0)
    assert cache.get(QUERY, 0.0) is None
