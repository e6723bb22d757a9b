"""Rules for Services. After ``ValidateService`` and ``ValidateServiceUpdate`` of ``pkg/apis/core/validation``.

Whether an address or node port is free and in its range is the allocator's question (``services``); IP families have a
module of their own (``ipfamilies``).
"""

from __future__ import annotations

from ipaddress import ip_address as parse_ip
from typing import Any

from kmn.apiserver.admission.pods import port_number_or_name
from kmn.apiserver.admission.rules import (
    PROTOCOLS,
    Errors,
    cidr,
    dns_label,
    dns_subdomain,
    ip_address,
    port_number,
    qualified_name,
)
from kmn.apiserver.admission.services import needs_health_check_port
from kmn.k8s.objects import Object

__all__ = ["check_service", "special_address"]

Fields = dict[str, Any]

_TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_KUBELET_PORT = 10250
_DAY = 86400
_DISTRIBUTIONS = ("PreferClose", "PreferSameZone", "PreferSameNode")


def check_service(errors: Errors, new: Object, old: Object | None) -> None:
    spec = new["spec"]
    if not errors.choice("spec.type", spec["type"], _TYPES):
        return
    headless = _cluster_ips(errors, spec)
    _of_type(errors, spec, headless)
    _ports(errors, spec, headless)
    errors.labels("spec.selector", spec.get("selector"))
    _affinity(errors, spec)
    _external(errors, spec)
    _load_balancer(errors, spec)
    if old is not None:
        _update(errors, spec, old["spec"])


def special_address(text: str) -> str:
    """Why an address cannot be an endpoint or an external address, "" when it can."""
    must = ip_address(text)
    if must:
        return must
    address = parse_ip(text)
    for what, is_so in (
        ("unspecified", address.is_unspecified),
        ("loopback", address.is_loopback),
        ("link-local", address.is_link_local),
        ("multicast", address.is_multicast),
    ):
        if is_so:
            return f"must be an address that can be reached, not a {what} one"
    return ""


def _cluster_ips(errors: Errors, spec: Fields) -> bool:
    """Check the cluster addresses; whether the Service is headless."""
    address, addresses = spec.get("clusterIP") or "", spec.get("clusterIPs") or []
    if address and addresses and addresses[0] != address:
        errors.invalid("spec.clusterIPs[0]", addresses[0], f"must be spec.clusterIP ({address})")
    for index, each in enumerate(addresses or [address]):
        path = "spec.clusterIP" if address and index == 0 else f"spec.clusterIPs[{index}]"
        if each and spec["type"] != "ExternalName" and each != "None" and (must := ip_address(each)):
            errors.invalid(path, each, f'{must}, "None" for a headless Service, or left out')
    first = address or next(iter(addresses), "")
    return first == "None"


def _of_type(errors: Errors, spec: Fields, headless: bool) -> None:
    kind = spec["type"]
    if kind == "ExternalName":
        for field in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
            if spec.get(field):
                errors.forbidden(f"spec.{field}", "may not be given with type ExternalName: remove it")
        name = spec.get("externalName") or ""
        if name:
            errors.check("spec.externalName", name.removesuffix("."), dns_subdomain)
        else:
            errors.required("spec.externalName", "required with type ExternalName")
        return
    if headless and kind != "ClusterIP":
        errors.invalid("spec.clusterIP", "None", f"may not be None with type {kind}")
    if not spec.get("ports") and not headless:
        errors.required("spec.ports", "required: at least one port (only a headless Service can do without)")
    for index, port in enumerate(spec.get("ports") or ()):
        if kind == "LoadBalancer" and port["port"] == _KUBELET_PORT:
            errors.invalid(f"spec.ports[{index}].port", port["port"], "may not be exposed: the kubelet's port")
        if kind == "ClusterIP" and port.get("nodePort"):
            errors.forbidden(
                f"spec.ports[{index}].nodePort", "may not be given with type ClusterIP: remove it, or use type NodePort"
            )


def _ports(errors: Errors, spec: Fields, headless: bool) -> None:
    ports = spec.get("ports") or []
    names: dict[str, str] = {}
    numbers: dict[tuple[str, int], str] = {}
    node_ports: dict[tuple[str, int], str] = {}
    for index, port in enumerate(ports):
        at = f"spec.ports[{index}]"
        name, number, protocol = port.get("name") or "", port["port"], port["protocol"]
        if name:
            errors.check(f"{at}.name", name, dns_label)
            if name in names:
                errors.duplicate(f"{at}.name", name, names[name])
            names.setdefault(name, f"{at}.name")
        elif len(ports) > 1:
            errors.required(f"{at}.name", "required when there is more than one port")
        errors.check(f"{at}.port", number, port_number)
        errors.choice(f"{at}.protocol", protocol, PROTOCOLS)
        port_number_or_name(errors, f"{at}.targetPort", port["targetPort"])
        if port.get("appProtocol"):
            errors.check(f"{at}.appProtocol", port["appProtocol"], qualified_name)
        if (protocol, number) in numbers:
            errors.duplicate(at, f"{protocol} {number}", numbers[protocol, number])
        numbers.setdefault((protocol, number), at)
        node_port = port.get("nodePort")
        if node_port and (protocol, node_port) in node_ports:
            errors.duplicate(f"{at}.nodePort", node_port, node_ports[protocol, node_port])
        if node_port:
            node_ports.setdefault((protocol, node_port), f"{at}.nodePort")


def _affinity(errors: Errors, spec: Fields) -> None:
    errors.choice("spec.sessionAffinity", spec["sessionAffinity"], ("ClientIP", "None"))
    if spec["sessionAffinity"] == "ClientIP":
        timeout = spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"]
        if not 0 < timeout <= _DAY:
            path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
            errors.invalid(path, timeout, f"must be 1 to {_DAY} seconds")


def _external(errors: Errors, spec: Fields) -> None:
    """How traffic comes in: policies, external addresses."""
    for index, address in enumerate(spec.get("externalIPs") or ()):
        errors.check(f"spec.externalIPs[{index}]", address, special_address)
    policy = spec.get("externalTrafficPolicy")
    if policy:
        if spec["type"] in ("NodePort", "LoadBalancer") or spec.get("externalIPs"):
            errors.choice("spec.externalTrafficPolicy", policy, ("Cluster", "Local"))
        else:
            must = "may only be given with type NodePort or LoadBalancer, or with externalIPs"
            errors.invalid("spec.externalTrafficPolicy", policy, must)
    if spec.get("internalTrafficPolicy"):
        errors.choice("spec.internalTrafficPolicy", spec["internalTrafficPolicy"], ("Cluster", "Local"))
    if spec.get("trafficDistribution"):
        errors.choice("spec.trafficDistribution", spec["trafficDistribution"], _DISTRIBUTIONS)
    if spec.get("healthCheckNodePort") and not needs_health_check_port(spec):
        must = "may only be given with type LoadBalancer and externalTrafficPolicy Local"
        errors.invalid("spec.healthCheckNodePort", spec["healthCheckNodePort"], must)


def _load_balancer(errors: Errors, spec: Fields) -> None:
    if spec["type"] != "LoadBalancer":
        for field in ("loadBalancerSourceRanges", "loadBalancerClass", "allocateLoadBalancerNodePorts"):
            if spec.get(field) not in (None, []):
                errors.forbidden(f"spec.{field}", "may only be given with type LoadBalancer: remove it")
        return
    for index, source in enumerate(spec.get("loadBalancerSourceRanges") or ()):
        errors.check(f"spec.loadBalancerSourceRanges[{index}]", source.strip(), cidr)
    if spec.get("loadBalancerClass"):
        errors.check("spec.loadBalancerClass", spec["loadBalancerClass"], qualified_name)
    if spec.get("loadBalancerIP"):
        errors.check("spec.loadBalancerIP", spec["loadBalancerIP"], ip_address)


def _update(errors: Errors, spec: Fields, was: Fields) -> None:
    if "ExternalName" not in (spec["type"], was["type"]):
        before, after = was.get("clusterIP"), spec.get("clusterIP")
        if before and after != before:
            errors.immutable("spec.clusterIP", after, before, "leave it out, or delete the Service and create it again")
        had, has = was.get("clusterIPs") or [], spec.get("clusterIPs") or []
        if len(had) == len(has) == 2 and had[1] != has[1]:
            errors.invalid("spec.clusterIPs[1]", has, "may not change once set")
    if spec["type"] == was["type"] == "LoadBalancer":
        errors.immutable("spec.loadBalancerClass", spec.get("loadBalancerClass"), was.get("loadBalancerClass"))
