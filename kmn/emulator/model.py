"""What the asynchronous half of the emulator asks of the blocking half (``underlay``), as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

from kmn.cluster_spec import Link

__all__ = ["EdgePort", "NodeIpv6", "NodePlan", "PodPort"]


@dataclass(frozen=True, slots=True)
class NodeIpv6:
    """The IPv6 half of a node of a dual-stack cluster."""

    address: IPv6Address
    pod_cidr: IPv6Network


@dataclass(frozen=True, slots=True)
class NodePlan:
    """A node to build: everything in it is decided, nothing is in the kernel yet."""

    name: str
    address: IPv4Address
    pod_cidr: IPv4Network
    router: str
    uplink: Link = Link()
    ipv6: NodeIpv6 | None = None

    @property
    def addresses(self) -> tuple[IPv4Address | IPv6Address, ...]:
        """The node's own, the primary one first."""
        return (self.address, self.ipv6.address) if self.ipv6 else (self.address,)

    @property
    def pod_cidrs(self) -> tuple[IPv4Network | IPv6Network, ...]:
        return (self.pod_cidr, self.ipv6.pod_cidr) if self.ipv6 else (self.pod_cidr,)


@dataclass(frozen=True, slots=True)
class PodPort:
    """A pod's namespace and device to make, and its port on the node's bridge."""

    uid: str
    name: str  # namespace/name, for messages
    node: str
    netns: str
    address: IPv4Interface  # with the node's prefix length
    gateway: IPv4Address
    mac: str
    ofport: int
    resolv_conf: str
    hosts: str
    link: Link = Link()
    ipv6: IPv6Interface | None = None  # with the node's prefix length


@dataclass(frozen=True, slots=True)
class EdgePort:
    """Something with an address and a port on the edge's bridge: a host outside, an application load balancer."""

    kind: str  # host | alb
    name: str
    netns: str
    addresses: tuple[IPv4Interface | IPv6Interface, ...]  # one of each family
    mac: str
    ofport: int
    link: Link = Link()
