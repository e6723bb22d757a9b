"""The names of the emulated internet: one table of question and answer."""

from __future__ import annotations

import dnslib
import pytest

from kmn.dns.internet import InternetNames
from kmn.dns.responder import Responder

REVERSED = "a.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.3.0.2.0.8.b.d.0.1.0.0.2.ip6.arpa"


@pytest.mark.parametrize(
    ("name", "kind", "rcode", "answers"),
    [
        ("e1.internet.test", "A", "NOERROR", ["203.0.113.10"]),
        ("E2.Internet.Test", "A", "NOERROR", ["203.0.113.11"]),
        ("e1.internet.test", "AAAA", "NOERROR", ["2001:db8:203::a"]),
        ("e2.internet.test", "AAAA", "NOERROR", []),
        (REVERSED, "PTR", "NOERROR", ["e1.internet.test."]),
        ("10.113.0.203.in-addr.arpa", "PTR", "NOERROR", ["e1.internet.test."]),
        ("internet.test", "NS", "NOERROR", ["e1.internet.test.", "e2.internet.test."]),
        ("test", "A", "NOERROR", []),
        ("113.0.203.in-addr.arpa", "PTR", "NOERROR", []),
        ("e3.internet.test", "A", "NXDOMAIN", []),
        ("example.org", "A", "NXDOMAIN", []),
        ("k8s-web-1.us-east-1.elb.amazonaws.com", "A", "NOERROR", ["192.0.2.1"]),
        ("elb.amazonaws.com", "A", "NOERROR", []),
        ("k8s-web-2.us-east-1.elb.amazonaws.com", "A", "NXDOMAIN", []),
    ],
)
def test_names(name: str, kind: str, rcode: str, answers: list[str]) -> None:
    table = InternetNames()
    balancers = [("k8s-web-1.us-east-1.elb.amazonaws.com", "192.0.2.1")]
    table.replace([("e1", ("203.0.113.10", "2001:db8:203::a")), ("e2", ("203.0.113.11",))], balancers)
    reply = Responder(table).respond(bytes(dnslib.DNSRecord.question(name, kind).pack()))
    assert isinstance(reply, bytes)
    message = dnslib.DNSRecord.parse(reply)
    assert (dnslib.RCODE[message.header.rcode], sorted(str(rr.rdata) for rr in message.rr)) == (rcode, answers)
    assert bool(message.auth) == (not answers), "what is not there is said by a SOA record"
