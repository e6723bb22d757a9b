"""The cloud's part of Services whose load balancer sends PROXY protocol: a NetworkLoadBalancer object for each, with a
place at the edge, at the address that ``kmn.controlplane.loadbalancers`` gives the Service.

All other load balancers of Services are flows of the edge; this one has something to say before a client does, so it is
a proxy: what runs there is ``kmn.ingress``, the place is made by ``kmn.emulator.balancers``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from kmn.cluster_spec import ClusterSpec
from kmn.controlplane.pools import Exhausted, Pool
from kmn.controlplane.runtime import LoopClient, Reconciler
from kmn.controlplane.workloads.ownership import get_or_none
from kmn.ingress.envoy.listeners import HEALTH_PORT
from kmn.k8s.client import WatchEvent
from kmn.k8s.dataplane import FIRST_NETWORK_BALANCER_OFPORT, LAST_NETWORK_BALANCER_OFPORT, mac_of
from kmn.k8s.loadbalancers import LoadBalancer, is_ours, read_load_balancer
from kmn.k8s.objects import Key, Object, describe, draft, key_of, name_of
from kmn.k8s.resources import NETWORKLOADBALANCERS, SERVICES, Resource
from kmn.naming import netns

__all__ = ["NetworkLoadBalancers", "network_balancer_name"]

_EVERYBODY = IPv4Network("0.0.0.0/0")


def network_balancer_name(cluster: str, service: Key) -> str:
    """What AWS would call it; the form of the AWS Load Balancer Controller, of at most 32 characters."""
    digest = hashlib.sha256(f"{cluster}/{service}/network".encode()).hexdigest()[:10]
    parts = (re.sub(r"[^a-zA-Z0-9]", "", part)[:8] for part in service)
    return "-".join(["k8s", *parts, digest])


class NetworkLoadBalancers(Reconciler[Key]):
    """Gives and takes back the objects and ports at the edge."""

    component = "service-controller"

    def __init__(self, client: LoopClient, spec: ClusterSpec) -> None:
        super().__init__(client)
        self._spec = spec
        self._ofports = Pool(FIRST_NETWORK_BALANCER_OFPORT, LAST_NETWORK_BALANCER_OFPORT)
        self._given: dict[Key, int] = {}  # ports of the edge, by Service

    def watches(self) -> Iterable[tuple[Resource, Callable[[WatchEvent], None]]]:
        return (
            (SERVICES, self._on_service),
            (NETWORKLOADBALANCERS, self._on_balancer),
        )

    def subject(self, key: Key) -> Object | None:
        return get_or_none(self.client, SERVICES, key)

    def reconcile(self, key: Key) -> None:
        service = get_or_none(self.client, SERVICES, key)
        name = network_balancer_name(self._spec.name, key)
        found = get_or_none(self.client, NETWORKLOADBALANCERS, Key("", name))
        wish = read_load_balancer(service) if service is not None and is_ours(service) else LoadBalancer()
        address = _address_of(service) if service is not None else None
        if service is None or wish.proxy_protocol is None or address is None:
            self._remove(key, found)
        elif not self._spec.outside_hosts:
            why = "the cluster has no outside for it to be in: spec.internet.hosts of the cluster file is empty"
            self._tell(service, "NotEmulated", why)
        else:
            self._ensure(service, wish, address, found)

    def _ensure(self, service: Object, wish: LoadBalancer, address: IPv4Address, found: Object | None) -> None:
        key = key_of(service)
        name = network_balancer_name(self._spec.name, key)
        spec: dict[str, Any] = {
            "service": str(key),
            "scheme": "internal" if wish.internal else "internet-facing",
            "listeners": list(self._listeners(service, wish)),
        }
        if found is not None and found.get("status", {}).get("address") not in (None, str(address)):
            self.client.delete(NETWORKLOADBALANCERS, "", name)  # its place would be of another address: a new one
            found = None
        if found is None:
            found = self.client.create(_object(name, spec))
        elif found["spec"] != spec:
            found = self.client.update({**found, "spec": spec})
        if key not in self._given:
            try:
                self._given[key] = self._ofports.take()
            except Exhausted:
                self._tell(service, "SyncLoadBalancerFailed", "all ports of the edge's bridge are in use")
                return
        place = {"address": str(address), "mac": mac_of(str(address)), "ofport": self._given[key]}
        status = {**place, "netns": netns(self._spec.name, "nlb", name)}
        if found.get("status") != status:
            self.client.update({**draft(found), "status": status}, subresource="status")

    def _listeners(self, service: Object, wish: LoadBalancer) -> Iterable[dict[str, Any]]:
        """Ports, and who may come: sources of the other family let nobody of this one in."""
        networks = (_EVERYBODY,) if wish.source_ranges is None else wish.source_ranges
        sources = [str(network) for network in networks if network.version == 4]
        for port in service["spec"].get("ports") or ():
            if port["port"] == HEALTH_PORT:
                self._tell(service, "NotEmulated", f"port {HEALTH_PORT} is its own: it has no listener there")
            elif (port.get("protocol") or "TCP") == "TCP":
                yield {"port": port["port"], "protocol": "TCP", "sources": sources}

    def _remove(self, key: Key, found: Object | None) -> None:
        if found is not None:
            self.client.delete(NETWORKLOADBALANCERS, "", name_of(found))
        if key in self._given:
            self._ofports.give_back(self._given.pop(key))

    def _tell(self, service: Object, reason: str, message: str) -> None:
        text = f"{describe(service)}: the load balancer that sends PROXY protocol: {message}"
        self.recorder.once(service, "Warning", reason, text)

    # --- what it is told of -------------------------------------------------------------------------------------------

    def _on_service(self, event: WatchEvent) -> None:
        key = key_of(event.object)
        if key in self._given or (
            is_ours(event.object) and read_load_balancer(event.object).proxy_protocol is not None
        ):
            self.queue.add(key)

    def _on_balancer(self, event: WatchEvent) -> None:
        """Somebody else may have deleted or changed one."""
        namespace, _, name = event.object["spec"]["service"].partition("/")
        self.queue.add(Key(namespace, name))


def _address_of(service: Object) -> IPv4Address | None:
    """Its IPv4 address, once it has one."""
    entries = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    found = (entry["ip"] for entry in entries if entry.get("ip") and ":" not in entry["ip"])
    return next((IPv4Address(ip) for ip in found), None)


def _object(name: str, spec: dict[str, Any]) -> Object:
    resource = NETWORKLOADBALANCERS
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": name}, "spec": spec}
