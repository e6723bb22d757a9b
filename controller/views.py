"""What the controller needs of API objects, typed and frozen.

``*_view`` functions give None for an object that has no flows (yet), and raise :class:`Malformed` for one that cannot
be understood: that object is reported and has no flows; all others are not affected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from itertools import pairwise
from typing import Any, TypeVar

from kmn.k8s import dataplane, objects
from kmn.k8s.objects import Key, Object, describe, key_of, labels, name_of

__all__ = [
    "EdgeHost",
    "EdgeView",
    "Endpoint",
    "Malformed",
    "NodeView",
    "PodView",
    "ServicePort",
    "ServiceView",
    "SliceView",
    "edge_view",
    "node_view",
    "pod_view",
    "service_cidr",
    "service_view",
    "slice_view",
]

T = TypeVar("T")


class Malformed(ValueError):
    """An object with a field that cannot be used. The text names object, field and what would be right."""


def _parse(obj: Object, field: str, parse: Callable[[Any], T], value: object, wanted: str) -> T:
    try:
        return parse(value)
    except (ValueError, TypeError, KeyError) as error:
        raise Malformed(f"{describe(obj)}: {field}: {value!r} should be {wanted}") from error


def _port_number(value: Any) -> int:
    number = int(value)
    if not 0 < number < 0xFF00:
        raise ValueError(value)
    return number


def _mac(value: Any) -> str:
    if len(bytes.fromhex(value.replace(":", ""))) != 6 or len(value) != 17:
        raise ValueError(value)
    return str(value).lower()


def _address(obj: Object, field: str, value: object) -> IPv4Address:
    return _parse(obj, field, lambda v: IPv4Address(str(v)), value, "an IPv4 address")


@dataclass(frozen=True, slots=True)
class PodView:
    """A pod with a port of its own on its node's bridge."""

    key: Key
    node: str
    address: IPv4Address
    mac: str
    ofport: int


def pod_view(obj: Object) -> PodView | None:
    spec, status, notes = obj.get("spec") or {}, obj.get("status") or {}, objects.annotations(obj)
    if spec.get("hostNetwork") or dataplane.OFPORT not in notes or not status.get("podIP") or not spec.get("nodeName"):
        return None
    if status.get("phase") in ("Succeeded", "Failed"):
        return None  # its containers are gone, and its address may be another pod's by now
    where = f"metadata.annotations[{dataplane.OFPORT}]"
    return PodView(
        key_of(obj),
        spec["nodeName"],
        _address(obj, "status.podIP", status["podIP"]),
        _parse(obj, f"metadata.annotations[{dataplane.MAC}]", _mac, notes.get(dataplane.MAC), "a MAC address"),
        _parse(obj, where, _port_number, notes[dataplane.OFPORT], "an OpenFlow port number"),
    )


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node whose bridge can be programmed."""

    name: str
    netns: str
    datapath_id: int
    address: IPv4Address
    pod_cidr: IPv4Network
    mac: str
    ofport: int
    uplink_mac: str
    next_hop_mac: str

    @property
    def gateway(self) -> IPv4Address:
        """The node's own address in its pods' network."""
        return self.pod_cidr[1]


def node_view(obj: Object) -> NodeView | None:
    notes = objects.annotations(obj)
    needed = (
        dataplane.NETNS,
        dataplane.DATAPATH_ID,
        dataplane.MAC,
        dataplane.UPLINK_MAC,
        dataplane.UPLINK_NEXT_HOP_MAC,
    )
    pod_cidr = (obj.get("spec") or {}).get("podCIDR")
    addresses = (obj.get("status") or {}).get("addresses") or ()
    internal = next((a.get("address") for a in addresses if a.get("type") == "InternalIP"), None)
    if not pod_cidr or not internal or any(note not in notes for note in needed):
        return None

    def note(name: str, parse: Callable[[Any], T], wanted: str) -> T:
        return _parse(obj, f"metadata.annotations[{name}]", parse, notes.get(name), wanted)

    cidr = _parse(obj, "spec.podCIDR", lambda v: IPv4Network(str(v)), pod_cidr, "an IPv4 network")
    if cidr.prefixlen > 30:
        raise Malformed(f"{describe(obj)}: spec.podCIDR: {cidr} is too small; /30 or larger")
    return NodeView(
        name_of(obj),
        notes[dataplane.NETNS],
        note(dataplane.DATAPATH_ID, _datapath_id, "16 hexadecimal digits"),
        _address(obj, "status.addresses[InternalIP]", internal),
        cidr,
        note(dataplane.MAC, _mac, "a MAC address"),
        _parse(
            obj,
            f"metadata.annotations[{dataplane.OFPORT}]",
            _port_number,
            notes.get(dataplane.OFPORT, str(dataplane.HOST_OFPORT)),
            "an OpenFlow port number",
        ),
        note(dataplane.UPLINK_MAC, _mac, "a MAC address"),
        note(dataplane.UPLINK_NEXT_HOP_MAC, _mac, "a MAC address"),
    )


def _datapath_id(value: Any) -> int:
    if len(value) != 16:
        raise ValueError(value)
    return int(value, 16)


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of a Service; ``name`` is "" when it has none, as in EndpointSlices."""

    name: str
    protocol: str
    port: int

    @property
    def described(self) -> str:
        return f"{self.port}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class ServiceView:
    """A Service with a virtual address."""

    key: Key
    address: IPv4Address
    ports: tuple[ServicePort, ...]


def service_view(obj: Object) -> ServiceView | None:
    spec = obj.get("spec") or {}
    address = _first_ipv4(spec.get("clusterIPs") or [spec.get("clusterIP")])
    if spec.get("type") == "ExternalName" or address is None:
        return None
    ports = tuple(
        ServicePort(
            port.get("name") or "",
            port.get("protocol") or "TCP",
            _parse(obj, f"spec.ports[{i}].port", _transport_port, port.get("port"), "a number from 1 to 65535"),
        )
        for i, port in enumerate(spec.get("ports") or ())
    )
    return ServiceView(key_of(obj), _address(obj, "spec.clusterIP", address), ports)


def _first_ipv4(addresses: list[str | None]) -> str | None:
    return next((a for a in addresses if a and a != "None" and ":" not in a), None)


def _transport_port(value: Any) -> int:
    if isinstance(value, bool) or not 0 < int(value) < 0x10000:
        raise ValueError(value)
    return int(value)


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """One address and port behind a Service."""

    address: IPv4Address
    port: int


@dataclass(frozen=True, slots=True)
class SliceView:
    """An IPv4 EndpointSlice: per port name and protocol the endpoints to use, and those to use for want of better."""

    key: Key
    service: Key
    ready: Mapping[tuple[str, str], frozenset[Endpoint]]
    serving: Mapping[tuple[str, str], frozenset[Endpoint]]  # not ready as they terminate, but still serving


def slice_view(obj: Object) -> SliceView | None:
    service = labels(obj).get("kubernetes.io/service-name")
    if not service or obj.get("addressType") != "IPv4":
        return None
    ready: list[IPv4Address] = []
    serving: list[IPv4Address] = []
    for i, endpoint in enumerate(obj.get("endpoints") or ()):
        conditions = endpoint.get("conditions") or {}
        addresses = endpoint.get("addresses") or [None]
        address = _address(obj, f"endpoints[{i}].addresses[0]", addresses[0])
        if conditions.get("ready") is not False:  # absent and null mean ready
            ready.append(address)
        elif conditions.get("serving") and conditions.get("terminating"):
            serving.append(address)
    ports: dict[tuple[str, str], int] = {}
    for i, port in enumerate(obj.get("ports") or ()):
        if port.get("port") is None:
            continue  # "all ports" is a convention of non-Service consumers
        number = _parse(obj, f"ports[{i}].port", _transport_port, port["port"], "a number from 1 to 65535")
        ports[port.get("name") or "", port.get("protocol") or "TCP"] = number
    key = key_of(obj)
    return SliceView(key, Key(key.namespace, service), _spread(ports, ready), _spread(ports, serving))


def _spread(
    ports: Mapping[tuple[str, str], int], addresses: list[IPv4Address]
) -> dict[tuple[str, str], frozenset[Endpoint]]:
    if not addresses:
        return {}
    return {name: frozenset([Endpoint(address, port) for address in addresses]) for name, port in ports.items()}


@dataclass(frozen=True, slots=True)
class EdgeHost:
    """A host outside the cluster, on the edge's bridge."""

    name: str
    address: IPv4Address
    mac: str
    ofport: int


@dataclass(frozen=True, slots=True)
class EdgeView:
    """The edge between the fabric and the hosts outside."""

    name: str
    netns: str
    datapath_id: int
    fabric_ofport: int
    fabric_mac: str
    next_hop_mac: str
    address: IPv4Address
    internet_cidr: IPv4Network
    nat_addresses: tuple[IPv4Address, ...]  # one after the other without gaps; none: no NAT
    nat_ports: tuple[int, int]
    load_balancers: IPv4Network
    nodes: IPv4Network | None  # whose node ports are open to the outside
    cluster_cidrs: tuple[IPv4Network, ...]
    hosts: tuple[EdgeHost, ...]


def edge_view(obj: Object) -> EdgeView | None:
    spec = obj.get("spec") or {}
    fabric = spec.get("fabric") or {}
    if not spec.get("netns") or not spec.get("datapathID") or not fabric:
        return None

    def network(field: str, value: object) -> IPv4Network:
        return _parse(obj, field, lambda v: IPv4Network(str(v)), value, "an IPv4 network")

    def mac(field: str, value: object) -> str:
        return _parse(obj, field, _mac, value, "a MAC address")

    def ofport(field: str, value: object) -> int:
        return _parse(obj, field, _port_number, value, "an OpenFlow port number")

    hosts = tuple(
        EdgeHost(
            host.get("name", f"hosts[{i}]"),
            _address(obj, f"spec.hosts[{i}].ip", host.get("ip")),
            mac(f"spec.hosts[{i}].mac", host.get("mac")),
            ofport(f"spec.hosts[{i}].ofport", host.get("ofport")),
        )
        for i, host in enumerate(spec.get("hosts") or ())
    )
    return EdgeView(
        name_of(obj),
        spec["netns"],
        _parse(obj, "spec.datapathID", _datapath_id, spec["datapathID"], "16 hexadecimal digits"),
        ofport("spec.fabric.ofport", fabric.get("ofport")),
        mac("spec.fabric.mac", fabric.get("mac")),
        mac("spec.fabric.nextHopMAC", fabric.get("nextHopMAC")),
        _address(obj, "spec.address", spec.get("address")),
        network("spec.internetCIDR", spec.get("internetCIDR")),
        _nat_addresses(obj),
        _parse(
            obj, "spec.natPorts", _port_range, spec.get("natPorts", "1024-65535"), "a range of ports such as 1024-65535"
        ),
        network("spec.loadBalancerCIDR", spec.get("loadBalancerCIDR", "192.0.2.0/24")),
        network("spec.nodeCIDR", spec["nodeCIDR"]) if spec.get("nodeCIDR") else None,
        tuple(network(f"spec.clusterCIDRs[{i}]", c) for i, c in enumerate(spec.get("clusterCIDRs") or ())),
        hosts,
    )


def _nat_addresses(obj: Object) -> tuple[IPv4Address, ...]:
    spec = obj["spec"]
    if spec.get("natOutgoing") is False:
        return ()
    found = [_address(obj, f"spec.natAddresses[{i}]", a) for i, a in enumerate(spec.get("natAddresses") or ())]
    for i, (one, other) in enumerate(pairwise(found)):
        if other != one + 1:
            raise Malformed(
                f"{describe(obj)}: spec.natAddresses[{i + 1}]: '{other}' should be {one + 1}, without a gap"
            )
    return tuple(found)


def _port_range(value: Any) -> tuple[int, int]:
    first, last = (int(port) for port in value.split("-"))
    if not 0 < first <= last < 0x10000:
        raise ValueError(value)
    return first, last


def service_cidr(obj: Object) -> IPv4Network | None:
    """The network of virtual addresses, from the Cluster object."""
    value = (obj.get("spec") or {}).get("serviceCIDR")
    if not value:
        return None
    return _parse(obj, "spec.serviceCIDR", lambda v: IPv4Network(str(v)), value, "an IPv4 network")
