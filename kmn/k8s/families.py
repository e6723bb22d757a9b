"""IP families in API objects: addresses of nodes and pods are lists with one of each family, the primary one first."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from kmn.k8s.objects import Object

__all__ = ["FAMILIES", "family_of", "host_ips", "internal_ips", "internal_ipv6", "ipv6_pod_network", "pod_ips"]

FAMILIES = ("IPv4", "IPv6")


def family_of(address: str) -> str:
    """``IPv4`` or ``IPv6``."""
    return "IPv6" if ":" in address else "IPv4"


def internal_ips(node: Object) -> tuple[str, ...]:
    """All addresses of type InternalIP of a Node."""
    addresses = (node.get("status") or {}).get("addresses") or ()
    return tuple(entry["address"] for entry in addresses if entry["type"] == "InternalIP")


def internal_ipv6(node: Object) -> IPv6Address | None:
    """A Node's own IPv6 address, if it has one."""
    return next((IPv6Address(address) for address in internal_ips(node) if ":" in address), None)


def ipv6_pod_network(node: Object) -> IPv6Network | None:
    """The IPv6 network of a Node's pods, if there is one."""
    networks = (node.get("spec") or {}).get("podCIDRs") or ()
    return next((IPv6Network(network) for network in networks if ":" in network), None)


def pod_ips(pod: Object) -> tuple[str, ...]:
    """Addresses of a Pod, none before it has any."""
    status = pod.get("status") or {}
    return tuple(entry["ip"] for entry in status.get("podIPs") or ()) or tuple(filter(None, [status.get("podIP")]))


def host_ips(host: Mapping[str, Any]) -> tuple[str, ...]:
    """Addresses of one of an Edge's ``spec.hosts``, IPv4 first."""
    return tuple(host.get("ips") or [host["ip"]])
