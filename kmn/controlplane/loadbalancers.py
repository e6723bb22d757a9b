"""The cloud's part of a LoadBalancer Service: addresses out of the cluster's pools, on ``status.loadBalancer``.

One of each family that the Service has.

As upstream's ``pkg/controller/service`` with a cloud behind it. How packets for the address go on is the edge's
business (``controller.features.loadbalancer``); nothing here knows of targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import ip_address
from typing import Any

from kmn.cluster_spec import ClusterSpec
from kmn.controlplane.pools import Exhausted, SharedPool
from kmn.controlplane.runtime import LoopClient, Reconciler
from kmn.controlplane.workloads.ownership import get_or_none
from kmn.k8s.client import WatchEvent
from kmn.k8s.families import FAMILIES, family_of
from kmn.k8s.loadbalancers import Address, LoadBalancer, Network, is_ours, read_load_balancer
from kmn.k8s.objects import Key, Object, describe, key_of
from kmn.k8s.resources import SERVICES, Resource

__all__ = ["LoadBalancers", "balancer_pools"]

_IP_MODE = "VIP"  # packets keep the address until a node translates it; nodes may take a short cut to it


def balancer_pools(spec: ClusterSpec) -> dict[str, SharedPool]:
    """The addresses that load balancers may have, by family."""
    # Neither the network's own nor its broadcast address.
    return {family: SharedPool(int(each[1]), int(each[-2])) for family, each in _networks(spec).items()}


def _networks(spec: ClusterSpec) -> dict[str, Network]:
    """By family."""
    found: dict[str, Network] = {"IPv4": spec.load_balancer_cidr}
    return {**found, "IPv6": spec.ipv6.load_balancer_cidr} if spec.ipv6 is not None else found


class LoadBalancers(Reconciler[Key]):
    """Gives and takes back the addresses of load balancers, out of pools that are not theirs alone."""

    component = "service-controller"

    def __init__(self, client: LoopClient, spec: ClusterSpec, pools: Mapping[str, SharedPool]) -> None:
        super().__init__(client)
        self._networks = _networks(spec)
        self._pools = pools
        self._given: dict[Key, dict[str, Address]] = {}  # one of a family at most; no entry is empty
        for pool in pools.values():
            pool.when_freed(self._retry)
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
        families = [each for each in service["spec"].get("ipFamilies") or FAMILIES[:1] if each in self._pools]
        wish = read_load_balancer(service)
        for text in wish.not_emulated:
            self.recorder.once(service, "Warning", "NotEmulated", f"{describe(service)}: annotation {text}")
        for text in (*wish.problems, *_pointless(wish, families)):
            self.recorder.once(service, "Warning", "SyncLoadBalancerFailed", f"{describe(service)}: {text}")
        for family, address in tuple(self._given.get(key, {}).items()):
            wanted = _of_family(wish.wanted, family)
            if family not in families or (wanted and address not in wanted):
                self._give_back(key, family)  # another one is wanted now, or none
        missing = [family for family in families if family not in self._given.get(key, {})]
        if missing:
            self.recorder.event(service, "Normal", "EnsuringLoadBalancer", "Ensuring load balancer")
        for family in missing:
            taken = self._take(service, wish, family)
            if taken is None:
                self._waiting[key] = None
            else:
                self._given.setdefault(key, {})[family] = taken
        given = self._given.get(key, {})
        ingress = [{"ip": str(given[family]), "ipMode": _IP_MODE} for family in families if family in given]
        if self._write(service, ingress) and key not in self._waiting:
            self.recorder.event(service, "Normal", "EnsuredLoadBalancer", "Ensured load balancer")

    def _take(self, service: Object, wish: LoadBalancer, family: str) -> Address | None:
        """An address: one that is asked for, or any; None when there is none, which is told."""
        pool, network = self._pools[family], self._networks[family]
        wanted = _of_family(wish.wanted, family)
        for address in wanted:
            if pool.reserve(int(address)):
                return address
        if wanted:
            why = "; ".join(self._why_not(address, network) for address in wanted)
        else:
            try:
                return network[pool.take() - int(network[0])]
            except Exhausted:
                why = (
                    f"all {pool.size} addresses of {network} are in use; a larger "
                    "spec.internet.loadBalancers of the cluster file makes room"
                )
        message = f"Error syncing load balancer: {describe(service)}: {why}"
        self.recorder.event(service, "Warning", "SyncLoadBalancerFailed", message)
        return None

    def _why_not(self, address: Address, network: Network) -> str:
        owner = next((key for key, given in self._given.items() if address in given.values()), None)
        if owner is not None:
            return f"{address} is the address of Service {owner} already"
        if network.version == 4 and int(address) in self._pools["IPv4"]:
            return f"{address} is the address of an application load balancer already"
        return f"{address} is not between {network[1]} and {network[-2]} (spec.internet.loadBalancers)"

    def _release(self, key: Key, service: Object) -> None:
        """It is no load balancer of ours any more; the status of a foreign class is left to whoever owns it."""
        if key not in self._given:
            return
        self.recorder.event(service, "Normal", "DeletingLoadBalancer", "Deleting load balancer")
        self._write(service, [])
        self._give_back(key)
        self.recorder.event(service, "Normal", "DeletedLoadBalancer", "Deleted load balancer")

    def _give_back(self, key: Key, *families: str) -> None:
        """Give back the addresses of these families, or all."""
        given = self._given.get(key, {})
        for family in families or tuple(given):
            self._pools[family].give_back(int(given.pop(family)))
        if not given:
            self._given.pop(key, None)

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
                address = ip_address(entry.get("ip"))
            except ValueError:
                continue
            family = family_of(str(address))
            known = self._given.get(key, {})
            if family in self._pools and family not in known and self._pools[family].reserve(int(address)):
                self._given.setdefault(key, {})[family] = address


def _of_family(addresses: Iterable[Address], family: str) -> list[Address]:
    return [address for address in addresses if family_of(str(address)) == family]


def _pointless(wish: LoadBalancer, families: Iterable[str]) -> Iterator[str]:
    """Addresses asked for that are all of a family that the Service does not have."""
    if wish.wanted and not any(_of_family(wish.wanted, family) for family in families):
        words = ", ".join(str(address) for address in wish.wanted)
        yield f"{words}: the Service has no such family (spec.ipFamilies: {', '.join(families)}); any address is given"
