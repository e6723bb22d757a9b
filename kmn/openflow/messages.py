"""OpenFlow 1.5 messages that a listener exchanges with a bridge: bytes, and what they mean.

Packets come as NXT_PACKET_IN2, an extension of Open vSwitch (``ovs-fields(7)``, ``nicira-ext.h``): it tells the table
and the cookie of the flow that sent the packet.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from kmn.openflow.cookie import feature_mask, of_feature

__all__ = [
    "FlowCount",
    "PacketIn",
    "ask_packets",
    "barrier",
    "echo_reply",
    "flow_counts_request",
    "hello",
    "kind_of",
    "read_flow_counts",
    "read_packet_in",
]

VERSION = 6
HELLO, ERROR, ECHO_REQUEST, ECHO_REPLY, EXPERIMENTER = range(5)
SET_CONFIG, MULTIPART_REQUEST, MULTIPART_REPLY, BARRIER_REQUEST, BARRIER_REPLY = 9, 18, 19, 20, 21

_HEADER = struct.Struct("!BBHI")  # version, type, length, number
HEADER_SIZE = _HEADER.size

_NICIRA = 0x00002320
_SET_PACKET_IN_FORMAT, _SET_CONTROLLER_ID, _PACKET_IN2 = 16, 20, 30
_FORMAT_PACKET_IN2 = 2
_PROPERTY_PACKET, _PROPERTY_TABLE, _PROPERTY_COOKIE, _PROPERTY_METADATA = 0, 3, 4, 6

# Fields (OXM): class 16 bit | field 7 bit. These say where a connection's first packet was sent, before translation.
_CT_NW_DST, _CT_IPV6_DST, _CT_TP_DST = 0x0001 << 7 | 121, 0x0001 << 7 | 123, 0x0001 << 7 | 125

_FLOW_DESC = 1
_ANY = 0xFFFFFFFF
_MORE = 1
_FLOW = struct.Struct("!H2xBxHHHHHQ")  # ofp_flow_desc
_PACKETS, _BYTES = 0x8002 << 7 | 4, 0x8002 << 7 | 5  # OXS fields


def _message(kind: int, number: int, body: bytes = b"") -> bytes:
    return _HEADER.pack(VERSION, kind, _HEADER.size + len(body), number) + body


def kind_of(message: bytes) -> int:
    """The type of a message, as HELLO."""
    return message[1]


def length_of(header: bytes) -> int:
    """How long the message is that begins so."""
    return int.from_bytes(header[2:4], "big")


def hello() -> bytes:
    """The first message: OpenFlow 1.5 is spoken, nothing else."""
    return _message(HELLO, 1, struct.pack("!HHI", 1, 8, 1 << VERSION))


def echo_reply(request: bytes) -> bytes:
    """The answer to an echo request."""
    return request[:1] + bytes([ECHO_REPLY]) + request[2:]


def barrier(number: int) -> bytes:
    """Answered when all messages before it are done."""
    return _message(BARRIER_REQUEST, number)


def ask_packets(connection: int) -> bytes:
    """Ask for the packets that flows send to connections of this number (action ``controller(id=…)``).

    A management connection gets none before it says how long they may be (OFPT_SET_CONFIG).
    """
    return (
        _message(SET_CONFIG, 2, struct.pack("!HH", 0, 0xFFFF))
        + _message(EXPERIMENTER, 3, struct.pack("!III", _NICIRA, _SET_PACKET_IN_FORMAT, _FORMAT_PACKET_IN2))
        + _message(EXPERIMENTER, 4, struct.pack("!II6xH", _NICIRA, _SET_CONTROLLER_ID, connection))
    )


class PacketIn(NamedTuple):
    """A packet that a flow sent."""

    table: int
    cookie: int
    packet: bytes
    asked: tuple[IPv4Address | IPv6Address, int] | None  # where its connection's first packet was sent to


def read_packet_in(message: bytes) -> PacketIn | None:
    """None for any other message."""
    if message[1] != EXPERIMENTER or struct.unpack_from("!II", message, 8) != (_NICIRA, _PACKET_IN2):
        return None
    properties = dict(_properties(message, 16))
    cookie = properties.get(_PROPERTY_COOKIE, b"")
    return PacketIn(
        int.from_bytes(properties.get(_PROPERTY_TABLE, b"")[:1], "big"),
        int.from_bytes(cookie[4:12], "big"),
        properties.get(_PROPERTY_PACKET, b""),
        _asked(properties.get(_PROPERTY_METADATA, b"")),
    )


def _properties(message: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """Types and contents; each is padded to a multiple of eight bytes, what its length does not tell."""
    while at + 4 <= len(message):
        kind, length = struct.unpack_from("!HH", message, at)
        yield kind, message[at + 4 : at + length]
        at += (max(length, 4) + 7) // 8 * 8


def _fields(packed: bytes) -> Iterator[tuple[int, bytes]]:
    """Fields (OXM, OXS) and their values, with the mask where there is one."""
    at = 0
    while at + 4 <= len(packed):
        header = int.from_bytes(packed[at : at + 4], "big")
        length = header & 0xFF
        yield header >> 9, packed[at + 4 : at + 4 + length]
        at += 4 + length


def _asked(metadata: bytes) -> tuple[IPv4Address | IPv6Address, int] | None:
    fields = dict(_fields(metadata))
    port = int.from_bytes(fields.get(_CT_TP_DST, b""), "big")
    if _CT_NW_DST in fields:
        return IPv4Address(fields[_CT_NW_DST]), port
    if _CT_IPV6_DST in fields:
        return IPv6Address(fields[_CT_IPV6_DST]), port
    return None


class FlowCount(NamedTuple):
    """What a flow has seen."""

    table: int
    priority: int
    cookie: int
    packets: int
    bytes: int


def flow_counts_request(feature: int, number: int) -> bytes:
    """Ask for all flows of a feature, by their cookies."""
    cookie = of_feature(feature)
    body = struct.pack("!HH4xB3xII4xQQ", _FLOW_DESC, 0, 0xFF, _ANY, _ANY, cookie, feature_mask())
    return _message(MULTIPART_REQUEST, number, body + struct.pack("!HH4x", 1, 4))


def read_flow_counts(message: bytes, counts: list[FlowCount]) -> bool:
    """Add the flows of one reply (or part of it); whether more parts follow."""
    at = 16
    while at < len(message):
        length, table, priority, _, _, _, _, cookie = _FLOW.unpack_from(message, at)
        match = at + _FLOW.size
        statistics = match + (int.from_bytes(message[match + 2 : match + 4], "big") + 7) // 8 * 8
        end = statistics + int.from_bytes(message[statistics + 2 : statistics + 4], "big")
        fields = dict(_fields(message[statistics + 4 : end]))
        packets, octets = (int.from_bytes(fields.get(field, b""), "big") for field in (_PACKETS, _BYTES))
        counts.append(FlowCount(table, priority, cookie, packets, octets))
        at += length
    return bool(int.from_bytes(message[10:12], "big") & _MORE)
