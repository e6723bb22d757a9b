"""Heads of packets that bridges send: who to whom, over what. Pure.

Pods may send anything. What cannot be read is told as far as it goes, and never an error.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import ip_address

from os_ken.lib.packet.ethernet import ethernet
from os_ken.lib.packet.ipv4 import ipv4
from os_ken.lib.packet.ipv6 import fragment, ipv6

from kmn.policy.selection import Address

__all__ = ["Packet", "read_packet"]

_PORTS = {6: "TCP", 17: "UDP", 132: "SCTP"}  # protocols with ports
_ICMP = {1: "ICMP", 58: "ICMPv6"}


@dataclass(frozen=True, slots=True)
class Packet:
    """What of a packet policies look at. Ports are None where the packet shows none."""

    source: Address
    destination: Address
    protocol: str  # TCP, UDP, SCTP, ICMP, ICMPv6, or "protocol NUMBER"
    source_port: int | None = None
    port: int | None = None
    icmp_type: int | None = None

    @property
    def service(self) -> str:
        """What is asked for, as in policies: ``80/TCP``."""
        if self.port is not None:
            return f"{self.port}/{self.protocol}"
        if self.icmp_type is not None:
            return f"{self.protocol} type {self.icmp_type}"
        return f"{self.protocol} fragment" if self.protocol in _PORTS.values() else self.protocol


def read_packet(frame: bytes) -> Packet | None:
    """None for what is no IP packet."""
    try:
        _, kind, rest = ethernet.parser(frame)
        if kind not in (ipv4, ipv6):
            return None
        head, _, payload = kind.parser(rest)
    except Exception:  # os_ken's parsers raise whatever comes to them
        return None
    protocol, later = (head.proto, bool(head.offset)) if kind is ipv4 else _beyond_extensions(head)
    source, destination = ip_address(head.src), ip_address(head.dst)
    if protocol in _PORTS:
        if later or len(payload) < 4:
            return Packet(source, destination, _PORTS[protocol])
        return Packet(source, destination, _PORTS[protocol], *struct.unpack_from("!HH", payload))
    if protocol in _ICMP:
        return Packet(source, destination, _ICMP[protocol], icmp_type=payload[0] if payload and not later else None)
    return Packet(source, destination, f"protocol {protocol}")


def _beyond_extensions(head: ipv6) -> tuple[int, bool]:
    """The protocol behind the extension headers, and whether this is not the first fragment of a packet."""
    protocol, later = head.nxt, False
    for extension in head.ext_hdrs:
        protocol = extension.nxt
        later = later or (isinstance(extension, fragment) and bool(extension.offset))
    return protocol, later
