"""UDP connections that must be forgotten because what they lead to is no endpoint any more. Pure.

UDP clients do not notice and keep the port, so that conntrack would translate to the old endpoint for ever. TCP
connections are left alone: they live as long as the endpoint itself, as with kube-proxy.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from ipaddress import ip_address

from controller.backends import Backends
from controller.family import FAMILIES
from controller.features.service import endpoint_bucket
from controller.openflow.group import Group
from controller.openflow.match import Address
from controller.openflow.wire import CtFlush
from controller.service_views import Endpoint, ServiceView
from kmn.k8s.dataplane import REJECT_PORT

__all__ = ["forget_installed", "stale_connections"]

_UDP_NUMBER = 17
_REFUSED = {version: Endpoint(family.reject, REJECT_PORT) for version, family in FAMILIES.items()}

# What connections were made to: an address (None: any node's) and a port, and the version of IP.
_Target = tuple[Address | None, int, int]


def stale_connections(
    before: ServiceView | None, chosen_before: Backends, after: ServiceView | None, chosen_after: Backends
) -> list[CtFlush]:
    """Connections of one Service to forget, now that its endpoints are others (or that there are some at last)."""
    then, now = _udp(before, chosen_before), _udp(after, chosen_after)
    stale = []
    for target, old in then.items():
        # A port that the Service has no more is refused, or lead nowhere.
        kept = now.get(target, frozenset[Endpoint]())
        address, number, _ = target
        stale += [CtFlush(_UDP_NUMBER, address, number, e.address, e.port) for e in sorted(old - kept)]
    if before is not None:
        # A port that the Service did not have before was refused.
        stale += [
            CtFlush(_UDP_NUMBER, address, port, _REFUSED[version].address, _REFUSED[version].port)
            for (address, port, version), new in now.items()
            if (address, port, version) not in then and _REFUSED[version] not in new
        ]
    return stale


def _udp(service: ServiceView | None, chosen: Backends) -> dict[_Target, frozenset[Endpoint]]:
    found: dict[_Target, frozenset[Endpoint]] = {}
    if service is None:
        return found
    for port, choice in chosen.items():
        if port.protocol == "UDP":
            endpoints = choice.all or frozenset([_REFUSED[port.version]])
            for address, number in service.targets(port):
                found[address, number, port.version] = endpoints
    return found


def forget_installed(installed: Mapping[int, bytes], wanted: Mapping[int, Group]) -> list[CtFlush]:
    """UDP connections to forget on a switch whose groups changed while it was not connected.

    What the Services were then is not known any more, only the endpoints in the groups that the switch still has.
    """
    stale = set(_REFUSED.values())
    for number, packed in installed.items():
        group = wanted.get(number)
        kept = {endpoint for _, endpoint in _endpoints(group.content)} if group else set()
        stale.update(endpoint for _, endpoint in _endpoints(packed) if endpoint not in kept)
    return [CtFlush(_UDP_NUMBER, None, None, endpoint.address, endpoint.port) for endpoint in sorted(stale, key=_order)]


def _order(endpoint: Endpoint) -> tuple[int, Endpoint]:
    return endpoint.address.version, endpoint


# Where a bucket holds its endpoint: behind the heads of bucket, ct and nat, or in the values of two set_field actions;
# for IPv4 and for IPv6.
_IN_NAT = struct.Struct("!48x4sH"), struct.Struct("!48x16sH")
_IN_FIELDS = struct.Struct("!16x4s14xH"), struct.Struct("!16x16s10xH")


def _endpoints(buckets: bytes) -> Iterator[tuple[int, Endpoint]]:
    at = 0
    while at < len(buckets):
        length, _, number = struct.unpack_from("!HHI", buckets, at)
        each = buckets[at : at + length]
        at += length
        (weight,) = struct.unpack_from("!H", each, length - 4)
        # Only what this version of the controller would have written is understood.
        for endpoint, sticky in _guesses(each):
            if endpoint.port and endpoint_bucket(number, endpoint, weight, sticky=sticky).packed == each:
                yield number, endpoint


def _guesses(packed: bytes) -> Iterator[tuple[Endpoint, bool]]:
    for places, sticky in ((_IN_NAT, False), (_IN_FIELDS, True)):
        for place in places:
            if len(packed) > place.size:
                address, port = place.unpack_from(packed)
                yield Endpoint(ip_address(address), port), sticky
