"""Routing rules: what a node sends to its own address passes its bridge where Services may be meant.

The kernel looks up its own addresses first, and would deliver at once. So that lookup moves behind one rule more. Only
what the node itself sends is concerned, not what it receives.
"""

from __future__ import annotations

import errno
import socket
import struct

from kmn.emulator import netlink
from kmn.emulator.netlink import Address, Network, NextHop, Request, attribute

__all__ = ["NODE_PORTS", "through_bridge"]

NODE_PORTS = (30000, 32767)

_RTM_NEWRULE, _RTM_DELRULE = 32, 33
_RULE_TO_TABLE, _TABLE_LOCAL, _TABLE = 1, 255, 30
_FRA_DST, _FRA_IIFNAME, _FRA_PRIORITY, _FRA_IP_PROTO, _FRA_DPORT_RANGE = 1, 3, 6, 22, 24
_FIRST, _OURS, _LOCAL = 0, 30, 100  # priorities
_PROTOCOLS = (socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_SCTP)


def through_bridge(address: Address, default: Network, hop: NextHop) -> list[Request]:
    """Requests that send what a node says to its own node ports by way of ``hop``.

    ``default`` is everything, in the address's family.
    """
    version = address.version
    return [
        netlink.route_add(default, [hop], address, table=_TABLE),
        _add(version, _LOCAL, _TABLE_LOCAL),
        *(_add(version, _OURS, _TABLE, address, protocol) for protocol in _PROTOCOLS),
        netlink.request(
            _RTM_DELRULE, 0, _rule(version, _FIRST, _TABLE_LOCAL, 0), "delete rule of the local table", (errno.ENOENT,)
        ),
    ]


def _add(version: int, priority: int, table: int, to: Address | None = None, protocol: int = 0) -> Request:
    body = _rule(version, priority, table, to.max_prefixlen if to is not None else 0)
    if to is not None:
        # Packets of the namespace's own are those that "came in" by lo.
        body += attribute(_FRA_IIFNAME, b"lo\0") + attribute(_FRA_DST, to.packed)
        body += attribute(_FRA_IP_PROTO, bytes([protocol]))
        body += attribute(_FRA_DPORT_RANGE, struct.pack("=HH", *NODE_PORTS))
    flags = netlink.CREATE | netlink.EXCLUSIVE
    return netlink.request(_RTM_NEWRULE, flags, body, f"add rule {priority}", (errno.EEXIST,))


def _rule(version: int, priority: int, table: int, length: int) -> bytes:
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    head = struct.pack("=BBBBBxxBI", family, length, 0, 0, table, _RULE_TO_TABLE, 0)
    return head + attribute(_FRA_PRIORITY, struct.pack("=I", priority))
