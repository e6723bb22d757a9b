"""IPv4 and IPv6 as flows see them: what differs between the two, so that generators of flows are written once.

A generator takes a :class:`Family`, or the family of an address (:func:`family_of`). Fields of addresses and ports
(``nw_src``, ``tp_dst``) and ``ct`` know themselves which family they are given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from controller.openflow.match import (
    ARP,
    ARP_REQUEST,
    ECHO_REQUEST,
    ECHO_REQUEST6,
    IP,
    IPV6,
    ND_SOLICITATION,
    PROTOCOLS,
    PROTOCOLS6,
    Address,
    Field,
    Network,
    Protocol,
)
from kmn.k8s.dataplane import HAIRPIN_IP, HAIRPIN_IPV6, REJECT_IP, REJECT_IPV6

__all__ = ["FAMILIES", "V4", "V6", "Family", "family_of"]


@dataclass(frozen=True, slots=True, eq=False)  # there are two of them
class Family:
    """One IP family."""

    version: int
    ip: Field
    protocols: Mapping[str, Protocol]  # by their names in the API
    # Who asks for the MAC of a next hop: all that is told of it, and questions alone.
    neighbours: tuple[Field, ...]
    question: tuple[Field, ...]
    asking: int  # priority of who may ask: neighbour discovery is a packet of the family, and goes another way
    echo_request: tuple[Field, ...]
    everything: Network
    # Nobody outside a link can be meant by these: loopback, link-local, multicast and reserved addresses.
    unroutable: tuple[Network, ...]
    hairpin: Address
    reject: Address


V4 = Family(
    4, IP, PROTOCOLS, (ARP,), (ARP, ARP_REQUEST), 100, ECHO_REQUEST, IPv4Network("0.0.0.0/0"),
    (IPv4Network("127.0.0.0/8"), IPv4Network("169.254.0.0/16"), IPv4Network("224.0.0.0/3")),
    IPv4Address(HAIRPIN_IP), IPv4Address(REJECT_IP),
)  # fmt: skip
V6 = Family(
    6, IPV6, PROTOCOLS6, ND_SOLICITATION, ND_SOLICITATION, 105, ECHO_REQUEST6, IPv6Network("::/0"),
    (IPv6Network("::/127"), IPv6Network("fe80::/10"), IPv6Network("ff00::/8")),
    IPv6Address(HAIRPIN_IPV6), IPv6Address(REJECT_IPV6),
)  # fmt: skip
FAMILIES: Mapping[int, Family] = {4: V4, 6: V6}  # by version of IP


def family_of(address: Address | Network) -> Family:
    return V4 if address.version == 4 else V6
