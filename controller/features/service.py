"""Services: everything that leads to one (addresses and ports), and the endpoints behind it.

Three sets of endpoints: those of the *cluster*, alike on all nodes; those *near* a node, where hints say so; the
*local* ones of a node, for traffic policies. Flows of the first are common to all nodes, the others are of each node by
itself and have higher priority, so that a node without such endpoints costs nothing.

A "connection" over UDP that begins with a datagram in fragments is recognised where the Service has one UDP port, and
refused where it has several: fragments show no ports. Once there is a connection, its fragments are known.

A ClusterIP without endpoints has no flow of its own: it falls, like ports that the Service does not have, to the flow
of its address, and is refused.

A port with many endpoints has several groups, told apart by bits of the client's port. One group would not do: Open
vSwitch spreads at most 256 buckets by the datapath's hash (beyond, each connection costs an upcall and a megaflow),
evenly only with a few slots a bucket, and a group of some 500 buckets is larger than an OpenFlow message. With session
affinity it is bits of the client's address.

That is where choice is random. How a port chooses otherwise, see ``controller.balancing``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeVar
from zlib import crc32

from controller.backends import Backends, Choice
from controller.balancing import RANDOM, Balancing, Scheduler, cycle
from controller.family import FAMILIES, family_of
from controller.features.affinity import affinity_flows, ask, found, learned_cookie
from controller.features.connectivity import dnat
from controller.features.rotation import NEXT, rotation_cookie, rotation_flows, take_turn
from controller.openflow.actions import DROP, Action, Actions, actions, goto, group
from controller.openflow.cookie import Owner
from controller.openflow.flow import Flow
from controller.openflow.group import Bucket, Group, bucket, even_weights
from controller.openflow.match import (
    FRAGMENT,
    Address,
    Field,
    Network,
    Protocol,
    in_port,
    match,
    nw_dst,
    nw_src,
    nw_src_bits,
    tp_dst,
    tp_src_bits,
)
from controller.pipeline import SET_MASQUERADE, Feature, Table
from controller.service_views import Endpoint, ServicePort, ServiceView
from kmn.k8s.dataplane import UPLINK_OFPORT

__all__ = [
    "CLUSTER",
    "LOCAL",
    "NEAR",
    "Part",
    "Programmed",
    "Turns",
    "endpoint_bucket",
    "group_name",
    "parts",
    "service_cidr_flows",
    "service_flows",
]

T = TypeVar("T", Address, Network)

# Sets of endpoints.
CLUSTER, NEAR, LOCAL = "", "near", "local"
# Priorities of one way in: the more special the higher. 195 is the node's own address.
_REFUSE_ADDRESS, _NOT_ALLOWED, _CLUSTER, _NEAR, _NO_LOCAL, _LOCAL = 190, 198, 200, 202, 204, 206

_MAX_BUCKET = 0xFFFFFF00
_GROUP_SIZE = 64  # endpoints in a group: 256 slots of the hash are then at least four a bucket
_LARGE_GROUP_SIZE = 256  # with a hash of the source there are no slots; a group must fit a message
_MAX_PARTS = 1 << 12  # 262,144 endpoints, more than a cluster has addresses for

# A group: the port, the set of endpoints, and which part of it.
Part = tuple[ServicePort, str, int]


def parts(endpoints: int, balancing: Balancing = RANDOM) -> int:
    """Into how many groups endpoints are divided: a power of two, as bits of the client choose among them."""
    if balancing.in_turn:
        return 1  # no group at all
    count, size = 1, _LARGE_GROUP_SIZE if balancing.by_address else _GROUP_SIZE
    while count * size < endpoints and count < _MAX_PARTS:
        count *= 2
    return count


def group_name(service: ServiceView, part: Part) -> str:
    """What the number of a group follows from."""
    port, kind, number = part
    return f"{service.key}:{port.described}" + (f"@{kind}" if kind else "") + (f"#{number}" if number else "")


@dataclass(frozen=True, slots=True)
class Turns:
    """Endpoints that get connections one after the other, and how much of them each."""

    node: str | None  # that has them; None: all nodes
    number: int
    endpoints: tuple[Endpoint, ...]
    weights: tuple[int, ...]
    sticky: bool


@dataclass(slots=True)
class Programmed:
    """Flows and groups of one Service: of all nodes, and of single ones beyond that."""

    common: tuple[list[Flow], list[Group]] = field(default_factory=lambda: ([], []))
    nodes: dict[str, tuple[list[Flow], list[Group]]] = field(default_factory=dict)
    learned: list[int] = field(default_factory=list)  # cookies of what switches may learn
    turns: dict[ServicePort, list[Turns]] = field(default_factory=dict)  # of ports that have no groups

    def at(self, node: str | None) -> tuple[list[Flow], list[Group]]:
        return self.common if node is None else self.nodes.setdefault(node, ([], []))


@dataclass(frozen=True, slots=True)
class _Way:
    """An address and port that leads to a port of a Service."""

    table: Table
    fields: tuple[Field, ...]  # before the port
    port: int
    local: bool  # its traffic policy
    external: bool = False  # a way for those outside: masqueraded, or by its policy from the fabric only
    sources: tuple[Network, ...] = ()  # given: nobody else


def _ways(service: ServiceView, port: ServicePort) -> Iterator[_Way]:
    def of_family(addresses: Iterable[T]) -> Iterator[T]:
        return (address for address in addresses if address.version == port.version)

    for address in of_family(service.addresses):
        yield _Way(Table.SERVICE, (nw_dst(address),), port.port, service.internal_local)
    balancers = frozenset(service.balancer_ips)
    for address in of_family(service.external_ips):
        if address not in balancers:
            yield _Way(Table.SERVICE, (nw_dst(address),), port.port, service.external_local, True)
    sources = tuple(of_family(service.sources))
    balancer_local = service.external_local or service.direct_return  # who answers under the address is who was asked
    for address in of_family(service.balancer_ips):
        yield _Way(Table.SERVICE, (nw_dst(address),), port.port, balancer_local, True, sources)
    if port.node_port:
        yield _Way(Table.NODE_PORT, (), port.node_port, service.external_local, True)


def service_flows(
    service: ServiceView, chosen: Backends, numbers: Mapping[Part, int], scheduler: Scheduler = "random"
) -> Programmed:
    """Flows and groups of one Service. ``numbers`` are those of its groups: as many parts as :func:`parts` says."""
    made = Programmed()
    owner = Owner(Feature.SERVICE, f"Service/{service.key}")
    for address in service.addresses:
        refuse = match(family_of(address).ip, nw_dst(address))
        made.common[0].append(owner.flow(Table.SERVICE, _REFUSE_ADDRESS, refuse, actions(goto(Table.SERVICE_REJECT))))
    for port, choice in chosen.items():
        _Port(service, port, choice, numbers, scheduler, owner, made).program()
    return made


class _Port:
    """Programs one port of a Service."""

    def __init__(
        self,
        service: ServiceView,
        port: ServicePort,
        choice: Choice,
        numbers: Mapping[Part, int],
        scheduler: Scheduler,
        owner: Owner,
        made: Programmed,
    ) -> None:
        self._service, self._port, self._choice = service, port, choice
        self._numbers, self._owner, self._made = numbers, owner, made
        self._family = FAMILIES[port.version]
        self._protocol: Protocol = self._family.protocols[port.protocol]
        self._balancing = Balancing(scheduler, bool(service.affinity))
        self._only_udp = (
            port.protocol == "UDP"
            and [each.protocol for each in service.ports if each.version == port.version].count("UDP") == 1
        )

    def program(self) -> None:
        ways = list(_ways(self._service, self._port))
        for way in ways:
            if way.sources:
                wanted = match(*self._protocol, *way.fields, tp_dst(self._protocol, way.port))
                self._made.common[0].append(self._owner.flow(way.table, _NOT_ALLOWED, wanted, DROP))
        if not self._choice:
            for way in ways:
                if way.external:
                    self._flows(None, _CLUSTER, way, (), [actions(goto(Table.SERVICE_REJECT))])
            return
        cluster_ways = [way for way in ways if way.external or not way.local]
        local_ways = [way for way in ways if way.local]
        for way in local_ways:
            self._flows(None, _NO_LOCAL, way, _outside(way), [DROP])
        self._endpoints(None, CLUSTER, _CLUSTER, cluster_ways, self._choice.cluster)
        for node, endpoints in self._choice.near.items():
            self._endpoints(node, NEAR, _NEAR, cluster_ways, endpoints)
        for node, endpoints in self._choice.local.items():
            self._endpoints(node, LOCAL, _LOCAL, local_ways, endpoints)

    def _endpoints(
        self, node: str | None, kind: str, priority: int, ways: list[_Way], endpoints: tuple[Endpoint, ...]
    ) -> None:
        """Groups of one set of endpoints, and flows from all ways to them."""
        if not ways or not endpoints:
            return
        plain, masqueraded = [], []
        for part in range(count := parts(len(endpoints), self._balancing)):
            then = self._choose(node, self._numbers[self._port, kind, part], endpoints[part::count])
            plain.append(actions(*then))
            masqueraded.append(actions(SET_MASQUERADE, *then))
        for way in ways:
            outside = _outside(way) if kind == LOCAL else ()
            self._flows(node, priority, way, outside, masqueraded if way.external and not way.local else plain)

    def _choose(self, node: str | None, number: int, endpoints: tuple[Endpoint, ...]) -> tuple[Action, ...]:
        """What chooses among these endpoints; the answer leads there."""
        flows, groups = self._made.at(node)
        how, owner = self._balancing, self._owner
        if how.in_turn:
            weights = tuple(self._choice.weights.get(each, 1) if how.weighted else 1 for each in endpoints)
            self._made.turns.setdefault(self._port, []).append(Turns(node, number, endpoints, weights, how.sticky))
            turns = [endpoints[index] for index in cycle(weights)]
            flows += rotation_flows(owner, self._protocol, number, turns, sticky=how.sticky)
            self._made.learned.append(rotation_cookie(owner, number))
        else:
            by_source = how.scheduler == "sh"
            # With affinity each choice must be an upcall (see features.affinity): dp_hash would leave it to a megaflow.
            by_port = how.sticky and not by_source
            version = self._port.version
            groups.append(Group(number, _buckets(endpoints, how), by_source, by_port, version))
        if how.sticky:
            choose = NEXT if how.in_turn else (group(number),)
            flows += affinity_flows(owner, number, endpoints, self._service.affinity, choose)
            self._made.learned += [learned_cookie(owner, number, endpoint) for endpoint in endpoints]
            return ask(number)
        return take_turn(number) if how.in_turn else (group(number),)

    def _flows(
        self, node: str | None, priority: int, way: _Way, fields: tuple[Field, ...], parts: Sequence[Actions]
    ) -> None:
        """Flows of one way: for every source that is allowed, every part."""
        flows, _ = self._made.at(node)
        common = (*self._protocol, *fields, *way.fields)
        for source in way.sources or (self._family.everything,):
            for part, do in enumerate(parts):
                wanted = match(*common, *self._client(source, part, len(parts)), tp_dst(self._protocol, way.port))
                flows.append(self._owner.flow(way.table, priority, wanted, do))
            if self._only_udp and way.table is Table.SERVICE:
                # A connection that begins with a datagram in fragments, whose port nobody sees: only this one can be.
                shown = parts if self._balancing.by_address else parts[:1]
                for part, do in enumerate(shown):
                    client = self._client(source, part, len(shown))
                    flows.append(self._owner.flow(way.table, priority - 1, match(*common, *client, FRAGMENT), do))

    def _client(self, source: Network, part: int, count: int) -> tuple[Field, ...]:
        """Which clients: those from ``source``, and of these the ``part``-th of ``count``."""
        network = (nw_src(source),) if source.prefixlen else ()
        if count == 1:
            return network
        if self._balancing.by_address:
            bits, network_bits = count - 1, int(source.netmask)
            value = part & ~network_bits | int(source.network_address)
            return (nw_src_bits(value, bits | network_bits, self._port.version),)
        # The lowest bit is left out: Linux gives connections even ports.
        return (*network, tp_src_bits(self._protocol, part << 1, count - 1 << 1))


def _outside(way: _Way) -> tuple[Field, ...]:
    """Whom a Local policy concerns: for ways for those outside whoever comes by the fabric; pods of the node and the
    node itself may use all endpoints there, as if they had gone out and come in elsewhere."""
    return (in_port(UPLINK_OFPORT),) if way.external else ()


def endpoint_bucket(number: int, endpoint: Endpoint, weight: int, *, sticky: bool = False) -> Bucket:
    """A bucket that sends to an endpoint; with session affinity through the table that learns it."""
    if sticky:
        return bucket(number, *found(endpoint), weight=weight)
    return bucket(number, dnat(endpoint.address, endpoint.port), weight=weight)


def _buckets(endpoints: tuple[Endpoint, ...], how: Balancing) -> tuple[Bucket, ...]:
    made: dict[int, Bucket] = {}
    sticky = how.sticky
    # A hash of the source chooses by weight alone; slots are of dp_hash.
    alike = [(index, 1) for index in range(len(endpoints))]
    for index, weight in alike if how.by_address else even_weights(len(endpoints)):
        shared = _bucket(endpoints[index], weight, sticky)
        number = shared.id
        while number in made:
            number = (number + 1) % _MAX_BUCKET
        fits = number == shared.id
        made[number] = shared if fits else endpoint_bucket(number, endpoints[index], weight, sticky=sticky)
    return tuple(made.values())


@lru_cache(maxsize=65536)
def _bucket(endpoint: Endpoint, weight: int, sticky: bool) -> Bucket:
    number = crc32(b"%b:%d" % (endpoint.address.packed, endpoint.port)) % _MAX_BUCKET
    return endpoint_bucket(number, endpoint, weight, sticky=sticky)


def service_cidr_flows(network: Network) -> list[Flow]:
    """Virtual addresses that no Service has lead nowhere."""
    make = Owner(Feature.SERVICE, "Cluster").flow
    return [make(Table.SERVICE, 100, match(family_of(network).ip, nw_dst(network)), DROP)]
