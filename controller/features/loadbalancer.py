"""The way in at the edge: a LoadBalancer Service's address and port to a group of nodes or pods, and node ports.

Clients keep their address; the edge is on the way of the answers, as it is the fabric's way out, and translates them
back. In instance mode targets are node ports of nodes that a health check would pass, in IP mode ready pods. With
direct server return (``features.directreturn``) they are nodes with endpoints, and nothing is translated back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import NamedTuple
from zlib import crc32

from controller.family import FAMILIES, family_of
from controller.features.directreturn import hand_over, stateless_flows
from controller.openflow.actions import DROP, actions, ct, goto, group
from controller.openflow.cookie import Owner
from controller.openflow.flow import Flow
from controller.openflow.group import Bucket, Group, bucket
from controller.openflow.match import Address, Field, Protocol, match, nw_dst, nw_src, tp_dst, tp_src_bits
from controller.openflow.wire import CtFlush
from controller.outside_views import BalancerPort, BalancerView, TargetNode, TargetSlice
from controller.pipeline import MARK_ALLOWED, MARK_ALLOWED_PROXIED, ZONE, EdgeTable, Feature
from controller.views import EdgeView

__all__ = ["Target", "Targets", "balancer_flows", "count_groups", "group_name", "stale", "targets"]


class Target(NamedTuple):
    address: Address
    port: int


Targets = Mapping[BalancerPort, tuple[Target, ...]]

_PROTOCOLS = ("TCP", "UDP")  # that the edge balances
_UDP_NUMBER = 17
_MAX_BUCKET = 0xFFFFFF00
_GROUP_SIZE = 64  # targets in a group, as of Services: larger ones spread badly


def targets(view: BalancerView, slices: Iterable[TargetSlice], nodes: Iterable[TargetNode]) -> Targets:
    """Where each port's connections may go; an empty tuple: nowhere."""
    if not view.addresses:
        return {}  # nodes' addresses only: the client has chosen one
    slices, nodes = list(slices), list(nodes)
    found: dict[BalancerPort, tuple[Target, ...]] = {}
    for port in view.ports:
        if port.protocol in _PROTOCOLS:
            of_family = [each for each in slices if each.version == port.version]
            found[port] = tuple(
                sorted(_pods(port, of_family) if view.to_pods else _nodes(view, port, of_family, nodes))
            )
    return found


def _nodes(
    view: BalancerView, port: BalancerPort, slices: Sequence[TargetSlice], nodes: Iterable[TargetNode]
) -> Iterator[Target]:
    """A port's node ports. ``slices`` are those of its family."""
    local, only_ready = view.local or view.direct_return, _only_ready(slices)
    for node in nodes:
        if port.node_port and (not local or _has_endpoint(node, slices, only_ready)):
            for address in node.gateways if view.direct_return else node.addresses:
                if address.version == port.version:
                    yield Target(address, port.node_port)


def _pods(port: BalancerPort, slices: Sequence[TargetSlice]) -> set[Target]:
    """Endpoints of a port. ``slices`` are those of its family."""
    only_ready = _only_ready(slices)
    return {
        Target(ip_address(endpoint.address), number)
        for each in slices
        for name, protocol, number in each.ports
        if (name, protocol) == (port.name, port.protocol)
        for endpoint in each.endpoints
        if endpoint.ready or not only_ready
    }


def _only_ready(slices: Iterable[TargetSlice]) -> bool:
    """Whether an endpoint may be used by anybody: ready, or for want of any such one that still serves."""
    return any(endpoint.ready for each in slices for endpoint in each.endpoints)


def _has_endpoint(node: TargetNode, slices: Iterable[TargetSlice], only_ready: bool) -> bool:
    """What the node's health check port answers."""
    return any(
        endpoint.node == node.name and (endpoint.ready or not only_ready)
        for each in slices
        for endpoint in each.endpoints
    )


def group_name(view: BalancerView, port: BalancerPort, part: int) -> str:
    """What the number of a group follows from; groups that choose in another way have other numbers."""
    how = " by source" if view.affinity else " by connection" if view.direct_return else ""
    family = "6" if port.version == 6 else ""
    return f"{view.key}:{port.port}/{port.protocol}{family}{how}" + (f"#{part}" if part else "")


def count_groups(view: BalancerView, endpoints: Sequence[Target]) -> int:
    """Targets of many are divided by bits of the client's port; with affinity the port must not count, and with direct
    return the target must not change with their number."""
    count = 1
    while not view.affinity and not view.direct_return and count * _GROUP_SIZE < len(endpoints):
        count *= 2
    return count if endpoints else 0


def balancer_flows(
    edge: EdgeView, view: BalancerView, chosen: Targets, group_ids: Mapping[BalancerPort, Sequence[int]]
) -> tuple[list[Flow], list[Group]]:
    """Flows and groups of one Service for the edge's bridge."""
    make = Owner(Feature.LOAD_BALANCER, f"Service/{view.key}").flow
    # Ports that the Service does not have, sources that may not come, an internal address.
    flows = [
        make(EdgeTable.SERVICE, 190, match(family_of(address).ip, nw_dst(address)), DROP) for address in view.addresses
    ]
    groups: list[Group] = []
    if view.internal:
        return flows, groups
    if view.direct_return:
        flows += stateless_flows(edge, make, view.addresses)
    nodes = {net.nodes.version: net.nodes for net in edge.nets if net.nodes is not None}
    for port in view.ports:
        if port.version in nodes and port.node_port and port.protocol in _PROTOCOLS:
            protocol = _protocol(port)
            wanted = match(*protocol, nw_dst(nodes[port.version]), tp_dst(protocol, port.node_port))
            flows.append(make(EdgeTable.SERVICE, 100, wanted, actions(goto(EdgeTable.ROUTING))))
    for port, endpoints in chosen.items():
        protocol, numbers = _protocol(port), group_ids.get(port, ())
        addresses = [address for address in view.addresses if address.version == port.version]
        sources = _sources(view, port.version)
        for part, number in enumerate(numbers):
            bits = (tp_src_bits(protocol, part << 1, len(numbers) - 1 << 1),) if len(numbers) > 1 else ()
            for address in addresses:
                for source in sources:
                    wanted = match(*protocol, *source, nw_dst(address), *bits, tp_dst(protocol, port.port))
                    flows.append(make(EdgeTable.SERVICE, 200, wanted, actions(group(number))))
            share = _buckets(view, protocol, endpoints[part :: len(numbers)])
            by_port = view.direct_return and not view.affinity
            groups.append(Group(number, share, view.affinity, by_port, port.version))
    return flows, groups


def _protocol(port: BalancerPort) -> Protocol:
    return FAMILIES[port.version].protocols[port.protocol]


def _sources(view: BalancerView, version: int) -> list[tuple[Field, ...]]:
    """Who may come, of one family. Ranges of the other one alone let nobody of this one in, as with clouds' firewalls
    (kube-proxy would let everybody in)."""
    if view.source_ranges is None:
        return [()]
    ranges = [network for network in view.source_ranges if network.version == version]
    return [()] if any(network.prefixlen == 0 for network in ranges) else [(nw_src(network),) for network in ranges]


def _buckets(view: BalancerView, protocol: Protocol, endpoints: Iterable[Target]) -> tuple[Bucket, ...]:
    # Nothing at the edge decides about the connection after this.
    mark = MARK_ALLOWED if view.preserve_client else MARK_ALLOWED_PROXIED
    made: dict[int, Bucket] = {}
    for endpoint in endpoints:
        number = crc32(b"%b:%d" % (endpoint.address.packed, endpoint.port)) % _MAX_BUCKET
        while number in made:
            number = (number + 1) % _MAX_BUCKET
        if view.direct_return:
            made[number] = bucket(number, *hand_over(protocol, endpoint.address, endpoint.port))
        else:
            made[number] = bucket(number, ct(ZONE, commit=True, dst=endpoint, mark=mark, table=EdgeTable.ROUTING))
    return tuple(made.values())


def stale(
    before: BalancerView | None, chosen_before: Targets, after: BalancerView | None, chosen: Targets
) -> list[CtFlush]:
    """UDP "connections" to what is no target any more, which clients would keep for ever."""
    if before is None:
        return []
    kept = {
        (address, port.port, endpoint)
        for address in (after.addresses if after and not after.internal else ())
        for port, endpoints in chosen.items()
        for endpoint in endpoints
        if address.version == port.version
    }
    return [
        CtFlush(_UDP_NUMBER, address, port.port, endpoint.address, endpoint.port)
        for address in before.addresses
        for port, endpoints in chosen_before.items()
        if port.protocol == "UDP" and address.version == port.version
        for endpoint in endpoints
        if (address, port.port, endpoint) not in kept
    ]
