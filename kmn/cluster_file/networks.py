"""Networks of a cluster file, of one or both families: defaults, sizes, overlaps, addresses in them."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import combinations
from typing import TypeVar

from kmn.cluster_file.section import Section
from kmn.cluster_spec import Ipv6Spec
from kmn.k8s.dataplane import OWN_IPV6

__all__ = ["IPV4_ONLY", "NAT_EXAMPLE", "NETWORKS", "Address", "Network", "Networks", "addresses_from"]

Network = IPv4Network | IPv6Network
Address = TypeVar("Address", IPv4Address, IPv6Address)

NETWORKS = {
    "nodeCIDR": "172.18.0.0/16",
    "podCIDR": "10.244.0.0/16",
    "serviceCIDR": "10.96.0.0/12",
    "internet.cidr": "203.0.113.0/24",
    "internet.nat": "198.51.100.0/24",
    "internet.loadBalancers": "192.0.2.0/24",
}
# In a dual-stack cluster each has an IPv6 network as well (Ipv6Spec has the defaults), the NAT only if it is given one.
NAT_EXAMPLE = IPv6Network("2001:db8:198::/64")
_RESERVED = {"loopback": "127.0.0.0/8", "link-local": "169.254.0.0/16", "multicast": "224.0.0.0/4"}
_RESERVED_IPV6 = {"loopback": "::1/128", "link-local": "fe80::/10", "multicast": "ff00::/8", "kmn's own": OWN_IPV6}
# Prefix lengths; kube-apiserver has the same for the largest ones.
_SERVICE_NETWORKS = {4: (12, 27), 6: (108, 123)}
_BALANCER_NETWORKS = (108, 126)  # of IPv6
IPV4_ONLY = "the cluster is IPv4 only: use ipFamily: dual, or remove this"


class Networks(Section):
    """Networks, by the field that names them."""

    def ipv4(self) -> dict[str, IPv4Network]:
        """The IPv4 networks; those that are wrong are missing."""
        found: dict[str, IPv4Network] = {}
        for path in NETWORKS:
            network = self.network(path, self.written(path).partition(",")[0])
            if network is not None:
                found[path] = network
        for (one, a), (other, b) in combinations(found.items(), 2):
            if a.overlaps(b):
                self.wrong(one, f"{a} overlaps spec.{other} {b}: every network needs addresses of its own")
        return found

    def written(self, path: str) -> str:
        """What the file says of a network, or its default: one of IPv4, or one of each family with a comma between."""
        parent, _, leaf = path.rpartition(".")
        text = (self.spec.get(parent) or {} if parent else self.spec).get(leaf, NETWORKS[path])
        if isinstance(text, dict):  # internet.nat with its fields
            text = text.get("cidr", NETWORKS[path])
        return str(text)

    def network(self, path: str, text: str) -> IPv4Network | None:
        try:
            network = IPv4Network(text, strict=False)
        except ValueError:
            self.wrong(path, f"{text} is no IPv4 network: write one such as {NETWORKS.get(path, '192.168.0.0/16')}")
            return None
        if str(network) != text:
            self.wrong(path, f"{text} has host bits set: write {network}")
        for what, reserved in _RESERVED.items():
            if network.overlaps(IPv4Network(reserved)):
                self.wrong(path, f"{network} overlaps the {what} addresses {reserved}: use another network")
        return network

    def check_sizes(self, networks: dict[str, IPv4Network], mask: int, nodes: int) -> None:
        pods, services = networks["podCIDR"], networks["serviceCIDR"]
        room = 2 ** (mask - pods.prefixlen) if mask >= pods.prefixlen else 0
        if room == 0:
            self.wrong(
                "nodeCIDRMaskSize", f"/{mask} does not fit into podCIDR {pods}: must be {pods.prefixlen} or more"
            )
        elif nodes > room:
            self.wrong("podCIDR", f"{pods} holds {room} node networks of /{mask}, there are {nodes} nodes: "
                                  "use a larger podCIDR or a larger nodeCIDRMaskSize")  # fmt: skip
        self.check_service_network(services)
        for path in ("internet.nat", "internet.loadBalancers"):
            if networks[path].prefixlen > 30:
                self.wrong(path, f"{networks[path]} must have a prefix length of 30 or less")

    def check_service_network(self, network: Network) -> None:
        shortest, longest = _SERVICE_NETWORKS[network.version]
        if not shortest <= network.prefixlen <= longest:
            self.wrong("serviceCIDR", f"{network} must have a prefix length between {shortest} and {longest}")

    @property
    def dual(self) -> bool:
        return bool(self.spec.get("ipFamily", "dual" if self.given_ipv6() else "ipv4") == "dual")

    def given_ipv6(self) -> dict[str, str]:
        """The IPv6 networks as they are written."""
        return {path: text.split(",")[1] for path in NETWORKS if "," in (text := self.written(path))}

    def ipv6(self, networks: dict[str, IPv4Network], mask: int, nodes: int) -> Ipv6Spec | None:
        """The IPv6 networks, None for a cluster that is IPv4 only. ``mask`` is the IPv4 one of nodes' pod networks."""
        given = self.given_ipv6()
        if not self.dual:
            for path, text in given.items():
                self.wrong(path, f"{text}: {IPV4_ONLY} network")
            if "nodeCIDRMaskSizeIPv6" in self.spec:
                self.wrong("nodeCIDRMaskSizeIPv6", "for dual-stack only: use ipFamily: dual, or remove it")
            return None
        default = Ipv6Spec()
        defaults = {
            "nodeCIDR": default.node_cidr,
            "podCIDR": default.pod_cidr,
            "serviceCIDR": default.service_cidr,
            "internet.cidr": default.internet_cidr,
            "internet.loadBalancers": default.load_balancer_cidr,
        }
        examples = {**defaults, "internet.nat": NAT_EXAMPLE}
        chosen = {path: self.ipv6_network(path, text, examples[path]) for path, text in given.items()}
        found = {path: network for path, network in {**defaults, **chosen}.items() if network is not None}
        for (one, a), (other, b) in combinations(found.items(), 2):
            if a.overlaps(b):
                self.wrong(one, f"{a} overlaps spec.{other} {b}: every network needs addresses of its own")
        if None in chosen.values():
            return None
        ipv6 = Ipv6Spec(
            found["podCIDR"],
            self.spec.get("nodeCIDRMaskSizeIPv6", default.node_pod_prefix),
            found["serviceCIDR"],
            found["nodeCIDR"],
            found["internet.cidr"],
            found.get("internet.nat"),
            found["internet.loadBalancers"],
        )
        self.check_ipv6_sizes(ipv6, networks, mask, nodes)
        return ipv6

    def ipv6_network(self, path: str, text: str, example: IPv6Network) -> IPv6Network | None:
        try:
            network = IPv6Network(text, strict=False)
        except ValueError:
            self.wrong(path, f"{text} is no IPv6 network: write one such as {example}")
            return None
        if IPv6Address(text.partition("/")[0]) != network.network_address:
            self.wrong(path, f"{text} has host bits set: write {network}")
        for what, reserved in _RESERVED_IPV6.items():
            if network.overlaps(IPv6Network(reserved)):
                self.wrong(path, f"{network} overlaps the {what} addresses {reserved}: use another network")
        return network

    def check_ipv6_sizes(self, ipv6: Ipv6Spec, networks: dict[str, IPv4Network], mask: int, nodes: int) -> None:
        """Nodes, pods and hosts outside have the same number in their networks of both families."""
        pods, own = ipv6.pod_cidr, ipv6.node_pod_prefix
        room = 2 ** (own - pods.prefixlen) if own >= pods.prefixlen else 0
        if room == 0:
            must = f"must be {pods.prefixlen} or more"
            self.wrong("nodeCIDRMaskSizeIPv6", f"/{own} does not fit into podCIDR {pods}: {must}")
        elif nodes > room:
            self.wrong("podCIDR", f"{pods} holds {room} node networks of /{own}, there are {nodes} nodes: "
                                  "use a larger network or a larger nodeCIDRMaskSizeIPv6")  # fmt: skip
        if 128 - own < 32 - mask:
            must = f"must be {96 + mask} or less, to hold as many pods as nodeCIDRMaskSize /{mask}"
            self.wrong("nodeCIDRMaskSizeIPv6", f"/{own} {must}")
        for path, network, what in (
            ("nodeCIDR", ipv6.node_cidr, "nodes"),
            ("internet.cidr", ipv6.internet_cidr, "hosts"),
        ):
            longest = 96 + networks[path].prefixlen
            if network.prefixlen > longest:
                must = f"must have a prefix length of {longest} or less, to hold as many {what} as {networks[path]}"
                self.wrong(path, f"{network} {must}")
        self.check_service_network(ipv6.service_cidr)
        shortest, longest = _BALANCER_NETWORKS
        if not shortest <= ipv6.load_balancer_cidr.prefixlen <= longest:
            must = f"must have a prefix length between {shortest} and {longest}"
            self.wrong("internet.loadBalancers", f"{ipv6.load_balancer_cidr} {must}")
        if ipv6.nat_cidr and ipv6.nat_cidr.prefixlen > longest:
            self.wrong("internet.nat", f"{ipv6.nat_cidr} must have a prefix length of {longest} or less")

    def address(
        self, path: str, text: str, kind: type[Address], network: Network, taken: dict[Address, str]
    ) -> Address | None:
        """An address asked for: in the network, not its router's, not another's."""
        try:
            address = kind(text)
        except ValueError:
            self.wrong(path, f"{text} is no IPv{network.version} address")
            return None
        if address not in network or address in (network[0], network[1], network[-1]):
            self.wrong(path, f"{address} must be between {network[2]} and {network[-2]}")
            return None
        if address in taken:
            self.wrong(path, f"{address} is the address of {taken[address]} already")
            return None
        return address


def addresses_from(network: IPv4Network, first: int) -> Iterator[IPv4Address]:
    """Addresses of a network from the ``first`` on, without its broadcast address."""
    for number in range(first, network.num_addresses - 1):
        yield network[number]
