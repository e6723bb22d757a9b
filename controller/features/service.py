"""ClusterIP Services: virtual address and port to the endpoints, alike on all nodes.

A "connection" over UDP that begins with a datagram in fragments is recognised where the Service has one UDP port, and
refused where it has several: fragments show no ports. Once there is a connection, its fragments are known.

A port without endpoints has no flow of its own: it falls, like ports that the Service does not have, to the flow of
its virtual address, and is refused.

A port with many endpoints has several groups, told apart by bits of the client's port. One group would not do: Open
vSwitch spreads at most 256 buckets by the datapath's hash (beyond, each connection costs an upcall and a megaflow),
evenly only with a few slots a bucket, and a group of some 500 buckets is larger than an OpenFlow message.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network
from zlib import crc32

from controller.features.connectivity import dnat
from controller.openflow.actions import DROP, actions, goto, group
from controller.openflow.cookie import Owner
from controller.openflow.flow import Flow
from controller.openflow.group import Bucket, Group, bucket
from controller.openflow.match import FRAGMENT, IP, TCP, UDP, Protocol, match, nw_dst, tp_dst, tp_src_bits
from controller.openflow.wire import CtFlush
from controller.pipeline import Feature, Table
from controller.views import Endpoint, ServicePort, ServiceView, SliceView
from kmn.k8s.dataplane import REJECT_IP, REJECT_PORT

__all__ = [
    "Backends",
    "backends",
    "forget_installed",
    "group_wish",
    "parts",
    "service_cidr_flows",
    "service_flows",
    "stale_connections",
]

# Endpoints per port of a Service, those of protocols that can be balanced; an empty tuple means refused.
Backends = Mapping[ServicePort, tuple[Endpoint, ...]]

_PROTOCOLS: Mapping[str, Protocol] = {"TCP": TCP, "UDP": UDP}
_UDP_NUMBER = 17
_REFUSED = Endpoint(IPv4Address(REJECT_IP), REJECT_PORT)
_MAX_BUCKET = 0xFFFFFF00
_GROUP_SIZE = 64  # endpoints in a group: 256 slots of the hash are then at least four a bucket
_MAX_PARTS = 1 << 12  # 262,144 endpoints, more than a cluster has addresses for
# Where a bucket holds its endpoint: behind the heads of bucket, ct and nat.
_ENDPOINT_AT = 8 + 24 + 16
_ENDPOINT = struct.Struct("!4sH")


def backends(service: ServiceView, slices: Iterable[SliceView]) -> Backends:
    """Which endpoints each port uses: the ready ones, for want of any those that still serve while terminating."""
    slices = list(slices)
    chosen: dict[ServicePort, tuple[Endpoint, ...]] = {}
    for port in service.ports:
        if port.protocol not in _PROTOCOLS:
            continue
        name = (port.name, port.protocol)
        ready = frozenset[Endpoint]().union(*[s.ready.get(name, ()) for s in slices])
        serving = ready or frozenset[Endpoint]().union(*[s.serving.get(name, ()) for s in slices])
        chosen[port] = tuple(sorted(serving))
    return chosen


def parts(endpoints: Sequence[Endpoint]) -> int:
    """Into how many groups endpoints are divided: a power of two, as bits of the source port choose among them."""
    count = 1
    while count * _GROUP_SIZE < len(endpoints) and count < _MAX_PARTS:
        count *= 2
    return count


def group_wish(service: ServiceView, port: ServicePort, part: int) -> int:
    """The group number that a port's part should have: the same after a restart, unless another one has it."""
    name = f"{service.key}:{port.described}" + (f"#{part}" if part else "")
    return crc32(name.encode()) & 0x7FFFFFFF


def service_flows(
    service: ServiceView, chosen: Backends, group_ids: Mapping[ServicePort, Sequence[int]]
) -> tuple[list[Flow], list[Group]]:
    """Flows and groups of one Service, for every node's bridge."""
    make = Owner(Feature.SERVICE, f"Service/{service.key}").flow
    address = nw_dst(service.address)
    flows = [make(Table.SERVICE, 190, match(IP, address), actions(goto(Table.SERVICE_REJECT)))]
    groups = []
    for port, endpoints in chosen.items():
        protocol, numbers = _PROTOCOLS[port.protocol], group_ids.get(port, ())
        for part, number in enumerate(numbers):
            # The lowest bit is left out: Linux gives connections even ports.
            bits = (tp_src_bits(protocol, part << 1, len(numbers) - 1 << 1),) if len(numbers) > 1 else ()
            wanted = match(*protocol, address, *bits, tp_dst(protocol, port.port))
            flows.append(make(Table.SERVICE, 200, wanted, actions(group(number))))
            groups.append(Group(number, _buckets(endpoints[part :: len(numbers)])))
    udp = [port for port in chosen if port.protocol == "UDP"]
    if len(udp) == 1 and group_ids.get(udp[0]):
        # A connection that begins with a datagram in fragments, whose port nobody sees: it can only be this one.
        flows.append(make(Table.SERVICE, 195, match(*UDP, address, FRAGMENT), actions(group(group_ids[udp[0]][0]))))
    return flows, groups


def _buckets(endpoints: tuple[Endpoint, ...]) -> tuple[Bucket, ...]:
    made: dict[int, Bucket] = {}
    for endpoint in endpoints:
        shared = _bucket(endpoint)
        number = shared.id
        while number in made:
            number = (number + 1) % _MAX_BUCKET
        made[number] = shared if number == shared.id else bucket(number, dnat(endpoint.address, endpoint.port))
    return tuple(made.values())


@lru_cache(maxsize=65536)
def _bucket(endpoint: Endpoint) -> Bucket:
    number = crc32(b"%b:%d" % (endpoint.address.packed, endpoint.port)) % _MAX_BUCKET
    return bucket(number, dnat(endpoint.address, endpoint.port))


def service_cidr_flows(network: IPv4Network) -> list[Flow]:
    """Virtual addresses that no Service has lead nowhere."""
    make = Owner(Feature.SERVICE, "Cluster").flow
    return [make(Table.SERVICE, 100, match(IP, nw_dst(network)), DROP)]


def stale_connections(
    before: ServiceView | None, chosen_before: Backends, after: ServiceView | None, chosen_after: Backends
) -> list[CtFlush]:
    """UDP "connections" that lead to what is no endpoint any more (or to the refusal, though there is one now).

    UDP clients do not notice and keep the port, so that conntrack would translate to the old endpoint for ever.
    """
    if before is None:
        return []
    now = _udp(after, chosen_after)
    gone = after is None or after.address != before.address
    stale = []
    for (address, port), old in _udp(before, chosen_before).items():
        kept = frozenset[Endpoint]() if gone else now.get((address, port), frozenset([_REFUSED]))
        stale += [CtFlush(_UDP_NUMBER, address, port, e.address, e.port) for e in sorted(old - kept)]
    if not gone:
        # A port that the Service did not have before was refused.
        new = now.keys() - _udp(before, chosen_before).keys()
        stale += [
            CtFlush(_UDP_NUMBER, address, port, _REFUSED.address, _REFUSED.port)
            for address, port in sorted(new)
            if _REFUSED not in now[address, port]
        ]
    return stale


def _udp(service: ServiceView | None, chosen: Backends) -> dict[tuple[IPv4Address, int], frozenset[Endpoint]]:
    if service is None:
        return {}
    return {
        (service.address, port.port): frozenset(endpoints or (_REFUSED,))
        for port, endpoints in chosen.items()
        if port.protocol == "UDP"
    }


def forget_installed(installed: Mapping[int, bytes], wanted: Mapping[int, Group]) -> list[CtFlush]:
    """UDP connections to forget on a switch whose groups changed while it was not connected.

    What the Services were then is not known any more, only the endpoints in the groups that the switch still has.
    """
    stale = {_REFUSED}
    for number, packed in installed.items():
        group = wanted.get(number)
        kept = {bucket.packed for bucket in group.buckets} if group else set()
        stale.update(endpoint for each, endpoint in _installed_buckets(packed) if each not in kept)
    return [CtFlush(_UDP_NUMBER, None, None, endpoint.address, endpoint.port) for endpoint in sorted(stale)]


def _installed_buckets(packed: bytes) -> Iterator[tuple[bytes, Endpoint]]:
    at = 0
    while at < len(packed):
        length, _, number = struct.unpack_from("!HHI", packed, at)
        each = packed[at : at + length]
        at += length
        if length > _ENDPOINT_AT + _ENDPOINT.size:
            address, port = _ENDPOINT.unpack_from(each, _ENDPOINT_AT)
            endpoint = Endpoint(IPv4Address(address), port)
            # Only what this version of the controller would have written is understood.
            if port and bucket(number, dnat(endpoint.address, port)).packed == each:
                yield each, endpoint
