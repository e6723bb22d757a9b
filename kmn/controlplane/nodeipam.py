"""Node IPAM: each node gets a network for its pods out of the cluster's (``spec.podCIDR``, ``spec.podCIDRs``).

As upstream's ``pkg/controller/nodeipam`` (RangeAllocator); networks are given in the order in which nodes appear. With
dual-stack a node's networks have the same number among those of their family.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Network, IPv6Network

from kmn.cluster_spec import ClusterSpec
from kmn.controlplane.pools import Exhausted, Pool
from kmn.controlplane.runtime import LoopClient, Reconciler
from kmn.controlplane.workloads.ownership import get_or_none
from kmn.k8s.client import WatchEvent
from kmn.k8s.objects import Key, Object, describe, key_of, name_of, set_condition
from kmn.k8s.resources import NODES, Resource

__all__ = ["NodeIpam"]


class NodeIpam(Reconciler[Key]):
    """Allocates pod networks to nodes."""

    component = "node-ipam-controller"

    def __init__(self, client: LoopClient, spec: ClusterSpec) -> None:
        super().__init__(client)
        self._whole, self._prefix = spec.pod_cidr, spec.node_pod_prefix
        self._ipv6 = spec.ipv6
        bits = self._prefix - self._whole.prefixlen
        if self._ipv6 is not None:
            bits = min(bits, self._ipv6.node_pod_prefix - self._ipv6.pod_cidr.prefixlen)
        self._pool = Pool(0, 2**bits - 1)
        self._taken: dict[str, int] = {}  # node -> number of its network
        self._waiting: dict[Key, None] = {}

    def watches(self) -> Iterable[tuple[Resource, Callable[[WatchEvent], None]]]:
        return ((NODES, self._on_node),)

    def subject(self, key: Key) -> Object | None:
        return get_or_none(self.client, NODES, key)

    def reconcile(self, key: Key) -> None:
        node = get_or_none(self.client, NODES, key)
        self._waiting.pop(key, None)
        if node is None:
            return
        if _pod_cidr(node):
            self._adopt(node)
            return
        self._adopt_all()
        try:
            number = self._taken[key.name] if key.name in self._taken else self._pool.take()
        except Exhausted:
            self._refuse(key, node)
            return
        self._taken[key.name] = number
        cidrs = [str(network) for network in self._networks(number)]
        spec = {**(node.get("spec") or {}), "podCIDR": cidrs[0], "podCIDRs": cidrs}
        node = self.client.update({**node, "spec": spec})
        self._say(node, available=True, reason="CIDRAssigned", message=f"pods have addresses of {' and '.join(cidrs)}")

    def _refuse(self, key: Key, node: Object) -> None:
        self._waiting[key] = None
        message = (
            f"{describe(node)}: no pod network left: {self._whole} has {self._pool.size} networks of length "
            f"/{self._prefix}, all in use; a shorter podCIDR prefix or a longer node prefix makes room"
        )
        self.recorder.event(node, "Warning", "CIDRNotAvailable", message)
        self._say(node, available=False, reason="CIDRNotAvailable", message=message)

    def _say(self, node: Object, *, available: bool, reason: str, message: str) -> None:
        """Set NetworkUnavailable, the node condition that upstream has for a node whose pods have no network."""
        status = node.get("status") or {}
        changed = {**node, "status": {**status, "conditions": [dict(c) for c in status.get("conditions") or ()]}}
        if set_condition(changed, "NetworkUnavailable", not available, reason, message):
            self.client.update(changed, subresource="status")

    def _adopt_all(self) -> None:
        """Know what the store says is in use before anything is given: nodes may come with a network of their own."""
        for node in self.client.list(NODES).items:
            if name_of(node) not in self._taken:
                self._adopt(node)

    def _adopt(self, node: Object) -> None:
        number = self._number(_pod_cidr(node))
        if number is None or self._taken.get(name_of(node)) == number:
            return
        if self._pool.reserve(number):
            self._taken[name_of(node)] = number
            return
        owner = next((n for n, taken in self._taken.items() if taken == number), "another node")
        message = f"{describe(node)}: spec.podCIDR: {_pod_cidr(node)} belongs to {owner}; leave it out to get another"
        self.recorder.event(node, "Warning", "CIDRConflict", message)

    def _networks(self, number: int) -> Iterable[IPv4Network | IPv6Network]:
        """A node's networks: the one of that number of each family."""
        yield IPv4Network((int(self._whole.network_address) + (number << (32 - self._prefix)), self._prefix))
        if self._ipv6 is not None:
            whole, prefix = self._ipv6.pod_cidr, self._ipv6.node_pod_prefix
            yield IPv6Network((int(whole.network_address) + (number << (128 - prefix)), prefix))

    def _number(self, cidr: str) -> int | None:
        """The number of a network of the cluster's, None of any other."""
        network = IPv4Network(cidr) if cidr else None
        if network is None or network.prefixlen != self._prefix or not network.subnet_of(self._whole):
            return None
        return (int(network.network_address) - int(self._whole.network_address)) >> (32 - self._prefix)

    def _on_node(self, event: WatchEvent) -> None:
        if event.type == "DELETED":
            number = self._taken.pop(name_of(event.object), None)
            self._waiting.pop(key_of(event.object), None)
            if number is not None:
                self._pool.give_back(number)
                for key in self._waiting:
                    self.queue.add(key)
        elif event.type != "BOOKMARK" and (event.type == "ADDED" or not _pod_cidr(event.object)):
            key = key_of(event.object)
            if key not in self._waiting:
                self.queue.add(key)


def _pod_cidr(node: Object) -> str:
    return (node.get("spec") or {}).get("podCIDR") or ""
