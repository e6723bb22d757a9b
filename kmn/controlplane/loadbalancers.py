"""The cloud's part of a LoadBalancer Service: an address out of the cluster's pool, on ``status.loadBalancer``.

As upstream's ``pkg/controller/service`` with a cloud behind it. How packets for the address go on is the edge's
business (``controller.features.loadbalancer``); nothing here knows of targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address
from typing import Any

from kmn.cluster_spec import ClusterSpec
from kmn.controlplane.pools import Exhausted, SharedPool
from kmn.controlplane.runtime import LoopClient, Reconciler
from kmn.controlplane.workloads.ownership import get_or_none
from kmn.k8s.client import WatchEvent
from kmn.k8s.families import FAMILIES
from kmn.k8s.loadbalancers import LoadBalancer, is_ours, read_load_balancer
from kmn.k8s.objects import Key, Object, describe, key_of
from kmn.k8s.resources import SERVICES, Resource

__all__ = ["LoadBalancers"]

_IP_MODE = "VIP"  # packets keep the address until a node translates it; nodes may take a short cut to it


class LoadBalancers(Reconciler[Key]):
    """Gives and takes back the addresses of load balancers, out of a pool that is not theirs alone."""

    component = "service-controller"

    def __init__(self, client: LoopClient, spec: ClusterSpec, pool: SharedPool) -> None:
        super().__init__(client)
        self._network = spec.load_balancer_cidr
        self._pool = pool
        pool.when_freed(self._retry)
        self._given: dict[Key, int] = {}
        self._waiting: dict[Key, None] = {}

    def watches(self) -> Iterable[tuple[Resource, Callable[[WatchEvent], None]]]:
        return ((SERVICES, self._on_service),)

    def subject(self, key: Key) -> Object | None:
        return get_or_none(self.client, SERVICES, key)

    def reconcile(self, key: Key) -> None:
        service = get_or_none(self.client, SERVICES, key)
        self._waiting.pop(key, None)
        if service is None:
            self._give_back(key)
        elif not is_ours(service):
            self._release(key, service)
        else:
            self._ensure(key, service)

    def _ensure(self, key: Key, service: Object) -> None:
        families = service["spec"].get("ipFamilies") or FAMILIES[:1]
        if "IPv6" in families:
            message = f"{describe(service)}: outside the cluster is IPv4 only: the load balancer has no IPv6 address"
            self.recorder.once(service, "Warning", "NotEmulated", message)
        if "IPv4" not in families:
            self._release(key, service)
            return
        wish = read_load_balancer(service)
        for text in wish.not_emulated:
            self.recorder.once(service, "Warning", "NotEmulated", f"{describe(service)}: annotation {text}")
        for text in wish.problems:
            self.recorder.once(service, "Warning", "SyncLoadBalancerFailed", f"{describe(service)}: {text}")
        had = self._given.get(key)
        if had is not None and wish.wanted and IPv4Address(had) not in wish.wanted:
            self._give_back(key)  # another one is wanted now
            had = None
        if had is None:
            self.recorder.event(service, "Normal", "EnsuringLoadBalancer", "Ensuring load balancer")
            number = self._take(key, service, wish)
            if number is None:
                self._waiting[key] = None
                self._write(service, [])
                return
            self._given[key] = number
        if self._write(service, [{"ip": str(IPv4Address(self._given[key])), "ipMode": _IP_MODE}]):
            self.recorder.event(service, "Normal", "EnsuredLoadBalancer", "Ensured load balancer")

    def _take(self, key: Key, service: Object, wish: LoadBalancer) -> int | None:
        """An address: one that is asked for, or any; None when there is none, which is told."""
        for address in wish.wanted:
            if self._pool.reserve(int(address)):
                return int(address)
        if wish.wanted:
            why = "; ".join(self._why_not(address) for address in wish.wanted)
        else:
            try:
                return self._pool.take()
            except Exhausted:
                why = (
                    f"all {self._pool.size} addresses of {self._network} are in use; a larger "
                    "spec.internet.loadBalancers of the cluster file makes room"
                )
        message = f"Error syncing load balancer: {describe(service)}: {why}"
        self.recorder.event(service, "Warning", "SyncLoadBalancerFailed", message)
        return None

    def _why_not(self, address: IPv4Address) -> str:
        owner = next((key for key, number in self._given.items() if number == int(address)), None)
        if owner is not None:
            return f"{address} is the address of Service {owner} already"
        if int(address) in self._pool:
            return f"{address} is the address of an application load balancer already"
        return f"{address} is not between {self._network[1]} and {self._network[-2]} (spec.internet.loadBalancers)"

    def _release(self, key: Key, service: Object) -> None:
        """It is no load balancer of ours any more; the status of a foreign class is left to whoever owns it."""
        if key not in self._given:
            return
        self.recorder.event(service, "Normal", "DeletingLoadBalancer", "Deleting load balancer")
        self._write(service, [])
        self._give_back(key)
        self.recorder.event(service, "Normal", "DeletedLoadBalancer", "Deleted load balancer")

    def _give_back(self, key: Key) -> None:
        number = self._given.pop(key, None)
        if number is not None:
            self._pool.give_back(number)

    def _retry(self) -> None:
        for waiting in self._waiting:
            self.queue.add(waiting)

    def _write(self, service: Object, ingress: list[dict[str, Any]]) -> bool:
        """True when that is a change."""
        status = service.get("status") or {}
        if ((status.get("loadBalancer") or {}).get("ingress") or []) == ingress:
            return False
        load_balancer = {"ingress": ingress} if ingress else {}
        self.client.update({**service, "status": {**status, "loadBalancer": load_balancer}}, subresource="status")
        return True

    def _on_service(self, event: WatchEvent) -> None:
        key = key_of(event.object)
        if event.type == "ADDED":
            self._adopt(key, event.object)
        if event.type == "DELETED" or key in self._given or is_ours(event.object):
            self.queue.add(key)

    def _adopt(self, key: Key, service: Object) -> None:
        """Know what the store says is in use before anything is given."""
        if not is_ours(service) or key in self._given:
            return
        for entry in ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ():
            try:
                number = int(IPv4Address(entry.get("ip")))
            except ValueError:
                continue
            if self._pool.reserve(number):
                self._given[key] = number
                return
