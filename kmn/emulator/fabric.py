"""The fabric between nodes: one router namespace, or several with links (leaf and spine), where the kernel routes.

Between routers a packet takes any of the paths with the fewest hops (ECMP by a hash of addresses and ports). Where the
links of these next hops all have a bandwidth, they are used in proportion to it; otherwise alike.
No ARP anywhere: every neighbour is known. IPv6, where the cluster has it, takes the same ways: its next hops are
link-local addresses made from the IPv4 ones.

Routers take packets that are a little larger than bridges and pods do. Open vSwitch (3.1) sends segmentation-offload
packets on with a segment size that counts on 26 bytes of headers in TCP less than there may be: with SACK blocks among
the data, the segments would exceed 1,500 bytes, and a router with that MTU refuses such packets. (Nothing else is
larger: pods keep to their own MTU.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from math import gcd
from typing import NamedTuple

from kmn.cluster_spec import ClusterSpec, FabricLink, Link
from kmn.emulator import netlink, shaping
from kmn.emulator.model import NodePlan
from kmn.emulator.netlink import LOOPBACK_INDEX, MTU, Address, Network, NextHop, Request, Veth, link_local
from kmn.emulator.space import Space
from kmn.naming import device, netns

__all__ = ["DEFAULT_ROUTES", "Fabric", "Uplink", "Way", "offload", "router_address", "router_netns", "ways"]

DEFAULT_ROUTES: Mapping[int, Network] = {4: IPv4Network("0.0.0.0/0"), 6: IPv6Network("::/0")}  # by version of IP
SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/fib_multipath_hash_policy": "1",  # addresses and ports: one connection, one path
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
    "net/ipv4/icmp_ratemask": "0",
}
IPV6_SYSCTLS = {
    "net/ipv6/conf/all/forwarding": "1",
    "net/ipv6/fib_multipath_hash_policy": "1",
    "net/ipv6/icmp/ratelimit": "0",
}
_MOST_WEIGHT = 256
_MTU = MTU + 100


@dataclass(frozen=True, slots=True)
class Way:
    """A next hop between routers: the link (its place in the list of links), where it leads, and its share."""

    link: int
    to: str
    weight: int


def ways(routers: Sequence[str], links: Sequence[FabricLink]) -> dict[str, dict[str, tuple[Way, ...]]]:
    """For every router and every other one that it can reach: the next hops on all shortest paths."""
    neighbours: dict[str, list[tuple[int, str]]] = {router: [] for router in routers}
    for number, link in enumerate(links):
        neighbours[link.a].append((number, link.b))
        neighbours[link.b].append((number, link.a))
    found: dict[str, dict[str, tuple[Way, ...]]] = {router: {} for router in routers}
    for target in routers:
        distance = _distances(target, neighbours)
        for router in routers:
            if router != target and router in distance:
                hops = [(n, to) for n, to in neighbours[router] if distance[to] == distance[router] - 1]
                weights = _weights([links[n].link.bandwidth for n, _ in hops])
                found[router][target] = tuple(Way(n, to, w) for (n, to), w in zip(hops, weights, strict=True))
    return found


def _distances(start: str, neighbours: Mapping[str, Sequence[tuple[int, str]]]) -> dict[str, int]:
    distance = {start: 0}
    queue = deque([start])
    while queue:
        here = queue.popleft()
        for _, there in neighbours[here]:
            if there not in distance:
                distance[there] = distance[here] + 1
                queue.append(there)
    return distance


def _weights(bandwidths: Sequence[int | None]) -> list[int]:
    """Small whole numbers in proportion to bandwidths."""
    known = [bandwidth for bandwidth in bandwidths if bandwidth]
    if len(known) < len(bandwidths):
        return [1] * len(bandwidths)
    unit = gcd(*known)
    if max(known) // unit > _MOST_WEIGHT:
        return [max(1, round(bandwidth * _MOST_WEIGHT / max(known))) for bandwidth in known]
    return [bandwidth // unit for bandwidth in known]


def offload(spec: ClusterSpec) -> bool:
    """Whether pods, nodes and hosts send TCP with segmentation offload, which is several times faster. Not where a link
    cuts the packets that Open vSwitch has sent on: a segment too large would not get past the next bridge's device."""
    links = [*(node.uplink for node in spec.nodes), *(each.link for each in spec.fabric_links)]
    return not any(shaping.cuts(link) for link in links)


def router_netns(spec: ClusterSpec, router: str) -> str:
    """Name of a router's namespace: ``kmn.C.fabric`` for the default single one."""
    if len(spec.routers) == 1 and router == "fabric":
        return netns(spec.name, "fabric")
    return netns(spec.name, "fabric", router)


def router_address(spec: ClusterSpec, router: str) -> IPv4Address:
    """A router's own address: the fabric's for the edge router, from the top of the node network for the others."""
    if router == spec.edge_router:
        return spec.fabric_address
    others = [name for name in spec.routers if name != spec.edge_router]
    return spec.node_cidr[-2 - others.index(router)]


@dataclass(frozen=True, slots=True)
class Uplink:
    """The two ends of the link between a router and a bridge."""

    address: IPv4Address  # behind the link: the next hop of the router's routes
    port_mac: str  # of the bridge's port
    router_mac: str  # of the router's end
    alias: str
    link: Link = Link()

    @classmethod
    def of(cls, address: IPv4Address, alias: str, link: Link = Link()) -> Uplink:  # noqa: B008
        """MACs that follow from the address."""
        tail = ":".join(f"{byte:02x}" for byte in address.packed)
        return cls(address, f"0a:59:{tail}", f"0a:5a:{tail}", alias, link)


class _Hop(NamedTuple):
    """A way out of a router, by the IPv4 address of what is behind it."""

    device: int
    gateway: IPv4Address
    weight: int = 1

    def next(self, version: int) -> NextHop:
        """The next hop in a family."""
        return NextHop(self.device, self.gateway if version == 4 else link_local(self.gateway), self.weight)


@dataclass(slots=True)
class _Router:
    name: str
    address: IPv4Address
    ipv6: IPv6Address | None
    space: Space
    next_index: int = 100

    def source(self, version: int) -> Address | None:
        """Its own address in a family, from which it speaks."""
        return self.address if version == 4 else self.ipv6

    def take(self, count: int) -> int:
        """Free device indices, the first of ``count`` in a row."""
        first = self.next_index
        self.next_index += count
        return first


@dataclass(frozen=True, slots=True)
class _Attachment:
    router: str
    device: str
    networks: tuple[Network, ...]


class Fabric:
    """The router namespaces of a cluster, their links, and the routes to everything attached to them."""

    def __init__(self, spec: ClusterSpec) -> None:
        self._spec = spec
        self._ways = ways(spec.routers, spec.fabric_links)
        self._routers: dict[str, _Router] = {}
        self._hops: dict[tuple[str, int], _Hop] = {}  # (router, link): where the link leads
        self._attached: dict[str, _Attachment] = {}

    @property
    def edge_space(self) -> Space:
        """The namespace that the fabric's address lives in."""
        return self._routers[self._spec.edge_router].space

    def build(self) -> None:
        """Make the routers and the links between them."""
        dual = self._spec.ipv6 is not None
        for name in self._spec.routers:
            sysctls = {**SYSCTLS, **(IPV6_SYSCTLS if dual else {})}
            space = Space.create(router_netns(self._spec, name), sysctls, ipv6=dual)
            address = router_address(self._spec, name)
            self._routers[name] = _Router(name, address, self._spec.ipv6_of(address), space)
        for router in self._routers.values():
            own = (router.address, router.ipv6) if router.ipv6 else (router.address,)
            router.space.netlink.apply([netlink.address_add(LOOPBACK_INDEX, address) for address in own])
        for number, link in enumerate(self._spec.fabric_links):
            self._join(number, link)
        for target in self._routers.values():
            self._route(target.name, [IPv4Network(target.address), *_alone(target.ipv6)])

    def release(self) -> None:
        """Let go of the routers, which stay."""
        for router in self._routers.values():
            router.space.release()
        self._routers.clear()

    def _join(self, number: int, fabric_link: FabricLink) -> None:
        a, b = self._routers[fabric_link.a], self._routers[fabric_link.b]
        cluster = self._spec.name
        ends = [(a, b, a.take(1), f"0a:5b:00:00:{number:02x}:01"), (b, a, b.take(1), f"0a:5b:00:00:{number:02x}:02")]
        near, far = (
            Veth(
                device(cluster, "fabric", str(number), here.name), mac, index,
                netns=here.space.file, alias=f"{here.name} to {there.name}", mtu=_MTU,
            )
            for here, there, index, mac in ends
        )  # fmt: skip
        a.space.netlink.apply([netlink.veth_add(near, far)])
        for (here, there, index, _mac), (_here, _there, _index, other_mac) in zip(ends, ends[::-1], strict=True):
            here.space.netlink.apply(
                [
                    netlink.link_up(index),
                    *self._neighbour(index, there.address, other_mac),
                    *shaping.egress(index, fabric_link.link),
                ]
            )
            self._hops[here.name, number] = _Hop(index, there.address)

    def attach(self, name: str, router: str, space: Space, port: Veth, uplink: Uplink,
               networks: Sequence[Network]) -> None:  # fmt: skip
        """Link a bridge's namespace to a router, and route ``networks`` there from all routers.

        ``port`` is the end in ``space``; it is set up.
        """
        here = self._routers[router]
        index = here.take(2)
        own = Veth(device(self._spec.name, "uplink", name), uplink.router_mac, index, alias=uplink.alias, mtu=_MTU)
        # The device at the bridge has another MAC than its neighbours are told: with that one, the node's kernel would
        # take packets for the node's own address before the bridge does, and reset connections it knows nothing of.
        peer = Veth(port.name, None, port.index, space.file)
        self._attached[name] = _Attachment(router, own.name, tuple(networks))
        here.space.netlink.apply(
            [
                netlink.veth_add(own, peer),
                *self._neighbour(index, uplink.address, uplink.port_mac),
                *shaping.egress(index, uplink.link),
                *shaping.ingress(index, uplink.link, f"{own.name[:11]}-ifb", index + 1),
            ]
        )
        space.netlink.apply([netlink.link_up(port.name)])
        hop = _Hop(index, uplink.address)
        here.space.netlink.apply(self._routes(here, networks, [hop]))
        self._route(router, networks)

    def detach(self, name: str) -> None:
        """Undo :meth:`attach`. What is not attached is no error."""
        attachment = self._attached.pop(name, None)
        if attachment is None:
            return
        gone = [netlink.route_delete(network) for network in attachment.networks]
        for router in self._routers.values():
            router.space.netlink.apply(gone)
        ifb = f"{attachment.device[:11]}-ifb"
        self._routers[attachment.router].space.netlink.apply(
            [netlink.link_delete(attachment.device), netlink.link_delete(ifb)]
        )

    def _neighbour(self, index: int, address: IPv4Address, mac: str) -> list[Request]:
        """A next hop as neighbour, in each family that the cluster has."""
        found = [netlink.neighbour_add(index, address, mac)]
        if self._spec.ipv6 is not None:
            found.append(netlink.neighbour_add(index, link_local(address), mac))
        return found

    def _route(self, target: str, networks: Sequence[Network]) -> None:
        """Routes to what is behind one router, on all others."""
        for router in self._routers.values():
            hops = [
                self._hops[router.name, way.link]._replace(weight=way.weight)
                for way in self._ways[router.name].get(target, ())
            ]
            if hops:
                router.space.netlink.apply(self._routes(router, networks, hops))

    @staticmethod
    def _routes(router: _Router, networks: Sequence[Network], hops: Sequence[_Hop]) -> list[Request]:
        return [
            netlink.route_add(network, [hop.next(network.version) for hop in hops], router.source(network.version))
            for network in networks
        ]


def _alone(address: IPv6Address | None) -> list[Network]:
    return [IPv6Network(address)] if address else []


def node_networks(plan: NodePlan) -> tuple[Network, ...]:
    """What the fabric routes to a node."""
    return (*(ip_network(address) for address in plan.addresses), *plan.pod_cidrs)
