"""Match fields and matches.

Fields are put on the wire in the order in which Open vSwitch itself writes them, so that a flow read back from a
switch compares with ours byte by byte. Texts follow ``ovs-ofctl dump-flows``, whose order is another one.
"""

from __future__ import annotations

import struct
from functools import cache
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple

__all__ = [
    "ARP",
    "ARP_REQUEST",
    "FRAGMENT",
    "ICMP",
    "IP",
    "PROTOCOLS",
    "SCTP",
    "TCP",
    "UDP",
    "Field",
    "Match",
    "arp_sha",
    "arp_spa",
    "arp_tpa",
    "ct_mark",
    "ct_state",
    "dl_dst",
    "dl_src",
    "icmp_type",
    "in_port",
    "mac_bytes",
    "match",
    "nw_dst",
    "nw_src",
    "nw_src_bits",
    "nw_ttl",
    "reg",
    "tp_dst",
    "tp_src_bits",
]


class Field(NamedTuple):
    """One match field. Tuples of it sort in wire order."""

    rank: int  # place on the wire
    oxm: bytes  # the whole TLV
    place: int  # place in the text
    text: str  # "" when another field's text says it (``tcp`` stands for two fields)


class Match(NamedTuple):
    """What a flow matches: the packed ``ofp_match`` (which identifies it), and its fields for the text."""

    packed: bytes
    fields: tuple[Field, ...]

    def __str__(self) -> str:
        return ",".join(field.text for field in sorted(self.fields, key=_place) if field.text)


def _place(field: Field) -> int:
    return field.place


_MATCH_HEADERS = [struct.pack("!HH", 1, length) for length in range(512)]
_PADDING = [bytes(-length % 8) for length in range(512)]


def match(*fields: Field) -> Match:
    """The conjunction of ``fields``; give ``TCP`` and the like as they are."""
    ordered = sorted(fields)
    oxms = b"".join([field.oxm for field in ordered])
    length = len(oxms) + 4
    return Match(_MATCH_HEADERS[length] + oxms + _PADDING[length], tuple(ordered))


# OXM headers: class 16 bit | field 7 bit | has-mask 1 bit | length 8 bit.
_IN_PORT = 0x80000004
_ETH_DST = 0x80000606
_ETH_SRC = 0x80000806
_ETH_TYPE = 0x80000A02
_IP_PROTO = 0x80001401
_IPV4_SRC = 0x80001604
_IPV4_DST = 0x80001804
_TCP_SRC = 0x80001B04  # masked
_TCP_DST = 0x80001C02
_ICMP_TYPE = 0x80002601
_UDP_SRC = 0x80001F04  # masked
_UDP_DST = 0x80002002
_SCTP_SRC = 0x80002304  # masked
_SCTP_DST = 0x80002402
_ARP_OP = 0x80002A02
_ARP_SPA = 0x80002C04
_ARP_TPA = 0x80002E04
_ARP_SHA = 0x80003006
_XREG0 = 0x80010110  # masked
_IP_FRAG = 0x00013502  # masked
_IP_TTL = 0x00013A01
_CT_STATE = 0x0001D308  # masked
_CT_MARK = 0x0001D708  # masked


def _oxm(header: int, value: bytes) -> bytes:
    return header.to_bytes(4, "big") + value


@cache
def mac_bytes(mac: str) -> bytes:
    """Six bytes of ``0a:58:…``."""
    value = bytes.fromhex(mac.replace(":", ""))
    if len(value) != 6:
        raise ValueError(f"{mac!r} is not a MAC address")
    return value


_ETH_IP = Field(3, _oxm(_ETH_TYPE, b"\x08\x00"), 3, "ip")
_ETH_ARP = Field(3, _oxm(_ETH_TYPE, b"\x08\x06"), 3, "arp")


class Protocol(NamedTuple):
    """An IP protocol as a pair of fields."""

    eth_type: Field
    ip_proto: Field

    @property
    def name(self) -> str:
        """As in texts: ``tcp``."""
        return self.eth_type.text


def _protocol(name: str, number: int) -> Protocol:
    return Protocol(_ETH_IP._replace(text=name), Field(6, _oxm(_IP_PROTO, bytes([number])), 14, ""))


IP = _ETH_IP
ARP = _ETH_ARP
TCP = _protocol("tcp", 6)
UDP = _protocol("udp", 17)
SCTP = _protocol("sctp", 132)
ICMP = _protocol("icmp", 1)
# Any fragment of a packet, the first included. Ports are matched by no fragment: Open vSwitch takes them for 0.
FRAGMENT = Field(6, _oxm(_IP_FRAG, b"\1\1"), 14, "nw_frag=yes")
PROTOCOLS = {"TCP": TCP, "UDP": UDP, "SCTP": SCTP}  # by their names in the API
ARP_REQUEST = Field(4, _oxm(_ARP_OP, b"\x00\x01"), 12, "arp_op=1")


@cache
def in_port(port: int) -> Field:
    """The port that the packet came in by."""
    return Field(0, _oxm(_IN_PORT, port.to_bytes(4, "big")), 6, f"in_port={port}")


def dl_src(mac: str) -> Field:
    return Field(1, _oxm(_ETH_SRC, mac_bytes(mac)), 7, f"dl_src={mac}")


def dl_dst(mac: str) -> Field:
    return Field(2, _oxm(_ETH_DST, mac_bytes(mac)), 8, f"dl_dst={mac}")


def _address(rank: int, header: int, place: int, name: str, address: IPv4Address | IPv4Network) -> Field:
    if isinstance(address, IPv4Address):
        return Field(rank, _oxm(header, address.packed), place, f"{name}={address}")
    if address.prefixlen == 32:
        return _address(rank, header, place, name, address.network_address)
    masked = _oxm((header | 0x100) + 4, address.network_address.packed + address.netmask.packed)
    return Field(rank, masked, place, f"{name}={address}")


def nw_src(address: IPv4Address | IPv4Network) -> Field:
    return _address(4, _IPV4_SRC, 9, "nw_src", address)


def nw_src_bits(value: int, mask: int) -> Field:
    """Some bits of the source address."""
    bits = value.to_bytes(4, "big") + mask.to_bytes(4, "big")
    return Field(4, _oxm(_IPV4_SRC + 0x104, bits), 9, f"nw_src={IPv4Address(value)}/{IPv4Address(mask)}")


def nw_dst(address: IPv4Address | IPv4Network) -> Field:
    return _address(5, _IPV4_DST, 10, "nw_dst", address)


def arp_spa(address: IPv4Address) -> Field:
    """Who asks."""
    return _address(5, _ARP_SPA, 10, "arp_spa", address)


def arp_tpa(address: IPv4Address) -> Field:
    """Who is asked for."""
    return _address(6, _ARP_TPA, 11, "arp_tpa", address)


def arp_sha(mac: str) -> Field:
    return Field(7, _oxm(_ARP_SHA, mac_bytes(mac)), 13, f"arp_sha={mac}")


@cache
def tp_dst(protocol: Protocol, port: int) -> Field:
    """The destination port of TCP, UDP or SCTP."""
    header = _TCP_DST if protocol is TCP else _UDP_DST if protocol is UDP else _SCTP_DST
    return Field(8, _oxm(header, port.to_bytes(2, "big")), 16, f"tp_dst={port}")


@cache
def tp_src_bits(protocol: Protocol, value: int, mask: int) -> Field:
    """Some bits of the source port of TCP, UDP or SCTP."""
    header = _TCP_SRC if protocol is TCP else _UDP_SRC if protocol is UDP else _SCTP_SRC
    bits = value.to_bytes(2, "big") + mask.to_bytes(2, "big")
    return Field(7, _oxm(header, bits), 15, f"tp_src={value:#x}/{mask:#x}")


def icmp_type(number: int) -> Field:
    """The type of an ICMP message; together with ``ICMP``."""
    return Field(7, _oxm(_ICMP_TYPE, bytes([number])), 17, f"icmp_type={number}")


@cache
def nw_ttl(hops: int) -> Field:
    """Time to live."""
    return Field(6, _oxm(_IP_TTL, bytes([hops])), 13, f"nw_ttl={hops}")


@cache
def reg(number: int, value: int, mask: int = 0xFFFFFFFF) -> Field:
    """A register. Open vSwitch reports them in pairs (``xreg``), so a match may name one of each pair only:
    use even numbers."""
    if number % 2:
        raise ValueError(f"reg{number}: match on registers of even number only")
    pair = value.to_bytes(4, "big") + bytes(4) + mask.to_bytes(4, "big") + bytes(4)
    text = f"reg{number}={f'{value:#x}' if value else '0'}" + ("" if mask == 0xFFFFFFFF else f"/{mask:#x}")
    return Field(20 + number, _oxm(_XREG0 + (number // 2 << 9), pair), 4, text)


_CT_STATE_BITS = ("new", "est", "rel", "rpl", "inv", "trk", "snat", "dnat")


@cache
def ct_state(flags: str) -> Field:
    """State of the connection: ``+new+trk``, ``-rpl+trk``."""
    value = mask = 0
    shown = []
    words = flags.replace("+", " +").replace("-", " -").split()
    for bit, name in enumerate(_CT_STATE_BITS):
        for sign in "+-":
            if sign + name in words:
                value |= (sign == "+") << bit
                mask |= 1 << bit
                shown.append(sign + name)
    if len(shown) != len(words):
        raise ValueError(f"ct_state={flags}: unknown flag, or one given twice")
    oxm = _oxm(_CT_STATE, value.to_bytes(4, "big") + mask.to_bytes(4, "big"))
    return Field(40, oxm, 0, "ct_state=" + "".join(shown))


@cache
def ct_mark(value: int, mask: int) -> Field:
    """Mark of the connection."""
    oxm = _oxm(_CT_MARK, value.to_bytes(4, "big") + mask.to_bytes(4, "big"))
    return Field(41, oxm, 1, f"ct_mark={value:#x}/{mask:#x}")
