"""Match fields and matches.

Fields are put on the wire in the order in which Open vSwitch itself writes them, so that a flow read back from a
switch compares with ours byte by byte. Texts follow ``ovs-ofctl dump-flows``, whose order is another one.
"""

from __future__ import annotations

import struct
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple

__all__ = [
    "ARP",
    "ARP_REQUEST",
    "FRAGMENT",
    "ECHO_REQUEST",
    "ECHO_REQUEST6",
    "IP",
    "IPV6",
    "ND_ADVERTISEMENT",
    "ND_SOLICITATION",
    "PROTOCOLS",
    "PROTOCOLS6",
    "SCTP",
    "TCP",
    "UDP",
    "Address",
    "Field",
    "Match",
    "Network",
    "Protocol",
    "arp_sha",
    "arp_spa",
    "arp_tpa",
    "conj_id",
    "ct_mark",
    "ct_state",
    "dl_dst",
    "dl_src",
    "in_port",
    "mac_bytes",
    "match",
    "nd_sll",
    "nd_target",
    "nw_dst",
    "nw_src",
    "nw_src_bits",
    "nw_ttl",
    "reg",
    "tp_dst",
    "tp_dst_range",
    "tp_src_bits",
    "xxreg3",
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
_ICMPV6_TYPE = 0x80003A01
_IPV6_SRC = 0x80003410
_IPV6_DST = 0x80003610
_ND_TARGET = 0x80003E10
_ND_SLL = 0x80004006
_UDP_SRC = 0x80001F04  # masked
_UDP_DST = 0x80002002
_SCTP_SRC = 0x80002304  # masked
_SCTP_DST = 0x80002402
_ARP_OP = 0x80002A02
_ARP_SPA = 0x80002C04
_ARP_TPA = 0x80002E04
_ARP_SHA = 0x80003006
_XREG0 = 0x80010110  # masked
_XREG6 = 0x80010C08
_IP_FRAG = 0x00013502  # masked
_IP_TTL = 0x00013A01
_CT_STATE = 0x0001D308  # masked
_CT_MARK = 0x0001D708  # masked
_CONJ_ID = 0x00014A04


def _oxm(header: int, value: bytes) -> bytes:
    return header.to_bytes(4, "big") + value


@cache
def mac_bytes(mac: str) -> bytes:
    """Six bytes of ``0a:58:…``."""
    value = bytes.fromhex(mac.replace(":", ""))
    if len(value) != 6:
        raise ValueError(f"{mac!r} is not a MAC address")
    return value


Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_ETH_IP = Field(3, _oxm(_ETH_TYPE, b"\x08\x00"), 3, "ip")
_ETH_IPV6 = Field(3, _oxm(_ETH_TYPE, b"\x86\xdd"), 3, "ipv6")
_ETH_ARP = Field(3, _oxm(_ETH_TYPE, b"\x08\x06"), 3, "arp")


class Protocol(NamedTuple):
    """An IP protocol as a pair of fields."""

    eth_type: Field
    ip_proto: Field

    @property
    def number(self) -> int:
        """As in IP headers."""
        return self.ip_proto.oxm[-1]

    @property
    def name(self) -> str:
        """As in the names of fields: ``tcp``, in either family."""
        return self.eth_type.text.removesuffix("6")


def _protocol(name: str, number: int, eth_type: Field = _ETH_IP) -> Protocol:
    return Protocol(eth_type._replace(text=name), Field(6, _oxm(_IP_PROTO, bytes([number])), 14, ""))


IP = _ETH_IP
IPV6 = _ETH_IPV6
ARP = _ETH_ARP
TCP = _protocol("tcp", 6)
UDP = _protocol("udp", 17)
SCTP = _protocol("sctp", 132)
ICMP = _protocol("icmp", 1)
# Any fragment of a packet, the first included. Ports are matched by no fragment: Open vSwitch takes them for 0.
FRAGMENT = Field(6, _oxm(_IP_FRAG, b"\1\1"), 14, "nw_frag=yes")
PROTOCOLS = {"TCP": TCP, "UDP": UDP, "SCTP": SCTP}  # by their names in the API
PROTOCOLS6 = {name: _protocol(f"{name.lower()}6", number, IPV6) for name, number in
              (("TCP", 6), ("UDP", 17), ("SCTP", 132))}  # fmt: skip
_ICMPV6 = _protocol("icmp6", 58, IPV6)
ECHO_REQUEST = (*ICMP, Field(7, _oxm(_ICMP_TYPE, bytes([8])), 17, "icmp_type=8"))
ECHO_REQUEST6 = (*_ICMPV6, Field(7, _oxm(_ICMPV6_TYPE, bytes([128])), 17, "icmp_type=128"))
ND_SOLICITATION = (*_ICMPV6, Field(7, _oxm(_ICMPV6_TYPE, bytes([135])), 17, "icmp_type=135"))
ND_ADVERTISEMENT = (*_ICMPV6, Field(7, _oxm(_ICMPV6_TYPE, bytes([136])), 17, "icmp_type=136"))
ARP_REQUEST = Field(4, _oxm(_ARP_OP, b"\x00\x01"), 12, "arp_op=1")


@cache
def in_port(port: int) -> Field:
    """The port that the packet came in by."""
    return Field(0, _oxm(_IN_PORT, port.to_bytes(4, "big")), 6, f"in_port={port}")


def dl_src(mac: str) -> Field:
    return Field(1, _oxm(_ETH_SRC, mac_bytes(mac)), 7, f"dl_src={mac}")


def dl_dst(mac: str) -> Field:
    return Field(2, _oxm(_ETH_DST, mac_bytes(mac)), 8, f"dl_dst={mac}")


def _address(rank: int, header: int, place: int, name: str, address: Address | Network) -> Field:
    if isinstance(address, IPv4Address | IPv6Address):
        return Field(rank, _oxm(header, address.packed), place, f"{name}={address}")
    if address.prefixlen == address.max_prefixlen:
        return _address(rank, header, place, name, address.network_address)
    masked = _oxm(
        (header | 0x100) + address.max_prefixlen // 8, address.network_address.packed + address.netmask.packed
    )
    return Field(rank, masked, place, f"{name}={address}")


def nw_src(address: Address | Network) -> Field:
    """The source address, of IPv4 or IPv6."""
    if address.version == 6:
        return _address(4, _IPV6_SRC, 9, "ipv6_src", address)
    return _address(4, _IPV4_SRC, 9, "nw_src", address)


def nw_src_bits(value: int, mask: int, version: int = 4) -> Field:
    """Some bits of the source address."""
    if version == 6:
        bits = value.to_bytes(16, "big") + mask.to_bytes(16, "big")
        return Field(4, _oxm(_IPV6_SRC + 0x110, bits), 9, f"ipv6_src={IPv6Address(value)}/{IPv6Address(mask)}")
    bits = value.to_bytes(4, "big") + mask.to_bytes(4, "big")
    return Field(4, _oxm(_IPV4_SRC + 0x104, bits), 9, f"nw_src={IPv4Address(value)}/{IPv4Address(mask)}")


def nw_dst(address: Address | Network) -> Field:
    """The destination address, of IPv4 or IPv6."""
    if address.version == 6:
        return _address(5, _IPV6_DST, 10, "ipv6_dst", address)
    return _address(5, _IPV4_DST, 10, "nw_dst", address)


def arp_spa(address: Address) -> Field:
    """Who asks."""
    return _address(5, _ARP_SPA, 10, "arp_spa", address)


def arp_tpa(address: Address) -> Field:
    """Who is asked for."""
    return _address(6, _ARP_TPA, 11, "arp_tpa", address)


def arp_sha(mac: str) -> Field:
    return Field(7, _oxm(_ARP_SHA, mac_bytes(mac)), 13, f"arp_sha={mac}")


def nd_target(address: Address) -> Field:
    """Who is asked for; together with ``ND_SOLICITATION``."""
    return _address(9, _ND_TARGET, 18, "nd_target", address)


def nd_sll(mac: str) -> Field:
    """The MAC of who asks; together with ``ND_SOLICITATION``."""
    return Field(10, _oxm(_ND_SLL, mac_bytes(mac)), 19, f"nd_sll={mac}")


_PORTS = {6: (_TCP_SRC, _TCP_DST), 17: (_UDP_SRC, _UDP_DST), 132: (_SCTP_SRC, _SCTP_DST)}


@cache
def tp_dst(protocol: Protocol, port: int) -> Field:
    """The destination port of TCP, UDP or SCTP."""
    _, header = _PORTS[protocol.number]
    return Field(8, _oxm(header, port.to_bytes(2, "big")), 16, f"tp_dst={port}")


@cache
def tp_dst_range(protocol: Protocol, first: int, last: int) -> tuple[Field, ...]:
    """Fields that together match the destination ports ``first`` to ``last``: one for each power of two."""
    found = []
    while first <= last:
        size = first & -first or 1 << 16
        while first + size - 1 > last:
            size >>= 1
        found.append(_tp_dst_masked(protocol, first, ~(size - 1) & 0xFFFF))
        first += size
    return tuple(found)


def _tp_dst_masked(protocol: Protocol, value: int, mask: int) -> Field:
    if mask == 0xFFFF:
        return tp_dst(protocol, value)
    _, header = _PORTS[protocol.number]
    bits = value.to_bytes(2, "big") + mask.to_bytes(2, "big")
    return Field(8, _oxm(header + 0x102, bits), 16, f"tp_dst={value:#x}/{mask:#x}")


@cache
def tp_src_bits(protocol: Protocol, value: int, mask: int) -> Field:
    """Some bits of the source port of TCP, UDP or SCTP."""
    header, _ = _PORTS[protocol.number]
    bits = value.to_bytes(2, "big") + mask.to_bytes(2, "big")
    return Field(7, _oxm(header, bits), 15, f"tp_src={value:#x}/{mask:#x}")


@cache
def nw_ttl(hops: int) -> Field:
    """Time to live."""
    return Field(6, _oxm(_IP_TTL, bytes([hops])), 13, f"nw_ttl={hops}")


@cache
def reg(number: int, value: int, mask: int = 0xFFFFFFFF) -> Field:
    """A register. Open vSwitch reports them in pairs (``xreg``), so a match may name one of each pair only."""
    before, after = (bytes(4), b"") if number % 2 else (b"", bytes(4))
    pair = b"".join(before + word.to_bytes(4, "big") + after for word in (value, mask))
    text = f"reg{number}={f'{value:#x}' if value else '0'}" + ("" if mask == 0xFFFFFFFF else f"/{mask:#x}")
    return Field(20 + number, _oxm(_XREG0 + (number // 2 << 9), pair), 4, text)


@cache
def xxreg3(value: int) -> tuple[Field, Field]:
    """The registers 12 to 15 as one, which an IPv6 address fits in. Open vSwitch reports it in two halves."""
    words = [value >> shift & 0xFFFFFFFF for shift in (96, 64, 32, 0)]
    shown = [f"reg{12 + n}={word:#x}" if word else f"reg{12 + n}=0" for n, word in enumerate(words)]
    halves = value.to_bytes(16, "big")
    return (
        Field(32, _oxm(_XREG6, halves[:8]), 4, ",".join(shown[:2])),
        Field(34, _oxm(_XREG6 + (1 << 9), halves[8:]), 4, ",".join(shown[2:])),
    )


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


@cache
def conj_id(number: int) -> Field:
    """All dimensions of a conjunction are met."""
    return Field(-1, _oxm(_CONJ_ID, number.to_bytes(4, "big")), -1, f"conj_id={number}")
