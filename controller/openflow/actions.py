"""Actions, and the instructions that a flow carries.

Each function returns one :class:`Action` with its text and its bytes; ``actions(...)`` joins them into what a flow
(or, without a goto, a bucket) does.
"""

from __future__ import annotations

import struct
from functools import cache, lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Literal, NamedTuple
from zlib import crc32

from controller.openflow.match import TCP, Address, Protocol, mac_bytes

__all__ = [
    "DEC_TTL",
    "DROP",
    "IN_PORT",
    "XXREG3",
    "Action",
    "Actions",
    "NatRange",
    "actions",
    "conjunction",
    "ct",
    "goto",
    "group",
    "learn",
    "move",
    "move_bit",
    "move_from_label",
    "move_to_label",
    "output",
    "output_reg",
    "resubmit",
    "set_arp_op",
    "set_arp_sha",
    "set_ct_mark",
    "set_eth_dst",
    "set_eth_src",
    "set_icmp_type",
    "set_icmpv6_type",
    "set_nd_options_type",
    "set_nd_reserved",
    "set_nw_dst",
    "set_nw_ttl",
    "set_reg",
    "set_tp_dst",
    "set_xxreg3",
    "to_controller",
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


_XXREG3 = 0x0001E410
_CT_LABEL = 0x0001D810


def _nxm_reg(number: int) -> int:
    return 0x00010004 | number << 9


def _set_field(oxm: bytes) -> bytes:
    length = (4 + len(oxm) + 7) // 8 * 8
    return (struct.pack("!HH", 25, length) + oxm).ljust(length, b"\0")


@cache
def set_reg(number: int, value: int, mask: int = 0xFFFFFFFF) -> Action:
    """Write (some bits of) a register."""
    shown = f"{value:#x}" if value else "0"
    if mask == 0xFFFFFFFF:
        packed = _set_field(struct.pack("!II", _nxm_reg(number), value))
        return Action(f"set_field:{shown}->reg{number}", packed)
    packed = _set_field(struct.pack("!III", (_nxm_reg(number) | 0x100) + 4, value, mask))
    return Action(f"set_field:{shown}/{mask:#x}->reg{number}", packed)


def set_xxreg3(value: int) -> Action:
    """Write the registers 12 to 15 as one."""
    packed = _set_field(_XXREG3.to_bytes(4, "big") + value.to_bytes(16, "big"))
    shown = f"{value:#x}" if value else "0"
    return Action(f"set_field:{shown}->xxreg3", packed)


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


def set_icmpv6_type(number: int) -> Action:
    """Of an ICMPv6 message; the flow must match on ICMPv6."""
    return Action(f"set_field:{number}->icmpv6_type", _set_field(struct.pack("!IB", 0x80003A01, number)))


def set_nd_options_type(number: int) -> Action:
    """What the option of a message of neighbour discovery holds; 2: the MAC of who is asked for."""
    return Action(f"set_field:{number}->nd_options_type", _set_field(struct.pack("!IB", 0x10000401, number)))


def set_nd_reserved(flags: int) -> Action:
    """The flags of a message of neighbour discovery."""
    return Action(f"set_field:{flags}->nd_reserved", _set_field(struct.pack("!II", 0x10000204, flags)))


def set_nw_dst(address: Address) -> Action:
    """The destination address; the flow (or the flow that leads to the bucket) must match on its family."""
    name, header = ("ip_dst", 0x80001804) if address.version == 4 else ("ipv6_dst", 0x80003610)
    return Action(f"set_field:{address}->{name}", _set_field(struct.pack("!I", header) + address.packed))


def set_tp_dst(protocol: Protocol, port: int) -> Action:
    """The destination port; the flow (or the flow that leads to the bucket) must match on the protocol."""
    name, header = ("tcp_dst", 0x80001C02) if protocol.number == TCP.number else ("udp_dst", 0x80002002)
    return Action(f"set_field:{port}->{name}", _set_field(struct.pack("!IH", header, port)))


def set_nw_ttl(ttl: int) -> Action:
    return Action(f"set_field:{ttl}->nw_ttl", _set_field(struct.pack("!IB", 0x00013A01, ttl)))


def set_arp_op(operation: int) -> Action:
    return Action(f"set_field:{operation}->arp_op", _set_field(struct.pack("!IH", 0x80002A02, operation)))


def set_arp_sha(mac: str) -> Action:
    return Action(f"set_field:{mac}->arp_sha", _set_field(struct.pack("!I", 0x80003006) + mac_bytes(mac)))


# Fields that can be copied whole, to one of at least their size: name in texts, OXM header, bits.
_COPY = {
    "eth_src": ("NXM_OF_ETH_SRC", 0x80000806, 48),
    "eth_dst": ("NXM_OF_ETH_DST", 0x80000606, 48),
    "arp_sha": ("NXM_NX_ARP_SHA", 0x80003006, 48),
    "arp_tha": ("NXM_NX_ARP_THA", 0x80003206, 48),
    "nw_src": ("NXM_OF_IP_SRC", 0x80001604, 32),
    "nw_dst": ("NXM_OF_IP_DST", 0x80001804, 32),
    "ipv6_src": ("NXM_NX_IPV6_SRC", 0x80003410, 128),
    "ipv6_dst": ("NXM_NX_IPV6_DST", 0x80003610, 128),
    "nd_target": ("NXM_NX_ND_TARGET", 0x80003E10, 128),
    "xxreg3": ("NXM_NX_XXREG3", _XXREG3, 128),
    "nd_tll": ("NXM_NX_ND_TLL", 0x80004206, 48),
    "tcp_src": ("NXM_OF_TCP_SRC", 0x80001A02, 16),
    "udp_src": ("NXM_OF_UDP_SRC", 0x80001E02, 16),
    "sctp_src": ("OXM_OF_SCTP_SRC", 0x80002202, 16),
    "arp_spa": ("NXM_OF_ARP_SPA", 0x80002C04, 32),
    "arp_tpa": ("NXM_OF_ARP_TPA", 0x80002E04, 32),
    **{f"reg{n}": (f"NXM_NX_REG{n}", _nxm_reg(n), 32) for n in range(16)},
}


@cache
def move(source: str, destination: str) -> Action:
    """Copy one field to another of the same size, or to the lower bits of a larger one."""
    source_text, source_oxm, bits = _COPY[source]
    destination_text, destination_oxm, destination_bits = _COPY[destination]
    if bits > destination_bits:
        raise ValueError(f"move:{source}->{destination}: {bits} bits do not fit {destination_bits}")
    packed = struct.pack("!HHHHHHII4x", 28, 24, bits, 0, 0, 0, source_oxm, destination_oxm)
    part = "" if bits == destination_bits else f"0..{bits - 1}"
    return Action(f"move:{source_text}[]->{destination_text}[{part}]", packed)


class NatRange(NamedTuple):
    """Source addresses and ports to choose from: connections that differ in their destination share them."""

    first: Address
    last: Address
    first_port: int
    last_port: int

    def __str__(self) -> str:
        ends = [self.first] if self.last == self.first else [self.first, self.last]
        addresses = "-".join([f"[{each}]" if each.version == 6 else str(each) for each in ends])
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
def move_from_label(word: int, register: int) -> Action:
    """Copy one of the four words of the connection's label to a register."""
    first = 32 * word
    packed = struct.pack("!HHHHHHII4x", 28, 24, 32, first, 0, 0, _CT_LABEL, _nxm_reg(register))
    return Action(f"move:NXM_NX_CT_LABEL[{first}..{first + 31}]->NXM_NX_REG{register}[]", packed)


@cache
def move_to_label(register: int, word: int) -> Action:
    """Copy a register to one of the four words of the connection's label; inside ``ct(exec=…)`` only."""
    first = 32 * word
    packed = struct.pack("!HHHHHHII4x", 28, 24, 32, 0, first, 0, _nxm_reg(register), _CT_LABEL)
    return Action(f"move:NXM_NX_REG{register}[]->NXM_NX_CT_LABEL[{first}..{first + 31}]", packed)


@cache
def conjunction(number: int, dimension: int, dimensions: int) -> Action:
    """The flow is part of a conjunction: of its ``dimensions``, counted from 1, it meets this one (``conj_id``)."""
    packed = struct.pack("!HHIHBBI", 0xFFFF, 16, _NICIRA, 34, dimension - 1, dimensions, number)
    return Action(f"conjunction({number},{dimension}/{dimensions})", packed)


@cache
def to_controller(connection: int, length: int) -> Action:
    """Send the first ``length`` bytes of the packet to the OpenFlow connection that has this number; if none: nobody.

    The number is one that connections give themselves (NXT_SET_CONTROLLER_ID).
    """
    packed = struct.pack("!HHIHHHBx", 0xFFFF, 16, _NICIRA, 20, length, connection, 1)
    return Action(f"controller(max_len={length},id={connection})", packed)


def resubmit(table: int) -> Action:
    """Do what a table says, and come back; a packet that no flow of it matches just comes back."""
    return Action(f"resubmit(,{table})", struct.pack("!HHIHHB3x", 0xFFFF, 16, _NICIRA, 14, 0xFFF8, table))


# By version of IP: type of frames, the field of the source address, its name and its bits.
_LEARN_FROM = {4: (0x0800, 0x00000E04, "NXM_OF_IP_SRC", 32), 6: (0x86DD, 0x00012610, "NXM_NX_IPV6_SRC", 128)}
# The registers 12 to 15 as one, for ``learn``.
XXREG3: Literal["xxreg3"] = "xxreg3"
Register = int | Literal["xxreg3"]


def learn(
    table: int,
    priority: int,
    cookie: int,
    group: tuple[int, int],
    loads: tuple[tuple[Register, int], ...],
    *,
    version: int = 4,
    seconds: int = 0,
    of_source: bool = False,
) -> Action:
    """Make a flow in ``table`` that gives what ``loads`` says to further packets of a version of IP: those of this
    source address, if ``of_source``.

    ``group`` and ``loads`` are registers with values: the flow matches the one, and loads the others. It ends after
    ``seconds`` (0: never); learning it again begins them anew.
    """
    number, value = group
    # Specifications: source (a field, or a value) and destination (to match, or to load) of so many bits.
    immediate, load = 1 << 13, 1 << 11
    eth_type, source, source_text, bits = _LEARN_FROM[version]
    specs = struct.pack("!HHIH", immediate | 16, eth_type, 0x00000602, 0)
    specs += struct.pack("!HIIH", immediate | 32, value, _nxm_reg(number), 0)
    text = f"eth_type={eth_type:#x},reg{number}={value:#x}"
    if of_source:
        specs += struct.pack("!HIHIH", bits, source, 0, source, 0)
        text += f",{source_text}[]"
    for register, content in loads:
        name, header, length = _COPY[register if isinstance(register, str) else f"reg{register}"]
        specs += struct.pack("!H", immediate | load | length) + content.to_bytes(length // 8, "big")
        specs += struct.pack("!IH", header, 0)
        shown = f"{content:#x}" if content else "0"
        text += f",load:{shown}->{name}[]"
    length = (32 + len(specs) + 7) // 8 * 8
    head = struct.pack("!HHIHHHHQHBxHH", 0xFFFF, length, _NICIRA, 16, 0, seconds, priority, cookie, 0, table, 0, 0)
    ends = f"hard_timeout={seconds}," if seconds else ""
    return Action(
        f"learn(table={table},{ends}priority={priority},cookie={cookie:#x},{text})",
        (head + specs).ljust(length, b"\0"),
    )


class Nat(NamedTuple):
    """What ``ct(nat)`` does to a new connection."""

    direction: str  # "src" or "dst"
    address: Address
    port: int | None = None
    last_port: int | None = None  # of a range


def _nat(nat: Nat | None) -> Action:
    if nat is None:
        return Action("nat", struct.pack("!HHIH2xHH", 0xFFFF, 16, _NICIRA, 36, 0, 0))
    flags = 1 if nat.direction == "src" else 2
    # Which of the fields follow: an address of IPv4 or IPv6, a port, the last port of a range.
    present, body = 0x01 if isinstance(nat.address, IPv4Address) else 0x04, nat.address.packed
    text = str(nat.address)
    if nat.port is not None:
        present, body = present | 0x10, body + nat.port.to_bytes(2, "big")
        text = f"[{text}]:{nat.port}" if isinstance(nat.address, IPv6Address) else f"{text}:{nat.port}"
    if nat.last_port is not None:
        present, body = present | 0x20, body + nat.last_port.to_bytes(2, "big")
        text += f"-{nat.last_port}"
    length = (16 + len(body) + 7) // 8 * 8
    packed = struct.pack("!HHIH2xHH", 0xFFFF, length, _NICIRA, 36, flags, present) + body
    return Action(f"nat({nat.direction}={text})", packed.ljust(length, b"\0"))


def _nat_range(chosen: NatRange) -> Action:
    """As Open vSwitch writes it: the end of a range is left out where it is its beginning."""
    present, body = 0x01 if chosen.first.version == 4 else 0x04, chosen.first.packed
    if chosen.last != chosen.first:
        present, body = present | present << 1, body + chosen.last.packed
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
    src: Address | NatRange | None = None,
    src_ports: tuple[int, int] | None = None,
    dst: tuple[Address, int] | None = None,
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
