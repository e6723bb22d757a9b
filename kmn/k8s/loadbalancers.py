"""What a Service of type LoadBalancer asks of the cloud in front of the cluster: fields, and annotations of clouds.

The control plane gives it an address by this, the controller makes it the edge's flows; both read it here. Annotations
that are not understood are listed, so that nobody believes them to be in force.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Literal

from kmn.k8s import objects
from kmn.k8s.objects import Object

__all__ = [
    "CLASS_INSTANCE",
    "CLASS_IP",
    "FORWARDING",
    "LB_ADDRESS",
    "TARGET",
    "Address",
    "LoadBalancer",
    "Network",
    "is_ours",
    "read_load_balancer",
    "takes_traffic",
]

_EXCLUDED = "node.kubernetes.io/exclude-from-external-load-balancers"

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# Values of spec.loadBalancerClass that are this load balancer; no class at all is, too.
CLASS_IP = "kmn.io/ip"
CLASS_INSTANCE = "kmn.io/instance"
_CLASSES = (None, "", CLASS_IP, CLASS_INSTANCE, "kmn.io/load-balancer")

TARGET = "kmn.io/lb-target"  # ip or instance
FORWARDING = "kmn.io/lb-forwarding"  # nat or dsr
LB_ADDRESS = "kmn.io/lb-address"  # addresses that it would like to have
_CILIUM_FORWARDING = "service.cilium.io/forwarding-mode"  # snat or dsr
_AWS = "service.beta.kubernetes.io/aws-load-balancer-"
_AZURE = "service.beta.kubernetes.io/azure-"
_GKE = "networking.gke.io/"
_GCP = "cloud.google.com/"
_CLOUDS = (_AWS, _AZURE, _GKE, _GCP)
_SOURCE_RANGES = "service.beta.kubernetes.io/load-balancer-source-ranges"

# Clouds' annotations of Services that say nothing about the way of packets: they may be there without being told of.
_HARMLESS = {
    _AWS + "name",
    _AWS + "type",
    _AWS + "additional-resource-tags",
    _AZURE + "load-balancer-resource-group",
    _AZURE + "pip-name",
    _AZURE + "pip-tags",
    _AZURE + "dns-label-name",
    _GCP + "neg-status",
    _GCP + "backend-config",
    _GCP + "app-protocols",
    _GKE + "load-balancer-subnet",
}


@dataclass(slots=True)
class LoadBalancer:
    """``target``: packets go to node ports (``instance``), or straight to pods (``ip``)."""

    target: Literal["instance", "ip"] = "instance"
    internal: bool = False  # nobody outside the cluster's networks reaches it
    preserve_client: bool = True  # else pods see the edge's address
    direct_return: bool = False  # nodes answer clients under the load balancer's address themselves
    source_ranges: tuple[Network, ...] | None = None  # None: everybody may come
    wanted: tuple[Address, ...] = ()  # addresses asked for, the first free one of each family is given
    problems: list[str] = field(default_factory=list)  # values that cannot be used, in words
    not_emulated: list[str] = field(default_factory=list)  # annotations without effect, in words


def takes_traffic(node: Object) -> bool:
    """Whether load balancers send to a node. Not when it is not ready, being deleted, or excluded by its label."""
    ready = objects.condition(node, "Ready")
    excluded = _EXCLUDED in objects.labels(node) or node["metadata"].get("deletionTimestamp")
    return not excluded and (ready is None or ready["status"] == "True")


def is_ours(service: Object) -> bool:
    """Is it a LoadBalancer of no class, or of one of kmn's?"""
    spec = service.get("spec") or {}
    return spec.get("type") == "LoadBalancer" and spec.get("loadBalancerClass") in _CLASSES


def read_load_balancer(service: Object) -> LoadBalancer:
    """All that is asked for, by a Service that :func:`is_ours`."""
    spec, notes = service.get("spec") or {}, objects.annotations(service)
    wish = LoadBalancer()
    if spec.get("loadBalancerClass") == CLASS_IP or spec.get("allocateLoadBalancerNodePorts") is False:
        wish.target = "ip"
    if spec.get("loadBalancerIP"):
        wish.wanted = _addresses(wish, "spec.loadBalancerIP", spec["loadBalancerIP"])
    for name, value in notes.items():
        reader = _READERS.get(name)
        if reader is not None:
            reader(wish, name, value)
        elif name.startswith(_CLOUDS) and name not in _HARMLESS:
            wish.not_emulated.append(f"{name}: not emulated")
    ranges = spec.get("loadBalancerSourceRanges")
    if ranges:
        wish.source_ranges = _networks(wish, "spec.loadBalancerSourceRanges", ",".join(ranges))
    if not any(port.get("nodePort") for port in spec.get("ports") or ()):
        wish.target = "ip"  # there is nothing else to send to
    if wish.direct_return:
        _check_direct_return(wish)
    return wish


def _check_direct_return(wish: LoadBalancer) -> None:
    """What does not go together with it."""
    if wish.target == "ip":
        wish.direct_return = False
        wish.problems.append(
            "direct server return needs node ports and targets of type instance, as nodes answer under the load "
            "balancer's address; answers pass the load balancer instead"
        )
    elif not wish.preserve_client:
        wish.preserve_client = True
        wish.problems.append(
            "direct server return answers the client itself, so its address is kept: preserve_client_ip.enabled=false "
            "has no effect"
        )


# --- values ----------------------------------------------------------------------------------------------------------


def _addresses(wish: LoadBalancer, where: str, text: str) -> tuple[Address, ...]:
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            found.append(ip_address(part))
        except ValueError:
            wish.problems.append(f"{where}: {part!r} should be an IP address")
    return tuple(found)


def _networks(wish: LoadBalancer, where: str, text: str) -> tuple[Network, ...]:
    """None of the ranges usable is not the same as no ranges: nobody may come then."""
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            found.append(ip_network(part, strict=False))
        except ValueError:
            wish.problems.append(f"{where}: {part!r} should be a network such as 203.0.113.0/24")
    return tuple(found)


def _target(wish: LoadBalancer, name: str, value: str) -> None:
    if value in ("ip", "nlb-ip"):
        wish.target = "ip"
    elif value == "instance":
        wish.target = "instance"
    else:
        wish.problems.append(f"{name}: {value!r} should be ip or instance")


def _forwarding(wish: LoadBalancer, name: str, value: str) -> None:
    """kmn's own: ``nat``, answers pass the load balancer, or ``dsr``, direct server return."""
    if value not in ("nat", "dsr"):
        wish.problems.append(f"{name}: {value!r} should be nat or dsr")
    wish.direct_return = value == "dsr"


def _cilium_forwarding(wish: LoadBalancer, name: str, value: str) -> None:
    """With ``snat`` the load balancer's node stands for the client."""
    if value not in ("snat", "dsr"):
        wish.problems.append(f"{name}: {value!r} should be snat or dsr")
    wish.direct_return = value == "dsr"
    wish.preserve_client = wish.preserve_client and value != "snat"


def _scheme(wish: LoadBalancer, name: str, value: str) -> None:
    if value not in ("internal", "internet-facing"):
        wish.problems.append(f"{name}: {value!r} should be internal or internet-facing")
    wish.internal = value == "internal"


def _internal(wish: LoadBalancer, name: str, value: str) -> None:
    """``true`` of AWS and Azure, ``Internal`` of GCP; AWS took 0.0.0.0/0 before."""
    wish.internal = value.lower() in ("true", "internal", "0.0.0.0/0")


def _wanted(wish: LoadBalancer, name: str, value: str) -> None:
    wish.wanted += _addresses(wish, name, value)


def _ranges(wish: LoadBalancer, name: str, value: str) -> None:
    if value.strip():
        wish.source_ranges = _networks(wish, name, value)


def _neg(wish: LoadBalancer, name: str, value: str) -> None:
    """Container-native load balancing of GKE: network endpoint groups hold pods."""
    if '"ingress":true' in value.replace(" ", "").replace("\n", "") or "exposed_ports" in value:
        wish.target = "ip"


def _aws_type(wish: LoadBalancer, name: str, value: str) -> None:
    """``nlb-ip`` is the old way to ask for targets of type ip."""
    if value == "nlb-ip":
        wish.target = "ip"


def _cross_zone(wish: LoadBalancer, name: str, value: str) -> None:
    if value.lower() != "true":
        wish.not_emulated.append(f"{name}: {value}: the edge is in no zone, and uses targets of all zones alike")


def _target_group(wish: LoadBalancer, name: str, value: str) -> None:
    """``key=value,key=value``: attributes of the target group."""
    for part in filter(None, (part.strip() for part in value.split(","))):
        key, _, text = part.partition("=")
        if key == "preserve_client_ip.enabled":
            wish.preserve_client = text.lower() != "false"
        elif key == "load_balancing.cross_zone.enabled":
            _cross_zone(wish, f"{name} ({key})", text)
        else:
            wish.not_emulated.append(f"{name} ({key}): not emulated")


def _attributes(wish: LoadBalancer, name: str, value: str) -> None:
    for part in filter(None, (part.strip() for part in value.split(","))):
        key, _, text = part.partition("=")
        if key == "load_balancing.cross_zone.enabled":
            _cross_zone(wish, f"{name} ({key})", text)
        elif not key.startswith(("deletion_protection", "access_logs")):
            wish.not_emulated.append(f"{name} ({key}): not emulated")


_READERS: dict[str, Callable[[LoadBalancer, str, str], None]] = {
    TARGET: _target,
    FORWARDING: _forwarding,
    _CILIUM_FORWARDING: _cilium_forwarding,
    "kmn.io/lb-scheme": _scheme,
    LB_ADDRESS: _wanted,
    "metallb.io/loadBalancerIPs": _wanted,
    "metallb.universe.tf/loadBalancerIPs": _wanted,
    _SOURCE_RANGES: _ranges,
    _AWS + "type": _aws_type,
    _AWS + "nlb-target-type": _target,
    _AWS + "scheme": _scheme,
    _AWS + "internal": _internal,
    _AWS + "private-ipv4-addresses": _wanted,
    _AWS + "ipv6-addresses": _wanted,
    _AWS + "cross-zone-load-balancing-enabled": _cross_zone,
    _AWS + "target-group-attributes": _target_group,
    _AWS + "attributes": _attributes,
    _AZURE + "load-balancer-internal": _internal,
    _AZURE + "load-balancer-ipv4": _wanted,
    _AZURE + "load-balancer-ipv6": _wanted,
    _AZURE + "allowed-ip-ranges": _ranges,
    _GKE + "load-balancer-type": _internal,
    _GCP + "load-balancer-type": _internal,
    _GCP + "neg": _neg,
}
