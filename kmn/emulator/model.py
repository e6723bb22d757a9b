"""What the asynchronous half of the emulator asks of the blocking half (``underlay``), as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from kmn.cluster_spec import Link

__all__ = ["NodePlan", "PodPort"]


@dataclass(frozen=True, slots=True)
class NodePlan:
    """A node to build: everything in it is decided, nothing is in the kernel yet."""

    name: str
    address: IPv4Address
    pod_cidr: IPv4Network
    router: str
    uplink: Link = Link()


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
