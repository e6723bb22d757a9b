"""What the edge's load balancers and egress addresses need of API objects, beside ``controller.views``.

Kept small and unparsed where there are many: most Services are no load balancers, most pods have no egress address.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network
from typing import NamedTuple

from controller.openflow.match import Address, Network
from controller.parsing import Malformed, parse
from kmn.k8s import dataplane, objects
from kmn.k8s.families import FAMILIES, internal_ips, pod_ips
from kmn.k8s.loadbalancers import is_ours, read_load_balancer, takes_traffic
from kmn.k8s.objects import Key, Object, describe, key_of, labels, name_of

__all__ = [
    "ApplicationBalancerView",
    "BalancerPort",
    "BalancerView",
    "EgressPod",
    "TargetEndpoint",
    "TargetNode",
    "TargetSlice",
    "application_balancer_view",
    "balancer_view",
    "egress_addresses",
    "egress_pod",
    "target_node",
    "target_slice",
]

_VERSIONS = dict(zip(FAMILIES, (4, 6), strict=True))  # of IP, by names of families in the API


class BalancerPort(NamedTuple):
    """A port in one IP family: a dual-stack Service has each of its ports twice."""

    name: str
    protocol: str
    port: int
    node_port: int | None
    version: int = 4  # of IP


@dataclass(frozen=True, slots=True)
class BalancerView:
    """A Service that is reached from outside: a load balancer by its addresses, all by their node ports."""

    key: Key
    addresses: tuple[Address, ...]
    ports: tuple[BalancerPort, ...]
    to_pods: bool  # IP mode; else node ports
    local: bool  # only nodes with endpoints
    affinity: bool  # a client stays with its target
    internal: bool
    preserve_client: bool
    direct_return: bool  # nodes answer clients themselves
    source_ranges: tuple[Network, ...] | None  # None: everybody may come


def balancer_view(obj: Object) -> BalancerView | None:
    ingress = ((obj.get("status") or {}).get("loadBalancer") or {}).get("ingress") or () if is_ours(obj) else ()
    addresses = tuple(ip_address(e["ip"]) for e in ingress if e.get("ip"))
    on_nodes = (obj.get("spec") or {}).get("type") in ("NodePort", "LoadBalancer")
    if not addresses and not on_nodes:
        return None
    spec, wish = obj["spec"], read_load_balancer(obj)
    versions = [_VERSIONS[family] for family in spec.get("ipFamilies") or FAMILIES[:1]]
    return BalancerView(
        key_of(obj),
        addresses,
        tuple(
            BalancerPort(p.get("name") or "", p.get("protocol") or "TCP", int(p["port"]), p.get("nodePort"), version)
            for p in spec.get("ports") or ()
            for version in versions
        ),
        wish.target == "ip",
        spec.get("externalTrafficPolicy") == "Local",
        spec.get("sessionAffinity") == "ClientIP",
        wish.internal,
        wish.preserve_client,
        wish.direct_return,
        wish.source_ranges,
    )


class ApplicationBalancerView(NamedTuple):
    """A proxy outside the cluster, with a port on the edge's bridge."""

    name: str
    address: IPv4Address
    mac: str
    ofport: int
    internal: bool  # for clients in the cluster only
    listeners: tuple[tuple[int, tuple[IPv4Network, ...]], ...]  # ports, and who may connect to them


def application_balancer_view(obj: Object) -> ApplicationBalancerView | None:
    """None for one that has no place yet. Raises Malformed."""
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    if not status.get("address"):
        return None
    try:
        listeners = tuple(
            (int(each["port"]), tuple(IPv4Network(source) for source in each["sources"]))
            for each in spec.get("listeners") or ()
        )
        address, internal = IPv4Address(status["address"]), spec.get("scheme") == "internal"
        return ApplicationBalancerView(name_of(obj), address, status["mac"], int(status["ofport"]), internal, listeners)
    except (KeyError, TypeError, ValueError) as error:
        raise Malformed(f"{describe(obj)}: spec.listeners or status cannot be used: {error!r}") from None


class TargetNode(NamedTuple):
    """A node that load balancers may send to."""

    name: str
    addresses: tuple[Address, ...]  # one of each family
    gateways: tuple[Address, ...]  # likewise: its addresses in its pods' networks


def target_node(obj: Object) -> TargetNode | None:
    """None for a node that is not ready, being deleted, or excluded by its label."""
    if not takes_traffic(obj):
        return None
    spec = obj.get("spec") or {}
    networks = spec.get("podCIDRs") or filter(None, [spec.get("podCIDR")])
    own = [ip_address(address) for address in internal_ips(obj)]
    addresses = tuple({address.version: address for address in reversed(own)}.values())  # the first one of each counts
    gateways = tuple(ip_network(network)[1] for network in networks)
    return TargetNode(name_of(obj), addresses, gateways) if addresses else None


class TargetEndpoint(NamedTuple):
    address: str
    node: str
    ready: bool  # else it serves while it terminates


class TargetSlice(NamedTuple):
    """The endpoints of a slice that may be sent to; all are of one family."""

    service: Key
    endpoints: tuple[TargetEndpoint, ...]
    ports: tuple[tuple[str, str, int], ...]  # name, protocol, number
    version: int = 4  # of IP


def target_slice(obj: Object) -> TargetSlice | None:
    service = labels(obj).get("kubernetes.io/service-name")
    if not service or obj.get("addressType") not in FAMILIES:
        return None
    found = []
    for endpoint in obj.get("endpoints") or ():
        state = endpoint.get("conditions") or {}
        ready = state.get("ready") is not False
        if ready or (state.get("serving") and state.get("terminating")):
            found.append(TargetEndpoint(endpoint["addresses"][0], endpoint.get("nodeName") or "", ready))
    ports = tuple(
        (port.get("name") or "", port.get("protocol") or "TCP", int(port["port"]))
        for port in obj.get("ports") or ()
        if port.get("port") is not None
    )
    return TargetSlice(Key(key_of(obj).namespace, service), tuple(found), ports, _VERSIONS[obj["addressType"]])


def egress_addresses(obj: Object) -> tuple[Address, ...] | None:
    """Of a Namespace or Pod: the public addresses under which its connections leave, one of a family at most."""
    value = objects.annotation(obj, dataplane.EGRESS_ADDRESS)
    if value is None:
        return None
    field = f"metadata.annotations[{dataplane.EGRESS_ADDRESS}]"
    return parse(obj, field, _one_of_a_family, value, "an address, or one of each family with a comma between")


def _one_of_a_family(text: str) -> tuple[Address, ...]:
    found = tuple(ip_address(part.strip()) for part in text.split(","))
    if len({address.version for address in found}) < len(found):
        raise ValueError(text)
    return found


class EgressPod(NamedTuple):
    node: str
    addresses: tuple[Address, ...]
    egress: tuple[Address, ...] | None  # its own wish, before its namespace's


def egress_pod(obj: Object) -> EgressPod | None:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    addresses = tuple(ip_address(ip) for ip in pod_ips(obj))
    # Pods on the host network have their node's addresses, which are not theirs alone.
    if spec.get("hostNetwork") or not addresses or status.get("phase") in ("Succeeded", "Failed"):
        return None
    return EgressPod(spec.get("nodeName", ""), addresses, egress_addresses(obj))
