"""The records of one Service: specification §2.3 (ClusterIP), §2.4 (headless), §2.5 (ExternalName).

Two things go beyond its text, as CoreDNS does: endpoints of a ClusterIP Service have names as well (reverse look-ups
lead to them), and SRV at the Service's own name lists all ports.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from kmn.dns.records import Node, Record, RRType, Srv, address_record
from kmn.k8s.objects import name_of, namespace_of

__all__ = ["Endpoint", "cluster_ips", "ready_endpoints", "service_name", "service_nodes"]

_PRIORITY = 0
_WEIGHT = 100


class Endpoint(NamedTuple):
    """A ready endpoint of a slice: its label below the Service's name, its address, the slice's ports."""

    hostname: str
    named: bool  # the slice says the hostname; otherwise it is made from the address
    address: str
    ports: tuple[tuple[str, str, int], ...]  # name, protocol, number


def service_name(service: Mapping[str, Any], domain: str) -> str:
    """``web.shop.svc.cluster.local.``"""
    return f"{name_of(service)}.{namespace_of(service)}.svc.{domain}".lower()


def cluster_ips(service: Mapping[str, Any]) -> tuple[str, ...]:
    """The Service's own addresses; none for headless and ExternalName, and none yet before allocation."""
    spec = service["spec"]
    if spec.get("type") == "ExternalName":
        return ()
    addresses = spec.get("clusterIPs") or [spec.get("clusterIP")]
    return tuple(address for address in addresses if address and address != "None")


def ready_endpoints(slices: Iterable[Mapping[str, Any]]) -> Iterator[Endpoint]:
    """Endpoints that have records. ``publishNotReadyAddresses`` has made its endpoints ready in the slice already."""
    for piece in slices:
        if piece.get("addressType") == "FQDN":  # names, not addresses: the specification gives them no records
            continue
        ports = tuple(
            (port.get("name") or "", port.get("protocol") or "TCP", port["port"])
            for port in piece.get("ports") or ()
            if port.get("port") is not None
        )
        for endpoint in piece.get("endpoints") or ():
            if (endpoint.get("conditions") or {}).get("ready") is False:
                continue
            hostname = endpoint.get("hostname") or ""
            for address in endpoint["addresses"]:
                yield Endpoint((hostname or _label(address)).lower(), bool(hostname), address, ports)


def service_nodes(service: Mapping[str, Any], slices: Iterable[Mapping[str, Any]], domain: str) -> Mapping[str, Node]:
    """Everything at and below a Service's name. Empty: the name does not exist."""
    name = service_name(service, domain)
    spec = service["spec"]
    if spec.get("type") == "ExternalName":
        target = str(spec["externalName"]).rstrip(".").lower() + "."
        return {name: {RRType.CNAME: (Record(name, RRType.CNAME, target),)}}
    endpoints = list(ready_endpoints(slices))
    addresses = cluster_ips(service)
    records = [address_record(f"{e.hostname}.{name}", e.address) for e in endpoints]
    if addresses:
        records += [address_record(name, address) for address in addresses]
        ports = [(p.get("name") or "", p.get("protocol") or "TCP", p["port"]) for p in spec.get("ports") or ()]
        records += _srv_records(name, name, ports)
    elif spec.get("clusterIP") == "None":
        records += [address_record(name, e.address) for e in endpoints]
        for e in endpoints:
            records += _srv_records(name, f"{e.hostname}.{name}", e.ports)
    else:
        return {}  # its address is still to be allocated
    return _nodes(records, name)


def _label(address: str) -> str:
    """The label of an endpoint without hostname, as CoreDNS makes it: ``10-244-1-7``."""
    return address.replace(".", "-").replace(":", "-")


def _srv_records(name: str, target: str, ports: Iterable[tuple[str, str, int]]) -> Iterator[Record]:
    for port_name, protocol, number in ports:
        data = Srv(_PRIORITY, _WEIGHT, number, target)
        yield Record(name, RRType.SRV, data)
        if port_name:
            yield Record(f"_{port_name}._{protocol}.{name}".lower(), RRType.SRV, data)


def _nodes(records: Iterable[Record], apex: str) -> dict[str, Node]:
    """Records by name and type, doubles dropped, with the empty nodes between them and the Service's name."""
    found: dict[str, dict[RRType, dict[Record, None]]] = {}
    for record in records:
        found.setdefault(record.name, {}).setdefault(record.type, {})[record] = None
    nodes: dict[str, Node] = {
        name: {kind: tuple(rrset) for kind, rrset in rrsets.items()} for name, rrsets in found.items()
    }
    for name in found:
        while name != apex and (name := name.partition(".")[2]) not in nodes:
            nodes[name] = {}
    return nodes
