"""The Mininet network object of a running cluster: names, hosts, switches and links, kept up to date on demand."""

# ruff: noqa: N802, N803 (the names are Mininet's)

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from typing import Any, NoReturn

import mininet.net
from mininet.log import error

from kmn.cluster_spec import ClusterSpec
from kmn.emulator.fabric import router_address, router_netns
from kmn.errors import UserError
from kmn.k8s.client import Client
from kmn.k8s.dataplane import (
    DATAPATH_ID,
    DATAPLANE_NAME,
    FIRST_POD_OFPORT,
    HOST_OFPORT,
    MAC,
    NETNS,
    OFPORT,
    UPLINK_OFPORT,
)
from kmn.k8s.objects import Key, Object, annotation, key_of, name_of, uid_of
from kmn.k8s.resources import CLUSTERS, DATAPLANES, EDGES, NODES, PODS
from kmn.machine import Machine, machine_of_node, outside_hosts
from kmn.mininet.hosts import (
    BridgeSwitch,
    MachineHost,
    NodeHost,
    OutsideHost,
    PodHost,
    RouterHost,
    ViewIntf,
    ViewLink,
)
from kmn.mininet.iperf import iperf
from kmn.naming import NETNS_DIR, Paths, device

__all__ = ["BRIDGE_SUFFIX", "ClusterNet", "pod_names"]

BRIDGE_SUFFIX = "-br0"  # the bridge of node n1 is the switch n1-br0

_EDGE = "edge"  # its bridge is the switch edge-br0
_NODE_DEVICE = "host"  # the bridge's end of a node's own veth pair
_UPLINK_DEVICE = "uplink"  # and of the link to the fabric
_FINISHED = ("Succeeded", "Failed")


def pod_names(pods: Iterable[Key], taken: Iterable[str]) -> dict[Key, str]:
    """What pods are called in Mininet: by their name where only one thing has it, else by ``NAMESPACE.NAME``.

    The CLI splits lines at spaces, so a name holds neither space nor slash; a namespace holds no dot.
    """
    keys = list(pods)
    count = Counter(key.name for key in keys)
    count.update(list(taken))
    return {key: key.name if count[key.name] == 1 else f"{key.namespace}.{key.name}" for key in keys}


class ClusterNet(mininet.net.Mininet):  # type: ignore[misc]
    """``net.get("web-1")`` is a pod, ``net["n1"]`` a node, ``net["e1"]`` an outside host, ``net["n1-br0"]`` a bridge.

    ``hosts`` are the pods: what ``pingall`` and ``iperf`` work on. Nodes, outside hosts and the fabric's routers are in
    ``nodes``, ``outside`` and ``routers``; iteration, ``net``, ``dump`` and names cover all of them.
    """

    def __init__(self, client: Client, cluster: str) -> None:
        base = mininet.net.Mininet
        initialized, base.inited = base.inited, True  # its init() changes limits of the whole machine
        try:
            super().__init__(topo=None, build=False, controller=None)
        finally:
            base.inited = initialized
        self.built = True
        self.hosts: list[PodHost] = []
        self.switches: list[BridgeSwitch] = []
        self.links: list[ViewLink] = []
        self.terms: list[subprocess.Popen[bytes]] = []
        self.client = client
        self.cluster = cluster
        self.nodes: list[NodeHost] = []
        self.outside: list[OutsideHost] = []
        self.routers: list[RouterHost] = []
        self._spec: ClusterSpec | None = None  # what the fabric is made from; it does not change
        self._versions: tuple[str, ...] = ()
        self._pods: dict[str, PodHost] = {}  # by uid
        self._machines: dict[str, MachineHost] = {}  # nodes and outside hosts, by namespace
        self._bridges: dict[str, BridgeSwitch] = {}  # by node

    def refresh(self) -> None:
        """Follow the cluster: pods that came and went, new names. Shells of what stays are kept."""
        versions = tuple(self._version(resource) for resource in (PODS, NODES, EDGES))
        if versions == self._versions:
            return
        present = set(os.listdir(NETNS_DIR)) if NETNS_DIR.is_dir() else set()
        nodes = [n for n in self.client.list(NODES).items if annotation(n, NETNS) in present]
        pods = [p for p in self.client.list(PODS).items if _is_there(p, present)]
        self.links = []
        self._view_machines(nodes)
        self._view_fabric(nodes)
        self._view_pods(pods)
        fixed = {host.name: host for host in (*self.routers, *self.nodes, *self.outside, *self.switches)}
        pod_hosts = {key_of(pod): self._pods[uid_of(pod)] for pod in pods}
        self.nameToNode = {f"{key.namespace}.{key.name}": host for key, host in pod_hosts.items()}
        for key, name in pod_names(pod_hosts, fixed).items():
            pod_hosts[key].name = name
            self.nameToNode[name] = pod_hosts[key]
        self.nameToNode.update(fixed)
        self.hosts = sorted(pod_hosts.values(), key=lambda host: host.machine.name)
        # Versions of before the lists: what changed in between is seen again next time.
        self._versions = versions if all(uid in self._pods for uid in map(uid_of, pods)) else ()

    def close(self) -> None:
        """End all shells of this view. The cluster goes on."""
        self.stopXterms()
        for host in chain(self._pods.values(), self._machines.values(), self._bridges.values(), self.routers):
            host.terminate()
        self._pods, self._machines, self._bridges, self._versions = {}, {}, {}, ()
        self.hosts, self.nodes, self.outside, self.switches, self.links, self.nameToNode = [], [], [], [], [], {}
        self.routers, self._spec = [], None

    def stop(self) -> NoReturn:
        """Refused: the cluster is not the view's to stop."""
        raise UserError(
            f"stop: this network is a view of cluster {self.cluster}",
            f"`kmn down {self.cluster}` or Cluster.stop ends the cluster; close() ends the view's shells",
        )

    def configLinkStatus(self, src: str, dst: str, status: str) -> None:
        """``link SRC DST up|down``, on all links between the two."""
        for name in (src, dst):
            if name not in self.nameToNode:
                raise UserError(f"link: {name}: not in this network", "`links` and `net` show what there is")
        found = self.nameToNode[src].connectionsTo(self.nameToNode[dst])
        if not found:
            raise UserError(f"link: {src} and {dst} are not joined by a link", "`links` shows which there are")
        for near, _far in found:
            problem = near.link.configure(status)
            if problem:
                error(f"*** link {near.link} {status}: {problem}")

    def start(self) -> None:
        """The cluster runs already."""

    def build(self) -> None:
        """Nothing to build: the cluster is there."""
        self.refresh()

    def iperf(self, hosts: list[MachineHost] | None = None, l4Type: str = "TCP", udpBw: str = "10M",
              fmt: str | None = None, seconds: float = 5, port: int = 5001) -> list[str]:  # fmt: skip
        """Throughput between two hosts, by default the first and the last pod: [server, client] as Mininet does.

        Mininet's own ends every iperf on the machine; this one ends the server that it started.
        """
        pair = hosts or [self.hosts[0], self.hosts[-1]]
        return iperf(pair[0], pair[1], udp=l4Type.upper() == "UDP", bandwidth=udpBw, fmt=fmt, seconds=seconds,
                     port=port)  # fmt: skip

    def stopXterms(self) -> None:
        """End the terminals that this view opened, and no others."""
        for term in self.terms:
            if term.poll() is None:
                term.kill()
            term.wait()
        self.terms = []

    def __iter__(self) -> Iterator[str]:
        for host in chain(self.hosts, self.nodes, self.outside, self.routers, self.switches):
            yield host.name

    def __len__(self) -> int:
        return len(self.hosts) + len(self.nodes) + len(self.outside) + len(self.routers) + len(self.switches)

    def addHost(self, name: str, *_args: Any, **_params: Any) -> NoReturn:
        raise self._refuse("addHost", name, "apply a Pod: `kmn apply -f` or Cluster.apply")

    def addSwitch(self, name: str, *_args: Any, **_params: Any) -> NoReturn:
        raise self._refuse("addSwitch", name, "nodes have one each, the cluster file says which")

    def addController(self, name: Any = "c0", *_args: Any, **_params: Any) -> NoReturn:
        raise self._refuse("addController", name, "the cluster has one of its own")

    def addLink(self, node1: Any, node2: Any, *_args: Any, **_params: Any) -> NoReturn:
        raise self._refuse("addLink", f"{node1}-{node2}", "the cluster file says which there are")

    def delNode(self, node: Any, nodes: Any = None) -> NoReturn:
        raise self._refuse("delNode", node, "delete the Pod: `kmn delete`, `kubectl delete` or Cluster.client.delete")

    def _refuse(self, what: str, name: Any, instead: str) -> UserError:
        return UserError(f"{what} {name}: this network is a view of cluster {self.cluster}", instead)

    def _version(self, resource: Any) -> str:
        """The version of a resource's last change, without its objects."""
        return self.client.list(resource, field_selector="metadata.name=-").resource_version

    def _view_machines(self, nodes: list[Object]) -> None:
        """Nodes with their bridges, and outside hosts."""
        wanted: dict[str, MachineHost] = {}
        bridges: dict[str, BridgeSwitch] = {}
        for node in nodes:
            machine = machine_of_node(self.cluster, node)
            host = wanted[machine.netns] = self._machines.get(machine.netns) or NodeHost(machine.name, machine)
            bridge = self._bridge(bridges, machine, annotation(node, DATAPATH_ID), machine.name)
            self._link(host, bridge, HOST_OFPORT, _NODE_DEVICE)
        for edge in self.client.list(EDGES).items:
            machine = Machine(self.cluster, "edge", _EDGE, edge["spec"]["netns"], edge["spec"]["address"], "")
            bridge = self._bridge(bridges, machine, edge["spec"]["datapathID"], name_of(edge))
            for outside, entry in zip(outside_hosts(self.cluster, edge), edge["spec"]["hosts"], strict=True):
                host = self._machines.get(outside.netns) or OutsideHost(outside.name, outside)
                wanted[outside.netns] = host
                self._link(host, bridge, entry["ofport"], device(self.cluster, "host", outside.name))
        gone = [h for ns, h in self._machines.items() if ns not in wanted]
        for view in (*gone, *(bridge for name, bridge in self._bridges.items() if name not in bridges)):
            view.terminate()
        self._machines, self._bridges = wanted, bridges
        self.nodes = [host for host in wanted.values() if isinstance(host, NodeHost)]
        self.outside = [host for host in wanted.values() if isinstance(host, OutsideHost)]
        self.switches = list(bridges.values())

    def _view_fabric(self, nodes: list[Object]) -> None:
        """Routers, the links between them, and the uplinks of nodes and edge."""
        if self._spec is None:
            clusters = self.client.list(CLUSTERS).items
            if not clusters:
                return
            self._spec = ClusterSpec.from_object(clusters[0])
            self.routers = [self._router(self._spec, router) for router in self._spec.routers]
        spec = self._spec
        routers = dict(zip(spec.routers, self.routers, strict=True))
        for each in self.routers:
            each.forget_ports()
        for number, link in enumerate(spec.fabric_links):
            ends = (link.a, link.b), (link.b, link.a)
            near, far = (self._port(routers[a], b, device(self.cluster, "fabric", str(number), a)) for a, b in ends)
            self.links.append(ViewLink(near, far))
        above = {node.name: node.router for node in spec.nodes}
        uplinks = [(name, name, above[name]) for name in map(name_of, nodes) if name in above]
        uplinks += [(_EDGE, f"{name_of(edge)}-edge", spec.edge_router) for edge in self.client.list(EDGES).items]
        for name, attached, router in uplinks:
            bridge = self._bridges[name]
            lower = ViewIntf(f"{bridge.name}-port{UPLINK_OFPORT}", bridge, None, None, UPLINK_OFPORT, _UPLINK_DEVICE)
            upper = self._port(routers[router], bridge.name, device(self.cluster, "uplink", attached))
            self.links.append(ViewLink(lower, upper))

    def _router(self, spec: ClusterSpec, name: str) -> RouterHost:
        """The view of a router; it is called ``NAME-router`` where something else has its name."""
        taken = {host.name for host in (*self.nodes, *self.outside)}
        address = str(router_address(spec, name))
        machine = Machine(self.cluster, "router", name, router_netns(spec, name), address, "")
        return RouterHost(f"{name}-router" if name in taken else name, machine)

    @staticmethod
    def _port(router: RouterHost, to: str, device_name: str) -> ViewIntf:
        """A router's interface, called by where it leads."""
        name = f"{router.name}-{to}"
        number = sum(each.name.startswith(name) for each in router.intfs.values())
        return ViewIntf(f"{name}.{number}" if number else name, router, router.machine.ip, None, None, device_name)

    def _bridge(
        self, bridges: dict[str, BridgeSwitch], machine: Machine, dpid: str | None, run_name: str
    ) -> BridgeSwitch:
        """The view of a bridge, old or new, entered in ``bridges``."""
        bridge = self._bridges.get(machine.name)
        if bridge is None:
            run_dir = Paths(self.cluster).ovs(run_name)
            connected = partial(self._is_connected, run_name)
            bridge = BridgeSwitch(machine.name + BRIDGE_SUFFIX, machine, dpid, run_dir, connected)
        bridge.forget_ports()  # those that are there are linked again
        bridges[machine.name] = bridge
        return bridge

    def _is_connected(self, bridge: str) -> bool:
        """What the DataPlane object says about a bridge, by the name of its Node or Edge."""
        status = self.client.get(DATAPLANES, "", DATAPLANE_NAME).get("status") or {}
        return any(entry["name"] == bridge and entry["connected"] for entry in status.get("nodes") or ())

    def _view_pods(self, pods: list[Object]) -> None:
        current = {uid_of(pod): pod for pod in pods}
        for uid in [uid for uid in self._pods if uid not in current]:
            self._pods.pop(uid).terminate()
        for uid, pod in current.items():
            host = self._pods.get(uid)
            if host is None:
                key = key_of(pod)
                netns_name = annotation(pod, NETNS) or ""
                ip = (pod.get("status") or {}).get("podIP", "")
                machine = Machine(self.cluster, "pod", str(key), netns_name, ip, annotation(pod, MAC) or "")
                host = self._pods[uid] = PodHost(key.name, machine)
            bridge = self._bridges.get(pod["spec"].get("nodeName", ""))
            ofport = annotation(pod, OFPORT)
            if bridge is not None and ofport is not None and int(ofport) >= FIRST_POD_OFPORT:
                self._link(host, bridge, int(ofport), device(self.cluster, "pod", uid))

    def _link(self, host: MachineHost, bridge: BridgeSwitch, ofport: int, device_name: str) -> None:
        """The link between a host's eth0 and its OpenFlow port."""
        port = ViewIntf(f"{bridge.name}-port{ofport}", bridge, None, None, ofport, device_name)
        self.links.append(ViewLink(host.intfs[0], port))


def _is_there(pod: Object, present: set[str]) -> bool:
    phase = (pod.get("status") or {}).get("phase")
    return phase not in _FINISHED and annotation(pod, NETNS) in present
