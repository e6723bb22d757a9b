"""What a cluster is made of: the content of a cluster file with every default resolved, as plain data.

``kmn.cluster_file`` makes it from a file and checks it; ``docs/cluster-file.md`` documents the fields. The ``Cluster``
object of the API (:meth:`ClusterSpec.to_object`) is a cluster file again, with everything written out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any, Literal

from kmn.units import format_bandwidth, format_duration

__all__ = [
    "ClusterSpec",
    "DnsSpec",
    "FabricLink",
    "IngressController",
    "Ipv6Spec",
    "KubeProxySpec",
    "Link",
    "MasqueradeSpec",
    "NatSpec",
    "NodeSpec",
    "OutsideHost",
    "PolicySpec",
]

API_VERSION = "kmn.io/v1"
KIND = "Cluster"


@dataclass(frozen=True, slots=True)
class Link:
    """How a link is slowed down. None: not at all. Each direction alike."""

    bandwidth: int | None = None  # bit/s
    delay: float | None = None  # seconds, one way
    jitter: float | None = None  # seconds
    loss: float | None = None  # percent of packets

    def __bool__(self) -> bool:
        return any(value is not None for value in (self.bandwidth, self.delay, self.jitter, self.loss))


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One node: a network namespace with its own Open vSwitch."""

    name: str
    address: IPv4Address
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    taints: tuple[dict[str, str], ...] = ()
    uplink: Link = Link()
    pod_link: Link = Link()  # each pod's eth0
    router: str = "fabric"  # the fabric router that the uplink leads to


@dataclass(frozen=True, slots=True)
class FabricLink:
    """A link between two fabric routers."""

    a: str
    b: str
    link: Link = Link()


@dataclass(frozen=True, slots=True)
class OutsideHost:
    """A host of the emulated internet, behind the edge."""

    name: str
    address: IPv4Address
    link: Link = Link()
    dns: bool = True  # it answers for the names of the internet
    ipv6: IPv6Address | None = None  # of a dual-stack cluster

    @property
    def addresses(self) -> tuple[IPv4Address | IPv6Address, ...]:
        """One of each family, IPv4 first."""
        return (self.address, self.ipv6) if self.ipv6 else (self.address,)


@dataclass(frozen=True, slots=True)
class NatSpec:
    """The NAT gateway at the edge."""

    # Public addresses, one after the other.
    addresses: tuple[IPv4Address, ...] = (IPv4Address("198.51.100.1"),)
    ports: tuple[int, int] = (1024, 65535)  # of each address; so many connections to one destination at a time
    outgoing: bool = True  # False: pods and nodes go out under their own addresses
    # The same for IPv6. None: as with clouds, IPv6 is not translated.
    ipv6_addresses: tuple[IPv6Address, ...] = ()


@dataclass(frozen=True, slots=True)
class MasqueradeSpec:
    """Nodes give their own address to what their pods send to the outside."""

    exempt: tuple[
        IPv4Network | IPv6Network, ...
    ] = ()  # destinations that see pods' addresses, beside the cluster's own networks
    ports: tuple[int, int] = (1024, 65535)


@dataclass(frozen=True, slots=True)
class DnsSpec:
    """The cluster's DNS server, beyond the cluster's own names."""

    upstreams: tuple[IPv4Address, ...] = ()  # servers for all names outside; nodes ask them, too
    stub_domains: dict[str, tuple[IPv4Address, ...]] = field(default_factory=dict)  # domain: its servers
    pod_records: Literal["insecure", "verified", "disabled"] = "insecure"


@dataclass(frozen=True, slots=True)
class Ipv6Spec:
    """The IPv6 networks of a dual-stack cluster, beside the IPv4 ones."""

    pod_cidr: IPv6Network = IPv6Network("fd00:10:244::/48")
    node_pod_prefix: int = 64  # each node gets one such network out of pod_cidr
    service_cidr: IPv6Network = IPv6Network("fd00:10:96::/112")
    node_cidr: IPv6Network = IPv6Network("fd00:172:18::/64")
    internet_cidr: IPv6Network = IPv6Network("2001:db8:203::/64")
    nat_cidr: IPv6Network | None = None  # None: the gateway does not translate IPv6
    load_balancer_cidr: IPv6Network = IPv6Network("2001:db8:192::/112")

    @property
    def edge_address(self) -> IPv6Address:
        """The edge's second address among the outside hosts."""
        return self.internet_cidr[1]

    @property
    def dns_address(self) -> IPv6Address:
        """Second ClusterIP of the cluster's DNS Service."""
        return self.service_cidr[10]


@dataclass(frozen=True, slots=True)
class IngressController:
    """An ingress controller. It takes Ingresses of the classes whose ``spec.controller`` is ``controller``."""

    name: str  # of the IngressClass that comes with it, and after "ingress-" of its namespace
    controller: str
    default: bool = False  # its class is for Ingresses that name none


@dataclass(frozen=True, slots=True)
class KubeProxySpec:
    """How Services choose among their endpoints."""

    mode: Literal["iptables", "nftables", "ipvs"] = "iptables"
    scheduler: str = ""  # of mode ipvs: one of kmn.k8s.dataplane.IPVS_SCHEDULERS


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """How network policies are enforced."""

    established: Literal["keep", "cut"] = "keep"  # connections that a change of policies would not allow
    log: Literal["denied", "all", "none"] = "denied"  # verdicts that the log shows


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """A whole cluster. Every field has its final value: defaults and ``count`` are resolved."""

    name: str
    nodes: tuple[NodeSpec, ...]
    pod_cidr: IPv4Network = IPv4Network("10.244.0.0/16")
    node_pod_prefix: int = 24  # each node gets one such network out of pod_cidr
    service_cidr: IPv4Network = IPv4Network("10.96.0.0/12")
    node_cidr: IPv4Network = IPv4Network("172.18.0.0/16")
    cluster_domain: str = "cluster.local"
    dns: DnsSpec = DnsSpec()
    datapath: Literal["auto", "system", "netdev"] = "auto"
    kube_proxy: KubeProxySpec = KubeProxySpec()
    policy: PolicySpec = PolicySpec()
    routers: tuple[str, ...] = ("fabric",)
    fabric_links: tuple[FabricLink, ...] = ()
    edge_router: str = "fabric"  # the router that the edge is attached to
    internet_cidr: IPv4Network = IPv4Network("203.0.113.0/24")
    nat_cidr: IPv4Network = IPv4Network("198.51.100.0/24")
    nat: NatSpec = NatSpec()
    masquerade: MasqueradeSpec | None = None  # None: the edge sees pods' addresses
    load_balancer_cidr: IPv4Network = IPv4Network("192.0.2.0/24")  # addresses of LoadBalancer Services
    outside_hosts: tuple[OutsideHost, ...] = ()
    manifests: tuple[str, ...] = ()  # absolute paths or URLs-to-be-refused; resolved against the file's folder
    initial_delay: float | None = None  # seconds; overrides every probe's initialDelaySeconds when set
    ipv6: Ipv6Spec | None = None  # None: the cluster is IPv4 only
    ingress: tuple[IngressController, ...] | None = None  # None: one comes when an object asks for it

    @property
    def fabric_address(self) -> IPv4Address:
        """The routers' address in the node network; the API server is reachable there from inside the cluster."""
        return self.node_cidr[1]

    @property
    def dns_address(self) -> IPv4Address:
        """ClusterIP of the cluster's DNS Service, the tenth address as kubeadm has it."""
        return self.service_cidr[10]

    @property
    def edge_address(self) -> IPv4Address:
        """The edge's address among the outside hosts: their default gateway."""
        return self.internet_cidr[1]

    @property
    def service_cidrs(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """One of each family, the primary one first, as kube-apiserver's --service-cluster-ip-range."""
        return (self.service_cidr, self.ipv6.service_cidr) if self.ipv6 else (self.service_cidr,)

    def ipv6_of(self, address: IPv4Address) -> IPv6Address | None:
        """The IPv6 address of a node or router: it has the same number in its network. None: the cluster has none."""
        if self.ipv6 is None:
            return None
        return self.ipv6.node_cidr[int(address) - int(self.node_cidr.network_address)]

    @classmethod
    def load(cls, path: str | Path) -> ClusterSpec:
        """Read a cluster file (YAML or JSON). Raises :class:`kmn.cluster_file.ClusterFileError`."""
        from kmn import cluster_file

        return cluster_file.load(Path(path))

    @classmethod
    def parse(cls, obj: Any, base_dir: str | Path = ".", *, source: str = "cluster file") -> ClusterSpec:
        """A specification from a parsed cluster file; manifests are relative to ``base_dir``."""
        from kmn import cluster_file

        return cluster_file.parse(obj, Path(base_dir), source)

    @classmethod
    def default(cls, name: str) -> ClusterSpec:
        """The cluster that a file with a name and nothing else describes."""
        return cls.parse({"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}})

    @classmethod
    def from_object(cls, obj: dict[str, Any]) -> ClusterSpec:
        """The reverse of :meth:`to_object`; takes the object as the API serves it, too."""
        metadata = {"name": obj["metadata"]["name"]}
        return cls.parse({"apiVersion": obj["apiVersion"], "kind": obj["kind"], "metadata": metadata,
                          "spec": obj.get("spec")}, source=f"Cluster {metadata['name']}")  # fmt: skip

    def to_object(self) -> dict[str, Any]:
        """The ``Cluster`` object that the API serves: a cluster file with every default written out."""
        spec: dict[str, Any] = {
            "nodes": [_node_object(node) for node in self.nodes],
            "ipFamily": "dual" if self.ipv6 else "ipv4",
            "nodeCIDR": _both(self.node_cidr, self.ipv6.node_cidr if self.ipv6 else None),
            "podCIDR": _both(self.pod_cidr, self.ipv6.pod_cidr if self.ipv6 else None),
            "nodeCIDRMaskSize": self.node_pod_prefix,
            **({"nodeCIDRMaskSizeIPv6": self.ipv6.node_pod_prefix} if self.ipv6 else {}),
            "serviceCIDR": _both(self.service_cidr, self.ipv6.service_cidr if self.ipv6 else None),
            "clusterDomain": self.cluster_domain,
            "dns": _dns_object(self.dns),
            "datapath": self.datapath,
            "kubeProxy": _kube_proxy_object(self.kube_proxy),
            "policy": {"establishedConnections": self.policy.established, "log": self.policy.log},
            "masquerade": _masquerade_object(self.masquerade),
            "fabric": {
                "routers": list(self.routers),
                "links": [{"ends": [each.a, each.b], **_link_object(each.link)} for each in self.fabric_links],
                "edge": self.edge_router,
            },
            "internet": {
                "cidr": _both(self.internet_cidr, self.ipv6.internet_cidr if self.ipv6 else None),
                "nat": {
                    "cidr": _both(self.nat_cidr, self.ipv6.nat_cidr if self.ipv6 else None),
                    "addresses": [str(address) for address in (*self.nat.addresses, *self.nat.ipv6_addresses)],
                    "ports": f"{self.nat.ports[0]}-{self.nat.ports[1]}",
                    "outgoing": self.nat.outgoing,
                },
                "loadBalancers": _both(self.load_balancer_cidr, self.ipv6.load_balancer_cidr if self.ipv6 else None),
                "hosts": [
                    {
                        "name": host.name,
                        "address": ",".join(str(address) for address in host.addresses),
                        "dns": host.dns,
                        **_present(link=_link_object(host.link)),
                    }
                    for host in self.outside_hosts
                ],
            },
            "manifests": list(self.manifests),
        }
        if self.ingress is not None:
            controllers = [_controller_object(controller) for controller in self.ingress]
            spec["ingress"] = {"controllers": controllers}
        if self.initial_delay is not None:
            spec["probes"] = {"initialDelay": format_duration(self.initial_delay)}
        return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": self.name}, "spec": spec}


def _both(network: IPv4Network, other: IPv6Network | None) -> str:
    """Networks as kubeadm writes them."""
    return f"{network},{other}" if other else str(network)


def _kube_proxy_object(proxy: KubeProxySpec) -> dict[str, Any]:
    ipvs = {"scheduler": proxy.scheduler} if proxy.scheduler else {}
    return {"mode": proxy.mode, **_present(ipvs=ipvs)}


def _controller_object(controller: IngressController) -> dict[str, Any]:
    return {
        "name": controller.name,
        "controller": controller.controller,
        **_present(default=controller.default),
    }


def _masquerade_object(masquerade: MasqueradeSpec | None) -> bool | dict[str, Any]:
    if masquerade is None:
        return False
    return {
        "nonMasqueradeCIDRs": [str(network) for network in masquerade.exempt],
        "ports": f"{masquerade.ports[0]}-{masquerade.ports[1]}",
    }


def _dns_object(dns: DnsSpec) -> dict[str, Any]:
    stubs = {domain: [str(server) for server in servers] for domain, servers in dns.stub_domains.items()}
    return {
        "upstreams": [str(server) for server in dns.upstreams],
        "podRecords": dns.pod_records,
        **_present(stubDomains=stubs),
    }


def _node_object(node: NodeSpec) -> dict[str, Any]:
    return {
        "name": node.name,
        "address": str(node.address),
        "router": node.router,
        **_present(
            labels=dict(node.labels),
            annotations=dict(node.annotations),
            taints=[dict(taint) for taint in node.taints],
            uplink=_link_object(node.uplink),
            podLink=_link_object(node.pod_link),
        ),
    }


def _link_object(link: Link) -> dict[str, Any]:
    obj: dict[str, Any] = {}
    if link.bandwidth is not None:
        obj["bandwidth"] = format_bandwidth(link.bandwidth)
    if link.delay is not None:
        obj["delay"] = format_duration(link.delay)
    if link.jitter is not None:
        obj["jitter"] = format_duration(link.jitter)
    if link.loss is not None:
        obj["loss"] = link.loss
    return obj


def _present(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value}
