"""Pod IPAM: a bound pod gets its address, MAC, OpenFlow port and network namespace's name, in one status write.

This is all that the data plane needs to know of a pod, and it is there before the pod's device is. The rules of
addresses are those of the host-local plugin: one pool a node, taken in turn. With dual-stack the pod's IPv6 address has
the same number in the node's IPv6 network.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from kmn import naming
from kmn.cluster_spec import ClusterSpec
from kmn.controlplane.podstate import address, finished, node_of, terminating, uses_host_network
from kmn.controlplane.pools import Exhausted, Pool
from kmn.controlplane.runtime import LoopClient, Reconciler
from kmn.controlplane.scheduler import with_scheduled
from kmn.controlplane.workloads.ownership import get_or_none
from kmn.k8s.client import WatchEvent
from kmn.k8s.dataplane import FIRST_POD_OFPORT, MAC, NETNS, OFPORT, mac_of
from kmn.k8s.families import internal_ips, ipv6_pod_network
from kmn.k8s.objects import Key, Object, annotation, condition, key_of, name_of, uid_of
from kmn.k8s.objects import annotations as annotations_of
from kmn.k8s.resources import NODES, PODS, Resource

__all__ = ["PodIpam"]

_LAST_OFPORT = 0xFEFF  # highest number of a physical port in OpenFlow 1.0, which tools still assume
_GATEWAY = 1  # host number of the gateway in a node's network


class _NodePools:
    """What the pods of one node share: its addresses and the ports of its bridge."""

    def __init__(self, network: IPv4Network) -> None:
        self.network = network
        self.hosts = Pool(_GATEWAY + 1, network.num_addresses - 2)  # neither network, gateway nor broadcast
        self.ofports = Pool(FIRST_POD_OFPORT, _LAST_OFPORT)


@dataclass(frozen=True, slots=True)
class _Lease:
    pools: _NodePools
    node: str
    host: int
    ofport: int


class PodIpam(Reconciler[Key]):
    """Gives pods their addresses and takes them back."""

    component = "pod-ipam"

    def __init__(self, client: LoopClient, spec: ClusterSpec) -> None:
        super().__init__(client)
        self._cluster = spec.name
        self._pools: dict[str, _NodePools] = {}
        self._leases: dict[str, _Lease] = {}  # uid of a pod -> what it has
        self._waiting: defaultdict[str, dict[Key, None]] = defaultdict(dict)  # node -> bound pods without an address

    def watches(self) -> Iterable[tuple[Resource, Callable[[WatchEvent], None]]]:
        # Addresses in use are known before the first is given, whatever order events come in.
        for pod in self.client.list(PODS).items:
            self._adopt(pod)
        return ((NODES, self._on_node), (PODS, self._on_pod))

    def subject(self, key: Key) -> Object | None:
        return get_or_none(self.client, PODS, key)

    def reconcile(self, key: Key) -> None:
        pod = get_or_none(self.client, PODS, key)
        if pod is None or not node_of(pod) or finished(pod) or (address(pod) and annotation(pod, NETNS)):
            return
        node = get_or_none(self.client, NODES, Key("", node_of(pod)))
        if node is None or (terminating(pod) and not address(pod)):
            return  # the pod comes again with its node; one that is going needs nothing any more
        if uses_host_network(pod):
            self._share_node(pod, node)
            return
        lease = self._lease(pod, node)
        if lease is None:
            return
        ip = str(lease.pools.network[lease.host])
        data = {
            NETNS: naming.netns(self._cluster, "pod", key.namespace, key.name),
            MAC: mac_of(ip),
            OFPORT: str(lease.ofport),
        }
        ipv6 = ipv6_pod_network(node)
        ips = (ip, str(ipv6[lease.host])) if ipv6 and lease.host < ipv6.num_addresses else (ip,)
        self._write(pod, data, ips, internal_ips(node))

    def _share_node(self, pod: Object, node: Object) -> None:
        """A hostNetwork pod lives in its node's namespace, once that is known."""
        netns, mac = annotation(node, NETNS), annotation(node, MAC)
        host_ips = internal_ips(node)
        if netns and host_ips:
            self._write(pod, {NETNS: netns, **({MAC: mac} if mac else {})}, host_ips, host_ips)

    def _write(self, pod: Object, data: dict[str, str], ips: tuple[str, ...], host_ips: tuple[str, ...]) -> None:
        scheduled = condition(pod, "PodScheduled")
        if scheduled is None or scheduled["status"] != "True":
            pod = with_scheduled(pod, True)  # bound is bound, whoever chose the node
        status = {**(pod.get("status") or {}), "podIP": ips[0], "podIPs": [{"ip": ip} for ip in ips]}
        if host_ips:
            status |= {"hostIP": host_ips[0], "hostIPs": [{"ip": ip} for ip in host_ips]}
        metadata = {**pod["metadata"], "annotations": {**annotations_of(pod), **data}}
        self.client.update({**pod, "metadata": metadata, "status": status}, subresource="status")

    def _lease(self, pod: Object, node: Object) -> _Lease | None:
        lease = self._leases.get(uid_of(pod))
        if lease is not None:
            return lease
        name = name_of(node)
        pools = self._pools_of(name, (node.get("spec") or {}).get("podCIDR") or "")
        if pools is None:
            return None
        try:
            host = pools.hosts.take()
        except Exhausted:
            message = (
                f"Failed to create pod sandbox: no address left in {pools.network}, the podCIDR of node {name}: "
                f"all {pools.hosts.size} are in use"
            )
            self.recorder.event(pod, "Warning", "FailedCreatePodSandBox", message)
            return None
        lease = self._leases[uid_of(pod)] = _Lease(pools, name, host, pools.ofports.take())
        return lease

    def _pools_of(self, node: str, cidr: str) -> _NodePools | None:
        if not cidr:
            return None
        network = IPv4Network(cidr)
        pools = self._pools.get(node)
        if pools is None or pools.network != network:
            pools = self._pools[node] = _NodePools(network)
        return pools

    def _adopt(self, pod: Object) -> None:
        """A pod that has its address already, as after a restart."""
        ofport = annotation(pod, OFPORT)
        if uid_of(pod) in self._leases or finished(pod) or uses_host_network(pod) or not (address(pod) and ofport):
            return
        node = get_or_none(self.client, NODES, Key("", node_of(pod)))
        pools = self._pools_of(node_of(pod), ((node or {}).get("spec") or {}).get("podCIDR") or "")
        ip = IPv4Address(address(pod))
        if pools is None or ip not in pools.network:
            return
        host = int(ip) - int(pools.network.network_address)
        if pools.hosts.reserve(host) and pools.ofports.reserve(int(ofport)):
            self._leases[uid_of(pod)] = _Lease(pools, node_of(pod), host, int(ofport))

    def _release(self, uid: str) -> None:
        lease = self._leases.pop(uid, None)
        if lease is None:
            return
        lease.pools.hosts.give_back(lease.host)
        lease.pools.ofports.give_back(lease.ofport)
        for key in self._waiting.get(lease.node, ()):
            self.queue.add(key)

    def _on_pod(self, event: WatchEvent) -> None:
        if event.type == "BOOKMARK":
            return
        pod = event.object
        if event.type == "DELETED" or finished(pod):
            self._release(uid_of(pod))
            self._waiting[node_of(pod)].pop(key_of(pod), None)
        elif address(pod):
            self._waiting[node_of(pod)].pop(key_of(pod), None)
        elif node_of(pod) and key_of(pod) not in self._waiting[node_of(pod)]:
            self._waiting[node_of(pod)][key_of(pod)] = None
            self.queue.add(key_of(pod))

    def _on_node(self, event: WatchEvent) -> None:
        name = name_of(event.object)
        if event.type == "DELETED":
            self._pools.pop(name, None)
        elif event.type in ("ADDED", "MODIFIED"):
            # Pods may wait for something of the node's: its network, the name of its namespace.
            for key in self._waiting.get(name, ()):
                self.queue.add(key)
