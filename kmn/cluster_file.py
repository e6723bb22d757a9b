"""Reading a cluster file: schema, defaults, and what a schema cannot say. The result is a ``ClusterSpec``.

The schema is published in ``kmn/schemas/cluster.schema.json``. Networks that overlap, names used twice, routers that
nothing leads to and the like are checked here; all errors are told at once, by field and with what would be right.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.resources import files
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

from kmn.cluster_spec import (
    ClusterSpec,
    DnsSpec,
    FabricLink,
    IngressController,
    Ipv6Spec,
    KubeProxySpec,
    Link,
    MasqueradeSpec,
    NatSpec,
    NodeSpec,
    OutsideHost,
    PolicySpec,
)
from kmn.k8s.dataplane import INGRESS_CONTROLLERS, IPVS_SCHEDULERS, OWN_IPV6
from kmn.k8s.errors import FieldError
from kmn.k8s.schema import Report, Schemas, did_you_mean
from kmn.k8s.yaml import YamlError, parse_documents
from kmn.units import parse_bandwidth, parse_duration

__all__ = ["ClusterFileError", "load", "parse"]

Network = IPv4Network | IPv6Network
A = TypeVar("A", IPv4Address, IPv6Address)

FIRST_OUTSIDE_HOST = 10  # of internet.cidr; the addresses before are the edge's
_NETWORKS = {
    "nodeCIDR": "172.18.0.0/16",
    "podCIDR": "10.244.0.0/16",
    "serviceCIDR": "10.96.0.0/12",
    "internet.cidr": "203.0.113.0/24",
    "internet.nat": "198.51.100.0/24",
    "internet.loadBalancers": "192.0.2.0/24",
}
# In a dual-stack cluster each has an IPv6 network as well (Ipv6Spec has the defaults), the NAT only if it is given one.
_NAT_EXAMPLE = IPv6Network("2001:db8:198::/64")
_RESERVED = {"loopback": "127.0.0.0/8", "link-local": "169.254.0.0/16", "multicast": "224.0.0.0/4"}
_RESERVED_IPV6 = {"loopback": "::1/128", "link-local": "fe80::/10", "multicast": "ff00::/8", "kmn's own": OWN_IPV6}
# Prefix lengths; kube-apiserver has the same for the largest ones.
_SERVICE_NETWORKS = {4: (12, 27), 6: (108, 123)}
_BALANCER_NETWORKS = (108, 126)  # of IPv6
_IPV4_ONLY = "the cluster is IPv4 only: use ipFamily: dual, or remove this"


_DOMAIN = re.compile(r"([a-z0-9_]([-a-z0-9_]*[a-z0-9])?\.)*[a-z0-9]([-a-z0-9]*[a-z0-9])?\.?")


class ClusterFileError(Exception):
    """A cluster file that cannot be used: ``cluster.yaml: spec.nodes[1].name: "n1" is used twice``."""

    def __init__(self, path: str, errors: Sequence[FieldError]) -> None:
        self.path = path
        self.errors = tuple(errors)
        super().__init__("\n".join(f"{path}: {error}" for error in self.errors))


def load(path: Path) -> ClusterSpec:
    """Read, parse and check a file."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ClusterFileError(str(path), [FieldError("file", f"cannot be read: {why}")]) from error
    try:
        documents = [doc for doc in parse_documents(text, str(path)) if doc.value is not None]
    except YamlError as error:
        raise ClusterFileError(
            str(path), [FieldError(f"line {error.line}, column {error.column}", error.problem)]
        ) from error
    if len(documents) != 1:
        error_ = FieldError("file", f"must hold one document of kind Cluster, holds {len(documents)}; manifests belong "
                                    "into files of their own, named under spec.manifests")  # fmt: skip
        raise ClusterFileError(str(path), [error_])
    return parse(documents[0].value, path.resolve().parent, str(path))


def parse(obj: Any, base_dir: Path, source: str) -> ClusterSpec:
    """Check a parsed file against the schema, fill in what it leaves out, check what the schema cannot say."""
    report = Report()
    _schema().definition("Cluster")(obj, None, report)
    errors = report.errors + [unknown.error for unknown in report.unknown]
    if errors:
        raise ClusterFileError(source, errors)
    reader = _Reader(obj.get("spec") or {}, base_dir)
    spec = reader.read(obj["metadata"]["name"])
    if reader.errors:
        raise ClusterFileError(source, reader.errors)
    assert spec is not None
    return spec


@cache
def _schema() -> Schemas:
    text = (files("kmn") / "schemas" / "cluster.schema.json").read_text()
    return Schemas(json.loads(text)["$defs"])


@dataclass
class _Reader:
    """One pass over ``spec``, which is valid by the schema; collects errors and goes on as far as it makes sense."""

    spec: dict[str, Any]
    base_dir: Path
    errors: list[FieldError] = field(default_factory=list)

    def wrong(self, path: str, message: str) -> None:
        self.errors.append(FieldError(f"spec.{path}", message))

    def read(self, name: str) -> ClusterSpec | None:
        networks = self.networks()
        if len(networks) < len(_NETWORKS):
            return None
        routers, fabric_links, edge = self.fabric()
        nodes = self.nodes(networks["nodeCIDR"], routers)
        mask = self.spec.get("nodeCIDRMaskSize", 24)
        self.check_sizes(networks, mask, len(nodes))
        ipv6 = self.ipv6(networks, mask, len(nodes))
        hosts = self.hosts(networks["internet.cidr"], ipv6.internet_cidr if ipv6 else None)
        self.check_names(routers, nodes, hosts)
        delay = (self.spec.get("probes") or {}).get("initialDelay")
        return ClusterSpec(
            name=name,
            nodes=nodes,
            pod_cidr=networks["podCIDR"],
            node_pod_prefix=mask,
            service_cidr=networks["serviceCIDR"],
            node_cidr=networks["nodeCIDR"],
            cluster_domain=self.spec.get("clusterDomain", "cluster.local"),
            dns=self.dns(hosts),
            datapath=self.spec.get("datapath", "auto"),
            kube_proxy=self.kube_proxy(),
            policy=self.policy(),
            routers=routers,
            fabric_links=fabric_links,
            edge_router=edge,
            internet_cidr=networks["internet.cidr"],
            nat_cidr=networks["internet.nat"],
            nat=self.nat(networks["internet.nat"], ipv6.nat_cidr if ipv6 else None),
            masquerade=self.masquerade(),
            load_balancer_cidr=networks["internet.loadBalancers"],
            outside_hosts=hosts,
            manifests=self.manifests(),
            initial_delay=None if delay is None else parse_duration(delay),
            ipv6=ipv6,
            ingress=self.ingress(),
        )

    # --- networks -----------------------------------------------------------------------------------------------

    def networks(self) -> dict[str, IPv4Network]:
        found: dict[str, IPv4Network] = {}
        for path in _NETWORKS:
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
        text = (self.spec.get(parent) or {} if parent else self.spec).get(leaf, _NETWORKS[path])
        if isinstance(text, dict):  # internet.nat with its fields
            text = text.get("cidr", _NETWORKS[path])
        return str(text)

    def network(self, path: str, text: str) -> IPv4Network | None:
        try:
            network = IPv4Network(text, strict=False)
        except ValueError:
            self.wrong(path, f"{text} is no IPv4 network: write one such as {_NETWORKS.get(path, '192.168.0.0/16')}")
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

    # --- dual-stack ---------------------------------------------------------------------------------------------

    @property
    def dual(self) -> bool:
        return bool(self.spec.get("ipFamily", "dual" if self.given_ipv6() else "ipv4") == "dual")

    def given_ipv6(self) -> dict[str, str]:
        """The IPv6 networks as they are written."""
        return {path: text.split(",")[1] for path in _NETWORKS if "," in (text := self.written(path))}

    def ipv6(self, networks: dict[str, IPv4Network], mask: int, nodes: int) -> Ipv6Spec | None:
        """The IPv6 networks, None for a cluster that is IPv4 only. ``mask`` is the IPv4 one of nodes' pod networks."""
        given = self.given_ipv6()
        if not self.dual:
            for path, text in given.items():
                self.wrong(path, f"{text}: {_IPV4_ONLY} network")
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
        examples = {**defaults, "internet.nat": _NAT_EXAMPLE}
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

    # --- addresses ----------------------------------------------------------------------------------------------

    def address(self, path: str, text: str, kind: type[A], network: Network, taken: dict[A, str]) -> A | None:
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

    # --- nodes --------------------------------------------------------------------------------------------------

    def nodes(self, network: IPv4Network, routers: tuple[str, ...]) -> tuple[NodeSpec, ...]:
        entries = self.spec.get("nodes", [{"count": 2}])
        named = self.unique((f"nodes[{i}].name", entry["name"]) for i, entry in enumerate(entries) if "name" in entry)
        taken: dict[IPv4Address, str] = {}
        for index, entry in enumerate(entries):
            path = f"nodes[{index}]"
            for forbidden in ("name", "address"):
                if "count" in entry and forbidden in entry:
                    self.wrong(f"{path}.{forbidden}", "not together with count, which makes several nodes: remove one")
            if "address" in entry:
                address = self.address(f"{path}.address", entry["address"], IPv4Address, network, taken)
                if address is not None:
                    taken[address] = f"spec.{path}"
        asked = dict(taken)
        free = (a for a in _from(network, 2) if a not in asked)
        numbers = _numbers_without(named)
        nodes: list[NodeSpec] = []
        for index, entry in enumerate(entries):
            router = self.router_of(f"nodes[{index}]", entry, routers)
            for _ in range(entry.get("count", 1)):
                name = entry.get("name") or f"n{numbers(len(nodes) + 1)}"
                asked_for = next((a for a, who in asked.items() if who == f"spec.nodes[{index}]"), None)
                address = asked_for or next(free, None)
                if address is None:
                    self.wrong("nodeCIDR", f"{network} has no address left for node {name}: use a larger network")
                    return tuple(nodes)
                nodes.append(_node(entry, name, address, router))
        return tuple(nodes)

    def router_of(self, path: str, entry: dict[str, Any], routers: tuple[str, ...]) -> str:
        name = entry.get("router")
        if name is None:
            if len(routers) > 1:
                self.wrong(
                    f"{path}.router", f"required, as the fabric has several routers: one of {', '.join(routers)}"
                )
            return routers[0]
        self.known_router(f"{path}.router", name, routers)
        return str(name)

    # --- fabric and outside -------------------------------------------------------------------------------------

    def fabric(self) -> tuple[tuple[str, ...], tuple[FabricLink, ...], str]:
        fabric = self.spec.get("fabric") or {}
        routers = tuple(fabric.get("routers", ("fabric",)))
        self.unique((f"fabric.routers[{i}]", name) for i, name in enumerate(routers))
        links: list[FabricLink] = []
        pairs: set[frozenset[str]] = set()
        for index, entry in enumerate(fabric.get("links", ())):
            path = f"fabric.links[{index}].ends"
            a, b = entry["ends"]
            known = [self.known_router(f"{path}[{i}]", end, routers) for i, end in enumerate((a, b))]
            if a == b:
                self.wrong(path, f"a link needs two different routers, both ends are {a}")
            elif frozenset((a, b)) in pairs:
                self.wrong(path, f"{a} and {b} are linked already: one link a pair")
            elif all(known):
                pairs.add(frozenset((a, b)))
                links.append(FabricLink(a, b, _link(entry)))
        edge = fabric.get("edge", routers[0])
        self.known_router("fabric.edge", edge, routers)
        lost = _unreachable(routers, links)
        if lost:
            self.wrong(
                "fabric.links", f"no way from {routers[0]} to {', '.join(lost)}: add links that connect all routers"
            )
        return routers, tuple(links), edge

    def known_router(self, path: str, name: str, routers: tuple[str, ...]) -> bool:
        if name not in routers:
            self.wrong(
                path, f'no router "{name}" in spec.fabric.routers ({", ".join(routers)}){did_you_mean(name, routers)}'
            )
        return name in routers

    def hosts(self, network: IPv4Network, ipv6: IPv6Network | None) -> tuple[OutsideHost, ...]:
        """The hosts outside. ``ipv6`` is their second network in a dual-stack cluster."""
        entries = (self.spec.get("internet") or {}).get("hosts", [{"name": "e1"}])
        self.unique((f"internet.hosts[{i}].name", entry["name"]) for i, entry in enumerate(entries))
        asked, asked_ipv6 = self.asked(entries, IPv4Address, network), self.asked(entries, IPv6Address, ipv6)
        free = (a for a in _from(network, FIRST_OUTSIDE_HOST) if a not in asked.values())
        hosts: list[OutsideHost] = []
        for index, entry in enumerate(entries):
            address = asked.get(index) or next(free, None)
            if address is None:
                self.wrong(
                    "internet.cidr", f"{network} has no address left for host {entry['name']}: use a larger network"
                )
                break
            second = asked_ipv6.get(index)
            if ipv6 and second is None:
                second = ipv6[int(address) - int(network[0])]
                if second in asked_ipv6.values():
                    self.wrong(f"internet.hosts[{index}].address", f"{second}, the IPv6 address with the number of "
                               f"{address}, is another host's: write both addresses")  # fmt: skip
            link = _link(entry.get("link") or {})
            hosts.append(OutsideHost(entry["name"], address, link, entry.get("dns", True), second))
        return tuple(hosts)

    def asked(self, entries: list[dict[str, Any]], kind: type[A], network: Network | None) -> dict[int, A]:
        """Addresses of one family that hosts outside ask for, by the host's place."""
        taken: dict[A, str] = {}
        found: dict[int, A] = {}
        for index, entry in enumerate(entries):
            path = f"internet.hosts[{index}].address"
            for text in filter(None, entry.get("address", "").split(",")):
                if (":" in text) != (kind is IPv6Address):
                    continue
                if network is None:
                    if not self.dual:
                        self.wrong(path, f"{text}: {_IPV4_ONLY} address")
                    continue
                address = self.address(path, text, kind, network, taken)
                if address is not None:
                    taken[address] = f"host {entry['name']}"
                    found[index] = address
        return found

    def nat(self, network: IPv4Network, ipv6: IPv6Network | None) -> NatSpec:
        """The gateway; ``spec.internet.nat`` is a network, or fields. ``ipv6`` is where it translates IPv6, too."""
        entry = (self.spec.get("internet") or {}).get("nat", {})
        entry = entry if isinstance(entry, dict) else {}
        first, last = self.ports("internet.nat.ports", entry)
        limit = entry.get("perDestinationLimit", last - first + 1)
        if limit > last - first + 1:
            message = f"{limit} is more than the {last - first + 1} ports of {first}-{last}: use more of either"
            self.wrong("internet.nat.perDestinationLimit", message)
        if "count" in entry and "addresses" in entry:
            self.wrong("internet.nat.count", "not together with addresses, which counts by itself: remove one")
        ports = (first, first + limit - 1)
        addresses = self.nat_addresses(entry, IPv4Address, network)
        ipv6_addresses = self.nat_addresses(entry, IPv6Address, ipv6)
        return NatSpec(addresses, ports, entry.get("outgoing", True), ipv6_addresses)

    def masquerade(self) -> MasqueradeSpec | None:
        """``spec.masquerade`` is true, false, or fields (which are enough to want it)."""
        entry = self.spec.get("masquerade", False)
        if entry is False:
            return None
        entry = entry if isinstance(entry, dict) else {}
        networks: list[Network] = []
        for index, text in enumerate(entry.get("nonMasqueradeCIDRs", ())):
            path = f"masquerade.nonMasqueradeCIDRs[{index}]"
            if ":" in text and not self.dual:
                self.wrong(path, f"{text}: {_IPV4_ONLY} network")
                continue
            read = partial(self.ipv6_network, example=_NAT_EXAMPLE) if ":" in text else self.network
            if (network := read(path, text)) is not None:
                networks.append(network)
        return MasqueradeSpec(tuple(networks), self.ports("masquerade.ports", entry))

    def ports(self, path: str, entry: dict[str, Any]) -> tuple[int, int]:
        """A translation's range of source ports."""
        first, last = (int(port) for port in entry.get("ports", "1024-65535").split("-"))
        if not 0 < first <= last < 65536:
            self.wrong(path, f"{first}-{last} must be two ports from 1 to 65535, the lower one first")
            return 1024, 65535
        return first, last

    def nat_addresses(self, entry: dict[str, Any], kind: type[A], network: Network | None) -> tuple[A, ...]:
        """Public addresses of one family; none where the gateway has no network of it."""
        if "addresses" not in entry:
            count = entry.get("count", 1)
            if network is None:
                return ()
            if count > network.num_addresses - 2:
                self.wrong("internet.nat.count", f"{network} has {network.num_addresses - 2} addresses for the NAT")
                count = 1
            return tuple(kind(int(network[1]) + number) for number in range(count))
        found: list[A] = []
        for index, text in enumerate(entry["addresses"]):
            path = f"internet.nat.addresses[{index}]"
            if (":" in text) != (kind is IPv6Address):
                continue
            try:
                address = kind(text)
            except ValueError:
                self.wrong(path, f"{text} is no {kind.__name__.removesuffix('Address')} address")
                continue
            if network is None:
                if "internet.nat" not in self.given_ipv6():
                    self.wrong(path, f"{address}: spec.internet.nat.cidr names no IPv6 network: add one after a comma")
            elif address not in network or address in (network[0], network[-1]):
                self.wrong(path, f"{address} must be between {network[1]} and {network[-2]} (spec.internet.nat.cidr)")
            elif found and int(address) != int(found[-1]) + 1:
                self.wrong(path, f"{address} must follow {found[-1]}: write {found[-1] + 1}")
            found.append(address)
        if network is not None and not found:
            self.wrong("internet.nat.addresses", f"none is of {network}: add one, or leave this network out of cidr")
        return tuple(found)

    def check_names(
        self, routers: tuple[str, ...], nodes: tuple[NodeSpec, ...], hosts: tuple[OutsideHost, ...]
    ) -> None:
        """Mininet knows nodes, routers and hosts by their names alone."""
        node_names, host_names = {node.name for node in nodes}, {host.name for host in hosts}
        for name in sorted(node_names & set(routers)):
            self.wrong("nodes", f'"{name}" is the name of a node and of a router: use another name for one of them')
        for name in sorted(host_names & (node_names | set(routers))):
            other = "node" if name in node_names else "router"
            self.wrong("internet.hosts", f'"{name}" is the name of a host and of a {other}: use another name for one')

    def kube_proxy(self) -> KubeProxySpec:
        """As kube-proxy's configuration has it; what it would ignore is refused."""
        entry = self.spec.get("kubeProxy") or {}
        mode = entry.get("mode", "iptables")
        if mode == "ipvs":
            return KubeProxySpec(mode, (entry.get("ipvs") or {}).get("scheduler", IPVS_SCHEDULERS[0]))
        if entry.get("ipvs"):
            self.wrong("kubeProxy.ipvs", f"is of mode ipvs only, spec.kubeProxy.mode is {mode}: write mode: ipvs")
        return KubeProxySpec(mode)

    def ingress(self) -> tuple[IngressController, ...] | None:
        """A controller is its name, or fields. Of a name that is not known ``spec.controller`` is made from it."""
        entry = self.spec.get("ingress") or {}
        if "controllers" not in entry:
            return None
        found: list[IngressController] = []
        for each in entry["controllers"]:
            fields: dict[str, Any] = {"name": each} if isinstance(each, str) else each
            known = INGRESS_CONTROLLERS.get(fields["name"], f"kmn.io/ingress-{fields['name']}")
            controller = fields.get("controller", known)
            found.append(IngressController(fields["name"], controller, fields.get("default", False)))
        for what, values in (
            ("name", [each.name for each in found]),
            ("controller", [each.controller for each in found]),
        ):
            self.unique((f"ingress.controllers[{i}].{what}", value) for i, value in enumerate(values))
        defaults = [f"ingress.controllers[{i}].default" for i, each in enumerate(found) if each.default]
        for path in defaults[1:]:
            self.wrong(path, f"spec.{defaults[0]} is the default already: there can be one")
        return tuple(found)

    def policy(self) -> PolicySpec:
        entry = self.spec.get("policy") or {}
        return PolicySpec(entry.get("establishedConnections", "keep"), entry.get("log", "denied"))

    def dns(self, hosts: tuple[OutsideHost, ...]) -> DnsSpec:
        """Servers are outside hosts by name, or addresses. The first outside host is the default."""
        entry = self.spec.get("dns") or {}
        first = [host.name for host in hosts[:1]]
        stubs: dict[str, tuple[IPv4Address, ...]] = {}
        cluster_domain = self.spec.get("clusterDomain", "cluster.local")
        for domain, servers in (entry.get("stubDomains") or {}).items():
            path = f"dns.stubDomains[{domain}]"
            if not _DOMAIN.fullmatch(domain.lower()):
                self.wrong(path, f'"{domain}" is no DNS domain: write one such as corp.example')
            if f".{cluster_domain}".endswith(f".{domain.strip('.').lower()}"):
                self.wrong(path, f"{cluster_domain} lies in it, and is this cluster's own: use another domain")
            stubs[domain] = self.servers(path, servers, hosts)
        return DnsSpec(
            upstreams=self.servers("dns.upstreams", entry.get("upstreams", first), hosts),
            stub_domains=stubs,
            pod_records=entry.get("podRecords", "insecure"),
        )

    def servers(self, path: str, names: list[str], hosts: tuple[OutsideHost, ...]) -> tuple[IPv4Address, ...]:
        known = {host.name: host.address for host in hosts}
        found = []
        for index, name in enumerate(names):
            try:
                found.append(known[name] if name in known else IPv4Address(name))
            except ValueError:
                hint = did_you_mean(name, known) or f"; outside hosts are {', '.join(known) or 'none'}"
                self.wrong(f"{path}[{index}]", f'"{name}" is neither an IPv4 address nor an outside host{hint}')
        return tuple(found)

    # --- the rest -----------------------------------------------------------------------------------------------

    def manifests(self) -> tuple[str, ...]:
        found: list[str] = []
        for index, text in enumerate(self.spec.get("manifests", ())):
            path = (self.base_dir / text).resolve()
            if "://" in text:
                self.wrong(
                    f"manifests[{index}]", f"{text}: addresses are not fetched; download the file and name it here"
                )
            elif not path.exists():
                self.wrong(f"manifests[{index}]", f"{text}: no such file or directory ({path})")
            found.append(str(path))
        return tuple(found)

    def unique(self, names: Iterable[tuple[str, str]]) -> set[str]:
        seen: dict[str, str] = {}
        for path, name in names:
            if name in seen:
                self.wrong(path, f'"{name}" is used twice, here and in spec.{seen[name]}: use another name')
            seen.setdefault(name, path)
        return set(seen)


def _node(entry: dict[str, Any], name: str, address: IPv4Address, router: str) -> NodeSpec:
    return NodeSpec(
        name=name,
        address=address,
        labels=dict(entry.get("labels") or {}),
        annotations=dict(entry.get("annotations") or {}),
        taints=tuple(dict(taint) for taint in entry.get("taints") or ()),
        uplink=_link(entry.get("uplink") or {}),
        pod_link=_link(entry.get("podLink") or {}),
        router=router,
    )


def _link(entry: dict[str, Any]) -> Link:
    bandwidth, delay, jitter, loss = (entry.get(name) for name in ("bandwidth", "delay", "jitter", "loss"))
    return Link(
        bandwidth=None if bandwidth is None else parse_bandwidth(bandwidth),
        delay=None if delay is None else parse_duration(delay),
        jitter=None if jitter is None else parse_duration(jitter),
        loss=None if loss is None else float(loss),
    )


def _from(network: IPv4Network, first: int) -> Iterator[IPv4Address]:
    """Addresses of a network from the ``first`` on, without its broadcast address."""
    for number in range(first, network.num_addresses - 1):
        yield network[number]


def _numbers_without(named: set[str]) -> Any:
    """Numbers for nodes without a name: the node's position, or the next whose name nobody has."""
    last = 0

    def number(position: int) -> int:
        nonlocal last
        last = max(last + 1, position)
        while f"n{last}" in named:
            last += 1
        return last

    return number


def _unreachable(routers: tuple[str, ...], links: list[FabricLink]) -> list[str]:
    reached = {routers[0]}
    while True:
        more = {end for link in links if {link.a, link.b} & reached for end in (link.a, link.b)} - reached
        if not more:
            return [router for router in routers if router not in reached]
        reached |= more
