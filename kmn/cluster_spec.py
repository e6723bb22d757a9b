"""The cluster file (``kind: Cluster``, ``apiVersion: kmn.io/v1``), parsed, defaulted and checked.

The schema is published in ``kmn/schemas/cluster.schema.json`` and documented in ``docs/cluster-file.md``. What the
schema cannot say (overlapping networks, names used twice, links to unknown routers) is checked here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Any, Literal

__all__ = ["ClusterSpec", "FabricLink", "Link", "NodeSpec", "OutsideHost"]


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
    datapath: Literal["auto", "system", "netdev"] = "auto"
    routers: tuple[str, ...] = ("fabric",)
    fabric_links: tuple[FabricLink, ...] = ()
    edge_router: str = "fabric"  # the router that the edge is attached to
    internet_cidr: IPv4Network = IPv4Network("203.0.113.0/24")
    nat_cidr: IPv4Network = IPv4Network("198.51.100.0/24")
    outside_hosts: tuple[OutsideHost, ...] = ()
    manifests: tuple[str, ...] = ()  # absolute paths or URLs-to-be-refused; resolved against the file's folder
    initial_delay: float | None = None  # seconds; overrides every probe's initialDelaySeconds when set

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

    def to_object(self) -> dict[str, Any]:
        """The ``Cluster`` object that the API serves."""
        raise NotImplementedError
