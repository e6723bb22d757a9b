"""What the controller needs of API objects, typed and frozen.

``*_view`` functions give None for an object that has no flows (yet), and raise :class:`Malformed` for one that cannot
be understood: that object is reported and has no flows; all others are not affected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

from controller.balancing import Scheduler, scheduler_of
from controller.openflow.match import Address, Network
from controller.parsing import Malformed, any_address, transport_port
from controller.parsing import address as _address
from controller.parsing import parse as _parse
from controller.pipeline import MASQUERADE_PORTS
from kmn.k8s import dataplane, objects
from kmn.k8s.families import host_ips, internal_ipv6, pod_ips
from kmn.k8s.objects import Key, Object, describe, key_of, name_of
from kmn.policy.clusterwide import policy_of
from kmn.policy.model import Log, Policy

__all__ = [
    "ClusterView",
    "EdgeHost",
    "EdgeNet",
    "EdgeView",
    "HostPort",
    "Malformed",
    "Masquerade",
    "NodeNet",
    "NodeView",
    "PodView",
    "cluster_view",
    "edge_view",
    "node_view",
    "pod_view",
    "policy_view",
]

T = TypeVar("T")


_UNSPECIFIED = ("0.0.0.0", "::")


def _port_number(value: Any) -> int:
    number = int(value)
    if not 0 < number < 0xFF00:
        raise ValueError(value)
    return number


def _mac(value: Any) -> str:
    if len(bytes.fromhex(value.replace(":", ""))) != 6 or len(value) != 17:
        raise ValueError(value)
    return str(value).lower()


@dataclass(frozen=True, slots=True)
class HostPort:
    """A port of a pod that is reached at its node's address."""

    protocol: str
    host_ip: Address | None  # None: any of the node's
    host_port: int
    container_port: int


@dataclass(frozen=True, slots=True)
class PodView:
    """A pod with a port of its own on its node's bridge."""

    key: Key
    node: str
    address: IPv4Address
    mac: str
    ofport: int
    host_ports: tuple[HostPort, ...] = ()
    ipv6: IPv6Address | None = None

    @property
    def addresses(self) -> tuple[Address, ...]:
        return (self.address, self.ipv6) if self.ipv6 else (self.address,)


def pod_view(obj: Object) -> PodView | None:
    spec, status, notes = obj.get("spec") or {}, obj.get("status") or {}, objects.annotations(obj)
    if spec.get("hostNetwork") or dataplane.OFPORT not in notes or not status.get("podIP") or not spec.get("nodeName"):
        return None
    if status.get("phase") in ("Succeeded", "Failed"):
        return None  # its containers are gone, and its address may be another pod's by now
    where = f"metadata.annotations[{dataplane.OFPORT}]"
    return PodView(
        key_of(obj),
        spec["nodeName"],
        _address(obj, "status.podIP", status["podIP"]),
        _parse(obj, f"metadata.annotations[{dataplane.MAC}]", _mac, notes.get(dataplane.MAC), "a MAC address"),
        _parse(obj, where, _port_number, notes[dataplane.OFPORT], "an OpenFlow port number"),
        _host_ports(obj),
        next((_parse(obj, "status.podIPs", IPv6Address, ip, "IP addresses") for ip in pod_ips(obj) if ":" in ip), None),
    )


def _host_ports(obj: Object) -> tuple[HostPort, ...]:
    found = []
    for kind in ("initContainers", "containers"):
        for i, container in enumerate(obj["spec"].get(kind) or ()):
            if kind == "initContainers" and container.get("restartPolicy") != "Always":
                continue
            for j, port in enumerate(container.get("ports") or ()):
                ip = port.get("hostIP") or "0.0.0.0"
                if not port.get("hostPort"):
                    continue
                at = f"spec.{kind}[{i}].ports[{j}]"
                found.append(
                    HostPort(
                        port.get("protocol") or "TCP",
                        None if ip in _UNSPECIFIED else any_address(obj, f"{at}.hostIP", ip),
                        transport_port(obj, f"{at}.hostPort", port["hostPort"]),
                        transport_port(obj, f"{at}.containerPort", port.get("containerPort")),
                    )
                )
    return tuple(found)


def policy_view(obj: Object) -> Policy:
    """What a policy of any kind says."""
    try:
        return policy_of(obj)
    except ValueError as error:
        raise Malformed(str(error)) from error


class NodeNet(NamedTuple):
    """A node in one IP family."""

    address: Address
    pod_cidr: Network

    @property
    def gateway(self) -> Address:
        """The node's own address in its pods' network."""
        return self.pod_cidr[1]


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node whose bridge can be programmed."""

    name: str
    netns: str
    datapath_id: int
    address: IPv4Address
    pod_cidr: IPv4Network
    mac: str
    ofport: int
    uplink_mac: str
    next_hop_mac: str
    zone: str = ""
    ipv6: NodeNet | None = None

    @property
    def nets(self) -> tuple[NodeNet, ...]:
        """One for each family, IPv4 first."""
        own = NodeNet(self.address, self.pod_cidr)
        return (own, self.ipv6) if self.ipv6 else (own,)


def node_view(obj: Object) -> NodeView | None:
    notes = objects.annotations(obj)
    needed = (
        dataplane.NETNS,
        dataplane.DATAPATH_ID,
        dataplane.MAC,
        dataplane.UPLINK_MAC,
        dataplane.UPLINK_NEXT_HOP_MAC,
    )
    pod_cidr = (obj.get("spec") or {}).get("podCIDR")
    addresses = (obj.get("status") or {}).get("addresses") or ()
    internal = next((a.get("address") for a in addresses if a.get("type") == "InternalIP"), None)
    if not pod_cidr or not internal or any(note not in notes for note in needed):
        return None

    def note(name: str, parse: Callable[[Any], T], wanted: str) -> T:
        return _parse(obj, f"metadata.annotations[{name}]", parse, notes.get(name), wanted)

    cidr = _parse(obj, "spec.podCIDR", lambda v: IPv4Network(str(v)), pod_cidr, "an IPv4 network")
    if cidr.prefixlen > 30:
        raise Malformed(f"{describe(obj)}: spec.podCIDR: {cidr} is too small; /30 or larger")
    return NodeView(
        name_of(obj),
        notes[dataplane.NETNS],
        note(dataplane.DATAPATH_ID, _datapath_id, "16 hexadecimal digits"),
        _address(obj, "status.addresses[InternalIP]", internal),
        cidr,
        note(dataplane.MAC, _mac, "a MAC address"),
        _parse(
            obj,
            f"metadata.annotations[{dataplane.OFPORT}]",
            _port_number,
            notes.get(dataplane.OFPORT, str(dataplane.HOST_OFPORT)),
            "an OpenFlow port number",
        ),
        note(dataplane.UPLINK_MAC, _mac, "a MAC address"),
        note(dataplane.UPLINK_NEXT_HOP_MAC, _mac, "a MAC address"),
        objects.labels(obj).get("topology.kubernetes.io/zone", ""),
        _ipv6_net(obj),
    )


def _ipv6_net(obj: Object) -> NodeNet | None:
    """None for a node that is IPv4 only."""
    networks = [network for network in (obj.get("spec") or {}).get("podCIDRs") or () if ":" in network]
    own = _parse(obj, "status.addresses[InternalIP]", internal_ipv6, obj, "an IPv6 address")
    if not networks or own is None:
        return None
    return NodeNet(own, _parse(obj, "spec.podCIDRs", IPv6Network, networks[0], "an IPv6 network"))


def _datapath_id(value: Any) -> int:
    if len(value) != 16:
        raise ValueError(value)
    return int(value, 16)


@dataclass(frozen=True, slots=True)
class EdgeHost:
    """A host outside the cluster, on the edge's bridge."""

    name: str
    addresses: tuple[Address, ...]  # one of each family
    mac: str
    ofport: int


@dataclass(frozen=True, slots=True)
class EdgeNet:
    """An edge in one IP family."""

    address: Address
    internet_cidr: Network
    nat_addresses: tuple[Address, ...]  # one after the other without gaps; none: no NAT
    load_balancers: Network
    nodes: Network | None  # whose node ports are open to the outside
    cluster_cidrs: tuple[Network, ...]


@dataclass(frozen=True, slots=True)
class EdgeView:
    """The edge between the fabric and the hosts outside."""

    name: str
    netns: str
    datapath_id: int
    fabric_ofport: int
    fabric_mac: str
    next_hop_mac: str
    nat_ports: tuple[int, int]
    nets: tuple[EdgeNet, ...]  # one of each family, IPv4 first
    hosts: tuple[EdgeHost, ...]


def edge_view(obj: Object) -> EdgeView | None:
    spec = obj.get("spec") or {}
    fabric = spec.get("fabric") or {}
    if not spec.get("netns") or not spec.get("datapathID") or not fabric:
        return None

    def mac(field: str, value: object) -> str:
        return _parse(obj, field, _mac, value, "a MAC address")

    def ofport(field: str, value: object) -> int:
        return _parse(obj, field, _port_number, value, "an OpenFlow port number")

    hosts = tuple(
        EdgeHost(
            host.get("name", f"hosts[{i}]"),
            tuple(any_address(obj, f"spec.hosts[{i}].ips", ip) for ip in host_ips(host)),
            mac(f"spec.hosts[{i}].mac", host.get("mac")),
            ofport(f"spec.hosts[{i}].ofport", host.get("ofport")),
        )
        for i, host in enumerate(spec.get("hosts") or ())
    )
    return EdgeView(
        name_of(obj),
        spec["netns"],
        _parse(obj, "spec.datapathID", _datapath_id, spec["datapathID"], "16 hexadecimal digits"),
        ofport("spec.fabric.ofport", fabric.get("ofport")),
        mac("spec.fabric.mac", fabric.get("mac")),
        mac("spec.fabric.nextHopMAC", fabric.get("nextHopMAC")),
        _parse(
            obj, "spec.natPorts", _port_range, spec.get("natPorts", "1024-65535"), "a range of ports such as 1024-65535"
        ),
        tuple(_edge_net(obj, field) for field in ("spec", "spec.ipv6") if field == "spec" or spec.get("ipv6")),
        hosts,
    )


def _edge_net(obj: Object, where: str) -> EdgeNet:
    """The fields of one family: IPv4's are those of ``spec``, IPv6's are under ``spec.ipv6``."""
    spec = obj["spec"] if where == "spec" else obj["spec"]["ipv6"]

    def network(field: str, value: object) -> Network:
        return _parse(obj, f"{where}.{field}", lambda v: ip_network(str(v)), value, "a network")

    return EdgeNet(
        any_address(obj, f"{where}.address", spec.get("address")),
        network("internetCIDR", spec.get("internetCIDR")),
        _nat_addresses(obj, f"{where}.natAddresses", spec) if obj["spec"].get("natOutgoing") is not False else (),
        network("loadBalancerCIDR", spec.get("loadBalancerCIDR", "192.0.2.0/24")),
        network("nodeCIDR", spec["nodeCIDR"]) if spec.get("nodeCIDR") else None,
        tuple(network(f"clusterCIDRs[{i}]", c) for i, c in enumerate(spec.get("clusterCIDRs") or ())),
    )


def _nat_addresses(obj: Object, field: str, spec: Object) -> tuple[Address, ...]:
    found = [any_address(obj, f"{field}[{i}]", a) for i, a in enumerate(spec.get("natAddresses") or ())]
    for i, (one, other) in enumerate(pairwise(found)):
        if other != one + 1:
            raise Malformed(f"{describe(obj)}: {field}[{i + 1}]: '{other}' should be {one + 1}, without a gap")
    return tuple(found)


def _port_range(value: Any) -> tuple[int, int]:
    first, last = (int(port) for port in value.split("-"))
    if not 0 < first <= last < 0x10000:
        raise ValueError(value)
    return first, last


@dataclass(frozen=True, slots=True)
class Masquerade:
    """Nodes' source translation of what their pods send to the outside."""

    exempt: tuple[Network, ...]  # destinations that see pods' own addresses
    ports: tuple[int, int]


@dataclass(frozen=True, slots=True)
class ClusterView:
    """What the Cluster object says for all nodes."""

    service_cidrs: tuple[Network, ...]  # the networks of virtual addresses, one for each family of the cluster
    own: tuple[Network, ...]  # of pods and nodes
    masquerade: Masquerade | None  # None: pods leave their nodes as themselves
    scheduler: Scheduler  # how Services choose among their endpoints
    cut: bool = False  # connections that a change of policies would not allow any more
    log: Log = Log.DENIED  # verdicts of policies that are told


def cluster_view(obj: Object) -> ClusterView:
    spec = obj.get("spec") or {}

    def network(field: str, value: object) -> Network:
        return _parse(obj, f"spec.{field}", lambda v: ip_network(str(v)), value, "a network")

    def networks(field: str) -> list[Network]:
        """One, or one of each family."""
        return [network(field, each) for each in (spec.get(field) or "").split(",") if each]

    own = (*networks("podCIDR"), *networks("nodeCIDR"))
    wanted = spec.get("masquerade", False)
    masquerade = None
    if wanted is not False:
        wanted = wanted if isinstance(wanted, dict) else {}
        more = wanted.get("nonMasqueradeCIDRs") or ()
        named = [network(f"masquerade.nonMasqueradeCIDRs[{i}]", value) for i, value in enumerate(more)]
        ports = wanted.get("ports", "{}-{}".format(*MASQUERADE_PORTS))
        masquerade = Masquerade(
            (*own, *named),
            _parse(obj, "spec.masquerade.ports", _port_range, ports, "a range of ports such as 1024-65535"),
        )
    policy = spec.get("policy") or {}
    log = _parse(obj, "spec.policy.log", Log, policy.get("log", "denied"), "denied, all or none")
    cut = policy.get("establishedConnections") == "cut"
    return ClusterView(tuple(networks("serviceCIDR")), own, masquerade, scheduler_of(obj), cut, log)
