"""Names of the reverse zones: which address or network one stands for, and which zone of ours it lies in."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

__all__ = ["network_of", "reverse_apex", "reverse_name"]

_V4, _V6 = ".in-addr.arpa.", ".ip6.arpa."


def reverse_name(address: str) -> str:
    """``10.96.0.1`` → ``1.0.96.10.in-addr.arpa.``"""
    return ip_address(address).reverse_pointer + "."


def network_of(name: str) -> IPv4Network | IPv6Network | None:
    """The addresses below a reverse name: one for a whole name, a network for a shorter one, None for other names."""
    if name.endswith(_V4):
        octets = name.removesuffix(_V4).split(".")[::-1][:4]
        if not all(octet.isdecimal() and int(octet) < 256 for octet in octets):
            return None
        v4 = int.from_bytes(bytes([*map(int, octets), *[0] * (4 - len(octets))]), "big")
        return IPv4Network((IPv4Address(v4), 8 * len(octets)))
    if name.endswith(_V6):
        nibbles = name.removesuffix(_V6).split(".")[::-1][:32]
        if not all(len(nibble) == 1 and nibble in "0123456789abcdef" for nibble in nibbles):
            return None
        return IPv6Network((IPv6Address(int("".join(nibbles).ljust(32, "0"), 16)), 4 * len(nibbles)))
    return None


def reverse_apex(name: str, networks: Iterable[IPv4Network | IPv6Network]) -> str | None:
    """The zone that a reverse name lies in, if it is within one of the networks.

    Zones are cut at labels: a network of 12 bits is sixteen zones of 16 bits, as it would be delegated.
    """
    network = network_of(name)
    if network is None:
        return None
    bits, suffix = (8, _V4) if network.version == 4 else (4, _V6)
    for ours in networks:
        if ours.version == network.version and ours.supernet_of(network):  # type: ignore[arg-type]
            depth = -(-ours.prefixlen // bits)
            return ".".join(name.removesuffix(suffix).split(".")[-depth:]) + suffix if depth else suffix[1:]
    return None
