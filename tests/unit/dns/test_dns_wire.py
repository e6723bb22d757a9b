"""Packets: whatever comes in gets the reply that it deserves, and what goes out can be read."""

from __future__ import annotations

import dnslib
from hypothesis import given
from hypothesis import strategies as st

from kmn.dns.config import DnsConfig
from kmn.dns.responder import Outside, Responder
from kmn.dns.wire import Query, parse
from kmn.dns.zone import Zone
from kmn.k8s.objects import Key
from kmn.k8s.resources import SERVICES

HEADER = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"


def service(name: str, **spec: object) -> dict[str, object]:
    return {"metadata": {"name": name, "namespace": "shop"}, "spec": spec}


def responder(config: DnsConfig | None = None) -> Responder:
    zone = Zone(config)
    zone.update(SERVICES, Key("shop", "web"), service("web", clusterIP="10.96.0.7"))
    return Responder(zone)


@given(st.binary(max_size=80) | st.binary(max_size=60).map(lambda tail: HEADER + tail))
def test_any_bytes_are_survived(packet: bytes) -> None:
    reply = responder().respond(packet)
    assert not isinstance(reply, Outside), "there is no upstream"
    if reply is None:
        assert len(packet) < 12 or packet[2] & 0x80
    else:
        assert reply[:2] == packet[:2]
        assert reply[2] & 0x80
        dnslib.DNSRecord.parse(reply)


@given(st.lists(st.binary(min_size=1, max_size=63), max_size=8))
def test_any_labels_are_asked_back(labels: list[bytes]) -> None:
    question = b"".join(bytes([len(label)]) + label for label in labels) + b"\0\0\1\0\1"
    reply = responder().respond(HEADER + question)
    assert isinstance(reply, bytes)
    if reply[3] & 0xF != 1:  # FORMERR repeats nothing
        assert reply[12 : 12 + len(question)] == question


def test_a_dot_inside_a_label_is_no_separator() -> None:
    query = parse(HEADER + b"\x08web.shop\x03svc\x07cluster\x05local\0\0\1\0\1")
    assert isinstance(query, Query)
    assert query.name == "web\\.shop.svc.cluster.local."
    reply = responder().respond(HEADER + b"\x08web.shop\x03svc\x07cluster\x05local\0\0\1\0\1")
    assert isinstance(reply, bytes)
    assert reply[3] & 0xF == 3


def test_flags_of_the_reply() -> None:
    message = dnslib.DNSRecord.question("web.shop.svc.cluster.local")
    message.header.cd = 1
    for config, available in ((DnsConfig(), 0), (DnsConfig(upstreams=("203.0.113.9",)), 1)):
        reply = dnslib.DNSRecord.parse(responder(config).respond(bytes(message.pack())))
        header = reply.header
        assert (header.qr, header.aa, header.tc, header.rd, header.ra, header.ad, header.cd) == (
            1,
            1,
            0,
            1,
            available,
            0,
            1,
        )


def test_records_that_dns_cannot_carry_fail_alone() -> None:
    broken = responder()
    target = ".".join(["a" * 63] * 5)
    broken.zone.update(SERVICES, Key("shop", "long"), service("long", type="ExternalName", externalName=target))
    message = dnslib.DNSRecord.question("long.shop.svc.cluster.local", "CNAME")
    message.add_ar(dnslib.EDNS0(udp_len=1232))
    reply = dnslib.DNSRecord.parse(broken.respond(bytes(message.pack())))
    assert (reply.header.rcode, reply.rr) == (2, [])
    assert b"cannot be sent" in reply.ar[0].rdata[0].data


def test_the_cache_is_bounded_and_forgets_with_the_zone(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("kmn.dns.responder._CACHE_SIZE", 10)
    tried = responder()
    for n in range(35):
        tried.respond(bytes(dnslib.DNSRecord.question(f"n{n}.shop.svc.cluster.local").pack()))
    assert 0 < len(tried._cached[0]) <= 10
    packet = bytes(dnslib.DNSRecord.question("web.shop.svc.cluster.local").pack())
    tried.respond(packet)
    tried.zone.update(SERVICES, Key("shop", "web"), service("web", clusterIP="10.96.0.8"))
    [record] = dnslib.DNSRecord.parse(tried.respond(packet)).rr
    assert str(record.rdata) == "10.96.0.8"
