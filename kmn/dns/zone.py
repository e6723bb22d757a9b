"""What exists at which name: an index over Services, EndpointSlices, Namespaces and Pods, kept up object by object.

A change costs what its own object holds. The records of a Service are made when somebody asks for them, and kept until
the Service or one of its slices changes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import TypeVar

from kmn.dns.config import DnsConfig
from kmn.dns.records import Node, Record, RRType, Soa, address_record
from kmn.dns.reverse import reverse_apex, reverse_name
from kmn.dns.service_records import Endpoint, cluster_ips, ready_endpoints, service_name, service_nodes
from kmn.k8s.objects import Key, Object, labels
from kmn.k8s.resources import ENDPOINTSLICES, NAMESPACES, PODS, SERVICES, Resource

__all__ = ["SCHEMA_VERSION", "Zone"]

SCHEMA_VERSION = "1.1.0"
SERVICE_LABEL = "kubernetes.io/service-name"
_SERVER = Key("kube-system", "kube-dns")  # the Service that this DNS itself is reached by

_EMPTY: Node = {}

K = TypeVar("K")
V = TypeVar("V")


class Zone:
    """The cluster domain and the reverse zones. ``version`` moves with each change that may change an answer."""

    resources = (NAMESPACES, SERVICES, ENDPOINTSLICES, PODS)

    def __init__(self, config: DnsConfig | None = None, clock: Callable[[], float] = time.time) -> None:
        self.config = config or DnsConfig()
        self.version = 0
        self._clock = clock
        self._serial = int(clock())
        self._depth = self.config.domain.count(".")
        self._namespaces: set[str] = set()
        self._services: dict[str, dict[str, Object]] = {}  # namespace → name → Service
        self._slices: dict[Key, dict[Key, Object]] = {}  # Service → slice → EndpointSlice
        self._service_of: dict[Key, Key] = {}  # slice → Service
        self._nodes: dict[Key, Mapping[str, Node]] = {}  # Service → its records, made on demand
        # Reverse names, and whose they are. A dict serves as a set that keeps its order.
        self._by_ip: dict[str, dict[Key, None]] = {}
        self._by_endpoint: dict[str, dict[tuple[Key, Key], Endpoint]] = {}  # → (Service, slice) → endpoint
        self._pod_ips: dict[Key, tuple[str, ...]] = {}
        self._pods_at: dict[tuple[str, str], int] = {}  # (namespace, address) → pods that have it

    # -- changes

    def update(self, resource: Resource, key: Key, obj: Object | None) -> None:
        """Take one object's new state in; None: it is gone. Other resources than ``resources`` are an error."""
        change = {
            NAMESPACES: self._update_namespace,
            SERVICES: self._update_service,
            ENDPOINTSLICES: self._update_slice,
            PODS: self._update_pod,
        }[resource]
        if change(key, obj):
            self.version += 1
            self._serial = int(self._clock())

    def _update_namespace(self, key: Key, obj: Object | None) -> bool:
        before = key.name in self._namespaces
        (self._namespaces.discard if obj is None else self._namespaces.add)(key.name)
        return before != (obj is not None)

    def _update_service(self, key: Key, obj: Object | None) -> bool:
        of_namespace = self._services.setdefault(key.namespace, {})
        old = of_namespace.pop(key.name, None)
        if obj is not None:
            of_namespace[key.name] = obj
        elif not of_namespace:
            del self._services[key.namespace]
        if (old and old["spec"]) == (obj and obj["spec"]):
            return False
        self._nodes.pop(key, None)
        for address in cluster_ips(old) if old else ():
            _discard(self._by_ip, reverse_name(address), key)
        for address in cluster_ips(obj) if obj else ():
            self._by_ip.setdefault(reverse_name(address), {})[key] = None
        return True

    def _update_slice(self, key: Key, obj: Object | None) -> bool:
        name = labels(obj).get(SERVICE_LABEL) if obj is not None else None
        service = Key(key.namespace, name) if name else None
        before = self._service_of.pop(key, None)
        if before is not None:
            old = self._slices[before].pop(key)
            if not self._slices[before]:
                del self._slices[before]
            for endpoint in ready_endpoints([old]):
                _discard(self._by_endpoint, reverse_name(endpoint.address), (before, key))
            self._nodes.pop(before, None)
        if service is not None and obj is not None:
            self._service_of[key] = service
            self._slices.setdefault(service, {})[key] = obj
            for endpoint in ready_endpoints([obj]):
                at = self._by_endpoint.setdefault(reverse_name(endpoint.address), {})
                at[service, key] = endpoint
            self._nodes.pop(service, None)
        return before is not None or service is not None

    def _update_pod(self, key: Key, obj: Object | None) -> bool:
        status = (obj or {}).get("status") or {}
        if status.get("phase") in ("Succeeded", "Failed"):  # its address may be another's by now
            status = {}
        addresses = tuple(entry["ip"] for entry in status.get("podIPs") or ())
        before = self._pod_ips.pop(key, ())
        if addresses:
            self._pod_ips[key] = addresses
        if addresses == before:
            return False
        for address in before:
            at = (key.namespace, address)
            self._pods_at[at] -= 1
            if not self._pods_at[at]:
                del self._pods_at[at]
        for address in addresses:
            at = (key.namespace, address)
            self._pods_at[at] = self._pods_at.get(at, 0) + 1
        return self.config.pod_records == "verified"

    # -- look-ups

    def apex(self, name: str) -> str | None:
        """The zone of ours that a name lies in, None when it is not ours to answer."""
        domain = self.config.domain
        if name == domain or name.endswith("." + domain):
            return domain
        if not name.endswith(".arpa."):
            return None
        if name in self._by_ip or name in self._by_endpoint:  # also hostNetwork pods and addresses from outside
            return name.partition(".")[2]
        return reverse_apex(name, self.config.networks)

    def find(self, name: str) -> Node | None:
        """What is at a name of ours (lower case, final dot); None: it does not exist."""
        if name.endswith(".arpa."):
            return self._reverse(name)
        parts = name.split(".")[: -self._depth - 1]
        match parts:
            case []:
                return self._apex_node()
            case ["dns-version"]:
                return _node(Record(name, RRType.TXT, SCHEMA_VERSION))
            case ["svc"] | ["pod"] | ["dns"]:
                return _EMPTY
            case ["ns", "dns"]:
                server = self._services.get(_SERVER.namespace, {}).get(_SERVER.name)
                return _node(*(address_record(name, ip) for ip in cluster_ips(server))) if server else None
            case [namespace, "svc" | "pod"]:
                return _EMPTY if self._has_namespace(namespace) else None
            case [*_, service, namespace, "svc"]:
                return self._service_nodes(Key(namespace, service)).get(name)
            case [label, namespace, "pod"]:
                return self._pod_node(name, label, namespace)
        return None

    def soa(self, apex: str) -> Record:
        """The start of authority that negative answers carry."""
        domain = self.config.domain
        return Record(apex, RRType.SOA, Soa(f"ns.dns.{domain}", f"hostmaster.{domain}", self._serial))

    def _has_namespace(self, namespace: str) -> bool:
        return namespace in self._namespaces or namespace in self._services

    def _apex_node(self) -> Node:
        domain = self.config.domain
        return _node(self.soa(domain), Record(domain, RRType.NS, f"ns.dns.{domain}"))

    def _service_nodes(self, key: Key) -> Mapping[str, Node]:
        nodes = self._nodes.get(key)
        if nodes is None:
            service = self._services.get(key.namespace, {}).get(key.name)
            if service is None:
                return {}
            nodes = service_nodes(service, self._slices.get(key, {}).values(), self.config.domain)
            self._nodes[key] = nodes
        return nodes

    def _pod_node(self, name: str, label: str, namespace: str) -> Node | None:
        if self.config.pod_records == "disabled" or not self._has_namespace(namespace):
            return None
        try:
            address = str(ip_address(label.replace("-", "." if label.count("-") == 3 and "--" not in label else ":")))
        except ValueError:
            return None
        if self.config.pod_records == "verified" and (namespace, address) not in self._pods_at:
            return None
        return _node(address_record(name, address))

    def _reverse(self, name: str) -> Node | None:
        domain = self.config.domain
        targets = [service_name(self._services[key.namespace][key.name], domain) for key in self._by_ip.get(name, ())]
        if not targets:
            targets = self._endpoint_names(name)
        if targets:
            return _node(*(Record(name, RRType.PTR, target) for target in dict.fromkeys(targets)))
        if self.apex(name) == name:
            return _node(self.soa(name), Record(name, RRType.NS, f"ns.dns.{domain}"))
        below = "." + name
        return (
            _EMPTY
            if any(known.endswith(below) for index in (self._by_ip, self._by_endpoint) for known in index)
            else None
        )

    def _endpoint_names(self, name: str) -> list[str]:
        """Names of the endpoints at an address: one for each Service that selects it.

        Hostnames come before labels that are made up: a StatefulSet's pod is known by its own name, however many
        other Services select it.
        """
        found: dict[bool, list[str]] = {True: [], False: []}
        for (service, _), endpoint in self._by_endpoint.get(name, {}).items():
            target = f"{endpoint.hostname}.{service.name}.{service.namespace}.svc.{self.config.domain}"
            if target in self._service_nodes(service):  # a slice may outlive its Service for a moment
                found[endpoint.named].append(target)
        return found[True] or found[False]


def _node(*records: Record) -> Node:
    node: dict[RRType, tuple[Record, ...]] = {}
    for record in records:
        node[record.type] = (*node.get(record.type, ()), record)
    return node


def _discard(index: dict[str, dict[K, V]], name: str, key: K) -> None:
    entries = index.get(name)
    if entries is not None:
        entries.pop(key, None)
        if not entries:
            del index[name]
