"""What the controller needs of Services and EndpointSlices, typed and frozen.

A Service that asks for another proxy (label ``service.kubernetes.io/service-proxy-name``) or for none (label
``service.kubernetes.io/headless``) has no view, as kube-proxy does not see it either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

from controller.openflow.match import Address, Network
from controller.parsing import any_address, parse, transport_port
from kmn.k8s.dataplane import WEIGHT
from kmn.k8s.families import FAMILIES
from kmn.k8s.loadbalancers import is_ours, read_load_balancer
from kmn.k8s.objects import Key, Object, annotation, key_of, labels, namespace_of

__all__ = [
    "Candidate",
    "Endpoint",
    "ServicePort",
    "ServiceView",
    "SliceView",
    "pod_weight",
    "service_view",
    "slice_view",
]

# Services with one of these labels are not for this proxy.
_NOT_OURS = ("service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless")
_DEFAULT_AFFINITY = 10800  # seconds
_MOST = 256  # of weights: each is so many flows


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of a Service in one IP family; ``name`` is "" when it has none, as in EndpointSlices.

    A dual-stack Service has each of its ports twice: as with kube-proxy, endpoints of one family serve its addresses.
    """

    name: str
    protocol: str
    port: int
    node_port: int = 0  # 0: none
    version: int = 4  # of IP

    @property
    def described(self) -> str:
        return f"{self.port}/{self.protocol}" + ("6" if self.version == 6 else "")


@dataclass(frozen=True, slots=True)
class ServiceView:
    """A Service with virtual addresses, and everything that leads to it. Addresses are of both families."""

    key: Key
    addresses: tuple[Address, ...]
    ports: tuple[ServicePort, ...]
    external_ips: tuple[Address, ...] = ()
    balancer_ips: tuple[Address, ...] = ()
    sources: tuple[Network, ...] = ()  # that may use the load balancer's addresses; none given: all may
    internal_local: bool = False  # internalTrafficPolicy: Local
    external_local: bool = False  # externalTrafficPolicy: Local
    affinity: int = 0  # seconds that a client stays with its endpoint; 0: no session affinity
    direct_return: bool = False  # the load balancer leaves answers to the nodes, which have endpoints of their own

    def targets(self, port: ServicePort) -> Iterator[tuple[Address | None, int]]:
        """What connections to a port are made to: an address (None: any node's) and a port."""
        for address in (*self.addresses, *self.external_ips, *self.balancer_ips):
            if address.version == port.version:
                yield address, port.port
        if port.node_port:
            yield None, port.node_port


def service_view(obj: Object) -> ServiceView | None:
    spec, marks = obj.get("spec") or {}, labels(obj)
    vips = [ip for ip in spec.get("clusterIPs") or [spec.get("clusterIP")] if ip and ip != "None"]
    if spec.get("type") == "ExternalName" or not vips or any(label in marks for label in _NOT_OURS):
        return None
    kind = spec.get("type") or "ClusterIP"
    with_node_ports = kind in ("NodePort", "LoadBalancer")
    addresses = tuple(
        any_address(obj, f"spec.clusterIPs[{i}]" if i else "spec.clusterIP", vip) for i, vip in enumerate(vips)
    )
    ports = []
    for i, port in enumerate(spec.get("ports") or ()):
        at, node_port = f"spec.ports[{i}]", port.get("nodePort") if with_node_ports else None
        ports += [
            ServicePort(
                port.get("name") or "",
                port.get("protocol") or "TCP",
                transport_port(obj, f"{at}.port", port.get("port")),
                transport_port(obj, f"{at}.nodePort", node_port) if node_port else 0,
                address.version,
            )
            for address in addresses
        ]
    return ServiceView(
        key_of(obj),
        addresses,
        tuple(ports),
        tuple(any_address(obj, f"spec.externalIPs[{i}]", ip) for i, ip in enumerate(spec.get("externalIPs") or ())),
        _balancer_ips(obj) if kind == "LoadBalancer" else (),
        _sources(obj) if kind == "LoadBalancer" else (),
        spec.get("internalTrafficPolicy") == "Local",
        spec.get("externalTrafficPolicy") == "Local",
        _affinity(obj),
        is_ours(obj) and read_load_balancer(obj).direct_return,
    )


def _balancer_ips(obj: Object) -> tuple[Address, ...]:
    ingress = ((obj.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    return tuple(
        any_address(obj, f"status.loadBalancer.ingress[{i}].ip", entry["ip"])
        for i, entry in enumerate(ingress)
        # With mode Proxy the load balancer's address is its own: packets must go there.
        if entry.get("ip") and entry.get("ipMode", "VIP") == "VIP"
    )


def _sources(obj: Object) -> tuple[Network, ...]:
    field = "spec.loadBalancerSourceRanges"
    return tuple(
        parse(obj, f"{field}[{i}]", lambda v: ip_network(v.strip(), strict=False), source, "a network like 10.0.0.0/8")
        for i, source in enumerate(obj["spec"].get("loadBalancerSourceRanges") or ())
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


def pod_weight(obj: Object) -> int | None:
    """What the pod's annotation says of how much of a Service it gets; None without one."""
    given = annotation(obj, WEIGHT)
    if given is None:
        return None
    return parse(obj, f"metadata.annotations[{WEIGHT}]", _weight, given, f"a whole number from 1 to {_MOST}")


def _weight(value: Any) -> int:
    if not 0 < int(value) <= _MOST:
        raise ValueError(value)
    return int(value)


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """One address and port behind a Service."""

    address: Address
    port: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """An endpoint of a slice that may be used: ready, or else still serving while it terminates."""

    address: Address
    ready: bool
    node: str = ""
    zones: tuple[str, ...] = ()  # hints: who should use it
    nodes: tuple[str, ...] = ()
    pod: Key | None = None


@dataclass(frozen=True, slots=True)
class SliceView:
    """An EndpointSlice: candidates of one IP family, and the number of each port (by name and protocol) on them."""

    key: Key
    service: Key
    candidates: tuple[Candidate, ...]
    ports: Mapping[tuple[str, str], int]
    version: int = 4  # of IP


def slice_view(obj: Object) -> SliceView | None:
    service = labels(obj).get("kubernetes.io/service-name")
    if not service or obj.get("addressType") not in FAMILIES:
        return None
    candidates = []
    for i, endpoint in enumerate(obj.get("endpoints") or ()):
        conditions = endpoint.get("conditions") or {}
        where = any_address(obj, f"endpoints[{i}].addresses[0]", (endpoint.get("addresses") or [None])[0])
        ready = conditions.get("ready") is not False  # absent and null mean ready
        if ready or (conditions.get("serving") and conditions.get("terminating")):
            hints = endpoint.get("hints") or {}
            zones = tuple(hint["name"] for hint in hints.get("forZones") or ())
            nodes = tuple(hint["name"] for hint in hints.get("forNodes") or ())
            pod = _pod(endpoint.get("targetRef") or {}, namespace_of(obj))
            candidates.append(Candidate(where, ready, endpoint.get("nodeName") or "", zones, nodes, pod))
    ports: dict[tuple[str, str], int] = {}
    for i, port in enumerate(obj.get("ports") or ()):
        if port.get("port") is None:
            continue  # "all ports" is a convention of non-Service consumers
        number = transport_port(obj, f"ports[{i}].port", port["port"])
        ports[port.get("name") or "", port.get("protocol") or "TCP"] = number
    key = key_of(obj)
    version = 4 + 2 * FAMILIES.index(obj["addressType"])
    return SliceView(key, Key(key.namespace, service), tuple(candidates), ports, version)


def _pod(reference: Object, namespace: str) -> Key | None:
    if reference.get("kind") != "Pod" or not reference.get("name"):
        return None
    return Key(reference.get("namespace") or namespace, reference["name"])
