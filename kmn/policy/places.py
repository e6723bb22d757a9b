"""What is behind an address: pods, nodes, hosts outside, Services. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from kmn.k8s.families import host_ips
from kmn.k8s.objects import Key, Object
from kmn.k8s.resources import EDGES, NODES, PODS, SERVICES, Resource
from kmn.policy.selection import Address, member_of

__all__ = ["Place", "Places"]


@dataclass(frozen=True, slots=True)
class Place:
    """One end of a packet. ``kind`` is pod, node, host or service, or "" where the address says all that is known."""

    kind: str
    name: str
    address: Address

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" if self.kind else str(self.address)


class Places:
    """All addresses that have a name, kept up to date object by object."""

    resources = (PODS, NODES, SERVICES, EDGES)

    def __init__(self) -> None:
        self._named: dict[Address, dict[tuple[Resource, Key], Place]] = {}
        self._of: dict[tuple[Resource, Key], tuple[Place, ...]] = {}

    def put(self, resource: Resource, key: Key, obj: Object | None) -> None:
        """An object of one of the resources came, changed or (None) went."""
        for place in self._of.pop((resource, key), ()):
            named = self._named[place.address]
            del named[resource, key]
            if not named:
                del self._named[place.address]
        places = tuple(_PLACES[resource](key, obj)) if obj is not None else ()
        for place in places:
            self._named.setdefault(place.address, {})[resource, key] = place
        if places:
            self._of[resource, key] = places

    def at(self, address: Address) -> Place:
        """The newest of what has this address."""
        named = self._named.get(address)
        return next(reversed(named.values())) if named else Place("", "", address)


def _addresses(texts: Iterable[str | None]) -> Iterable[Address]:
    return (ip_address(text) for text in dict.fromkeys(texts) if text and text != "None")


def _pod(key: Key, obj: Object) -> Iterable[Place]:
    """Not those on their node's network: its addresses are the node's."""
    member = member_of(obj)
    return (Place("pod", str(key), address) for address in (member.addresses if member is not None else ()))


def _node(key: Key, obj: Object) -> Iterable[Place]:
    """A node has an address of its pods' network, too: their gateway."""
    own = (each["address"] for each in (obj.get("status") or {}).get("addresses") or () if each["type"] != "Hostname")
    spec = obj.get("spec") or {}
    networks = spec.get("podCIDRs") or filter(None, [spec.get("podCIDR")])
    gateways = (str(next(iter(ip_network(network).hosts()))) for network in networks)
    return (Place("node", key.name, address) for address in _addresses([*own, *gateways]))


def _service(key: Key, obj: Object) -> Iterable[Place]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    given = ((status.get("loadBalancer") or {}).get("ingress")) or ()
    texts = [spec.get("clusterIP"), *(spec.get("clusterIPs") or ()), *(spec.get("externalIPs") or ())]
    return (
        Place("service", str(key), address) for address in _addresses([*texts, *(each.get("ip") for each in given)])
    )


def _edge(_key: Key, obj: Object) -> Iterable[Place]:
    return (
        Place("host", host["name"], address) for host in obj["spec"]["hosts"] for address in _addresses(host_ips(host))
    )


_PLACES: Mapping[Resource, Callable[[Key, Object], Iterable[Place]]] = {
    PODS: _pod,
    NODES: _node,
    SERVICES: _service,
    EDGES: _edge,
}
