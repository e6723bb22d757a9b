"""What kube-proxy does on real nodes: nftables rules in its shape, on Linux bridges, all in the kernel.

Two nodes with a bridge each, a router between them, and an edge with a host outside. Rules of a node are those of
kube-proxy's nftables mode: one map from address, protocol and port to the Service's chain, a vmap by a random number to
the endpoint's chain, DNAT there; masquerade where a mark says so (pkg/proxy/nftables/README.md of Kubernetes). The edge
masquerades what leaves for the host's first address; to the second it only routes, which is the direct way out.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["DIRECT_HOST", "HOST", "NODES", "POD_CIDR", "PODS", "Service", "gateway_rules", "netns", "network", "rules"]

PREFIX = f"kmnkp{os.getpid()}-"
POD_CIDR = "10.245.0.0/16"
NODES = {"n1": "172.19.0.2", "n2": "172.19.0.3"}
PODS = {"client": ("n1", "10.245.0.2"), "near": ("n1", "10.245.0.3"), "far": ("n2", "10.245.1.2")}
HOST, DIRECT_HOST = "203.0.113.10", "203.0.113.11"
_ROUTERS = ("fabric", "edge")
_BALANCERS = "192.0.2.0/24"


@dataclass(frozen=True, slots=True)
class Service:
    """A TCP port of a Service: how it is reached, and its endpoints. ``local``: externalTrafficPolicy Local."""

    name: str
    address: str
    port: int
    endpoints: tuple[str, ...]
    node_port: int = 0
    balancer: str = ""
    local: bool = False


def netns(name: str) -> str:
    return PREFIX + name


def rules(services: Iterable[Service], node: str) -> str:
    """The table of one node, for ``nft -f -``. ``node`` is the node's address."""
    services = list(services)
    chains, addresses, node_ports = [], [], []
    for service in services:
        own = f"service-{service.name}"
        outside = f"external-{service.name}"
        targets = [f"endpoint-{service.name}-{number}" for number in range(len(service.endpoints))]
        for target, endpoint in zip(targets, service.endpoints, strict=True):
            chains.append(_chain(target, f"ip saddr {endpoint} jump mark-for-masquerade",
                                 f"meta l4proto tcp dnat to {endpoint}:{service.port}"))  # fmt: skip
        choice = ", ".join(f"{number} : goto {target}" for number, target in enumerate(targets))
        chains.append(_chain(own, f"ip daddr {service.address} ip saddr != {POD_CIDR} jump mark-for-masquerade",
                             f"numgen random mod {len(targets)} vmap {{ {choice} }}"))  # fmt: skip
        masquerade = [] if service.local else ["jump mark-for-masquerade"]
        chains.append(_chain(outside, *masquerade, f"goto {own}"))
        addresses.append(f"{service.address} . tcp . {service.port} : goto {own}")
        if service.balancer:
            addresses.append(f"{service.balancer} . tcp . {service.port} : goto {outside}")
        if service.node_port:
            node_ports.append(f"tcp . {service.node_port} : goto {outside}")
    return "\n".join(
        [
            "table ip kube-proxy {",
            _chain("mark-for-masquerade", "mark set mark or 0x4000"),
            *chains,
            _map("service-ips", "ipv4_addr . inet_proto . inet_service : verdict", addresses),
            _map("service-nodeports", "inet_proto . inet_service : verdict", node_ports),
            f"set nodeport-ips {{ type ipv4_addr; elements = {{ {node} }}; }}",
            _chain(
                "services",
                "ip daddr . meta l4proto . th dport vmap @service-ips",
                "ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports",
            ),
            _chain(
                "masquerading",
                "mark and 0x4000 == 0 return",
                "mark set mark xor 0x4000",
                "masquerade fully-random",
            ),
            _chain("nat-prerouting", "type nat hook prerouting priority dstnat; policy accept;", "jump services"),
            _chain("nat-output", "type nat hook output priority -100; policy accept;", "jump services"),
            _chain("nat-postrouting", "type nat hook postrouting priority srcnat; policy accept;", "jump masquerading"),
            "}",
        ]
    )


def gateway_rules() -> str:
    """The edge's table: pods leave under the edge's address, except for :data:`DIRECT_HOST`."""
    return "\n".join(
        [
            "table ip gateway {",
            _chain(
                "postrouting",
                "type nat hook postrouting priority srcnat; policy accept;",
                f"ip saddr {POD_CIDR} ip daddr {HOST} masquerade",
            ),
            "}",
        ]
    )


def _chain(name: str, *lines: str) -> str:
    return "\n".join([f"chain {name} {{", *(f"  {line}" for line in lines), "}"])


def _map(name: str, kind: str, elements: Sequence[str]) -> str:
    content = f"elements = {{ {', '.join(elements)} }}" if elements else ""
    return f"map {name} {{\n  type {kind}\n  {content}\n}}"


@contextmanager
def network(services: Iterable[Service]) -> Iterator[None]:
    """Namespaces :func:`netns` of ``client``, ``near``, ``far``, the nodes, and ``e1`` outside; gone afterwards.

    Raises subprocess.CalledProcessError where the kernel has no nf_tables, with nft's words on standard error.
    """
    services = list(services)
    names = [*PODS, *NODES, *_ROUTERS, "e1"]
    made: list[str] = []
    try:
        for name in names:
            _ip("netns", "add", netns(name))
            made.append(name)
            _sysctl(
                name, "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.all.send_redirects=0"
            )
            _ip("-n", netns(name), "link", "set", "lo", "up")
        for number, (node, address) in enumerate(NODES.items()):
            _wire_node(node, address, number)
            _nft(node, rules(services, address))
        _wire_outside()
        for service in services:
            if service.balancer:  # as an external load balancer, or MetalLB: to the node that has an endpoint
                node = next(n for n, address in PODS.values() if address == service.endpoints[0])
                _ip("-n", netns("fabric"), "route", "replace", service.balancer, "via", NODES[node], "dev", node)
        yield
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", netns(name)], check=False)


def _wire_node(node: str, address: str, number: int) -> None:
    gateway = f"10.245.{number}.1"
    _ip("-n", netns(node), "link", "add", "br0", "type", "bridge")
    _ip("-n", netns(node), "addr", "add", f"{gateway}/24", "dev", "br0")
    _ip("-n", netns(node), "link", "set", "br0", "up")
    # Answers between pods of one bridge must be translated back: kube-proxy's requirement of bridges.
    _sysctl(node, "net.bridge.bridge-nf-call-iptables=1")
    _link(node, "eth0", "fabric", node)
    _ip("-n", netns(node), "addr", "add", f"{address}/32", "dev", "eth0")
    _ip("-n", netns(node), "route", "add", "172.19.0.1", "dev", "eth0")
    _ip("-n", netns(node), "route", "add", "default", "via", "172.19.0.1")
    _ip("-n", netns("fabric"), "addr", "add", "172.19.0.1/32", "dev", node)
    _ip("-n", netns("fabric"), "route", "add", address, "dev", node)
    _ip("-n", netns("fabric"), "route", "add", f"10.245.{number}.0/24", "via", address, "dev", node)
    for pod, (where, pod_address) in PODS.items():
        if where == node:
            _link(node, pod, pod, "eth0")
            _ip("-n", netns(node), "link", "set", pod, "master", "br0")
            _ip("-n", netns(node), "link", "set", pod, "type", "bridge_slave", "hairpin", "on")
            _ip("-n", netns(pod), "addr", "add", f"{pod_address}/24", "dev", "eth0")
            _ip("-n", netns(pod), "route", "add", "default", "via", gateway)


def _wire_outside() -> None:
    _link("fabric", "edge", "edge", "fabric")
    _ip("-n", netns("fabric"), "addr", "add", "172.19.255.1/30", "dev", "edge")
    _ip("-n", netns("edge"), "addr", "add", "172.19.255.2/30", "dev", "fabric")
    _ip("-n", netns("fabric"), "route", "add", "default", "via", "172.19.255.2")
    _ip("-n", netns("edge"), "route", "add", "default", "via", "172.19.255.1")
    _link("edge", "e1", "e1", "eth0")
    _ip("-n", netns("edge"), "addr", "add", "203.0.113.1/24", "dev", "e1")
    for address in (HOST, DIRECT_HOST):
        _ip("-n", netns("e1"), "addr", "add", f"{address}/24", "dev", "eth0")
    _ip("-n", netns("e1"), "route", "add", "default", "via", "203.0.113.1")
    _ip("-n", netns("e1"), "route", "add", _BALANCERS, "via", "203.0.113.1")
    _nft("edge", gateway_rules())


def _link(left: str, device: str, right: str, peer: str) -> None:
    """A veth pair between two namespaces, up."""
    _ip("link", "add", device, "netns", netns(left), "type", "veth", "peer", "name", peer, "netns", netns(right))
    _ip("-n", netns(left), "link", "set", device, "up")
    _ip("-n", netns(right), "link", "set", peer, "up")


def _nft(name: str, text: str) -> None:
    subprocess.run(["ip", "netns", "exec", netns(name), "nft", "-f", "-"], input=text, text=True, check=True)


def _sysctl(name: str, *settings: str) -> None:
    subprocess.run(["ip", "netns", "exec", netns(name), "sysctl", "-qw", *settings], check=True)


def _ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True)
