"""OpenFlow 1.5 messages that the controller sends, as bytes.

Messages inside a bundle carry no number of their own (xid and bundle id are constants): the same bytes serve every
bridge and every time. What failed is read from the error, which quotes the message with its cookie.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from controller.openflow.flow import Flow
from controller.openflow.group import Group
from controller.openflow.match import Address

__all__ = [
    "AddressFlush",
    "CtFlush",
    "Forgotten",
    "Unlearn",
    "aggregate_packets",
    "aggregate_request",
    "barrier",
    "bundle_commit",
    "bundle_open",
    "ct_flush",
    "flow_add",
    "flow_delete",
    "flow_desc_request",
    "flows_delete",
    "forget",
    "group_add",
    "group_delete",
    "group_desc_request",
    "group_modify",
    "in_bundle",
]

VERSION = 6
ERROR, EXPERIMENTER, FLOW_MOD, GROUP_MOD, MULTIPART_REQUEST = 1, 4, 14, 15, 18
MULTIPART_REPLY, BARRIER_REQUEST, BARRIER_REPLY, BUNDLE_CONTROL, BUNDLE_ADD = 19, 20, 21, 33, 34
FLOW_DESC, AGGREGATE_STATS, GROUP_DESC = 1, 2, 7  # multipart types

_XID = 0x6B6D6E  # of everything inside bundles
_BUNDLE = 1
_ATOMIC_ORDERED = 3
_ANY = 0xFFFFFFFF
_ALL_GROUPS = 0xFFFFFFFC
_NICIRA = 0x00002320

# OFPT_BUNDLE_ADD_MESSAGE and the OFPT_FLOW_MOD (or _GROUP_MOD) in it, up to the match.
_FLOW_HEAD = struct.Struct("!BBHIIHH" "BBHI" "QQBBHHHIIIHH")  # fmt: skip
_GROUP_HEAD = struct.Struct("!BBHIIHH" "BBHI" "HBxIH2xI")  # fmt: skip
_ADD, _DELETE, _DELETE_STRICT = 0, 3, 4
_GROUP_ADD, _GROUP_MODIFY, _GROUP_DELETE = 0, 1, 2
_SELECT = 1
# OFPGPT_EXPERIMENTER of the Open Networking Foundation: selection_method=dp_hash, hash of the layer-4 tuple.
_DP_HASH = struct.pack("!HHII4x16sQ", 0xFFFF, 40, 0x154D, 1, b"dp_hash", 0)
# The same with selection_method=hash of the source address, by version of IP.
_SOURCE_HASH = {
    4: struct.pack("!HHII4x16sQII", 0xFFFF, 48, 0x154D, 1, b"hash", 0, 0x80001604, 0xFFFFFFFF),
    6: struct.pack("!HHII4x16sQI16s4x", 0xFFFF, 60, 0x154D, 1, b"hash", 0, 0x80003410, b"\xff" * 16),
}
# And of the source address and port, of the protocol that the packet has.
_PORTS = struct.pack("!IHIHIH", 0x80001A02, 0xFFFF, 0x80001E02, 0xFFFF, 0x80002202, 0xFFFF)
_CLIENT_HASH = {
    4: struct.pack("!HHII4x16sQII18s6x", 0xFFFF, 66, 0x154D, 1, b"hash", 0, 0x80001604, 0xFFFFFFFF, _PORTS),
    6: struct.pack("!HHII4x16sQI16s18s2x", 0xFFFF, 78, 0x154D, 1, b"hash", 0, 0x80003410, b"\xff" * 16, _PORTS),
}
_PACKET_COUNT = 0x80020808  # OXS header of the field
_NO_BUCKET = 0xFFFFFFFF


def flow_add(flow: Flow) -> bytes:
    """Add a flow, or replace the one with the same key; to be sent in a bundle."""
    table, priority, (match, _), (instructions, _, _), cookie = flow
    length = 48 + len(match) + len(instructions)
    head = _FLOW_HEAD.pack(
        VERSION, BUNDLE_ADD, length + 16, _XID, _BUNDLE, 0, _ATOMIC_ORDERED,
        VERSION, FLOW_MOD, length, _XID,
        cookie, 0, table, _ADD, 0, 0, priority, _ANY, _ANY, _ANY, 0, 0,
    )  # fmt: skip
    return head + match + instructions


def flow_delete(table: int, priority: int, match: bytes) -> bytes:
    """Delete exactly the flow with this key; to be sent in a bundle."""
    length = 48 + len(match)
    head = _FLOW_HEAD.pack(
        VERSION, BUNDLE_ADD, length + 16, _XID, _BUNDLE, 0, _ATOMIC_ORDERED,
        VERSION, FLOW_MOD, length, _XID,
        0, 0, table, _DELETE_STRICT, 0, 0, priority, _ANY, _ANY, _ANY, 0, 0,
    )  # fmt: skip
    return head + match


def _group_mod(command: int, number: int, buckets: bytes, properties: bytes) -> bytes:
    length = 24 + len(buckets) + len(properties)
    head = _GROUP_HEAD.pack(
        VERSION, BUNDLE_ADD, length + 16, _XID, _BUNDLE, 0, _ATOMIC_ORDERED,
        VERSION, GROUP_MOD, length, _XID,
        command, _SELECT, number, len(buckets), _NO_BUCKET,
    )  # fmt: skip
    return head + buckets + properties


def _method(group: Group) -> bytes:
    if group.by_port:
        return _CLIENT_HASH[group.version]
    return _SOURCE_HASH[group.version] if group.by_source else _DP_HASH


def group_add(group: Group) -> bytes:
    return _group_mod(_GROUP_ADD, group.id, group.content, _method(group))


def group_modify(group: Group) -> bytes:
    """Replace the buckets of a group that is there."""
    return _group_mod(_GROUP_MODIFY, group.id, group.content, _method(group))


def group_delete(number: int) -> bytes:
    return _group_mod(_GROUP_DELETE, number, b"", b"")


def bundle_open(xid: int) -> bytes:
    """Open the connection's one bundle: atomic, and applied in the order of its messages."""
    return struct.pack("!BBHIIHH", VERSION, BUNDLE_CONTROL, 16, xid, _BUNDLE, 0, _ATOMIC_ORDERED)


def bundle_commit(xid: int) -> bytes:
    return struct.pack("!BBHIIHH", VERSION, BUNDLE_CONTROL, 16, xid, _BUNDLE, 4, _ATOMIC_ORDERED)


def bundle_discard(xid: int) -> bytes:
    """Drop what a failed bundle left behind."""
    return struct.pack("!BBHIIHH", VERSION, BUNDLE_CONTROL, 16, xid, _BUNDLE, 6, _ATOMIC_ORDERED)


def in_bundle(messages: Iterable[bytes], xid: int) -> bytes:
    """A whole bundle; the reply to its commit has number ``xid``, that to its opening ``xid - 1``."""
    return b"".join([bundle_open(xid - 1), *messages, bundle_commit(xid)])


def barrier(xid: int) -> bytes:
    return struct.pack("!BBHI", VERSION, BARRIER_REQUEST, 8, xid)


def flow_desc_request(xid: int) -> bytes:
    """Ask for all flows of all tables."""
    any_match = struct.pack("!HH4x", 1, 4)
    body = struct.pack("!HH4xB3xII4xQQ", FLOW_DESC, 0, 0xFF, _ANY, _ANY, 0, 0) + any_match
    return struct.pack("!BBHI", VERSION, MULTIPART_REQUEST, 8 + len(body), xid) + body


def group_desc_request(xid: int) -> bytes:
    """Ask for all groups."""
    return struct.pack("!BBHIHH4xI4x", VERSION, MULTIPART_REQUEST, 24, xid, GROUP_DESC, 0, _ALL_GROUPS)


def aggregate_request(table: int, cookie: int, mask: int, xid: int) -> bytes:
    """Ask for the sum of the counters of a table's flows with such a cookie."""
    any_match = struct.pack("!HH4x", 1, 4)
    body = struct.pack("!HH4xB3xII4xQQ", AGGREGATE_STATS, 0, table, _ANY, _ANY, cookie, mask) + any_match
    return struct.pack("!BBHI", VERSION, MULTIPART_REQUEST, 8 + len(body), xid) + body


def aggregate_packets(message: bytes) -> int | None:
    """The number of packets in the answer to that; None for any other message."""
    if message[1] != MULTIPART_REPLY or message[8:10] != AGGREGATE_STATS.to_bytes(2, "big"):
        return None
    at = 20  # behind the headers of message, multipart and statistics: one field after the other
    while at + 4 <= len(message):
        head = int.from_bytes(message[at : at + 4], "big")
        if head == _PACKET_COUNT:
            return int.from_bytes(message[at + 4 : at + 12], "big")
        at += 4 + (head & 0xFF)
    return 0


def flows_delete(cookie: int, mask: int, xid: int) -> bytes:
    """Delete all flows whose cookie is ``cookie`` where ``mask`` has bits; not for a bundle."""
    body = struct.pack("!QQBBHHHIIIHH", cookie, mask, 0xFF, _DELETE, 0, 0, 0, _ANY, _ANY, _ANY, 0, 0)
    return struct.pack("!BBHI", VERSION, FLOW_MOD, 8 + len(body) + 8, xid) + body + struct.pack("!HH4x", 1, 4)


class CtFlush(NamedTuple):
    """Connections to forget: those of a virtual address (None: of any) and port (None: of any) that were translated to
    one endpoint."""

    protocol: int
    address: Address | None
    port: int | None
    endpoint: Address
    endpoint_port: int


class AddressFlush(NamedTuple):
    """Connections to forget: all from an address, and all that it answered."""

    address: Address


class Unlearn(NamedTuple):
    """Flows to forget that a switch learned by itself: those with this cookie."""

    cookie: int


Forgotten: TypeAlias = CtFlush | AddressFlush | Unlearn


def forget(zone: int, what: Forgotten, xid: int) -> bytes:
    """The messages that make a switch forget it."""
    match what:
        case Unlearn(cookie):
            return flows_delete(cookie, 0xFFFFFFFFFFFFFFFF, xid)
        case AddressFlush(address):
            return b"".join(_flush(zone, 0, _SOURCE.pack(way, 32, 0, 20, _mapped(address)), xid) for way in (0, 1))
        case CtFlush():
            return ct_flush(zone, what, xid)


_PORT = struct.Struct("!HH4x" "HHH2x")  # fmt: skip
_SOURCE = struct.Struct("!HH4x" "HH16s4x")  # fmt: skip
_TUPLE = struct.Struct("!HH4x" "HH16s4x" "HHH2x")  # fmt: skip


def _mapped(address: Address) -> bytes:
    """Addresses are written as IPv6 ones, those of IPv4 mapped into them."""
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


def ct_flush(zone: int, flush: CtFlush, xid: int) -> bytes:
    """NXT_CT_FLUSH (Open vSwitch 3.1): by destination of the first packet and source of the answers."""
    # The tuples are type-length-values in type-length-values.
    original = b""
    if flush.address is not None:
        original = _TUPLE.pack(0, 40, 1, 20, _mapped(flush.address), 3, 8, flush.port)
    elif flush.port is not None:
        original = _PORT.pack(0, 16, 3, 8, flush.port)
    reply = _TUPLE.pack(1, 40, 0, 20, _mapped(flush.endpoint), 2, 8, flush.endpoint_port)
    return _flush(zone, flush.protocol, original + reply, xid)


def _flush(zone: int, protocol: int, tuples: bytes, xid: int) -> bytes:
    """Protocol 0 is any."""
    body = struct.pack("!IIB7x", _NICIRA, 32, protocol) + tuples + struct.pack("!HHH2x", 2, 8, zone)
    return struct.pack("!BBHI", VERSION, EXPERIMENTER, 8 + len(body), xid) + body
