"""UDP connections that must be forgotten because what they lead to is no endpoint any more. Pure.

UDP clients do not notice and keep the port, so that conntrack would translate to the old endpoint for ever. TCP
connections are left alone: they live as long as the endpoint itself, as with kube-proxy.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address

from controller.backends import Backends
from controller.features.service import endpoint_bucket
from controller.openflow.group import Group
from controller.openflow.wire import CtFlush
from controller.service_views import Endpoint, ServiceView
from kmn.k8s.dataplane import REJECT_IP, REJECT_PORT

__all__ = ["forget_installed", "stale_connections"]

_UDP_NUMBER = 17
_REFUSED = Endpoint(IPv4Address(REJECT_IP), REJECT_PORT)

# What connections were made to: an address (None: any node's) and a port.
_Target = tuple[IPv4Address | None, int]


def stale_connections(
    before: ServiceView | None, chosen_before: Backends, after: ServiceView | None, chosen_after: Backends
) -> list[CtFlush]:
    """Connections of one Service to forget, now that its endpoints are others (or that there are some at last)."""
    then, now = _udp(before, chosen_before), _udp(after, chosen_after)
    stale = []
    for target, old in then.items():
        # A port that the Service has no more is refused, or lead nowhere.
        kept = now.get(target, frozenset[Endpoint]())
        stale += [CtFlush(_UDP_NUMBER, *target, e.address, e.port) for e in sorted(old - kept)]
    if before is not None:
        # A port that the Service did not have before was refused.
        stale += [
            CtFlush(_UDP_NUMBER, *target, _REFUSED.address, _REFUSED.port)
            for target, new in now.items()
            if target not in then and _REFUSED not in new
        ]
    return stale


def _udp(service: ServiceView | None, chosen: Backends) -> dict[_Target, frozenset[Endpoint]]:
    found: dict[_Target, frozenset[Endpoint]] = {}
    if service is None:
        return found
    for port, choice in chosen.items():
        if port.protocol == "UDP":
            endpoints = choice.all or frozenset([_REFUSED])
            for address in (service.address, *service.external_ips, *service.balancer_ips):
                found[address, port.port] = endpoints
            if port.node_port:
                found[None, port.node_port] = endpoints
    return found


def forget_installed(installed: Mapping[int, bytes], wanted: Mapping[int, Group]) -> list[CtFlush]:
    """UDP connections to forget on a switch whose groups changed while it was not connected.

    What the Services were then is not known any more, only the endpoints in the groups that the switch still has.
    """
    stale = {_REFUSED}
    for number, packed in installed.items():
        group = wanted.get(number)
        kept = {endpoint for _, endpoint in _endpoints(group.content)} if group else set()
        stale.update(endpoint for _, endpoint in _endpoints(packed) if endpoint not in kept)
    return [CtFlush(_UDP_NUMBER, None, None, endpoint.address, endpoint.port) for endpoint in sorted(stale)]


# Where a bucket holds its endpoint: behind the heads of bucket, ct and nat, or in the values of two set_field actions.
_IN_NAT, _IN_FIRST, _IN_SECOND = 8 + 24 + 16, 8 + 8, 8 + 16 + 8
_ADDRESS_PORT, _VALUE = struct.Struct("!4sH"), struct.Struct("!I")


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
    if len(packed) > _IN_NAT + _ADDRESS_PORT.size:
        address, port = _ADDRESS_PORT.unpack_from(packed, _IN_NAT)
        yield Endpoint(IPv4Address(address), port), False
        (number,), (port,) = _VALUE.unpack_from(packed, _IN_FIRST), _VALUE.unpack_from(packed, _IN_SECOND)
        yield Endpoint(IPv4Address(number), port & 0xFFFF), True
