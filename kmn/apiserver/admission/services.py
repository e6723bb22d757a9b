"""Cluster addresses and node ports of Services: who has which, and what a new or changed Service gets.

Each range has two bands, as in Kubernetes: what nobody asked for comes out of the upper one first, so that the lower
one stays free for addresses that somebody asks for. The state belongs to the process and is rebuilt from the Services
that are admitted; whether a Service makes sense is checked before (``service_rules``).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

from kmn.apiserver.admission.ipfamilies import trim_secondary
from kmn.k8s.errors import FieldError, Invalid
from kmn.k8s.families import family_of
from kmn.k8s.objects import Object, key_of

__all__ = ["NODE_PORTS", "Range", "ServiceAllocator", "carry_over", "needs_cluster_ip", "needs_node_ports"]

NODE_PORTS = (30000, 32767)
_TRIES = 16  # random picks before the range is searched from a random place on


class Range:
    """Numbers from ``first`` to ``last``, each owned by nobody or by one Service (``namespace/name``)."""

    def __init__(self, first: int, last: int, static: int) -> None:
        """The first ``static`` numbers are left to those who ask for them, as long as there are others."""
        self.first, self.last = first, last
        self._dynamic = min(first + static, last)
        self._owners: dict[int, str] = {}
        self._random = random.Random()

    def __contains__(self, number: int) -> bool:
        return self.first <= number <= self.last

    def owner(self, number: int) -> str | None:
        return self._owners.get(number)

    def take(self, number: int, owner: str) -> None:
        self._owners[number] = owner

    def give_back(self, number: int, owner: str) -> None:
        """Free a number; one that another owner has is left alone."""
        if self._owners.get(number) == owner:
            del self._owners[number]

    def free_number(self, but: set[int]) -> int | None:
        """A number that nobody has, None when there is none."""
        bands = ((self._dynamic, self.last), (self.first, self._dynamic - 1))
        for first, last in bands:
            if first > last:
                continue
            for number in self._candidates(first, last):
                if number not in self._owners and number not in but:
                    return number
        return None

    def _candidates(self, first: int, last: int) -> Iterator[int]:
        for _ in range(_TRIES):
            yield self._random.randint(first, last)
        start = self._random.randint(first, last)
        yield from range(start, last + 1)
        yield from range(first, start)


def needs_cluster_ip(spec: dict[str, Any]) -> bool:
    return spec.get("type", "ClusterIP") in ("ClusterIP", "NodePort", "LoadBalancer")


def needs_node_ports(spec: dict[str, Any]) -> bool:
    kind = spec.get("type")
    return kind == "NodePort" or (kind == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts") is not False)


def needs_health_check_port(spec: dict[str, Any]) -> bool:
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


def carry_over(new: Object, old: Object) -> None:
    """What an update says nothing about keeps its value, what its new type cannot have goes with the old type.

    After ``patchAllocatedValues`` and ``dropTypeDependentFields`` of the Service registry: a client may send a
    Service without the addresses it was given, or (kubectl apply) a changed type with them.
    """
    spec, was = new["spec"], old["spec"]
    _drop_type_dependent(spec, was)
    if needs_cluster_ip(spec) and needs_cluster_ip(was):
        if not spec.get("clusterIP") and was.get("clusterIP"):
            spec["clusterIP"] = next(iter(spec.get("clusterIPs") or ()), was["clusterIP"])
        if not spec.get("clusterIPs") and spec.get("clusterIP") == was.get("clusterIP") and was.get("clusterIPs"):
            spec["clusterIPs"] = was["clusterIPs"]
        trim_secondary(spec, was)
    if needs_node_ports(spec) and needs_node_ports(was):
        taken = {port.get("nodePort") for port in spec.get("ports") or ()}
        before = {(p["protocol"], p["port"]): p.get("nodePort") for p in was.get("ports") or ()}
        for port in spec.get("ports") or ():
            kept = before.get((port.get("protocol", "TCP"), port.get("port")))
            if not port.get("nodePort") and kept and kept not in taken:
                port["nodePort"] = kept
    if needs_health_check_port(spec) and needs_health_check_port(was) and not spec.get("healthCheckNodePort"):
        spec["healthCheckNodePort"] = was.get("healthCheckNodePort")


def _drop_type_dependent(spec: dict[str, Any], was: dict[str, Any]) -> None:
    """A field that only the old type can have, and that the update leaves as it was, was not meant to stay."""
    if needs_cluster_ip(was) and not needs_cluster_ip(spec):
        _drop_unchanged(spec, was, "clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy")
    if needs_node_ports(was) and not needs_node_ports(spec):
        before = {port.get("nodePort") for port in was.get("ports") or ()}
        for port in spec.get("ports") or ():
            if port.get("nodePort") in before:
                port.pop("nodePort", None)
    if needs_health_check_port(was) and not needs_health_check_port(spec):
        _drop_unchanged(spec, was, "healthCheckNodePort")
    if was.get("type") == "LoadBalancer" and spec.get("type") != "LoadBalancer":
        _drop_unchanged(spec, was, "allocateLoadBalancerNodePorts", "loadBalancerClass")
    if not (spec.get("type") in ("NodePort", "LoadBalancer") or spec.get("externalIPs")):
        _drop_unchanged(spec, was, "externalTrafficPolicy")


def _drop_unchanged(spec: dict[str, Any], was: dict[str, Any], *names: str) -> None:
    for name in names:
        if name in spec and spec[name] == was.get(name):
            del spec[name]


class ServiceAllocator:
    """Gives Services their addresses. A refused Service changes nothing; an admitted one holds what it shows."""

    def __init__(self, *networks: IPv4Network | IPv6Network) -> None:
        """``networks`` are one of each family that the cluster has, the primary one first."""
        self.networks = {f"IPv{network.version}": network for network in networks}
        self.addresses: dict[str, Range] = {}
        for family, network in self.networks.items():
            size = network.num_addresses
            # Without the network's own address and the last one, IPv4's broadcast address.
            first, last = int(network.network_address) + 1, int(network.broadcast_address) - 1
            self.addresses[family] = Range(first, last, static=min(max(16, size // 16), 256))
        self.ports = Range(*NODE_PORTS, static=min(max(16, (NODE_PORTS[1] - NODE_PORTS[0] + 1) // 32), 128))

    @property
    def families(self) -> tuple[str, ...]:
        """Families of the cluster, the primary one first."""
        return tuple(self.networks)

    def allocate(self, new: Object, old: Object | None) -> None:
        """Fill in ``clusterIP(s)``, ``nodePort`` and ``healthCheckNodePort``; take them. Raises Invalid.

        ``spec.ipFamilies`` says how many addresses, and of which families (``ipfamilies.settle_families``).
        """
        owner, spec, errors = str(key_of(new)), new["spec"], list[FieldError]()
        addresses = self._addresses(owner, spec, errors)
        ports = self._node_ports(owner, spec, errors)
        if errors:
            raise Invalid("Service", owner, errors)
        if addresses:
            for address in addresses:
                self.addresses[family_of(str(address))].take(int(address), owner)
            spec["clusterIPs"] = [str(address) for address in addresses]
            spec["clusterIP"] = spec["clusterIPs"][0]
        for port in ports:
            self.ports.take(port, owner)
        if old is not None:
            self._give_back(owner, _held(old) - _held(new))

    def release(self, service: Object) -> None:
        """The Service is gone."""
        self._give_back(str(key_of(service)), _held(service))

    def _give_back(self, owner: str, held: set[tuple[str, int]]) -> None:
        for what, number in held:
            (self.ports if what == "port" else self.addresses[what]).give_back(number, owner)

    def _addresses(self, owner: str, spec: dict[str, Any], errors: list[FieldError]) -> list[IPv4Address | IPv6Address]:
        """The addresses to take, none for a Service without any."""
        if not needs_cluster_ip(spec):
            return []
        asked = spec.get("clusterIPs") or [address for address in (spec.get("clusterIP"),) if address]
        if asked[:1] == ["None"]:
            spec["clusterIP"], spec["clusterIPs"] = "None", ["None"]
            return []
        found = []
        for index, family in enumerate(spec["ipFamilies"]):
            path = "spec.clusterIP" if index == 0 else f"spec.clusterIPs[{index}]"
            address = self._address(owner, path, family, asked[index] if index < len(asked) else "", errors)
            if address is not None:
                found.append(address)
        return found

    def _address(
        self, owner: str, path: str, family: str, asked: str, errors: list[FieldError]
    ) -> IPv4Address | IPv6Address | None:
        network, addresses = self.networks[family], self.addresses[family]
        if not asked:
            number = addresses.free_number(set())
            if number is None:
                errors.append(FieldError(path, f"no address is left in serviceCIDR {network}"))
                return None
            return network[number - int(network.network_address)]
        address = ip_address(asked)
        if int(address) not in addresses:
            first, last = network[1], network[-2]
            errors.append(FieldError(path, f"{asked} is not in serviceCIDR {network}: must be between "
                                           f"{first} and {last}, or left out"))  # fmt: skip
        elif addresses.owner(int(address)) not in (None, owner):
            errors.append(FieldError(path, f"{asked} is the address of Service "
                                           f"{addresses.owner(int(address))} already"))  # fmt: skip
        return address

    def _node_ports(self, owner: str, spec: dict[str, Any], errors: list[FieldError]) -> set[int]:
        """The node ports to take; ``spec`` has them afterwards."""
        asked: dict[str, int] = {}
        if spec.get("type") in ("NodePort", "LoadBalancer"):
            for index, port in enumerate(spec.get("ports") or ()):
                if port.get("nodePort"):
                    asked[f"spec.ports[{index}].nodePort"] = port["nodePort"]
        if needs_health_check_port(spec) and spec.get("healthCheckNodePort"):
            asked["spec.healthCheckNodePort"] = spec["healthCheckNodePort"]
        for path, number in asked.items():
            holder = self.ports.owner(number)
            if number not in self.ports:
                errors.append(FieldError(path, f"{number}: must be between {NODE_PORTS[0]} and {NODE_PORTS[1]}"))
            elif holder not in (None, owner):
                errors.append(FieldError(path, f"{number} is a node port of Service {holder} already"))
        taken = set(asked.values())
        if not errors:
            self._fill_node_ports(spec, taken, errors)
        return taken

    def _fill_node_ports(self, spec: dict[str, Any], taken: set[int], errors: list[FieldError]) -> None:
        def pick(path: str) -> int:
            number = self.ports.free_number(taken)
            if number is None:
                errors.append(FieldError(path, f"no node port is left between {NODE_PORTS[0]} and {NODE_PORTS[1]}"))
                return 0
            taken.add(number)
            return number

        if needs_node_ports(spec):
            for index, port in enumerate(spec.get("ports") or ()):
                if not port.get("nodePort"):
                    twin = _same_port_other_protocol(spec["ports"], port)
                    port["nodePort"] = twin or pick(f"spec.ports[{index}].nodePort")
        if needs_health_check_port(spec) and not spec.get("healthCheckNodePort"):
            spec["healthCheckNodePort"] = pick("spec.healthCheckNodePort")


def _same_port_other_protocol(ports: list[dict[str, Any]], port: dict[str, Any]) -> int:
    """DNS over TCP and UDP gets one node port, as in Kubernetes, unless a port of its protocol has it."""
    protocol = port.get("protocol")
    of_protocol = {other.get("nodePort") for other in ports if other.get("protocol") == protocol}
    for other in ports:
        number = other.get("nodePort")
        if number and other.get("port") == port.get("port") and number not in of_protocol:
            return int(number)
    return 0


def _held(service: Object) -> set[tuple[str, int]]:
    """What a stored Service holds: addresses by family, and node ports."""
    spec = service.get("spec") or {}
    held = {("port", port["nodePort"]) for port in spec.get("ports") or () if port.get("nodePort")}
    if spec.get("healthCheckNodePort"):
        held.add(("port", spec["healthCheckNodePort"]))
    for address in spec.get("clusterIPs") or [spec.get("clusterIP")]:
        if address and address != "None":
            held.add((family_of(address), int(ip_address(address))))
    return held
