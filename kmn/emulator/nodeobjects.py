"""``Node`` objects as the emulator writes them: pure functions of specification and plan."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path
from typing import Any

import kmn
from kmn.cluster_spec import ClusterSpec, Link, NodeSpec
from kmn.emulator.edge import datapath_id
from kmn.emulator.model import NodeIpv6, NodePlan
from kmn.emulator.underlay import bridge_mac, node_uplink
from kmn.k8s.dataplane import (
    DATAPATH_ID,
    HOST_OFPORT,
    MAC,
    NETNS,
    OFPORT,
    UPLINK_MAC,
    UPLINK_NEXT_HOP_MAC,
    mac_of,
)
from kmn.k8s.families import ipv6_pod_network
from kmn.k8s.objects import Object, labels, name_of
from kmn.naming import netns

__all__ = ["address_of", "fill_in", "free_address", "node_object", "plan_of"]

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}
_RESERVED = 3  # addresses of a pod network that no pod gets: network, gateway, broadcast


def node_object(cluster: ClusterSpec, node: NodeSpec) -> Object:
    """A Node of the cluster file; :func:`fill_in` completes it."""
    ipv6 = cluster.ipv6_of(node.address)
    spec: dict[str, Any] = {"taints": [dict(taint) for taint in node.taints]} if node.taints else {}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": node.name,
            "labels": {**_labels(node.name), **node.labels},
            **({"annotations": dict(node.annotations)} if node.annotations else {}),
        },
        "spec": spec,
        "status": {"addresses": _addresses(node.name, (node.address, ipv6) if ipv6 else (node.address,))},
    }


def address_of(node: Object) -> IPv4Address | None:
    """The node's IPv4 address, if it has one."""
    for entry in (node.get("status") or {}).get("addresses") or ():
        if entry["type"] == "InternalIP" and ":" not in entry["address"]:
            return IPv4Address(entry["address"])
    return None


def free_address(spec: ClusterSpec, taken: Iterable[IPv4Address]) -> IPv4Address | None:
    """The lowest address of the node network that nobody has, for a node that comes by manifest."""
    used = {spec.fabric_address, *taken}
    # From the top the fabric's routers take theirs.
    last = spec.node_cidr.num_addresses - 1 - len(spec.routers)
    return next((ip for n in range(2, last) if (ip := spec.node_cidr[n]) not in used), None)


def plan_of(spec: ClusterSpec, node: Object, address: IPv4Address) -> NodePlan:
    """What to build for a Node that has its pod network."""
    known = next((entry for entry in spec.nodes if entry.name == name_of(node)), None)
    elsewhere = spec.nodes[0].router if spec.nodes else spec.edge_router
    return NodePlan(
        name=name_of(node),
        address=address,
        pod_cidr=IPv4Network(node["spec"]["podCIDR"]),
        router=known.router if known else elsewhere,
        uplink=known.uplink if known else Link(),
        ipv6=_ipv6_of(spec, node, address),
    )


def _ipv6_of(spec: ClusterSpec, node: Object, address: IPv4Address) -> NodeIpv6 | None:
    own, pods = spec.ipv6_of(address), ipv6_pod_network(node)
    return NodeIpv6(own, pods) if own and pods else None


def fill_in(cluster: str, node: Object, plan: NodePlan) -> None:
    """Write on a draft what the kubelet tells of its node, and what the data plane needs to know."""
    metadata = node["metadata"]
    metadata["labels"] = {**_labels(plan.name), **labels(node)}
    uplink = node_uplink(plan)
    metadata["annotations"] = {
        **(metadata.get("annotations") or {}),
        NETNS: netns(cluster, "node", plan.name),
        MAC: mac_of(str(plan.address)),
        OFPORT: str(HOST_OFPORT),
        DATAPATH_ID: datapath_id(bridge_mac(plan.address)),
        UPLINK_MAC: uplink.port_mac,
        UPLINK_NEXT_HOP_MAC: uplink.router_mac,
    }
    resources = {
        "cpu": str(os.cpu_count() or 1),
        "memory": _memory(),
        "pods": str(max(0, plan.pod_cidr.num_addresses - _RESERVED)),
    }
    status = node.setdefault("status", {})
    status["addresses"] = _addresses(plan.name, plan.addresses)
    status["capacity"] = dict(resources)
    status["allocatable"] = dict(resources)
    status["nodeInfo"] = _node_info()


def _labels(name: str) -> dict[str, str]:
    return {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": _architecture(),
        "beta.kubernetes.io/os": "linux",
        "beta.kubernetes.io/arch": _architecture(),
    }


def _addresses(name: str, addresses: Iterable[IPv4Address | IPv6Address]) -> list[dict[str, str]]:
    internal = [{"type": "InternalIP", "address": str(address)} for address in addresses]
    return [*internal, {"type": "Hostname", "address": name}]


def _architecture() -> str:
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


@cache
def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 1024}Ki"


@cache
def _text_of(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


@cache
def _os_image() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"


def _node_info() -> dict[str, str]:
    return {
        "architecture": _architecture(),
        "bootID": _text_of("/proc/sys/kernel/random/boot_id"),
        "containerRuntimeVersion": f"kmn://{kmn.__version__}",
        "kernelVersion": platform.release(),
        "kubeProxyVersion": "",
        "kubeletVersion": f"kmn-{kmn.__version__}",
        "machineID": _text_of("/etc/machine-id"),
        "operatingSystem": "linux",
        "osImage": _os_image(),
        "systemUUID": _text_of("/etc/machine-id"),
    }
