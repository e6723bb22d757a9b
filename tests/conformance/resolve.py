"""DNS queries from a network namespace, and what a case says about their answers."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any

import dnslib
from client import sockets_of

__all__ = ["Reply", "matches", "query"]

_PATIENCE = 2.5  # seconds; a resolver would ask again after 5


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer section as (owner, type, data); data of SRV is (port, target)."""

    rcode: str
    answers: tuple[tuple[str, str, Any], ...] = ()

    def data(self, kind: str) -> list[Any]:
        return [data for _, rrtype, data in self.answers if rrtype == kind]

    def __str__(self) -> str:
        return f"{self.rcode} {list(self.answers)}"


def query(netns: str, server: str, name: str, kind: str) -> Reply:
    """Ask over UDP, and again over TCP when the answer was cut. Raises AssertionError when there is none."""
    question = dnslib.DNSRecord.question(name, kind)
    packet = bytes(question.pack())
    try:
        with sockets_of(netns, socket.SOCK_DGRAM) as sock:
            sock.settimeout(_PATIENCE)
            sock.connect((server, 53))
            sock.send(packet)
            message = dnslib.DNSRecord.parse(sock.recv(65535))
        if message.header.tc:
            message = dnslib.DNSRecord.parse(_over_tcp(netns, server, packet))
    except OSError as error:
        raise AssertionError(f"{name} {kind}: {server} does not answer: {error!r}") from error
    assert message.header.id == question.header.id
    answers = tuple((str(rr.rname), dnslib.QTYPE[rr.rtype], _data(rr)) for rr in message.rr)
    return Reply(dnslib.RCODE[message.header.rcode], answers)


def _over_tcp(netns: str, server: str, packet: bytes) -> bytes:
    with sockets_of(netns, socket.SOCK_STREAM) as sock:
        sock.settimeout(_PATIENCE)
        sock.connect((server, 53))
        sock.sendall(len(packet).to_bytes(2, "big") + packet)
        data = b""
        while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
            more = sock.recv(65535)
            if not more:
                raise ConnectionError("closed before the whole answer came")
            data += more
        return data[2:]


def _data(rr: Any) -> Any:
    kind = dnslib.QTYPE[rr.rtype]
    if kind == "SRV":
        return (rr.rdata.port, str(rr.rdata.target))
    if kind == "TXT":
        return b"".join(rr.rdata.data).decode()
    if kind in ("CNAME", "PTR", "NS"):
        return str(rr.rdata.label)
    return str(rr.rdata)


def matches(reply: Reply, expect: dict[str, Any], upstream: dict[str, str] | None = None) -> str:
    """Why an answer is not what ``expect`` says; empty if it is."""
    known = {"rcode", "a", "aaaa", "srv", "ptr", "cname", "txt", "answers", "or_nodata", "a_if_upstream_knows"}
    assert not set(expect) - known, f"unknown words of expect: {sorted(set(expect) - known)}"
    wanted = expect.get("rcode", reply.rcode)
    allowed = [wanted] if isinstance(wanted, str) else wanted
    nodata = reply.rcode == "NOERROR" and not reply.answers
    if reply.rcode not in allowed and not (expect.get("or_nodata") and nodata):
        return f"wanted {' or '.join(allowed)}, got {reply}"
    if "answers" in expect and len(reply.answers) != expect["answers"]:
        return f"wanted {expect['answers']} answers, got {reply}"
    for kind in ("a", "aaaa", "ptr", "txt"):
        if kind in expect and sorted(reply.data(kind.upper())) != sorted(expect[kind]):
            return f"wanted {kind.upper()} {sorted(expect[kind])}, got {reply}"
    if "srv" in expect and sorted(reply.data("SRV")) != sorted(map(tuple, expect["srv"])):
        return f"wanted SRV {expect['srv']}, got {reply}"
    if "cname" in expect and reply.data("CNAME") != [expect["cname"]]:
        return f"wanted CNAME {expect['cname']}, got {reply}"
    if expect.get("a_if_upstream_knows") and upstream is not None:
        known_address = upstream.get(expect["cname"])
        if reply.data("A") != ([known_address] if known_address else []):
            return f"wanted the address {known_address} of {expect['cname']}, got {reply}"
    return ""
