"""What the controller needs of Services and EndpointSlices, typed and frozen.

A Service that asks for another proxy (label ``service.kubernetes.io/service-proxy-name``) or for none (label
``service.kubernetes.io/headless``) has no view, as kube-proxy does not see it either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from controller.parsing import address, parse, transport_port
from kmn.k8s.loadbalancers import is_ours, read_load_balancer
from kmn.k8s.objects import Key, Object, key_of, labels

__all__ = ["Candidate", "Endpoint", "ServicePort", "ServiceView", "SliceView", "service_view", "slice_view"]

# Services with one of these labels are not for this proxy.
_NOT_OURS = ("service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless")
_DEFAULT_AFFINITY = 10800  # seconds


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of a Service; ``name`` is "" when it has none, as in EndpointSlices."""

    name: str
    protocol: str
    port: int
    node_port: int = 0  # 0: none

    @property
    def described(self) -> str:
        return f"{self.port}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class ServiceView:
    """A Service with a virtual address, and everything that leads to it."""

    key: Key
    address: IPv4Address
    ports: tuple[ServicePort, ...]
    external_ips: tuple[IPv4Address, ...] = ()
    balancer_ips: tuple[IPv4Address, ...] = ()
    sources: tuple[IPv4Network, ...] = ()  # that may use the load balancer's addresses; none given: all may
    internal_local: bool = False  # internalTrafficPolicy: Local
    external_local: bool = False  # externalTrafficPolicy: Local
    affinity: int = 0  # seconds that a client stays with its endpoint; 0: no session affinity
    direct_return: bool = False  # the load balancer leaves answers to the nodes, which have endpoints of their own


def service_view(obj: Object) -> ServiceView | None:
    spec, marks = obj.get("spec") or {}, labels(obj)
    vip = _first_ipv4(spec.get("clusterIPs") or [spec.get("clusterIP")])
    if spec.get("type") == "ExternalName" or vip is None or any(label in marks for label in _NOT_OURS):
        return None
    kind = spec.get("type") or "ClusterIP"
    with_node_ports = kind in ("NodePort", "LoadBalancer")
    ports = []
    for i, port in enumerate(spec.get("ports") or ()):
        at, node_port = f"spec.ports[{i}]", port.get("nodePort") if with_node_ports else None
        ports.append(
            ServicePort(
                port.get("name") or "",
                port.get("protocol") or "TCP",
                transport_port(obj, f"{at}.port", port.get("port")),
                transport_port(obj, f"{at}.nodePort", node_port) if node_port else 0,
            )
        )
    return ServiceView(
        key_of(obj),
        address(obj, "spec.clusterIP", vip),
        tuple(ports),
        tuple(
            address(obj, f"spec.externalIPs[{i}]", ip)
            for i, ip in enumerate(spec.get("externalIPs") or ())
            if ":" not in ip
        ),
        _balancer_ips(obj) if kind == "LoadBalancer" else (),
        _sources(obj) if kind == "LoadBalancer" else (),
        spec.get("internalTrafficPolicy") == "Local",
        spec.get("externalTrafficPolicy") == "Local",
        _affinity(obj),
        is_ours(obj) and read_load_balancer(obj).direct_return,
    )


def _first_ipv4(addresses: list[str | None]) -> str | None:
    return next((a for a in addresses if a and a != "None" and ":" not in a), None)


def _balancer_ips(obj: Object) -> tuple[IPv4Address, ...]:
    ingress = ((obj.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    return tuple(
        address(obj, f"status.loadBalancer.ingress[{i}].ip", entry["ip"])
        for i, entry in enumerate(ingress)
        # With mode Proxy the load balancer's address is its own: packets must go there.
        if entry.get("ip") and ":" not in entry["ip"] and entry.get("ipMode", "VIP") == "VIP"
    )


def _sources(obj: Object) -> tuple[IPv4Network, ...]:
    field = "spec.loadBalancerSourceRanges"
    return tuple(
        parse(obj, f"{field}[{i}]", lambda v: IPv4Network(v.strip(), strict=False), source, "a network like 10.0.0.0/8")
        for i, source in enumerate(obj["spec"].get("loadBalancerSourceRanges") or ())
        if ":" not in source
    )


def _affinity(obj: Object) -> int:
    if obj["spec"].get("sessionAffinity") != "ClientIP":
        return 0
    given = ((obj["spec"].get("sessionAffinityConfig") or {}).get("clientIP") or {}).get("timeoutSeconds")
    if given is None:
        return _DEFAULT_AFFINITY
    field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
    return parse(obj, field, _seconds, given, "a number from 1 to 86400")


def _seconds(value: object) -> int:
    if not isinstance(value, int) or not 0 < value <= 86400:
        raise ValueError(value)
    return value


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """One address and port behind a Service."""

    address: IPv4Address
    port: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """An endpoint of a slice that may be used: ready, or else still serving while it terminates."""

    address: IPv4Address
    ready: bool
    node: str = ""
    zones: tuple[str, ...] = ()  # hints: who should use it
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SliceView:
    """An IPv4 EndpointSlice: candidates, and the number that each port (by name and protocol) has on them."""

    key: Key
    service: Key
    candidates: tuple[Candidate, ...]
    ports: Mapping[tuple[str, str], int]


def slice_view(obj: Object) -> SliceView | None:
    service = labels(obj).get("kubernetes.io/service-name")
    if not service or obj.get("addressType") != "IPv4":
        return None
    candidates = []
    for i, endpoint in enumerate(obj.get("endpoints") or ()):
        conditions = endpoint.get("conditions") or {}
        where = address(obj, f"endpoints[{i}].addresses[0]", (endpoint.get("addresses") or [None])[0])
        ready = conditions.get("ready") is not False  # absent and null mean ready
        if ready or (conditions.get("serving") and conditions.get("terminating")):
            hints = endpoint.get("hints") or {}
            zones = tuple(hint["name"] for hint in hints.get("forZones") or ())
            nodes = tuple(hint["name"] for hint in hints.get("forNodes") or ())
            candidates.append(Candidate(where, ready, endpoint.get("nodeName") or "", zones, nodes))
    ports: dict[tuple[str, str], int] = {}
    for i, port in enumerate(obj.get("ports") or ()):
        if port.get("port") is None:
            continue  # "all ports" is a convention of non-Service consumers
        number = transport_port(obj, f"ports[{i}].port", port["port"])
        ports[port.get("name") or "", port.get("protocol") or "TCP"] = number
    key = key_of(obj)
    return SliceView(key, Key(key.namespace, service), tuple(candidates), ports)
