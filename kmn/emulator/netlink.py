"""rtnetlink for what the emulator does thousands of times: devices, addresses, routes, neighbours.

Requests are built as bytes by pure functions and sent many per system call; the kernel acknowledges each one. A
socket belongs to the network namespace that its thread was in when it was opened, wherever the thread goes after.
This is not a general netlink library: it encodes requests, and decodes nothing but acknowledgements and device names.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple

__all__ = [
    "Address",
    "Netlink",
    "NetlinkError",
    "Network",
    "NextHop",
    "Request",
    "Veth",
    "address_add",
    "attribute",
    "dummy_add",
    "group_delete",
    "link_delete",
    "link_local",
    "link_group",
    "link_up",
    "mac_bytes",
    "neighbour_add",
    "neighbour_delete",
    "request",
    "route_add",
    "route_delete",
    "veth_add",
]

LOOPBACK_INDEX = 1  # of `lo`, in every network namespace
MTU = 1500  # of pods, nodes, bridges

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK, _RTM_NEWADDR = 16, 17, 18, 20
_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_NEWNEIGH, _RTM_DELNEIGH = 24, 25, 28, 29
_REQUEST, _ACK = 0x1, 0x4
REPLACE, EXCLUSIVE, CREATE, DUMP = 0x100, 0x200, 0x400, 0x300
_NESTED = 0x8000

_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK = 270, 10, 11, 12
_ACK_CAPPED, _ACK_TLVS = 0x100, 0x200

# Attributes as linux/if_link.h, if_addr.h, rtnetlink.h and neighbour.h have them.
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_GROUP = 1, 3, 4, 18, 20, 27
_IFLA_OPERSTATE, _IFLA_NET_NS_FD, _IFLA_NUM_TX_QUEUES, _IFLA_NUM_RX_QUEUES = 16, 28, 31, 32
_INFO_KIND, _INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS, _IFA_F_NODAD, _IFA_F_NOPREFIXROUTE = 1, 2, 8, 0x2, 0x200
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PREFSRC, _RTA_MULTIPATH = 1, 4, 5, 7, 9
_NDA_DST, _NDA_LLADDR = 1, 2
_NUD_PERMANENT = 0x80
_IFF_UP = 0x1
_OPER_UP = 6
_RTNH_F_ONLINK = 4
_SCOPE_UNIVERSE, _SCOPE_LINK, _SCOPE_HOST = 0, 253, 254
_TABLE_MAIN, _PROTOCOL_STATIC, _TYPE_UNICAST = 254, 4, 1

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # family, device type, index, flags, change mask
_ATTRIBUTE = struct.Struct("=HH")

# The kernel queues one acknowledgement a request before the sender can read any: a batch must fit the receive buffer.
_BATCH = 64
_RECEIVE_BUFFER = 1 << 20


class NetlinkError(OSError):
    """A request that the kernel refused. The message says which, and in which namespace."""

    def __init__(self, number: int, what: str, where: str, detail: str = "") -> None:
        super().__init__(number, f"{where}: {what}: {os.strerror(number)}{f' ({detail})' if detail else ''}")


class Request(NamedTuple):
    """One message without its header, and words for what it does (``add device eth0``)."""

    kind: int
    flags: int
    body: bytes
    what: str
    tolerated: tuple[int, ...] = ()  # error numbers that mean that nothing was to be done


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute (struct rtattr), padded to four bytes."""
    length = 4 + len(data)
    return _ATTRIBUTE.pack(length, kind) + data + b"\0" * (-length % 4)


def request(kind: int, flags: int, body: bytes, what: str, tolerated: tuple[int, ...] = ()) -> Request:
    """A message that this module has no function for (``shaping`` makes those of traffic control)."""
    return Request(kind, flags, body, what, tolerated)


def _u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def _text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def mac_bytes(mac: str) -> bytes:
    """The six bytes of ``0a:58:0a:f4:00:05``."""
    return bytes.fromhex(mac.replace(":", ""))


# --- devices ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Veth:
    """One end of a veth pair. ``index`` 0 lets the kernel choose; a chosen one can be configured in the same batch."""

    name: str
    mac: str | None = None
    index: int = 0
    netns: int | None = None  # open file of another namespace; None: that of the socket
    alias: str = ""
    mtu: int = MTU

    def encode(self, flags: int) -> bytes:
        # One queue: veth has one a CPU by default, each with entries in sysfs that cost more than the device.
        parts = [
            _LINK.pack(0, 0, self.index, flags, flags),
            _text(_IFLA_IFNAME, self.name),
            _u32(_IFLA_MTU, self.mtu),
            _u32(_IFLA_NUM_TX_QUEUES, 1),
            _u32(_IFLA_NUM_RX_QUEUES, 1),
        ]
        if self.mac:
            parts.append(attribute(_IFLA_ADDRESS, mac_bytes(self.mac)))
        if self.alias:
            parts.append(attribute(_IFLA_IFALIAS, self.alias.encode()[:255]))
        if self.netns is not None:
            parts.append(_u32(_IFLA_NET_NS_FD, self.netns))
        return b"".join(parts)


def veth_add(end: Veth, peer: Veth, *, up: bool = True) -> Request:
    """Create a pair, each end in its namespace from the first moment, and set ``end`` up (unless ``up`` is False).

    The peer's index can be chosen only if that of ``end`` is. The kernel cannot set the peer up at once: that takes a
    :func:`link_up` in its namespace.
    """
    data = attribute(_INFO_DATA | _NESTED, attribute(_VETH_INFO_PEER | _NESTED, peer.encode(0)))
    info = attribute(_IFLA_LINKINFO | _NESTED, _text(_INFO_KIND, "veth") + data)
    flags = _IFF_UP if up else 0
    return Request(_RTM_NEWLINK, CREATE | EXCLUSIVE, end.encode(flags) + info, f"add device {end.name}")


def dummy_add(name: str, index: int, kind: str = "dummy") -> Request:
    """Create a device without a wire (``dummy``), or another kind that needs no options (``ifb``), and set it up."""
    info = attribute(_IFLA_LINKINFO | _NESTED, _text(_INFO_KIND, kind))
    body = _LINK.pack(0, 0, index, _IFF_UP, _IFF_UP) + _text(_IFLA_IFNAME, name)
    queues = _u32(_IFLA_NUM_TX_QUEUES, 1) + _u32(_IFLA_NUM_RX_QUEUES, 1)
    return Request(_RTM_NEWLINK, CREATE | EXCLUSIVE, body + queues + info, f"add device {name}")


def link_up(device: int | str) -> Request:
    """Set a device, given by index or name, up."""
    if isinstance(device, int):
        return Request(_RTM_NEWLINK, 0, _LINK.pack(0, 0, device, _IFF_UP, _IFF_UP), f"set device {device} up")
    body = _LINK.pack(0, 0, 0, _IFF_UP, _IFF_UP) + _text(_IFLA_IFNAME, device)
    return Request(_RTM_NEWLINK, 0, body, f"set device {device} up")


def link_delete(name: str) -> Request:
    """Delete a device (of a veth pair: both ends). One that is gone is no error."""
    body = _LINK.pack(0, 0, 0, 0, 0) + _text(_IFLA_IFNAME, name)
    return Request(_RTM_DELLINK, 0, body, f"delete device {name}", (errno.ENODEV,))


def link_group(name: str, group: int) -> Request:
    """Put a device in a group, for :func:`group_delete`. One that is gone is no error."""
    body = _LINK.pack(0, 0, 0, 0, 0) + _text(_IFLA_IFNAME, name) + _u32(_IFLA_GROUP, group)
    return Request(_RTM_NEWLINK, 0, body, f"put device {name} in group {group}", (errno.ENODEV,))


def group_delete(group: int) -> Request:
    """Delete all devices of a group at once: one wait of the kernel for all instead of one each."""
    body = _LINK.pack(0, 0, 0, 0, 0) + _u32(_IFLA_GROUP, group)
    return Request(_RTM_DELLINK, 0, body, f"delete devices of group {group}", (errno.ENODEV,))


# --- addresses, routes, neighbours ------------------------------------------------------------------------------------


Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


_LINK_LOCAL = IPv6Network("fe80::/10")


def _family(version: int) -> int:
    return socket.AF_INET6 if version == 6 else socket.AF_INET


def link_local(number: IPv4Address) -> IPv6Address:
    """A link-local address for a next hop that has this IPv4 address: next hops are known by their MAC alone."""
    return IPv6Address(0xFE80 << 112 | int(number))


def address_add(index: int, address: Address, prefix: int | None = None, *, on_link: bool = True) -> Request:
    """Give a device an address, of full length unless ``prefix`` is given. ``on_link`` False leaves out the route to
    the address's network. An IPv6 address can be used at once: whether somebody else has it is not asked."""
    host = index == LOOPBACK_INDEX
    prefix = address.max_prefixlen if prefix is None else prefix
    body = struct.pack("=BBBBi", _family(address.version), prefix, 0, _SCOPE_HOST if host else _SCOPE_UNIVERSE, index)
    body += attribute(_IFA_LOCAL, address.packed) + attribute(_IFA_ADDRESS, address.packed)
    flags = (0 if on_link else _IFA_F_NOPREFIXROUTE) | (_IFA_F_NODAD if address.version == 6 else 0)
    if flags:
        body += _u32(_IFA_FLAGS, flags)
    return Request(_RTM_NEWADDR, CREATE | REPLACE, body, f"add address {address}/{prefix}")


class NextHop(NamedTuple):
    """One way of a route: out of a device, to a gateway that counts as on that link whatever the addresses say."""

    device: int
    gateway: Address
    weight: int = 1  # 1 to 256, among the next hops of one route


def route_add(
    to: Network, hops: Sequence[NextHop], source: Address | None = None, *, table: int = _TABLE_MAIN
) -> Request:
    """Add or replace a route, over several next hops if there are several (ECMP)."""
    single = len(hops) == 1
    # Link-local addresses of IPv6 are on the link by themselves, and the kernel wants to hear nothing else of them.
    on_link = 0 if any(hop.gateway in _LINK_LOCAL for hop in hops) else _RTNH_F_ONLINK
    body = _route(to, on_link if single else 0, table)
    if single:
        body += _u32(_RTA_OIF, hops[0].device) + attribute(_RTA_GATEWAY, hops[0].gateway.packed)
    else:
        body += attribute(_RTA_MULTIPATH, b"".join(_next_hop(hop, on_link) for hop in hops))
    if source is not None:
        body += attribute(_RTA_PREFSRC, source.packed)
    return Request(_RTM_NEWROUTE, CREATE | REPLACE, body, f"add route to {to}")


def route_delete(to: Network) -> Request:
    """Delete the route to a network. One that is gone is no error."""
    return Request(_RTM_DELROUTE, 0, _route(to, 0), f"delete route to {to}", (errno.ESRCH,))


def _route(to: Network, flags: int, table: int = _TABLE_MAIN) -> bytes:
    header = (_family(to.version), to.prefixlen, 0, 0, table, _PROTOCOL_STATIC, _SCOPE_UNIVERSE, _TYPE_UNICAST, flags)
    return struct.pack("=BBBBBBBBI", *header) + (
        attribute(_RTA_DST, to.network_address.packed) if to.prefixlen else b""
    )


def _next_hop(hop: NextHop, flags: int) -> bytes:
    gateway = attribute(_RTA_GATEWAY, hop.gateway.packed)
    return struct.pack("=HBBi", 8 + len(gateway), flags, hop.weight - 1, hop.device) + gateway


def neighbour_add(index: int, address: Address, mac: str) -> Request:
    """A permanent neighbour entry: no ARP, no neighbour discovery for this address."""
    body = struct.pack("=BxxxiHBB", _family(address.version), index, _NUD_PERMANENT, 0, 0)
    body += attribute(_NDA_DST, address.packed) + attribute(_NDA_LLADDR, mac_bytes(mac))
    return Request(_RTM_NEWNEIGH, CREATE | REPLACE, body, f"add neighbour {address}")


def neighbour_delete(index: int, address: Address) -> Request:
    """Delete a neighbour entry. One that is gone is no error."""
    body = struct.pack("=BxxxiHBB", _family(address.version), index, 0, 0, 0) + attribute(_NDA_DST, address.packed)
    return Request(_RTM_DELNEIGH, 0, body, f"delete neighbour {address}", (errno.ENOENT, errno.ENODEV))


# --- the socket -------------------------------------------------------------------------------------------------------


class Netlink:
    """An rtnetlink socket of the calling thread's network namespace, which ``where`` names in messages."""

    def __init__(self, where: str) -> None:
        self.where = where
        self._sequence = 0
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def apply(self, requests: Iterable[Request]) -> None:
        """Send requests in order; raise the first error (the later ones have been tried all the same)."""
        for error in self.attempt(requests):
            if error is not None:
                raise error

    def attempt(self, requests: Iterable[Request]) -> list[NetlinkError | None]:
        """Send requests in order; what the kernel said to each."""
        todo = list(requests)
        results: list[NetlinkError | None] = []
        for start in range(0, len(todo), _BATCH):
            results += self._batch(todo[start : start + _BATCH])
        return results

    def _batch(self, requests: Sequence[Request]) -> list[NetlinkError | None]:
        first = self._sequence + 1
        self._sequence += len(requests)
        out = bytearray()
        for number, (kind, flags, body, _what, _tolerated) in enumerate(requests, first):
            out += _HEADER.pack(_HEADER.size + len(body), kind, flags | _REQUEST | _ACK, number, 0)
            out += body + b"\0" * (-len(body) % 4)
        self._socket.send(out)
        results: list[NetlinkError | None] = [None] * len(requests)
        waiting = len(requests)
        while waiting:
            for kind, flags, sequence, body in _messages(self._socket.recv(1 << 16)):
                if kind != _NLMSG_ERROR or not first <= sequence < first + len(requests):
                    continue
                waiting -= 1
                number = -struct.unpack_from("=i", body)[0]
                asked = requests[sequence - first]
                if number and number not in asked.tolerated:
                    results[sequence - first] = NetlinkError(number, asked.what, self.where, _detail(flags, body))
        return results

    def devices(self) -> dict[str, int]:
        """Names and indices of all devices of the namespace."""
        return {name: index for name, index, _ in self._links()}

    def transmitting(self) -> set[str]:
        """Names of devices that send. The kernel drops what a device is given between its getting a carrier and a
        later moment of its own choosing, when it takes notice of that."""
        return {name for name, _, state in self._links() if state == _OPER_UP}

    def _links(self) -> Iterator[tuple[str, int, int]]:
        """Name, index and operational state of all devices."""
        self._sequence += 1
        body = _LINK.pack(0, 0, 0, 0, 0)
        self._socket.send(
            _HEADER.pack(_HEADER.size + len(body), _RTM_GETLINK, _REQUEST | DUMP, self._sequence, 0) + body
        )
        done = False
        while not done:
            for kind, _flags, _sequence, message in _messages(self._socket.recv(1 << 17)):
                if kind == _NLMSG_DONE:
                    done = True
                elif kind == _RTM_NEWLINK:
                    found = _attributes(message[_LINK.size :])
                    name = found[_IFLA_IFNAME].rstrip(b"\0").decode()
                    yield name, _LINK.unpack_from(message)[2], found[_IFLA_OPERSTATE][0]


def _messages(data: bytes) -> Iterable[tuple[int, int, int, bytes]]:
    offset = 0
    while offset < len(data):
        length, kind, flags, sequence, _port = _HEADER.unpack_from(data, offset)
        yield kind, flags, sequence, data[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    offset = 0
    while offset + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        found[kind & 0x3FFF] = data[offset + 4 : offset + length]
        offset += max(4, (length + 3) & ~3)
    return found


def _detail(flags: int, body: bytes) -> str:
    """The kernel's own words for an error, where it has any."""
    if not flags & _ACK_TLVS:
        return ""
    offset = 4 + (16 if flags & _ACK_CAPPED else struct.unpack_from("=I", body, 4)[0])
    return _attributes(body[offset:]).get(1, b"").rstrip(b"\0").decode(errors="replace")
