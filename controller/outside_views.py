"""What the edge's load balancers and egress addresses need of API objects, beside ``controller.views``.

Kept small and unparsed where there are many: most Services are no load balancers, most pods have no egress address.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple

from controller.parsing import Malformed
from kmn.k8s import dataplane, objects
from kmn.k8s.loadbalancers import balanced_address, is_ours, read_load_balancer
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
    "egress_address",
    "egress_pod",
    "target_node",
    "target_slice",
]


class BalancerPort(NamedTuple):
    name: str
    protocol: str
    port: int
    node_port: int | None


@dataclass(frozen=True, slots=True)
class BalancerView:
    """A Service that is reached from outside: a load balancer by its addresses, all by their node ports."""

    key: Key
    addresses: tuple[IPv4Address, ...]
    ports: tuple[BalancerPort, ...]
    to_pods: bool  # IP mode; else node ports
    local: bool  # only nodes with endpoints
    affinity: bool  # a client stays with its target
    internal: bool
    preserve_client: bool
    direct_return: bool  # nodes answer clients themselves
    source_ranges: tuple[IPv4Network, ...]


def balancer_view(obj: Object) -> BalancerView | None:
    ingress = ((obj.get("status") or {}).get("loadBalancer") or {}).get("ingress") or () if is_ours(obj) else ()
    addresses = tuple(IPv4Address(e["ip"]) for e in ingress if e.get("ip") and ":" not in e["ip"])
    on_nodes = (obj.get("spec") or {}).get("type") in ("NodePort", "LoadBalancer")
    if not addresses and not on_nodes:
        return None
    spec, wish = obj["spec"], read_load_balancer(obj)
    return BalancerView(
        key_of(obj),
        addresses,
        tuple(
            BalancerPort(p.get("name") or "", p.get("protocol") or "TCP", int(p["port"]), p.get("nodePort"))
            for p in spec.get("ports") or ()
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
    address: IPv4Address
    gateway: IPv4Address | None  # its address in its pods' network


def target_node(obj: Object) -> TargetNode | None:
    """None for a node that is not ready, being deleted, or excluded by its label."""
    internal = balanced_address(obj)
    pods = (obj.get("spec") or {}).get("podCIDR")
    gateway = IPv4Network(pods)[1] if pods else None
    return TargetNode(name_of(obj), IPv4Address(internal), gateway) if internal else None


class TargetEndpoint(NamedTuple):
    address: str
    node: str
    ready: bool  # else it serves while it terminates


class TargetSlice(NamedTuple):
    """The endpoints of a slice that may be sent to."""

    service: Key
    endpoints: tuple[TargetEndpoint, ...]
    ports: tuple[tuple[str, str, int], ...]  # name, protocol, number


def target_slice(obj: Object) -> TargetSlice | None:
    service = labels(obj).get("kubernetes.io/service-name")
    if not service or obj.get("addressType") != "IPv4":
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
    return TargetSlice(Key(key_of(obj).namespace, service), tuple(found), ports)


def egress_address(obj: Object) -> IPv4Address | None:
    """Of a Namespace or Pod: the public address under which its connections leave."""
    value = objects.annotation(obj, dataplane.EGRESS_ADDRESS)
    if value is None:
        return None
    try:
        return IPv4Address(value)
    except ValueError:
        where = f"metadata.annotations[{dataplane.EGRESS_ADDRESS}]"
        raise Malformed(f"{describe(obj)}: {where}: {value!r} should be an IPv4 address") from None


class EgressPod(NamedTuple):
    node: str
    address: IPv4Address
    egress: IPv4Address | None  # its own wish, before its namespace's


def egress_pod(obj: Object) -> EgressPod | None:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    address = status.get("podIP")
    # Pods on the host network have their node's address, which is not theirs alone.
    if spec.get("hostNetwork") or not address or ":" in address or status.get("phase") in ("Succeeded", "Failed"):
        return None
    return EgressPod(spec.get("nodeName", ""), IPv4Address(address), egress_address(obj))
