"""Actions, and the instructions that a flow carries.

Each function returns one :class:`Action` with its text and its bytes; ``actions(...)`` joins them into what a flow
(or, without a goto, a bucket) does.
"""

from __future__ import annotations

import struct
from functools import cache, lru_cache
from ipaddress import IPv4Address
from typing import NamedTuple
from zlib import crc32

from controller.openflow.match import TCP, Protocol, mac_bytes

__all__ = [
    "DEC_TTL",
    "DROP",
    "IN_PORT",
    "Action",
    "Actions",
    "NatRange",
    "actions",
    "ct",
    "goto",
    "group",
    "learn_endpoint",
    "move",
    "move_bit",
    "output",
    "output_reg",
    "resubmit",
    "set_arp_op",
    "set_arp_sha",
    "set_ct_mark",
    "set_eth_dst",
    "set_eth_src",
    "set_icmp_type",
    "set_nw_dst",
    "set_nw_ttl",
    "set_reg",
    "set_tp_dst",
]

_NICIRA = 0x00002320
_OFPP_IN_PORT = 0xFFFFFFF8


class Action(NamedTuple):
    """One action; a goto is an instruction, and the last of a flow."""

    text: str
    packed: bytes
    instruction: bool = False


class Actions(NamedTuple):
    """All that a flow does, packed as instructions. ``digest`` is the content part of the flow's cookie."""

    packed: bytes
    digest: int
    text: str

    def __str__(self) -> str:
        return self.text


@lru_cache(maxsize=65536)
def actions(*steps: Action) -> Actions:
    """Instructions of a flow: apply ``steps`` in order; nothing means drop."""
    applied = b"".join([step.packed for step in steps if not step.instruction])
    packed = struct.pack("!HH4x", 4, 8 + len(applied)) + applied if applied else b""
    packed += b"".join([step.packed for step in steps if step.instruction])
    text = ",".join([step.text for step in steps]) or "drop"
    return Actions(packed, crc32(packed) & 0xFFFFFFF, text)


DROP = actions()
DEC_TTL = Action("dec_ttl", struct.pack("!HH4x", 24, 8))


@cache
def output(port: int) -> Action:
    """Send out of a port; not out of the one that the packet came in by (see ``IN_PORT``)."""
    text = "IN_PORT" if port == _OFPP_IN_PORT else f"output:{port}"
    return Action(text, struct.pack("!HHIH6x", 0, 16, port, 0))


IN_PORT = output(_OFPP_IN_PORT)


def output_reg(number: int) -> Action:
    """Send out of the port whose number is in a register."""
    source = _nxm_reg(number)
    packed = struct.pack("!HHIHHIH6x", 0xFFFF, 24, _NICIRA, 15, 31, source, 0xFFFF)
    return Action(f"output:NXM_NX_REG{number}[]", packed)


def goto(table: int) -> Action:
    """Go on in a table further down."""
    return Action(f"goto_table:{table}", struct.pack("!HHB3x", 1, 8, table), instruction=True)


def group(number: int) -> Action:
    """Hand the packet to a group."""
    return Action(f"group:{number}", struct.pack("!HHI", 22, 8, number))


def _nxm_reg(number: int) -> int:
    return 0x00010004 | number << 9


def _set_field(oxm: bytes) -> bytes:
    length = (4 + len(oxm) + 7) // 8 * 8
    return (struct.pack("!HH", 25, length) + oxm).ljust(length, b"\0")


@cache
def set_reg(number: int, value: int, mask: int = 0xFFFFFFFF) -> Action:
    """Write (some bits of) a register."""
    if mask == 0xFFFFFFFF:
        packed = _set_field(struct.pack("!II", _nxm_reg(number), value))
        return Action(f"set_field:{value:#x}->reg{number}", packed)
    packed = _set_field(struct.pack("!III", (_nxm_reg(number) | 0x100) + 4, value, mask))
    shown = f"{value:#x}" if value else "0"
    return Action(f"set_field:{shown}/{mask:#x}->reg{number}", packed)


@cache
def set_ct_mark(value: int, mask: int) -> Action:
    """Write bits of the connection's mark; inside ``ct(exec=…)`` only."""
    return Action(f"set_field:{value:#x}/{mask:#x}->ct_mark", _set_field(struct.pack("!III", 0x0001D708, value, mask)))


@cache
def set_eth_src(mac: str) -> Action:
    return Action(f"set_field:{mac}->eth_src", _set_field(struct.pack("!I", 0x80000806) + mac_bytes(mac)))


@cache
def set_eth_dst(mac: str) -> Action:
    return Action(f"set_field:{mac}->eth_dst", _set_field(struct.pack("!I", 0x80000606) + mac_bytes(mac)))


def set_icmp_type(number: int) -> Action:
    """Of an ICMP message; the flow must match on ICMP."""
    return Action(f"set_field:{number}->icmp_type", _set_field(struct.pack("!IB", 0x80002601, number)))


def set_nw_dst(address: IPv4Address) -> Action:
    return Action(f"set_field:{address}->ip_dst", _set_field(struct.pack("!I", 0x80001804) + address.packed))


def set_tp_dst(protocol: Protocol, port: int) -> Action:
    """The destination port; the flow (or the flow that leads to the bucket) must match on the protocol."""
    name, header = ("tcp_dst", 0x80001C02) if protocol is TCP else ("udp_dst", 0x80002002)
    return Action(f"set_field:{port}->{name}", _set_field(struct.pack("!IH", header, port)))


def set_nw_ttl(ttl: int) -> Action:
    return Action(f"set_field:{ttl}->nw_ttl", _set_field(struct.pack("!IB", 0x00013A01, ttl)))


def set_arp_op(operation: int) -> Action:
    return Action(f"set_field:{operation}->arp_op", _set_field(struct.pack("!IH", 0x80002A02, operation)))


def set_arp_sha(mac: str) -> Action:
    return Action(f"set_field:{mac}->arp_sha", _set_field(struct.pack("!I", 0x80003006) + mac_bytes(mac)))


# Fields that can be copied whole: name in texts, OXM header, bits.
_COPY = {
    "eth_src": ("NXM_OF_ETH_SRC", 0x80000806, 48),
    "eth_dst": ("NXM_OF_ETH_DST", 0x80000606, 48),
    "arp_sha": ("NXM_NX_ARP_SHA", 0x80003006, 48),
    "arp_tha": ("NXM_NX_ARP_THA", 0x80003206, 48),
    "nw_src": ("NXM_OF_IP_SRC", 0x80001604, 32),
    "nw_dst": ("NXM_OF_IP_DST", 0x80001804, 32),
    "arp_spa": ("NXM_OF_ARP_SPA", 0x80002C04, 32),
    "arp_tpa": ("NXM_OF_ARP_TPA", 0x80002E04, 32),
    **{f"reg{n}": (f"NXM_NX_REG{n}", _nxm_reg(n), 32) for n in range(16)},
}


def move(source: str, destination: str) -> Action:
    """Copy one field to another of the same size."""
    source_text, source_oxm, bits = _COPY[source]
    destination_text, destination_oxm, destination_bits = _COPY[destination]
    if bits != destination_bits:
        raise ValueError(f"move:{source}->{destination}: {bits} bits do not fit {destination_bits}")
    packed = struct.pack("!HHHHHHII4x", 28, 24, bits, 0, 0, 0, source_oxm, destination_oxm)
    return Action(f"move:{source_text}[]->{destination_text}[]", packed)


class NatRange(NamedTuple):
    """Source addresses and ports to choose from: connections that differ in their destination share them."""

    first: IPv4Address
    last: IPv4Address
    first_port: int
    last_port: int

    def __str__(self) -> str:
        addresses = f"{self.first}-{self.last}" if self.last != self.first else str(self.first)
        ports = f"{self.first_port}-{self.last_port}" if self.last_port != self.first_port else str(self.first_port)
        return f"{addresses}:{ports}"


# Fields of which single bits can be copied.
_BITS = {"ct_mark": ("NXM_NX_CT_MARK", 0x0001D604), "reg0": ("NXM_NX_REG0", _nxm_reg(0))}


@cache
def move_bit(source: str, source_bit: int, destination: str, destination_bit: int) -> Action:
    """Copy one bit of a field."""
    (source_text, source_oxm), (destination_text, destination_oxm) = _BITS[source], _BITS[destination]
    packed = struct.pack("!HHHHHHII4x", 28, 24, 1, source_bit, destination_bit, 0, source_oxm, destination_oxm)
    return Action(f"move:{source_text}[{source_bit}]->{destination_text}[{destination_bit}]", packed)


@cache
def resubmit(table: int) -> Action:
    """Do what a table says, and come back; a packet that no flow of it matches just comes back."""
    return Action(f"resubmit(,{table})", struct.pack("!HHIHHB3x", 0xFFFF, 16, _NICIRA, 14, 0xFFF8, table))


def learn_endpoint(
    table: int, priority: int, cookie: int, seconds: int, group: tuple[int, int], loads: tuple[tuple[int, int], ...]
) -> Action:
    """Make a flow in ``table`` that gives what ``loads`` says to further packets of this source address.

    ``group`` and ``loads`` are registers with values: the flow matches the one, and loads the others. It ends after
    ``seconds``; learning it again begins them anew.
    """
    number, value = group
    # Specifications: source (a field, or a value) and destination (to match, or to load) of so many bits.
    immediate, load = 1 << 13, 1 << 11
    specs = struct.pack("!HHIH", immediate | 16, 0x0800, 0x00000602, 0)
    specs += struct.pack("!HIIH", immediate | 32, value, _nxm_reg(number), 0)
    specs += struct.pack("!HIHIH", 32, 0x00000E04, 0, 0x00000E04, 0)
    text = f"eth_type=0x800,reg{number}={value:#x},NXM_OF_IP_SRC[]"
    for register, content in loads:
        specs += struct.pack("!HIIH", immediate | load | 32, content, _nxm_reg(register), 0)
        text += f",load:{content:#x}->NXM_NX_REG{register}[]"
    length = (32 + len(specs) + 7) // 8 * 8
    head = struct.pack("!HHIHHHHQHBxHH", 0xFFFF, length, _NICIRA, 16, 0, seconds, priority, cookie, 0, table, 0, 0)
    shown = f"learn(table={table},hard_timeout={seconds},priority={priority},cookie={cookie:#x},{text})"
    return Action(shown, (head + specs).ljust(length, b"\0"))


class Nat(NamedTuple):
    """What ``ct(nat)`` does to a new connection."""

    direction: str  # "src" or "dst"
    address: IPv4Address
    port: int | None = None
    last_port: int | None = None  # of a range


def _nat(nat: Nat | None) -> Action:
    if nat is None:
        return Action("nat", struct.pack("!HHIH2xHH", 0xFFFF, 16, _NICIRA, 36, 0, 0))
    flags = 1 if nat.direction == "src" else 2
    if nat.port is None:
        packed = struct.pack("!HHIH2xHH4s4x", 0xFFFF, 24, _NICIRA, 36, flags, 0x01, nat.address.packed)
        return Action(f"nat({nat.direction}={nat.address})", packed)
    if nat.last_port is not None:
        packed = struct.pack(
            "!HHIH2xHH4sHH", 0xFFFF, 24, _NICIRA, 36, flags, 0x31, nat.address.packed, nat.port, nat.last_port
        )
        return Action(f"nat({nat.direction}={nat.address}:{nat.port}-{nat.last_port})", packed)
    packed = struct.pack(
        "!HHIH2xHH4sH2x", 0xFFFF, 24, _NICIRA, 36, flags, 0x11, nat.address.packed, nat.port
    )  # fmt: skip
    return Action(f"nat({nat.direction}={nat.address}:{nat.port})", packed)


def _nat_range(chosen: NatRange) -> Action:
    """As Open vSwitch writes it: the end of a range is left out where it is its beginning."""
    present, body = 0x01, chosen.first.packed
    if chosen.last != chosen.first:
        present, body = present | 0x02, body + chosen.last.packed
    present, body = present | 0x10, body + chosen.first_port.to_bytes(2, "big")
    if chosen.last_port != chosen.first_port:
        present, body = present | 0x20, body + chosen.last_port.to_bytes(2, "big")
    length = (16 + len(body) + 7) // 8 * 8
    packed = struct.pack("!HHIH2xHH", 0xFFFF, length, _NICIRA, 36, 1, present) + body
    return Action(f"nat(src={chosen})", packed.ljust(length, b"\0"))


def ct(
    zone: int,
    *,
    table: int | None = None,
    commit: bool = False,
    nat: bool = False,
    src: IPv4Address | NatRange | None = None,
    src_ports: tuple[int, int] | None = None,
    dst: tuple[IPv4Address, int] | None = None,
    mark: Action | tuple[Action, ...] = (),
) -> Action:
    """Connection tracking.

    ``table`` is where the packet goes on once it is tracked; without it, it goes on here, untranslated.
    ``nat`` translates packets of known connections, ``src`` (with ports of a range) and ``dst`` new ones too; ``mark``
    is what writes to the connection's mark.
    """
    inner: list[Action] = []
    texts = [*(["commit"] if commit else ()), *([f"table={table}"] if table is not None else ()), f"zone={zone}"]
    if src is not None or dst is not None or nat:
        if isinstance(src, NatRange):
            inner.append(_nat_range(src))
        else:
            ports = src_ports or (None, None)
            chosen = Nat("src", src, *ports) if src is not None else Nat("dst", *dst) if dst is not None else None
            inner.append(_nat(chosen))
        texts.append(inner[-1].text)
    if mark:
        marks = (mark,) if isinstance(mark, Action) else mark
        inner += marks
        texts.append(f"exec({','.join([each.text for each in marks])})")
    nested = b"".join([action.packed for action in inner])
    head = struct.pack(
        "!HHIHHIHB3xH", 0xFFFF, 24 + len(nested), _NICIRA, 35, int(commit), 0, zone, 0xFF if table is None else table, 0
    )
    return Action(f"ct({','.join(texts)})", head + nested)
