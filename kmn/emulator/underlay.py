"""What a cluster has in the kernel: nodes, pods, fabric, edge. Blocking calls, from one worker thread at a time.

It takes plans, in which everything is decided (``model``), and makes them so. It knows no API and no objects.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from kmn import naming
from kmn.cluster_spec import ClusterSpec
from kmn.emulator import ethtool, features, netlink, netns, ovs, shaping
from kmn.emulator.edge import EDGE_NAME, Edge, datapath_id, host_netns
from kmn.emulator.fabric import DEFAULT_ROUTES, Fabric, Uplink, node_networks, offload
from kmn.emulator.model import EdgePort, NodePlan, PodPort
from kmn.emulator.netlink import LOOPBACK_INDEX, Address, Netlink, NextHop, Request, Veth, link_local
from kmn.emulator.ovs import BridgePlan, Port, Switch
from kmn.emulator.ovsdb import OvsdbError
from kmn.emulator.podfiles import node_resolv_conf, outside_resolv_conf
from kmn.emulator.rules import through_bridge
from kmn.emulator.space import Space
from kmn.k8s.dataplane import GATEWAY_MAC, HOST_OFPORT, REJECT_IP, REJECT_IPV6, UPLINK_OFPORT, mac_of
from kmn.naming import Paths, device

__all__ = ["API_PORT", "Underlay", "UnderlayError", "bridge_mac", "node_uplink"]

API_PORT = 6443
# Next hop of all that a node sends. Never seen in a packet: only its neighbour entry counts.
_NODE_GATEWAY = IPv4Address("169.254.169.254")
_NODE_GATEWAYS: dict[int, Address] = {4: _NODE_GATEWAY, 6: link_local(_NODE_GATEWAY)}
_REJECT: dict[int, Address] = {4: IPv4Address(REJECT_IP), 6: IPv6Address(REJECT_IPV6)}
# Chosen, so that a device is made and configured in one batch; high, because a new namespace may come with tunnel
# devices of modules that are loaded.
_ETH0 = 100  # index of eth0 in namespaces of nodes and pods
_IFB = 101  # index of a pod's shaping device
_DOOMED = 7  # device group of ports that go together
_CARRIER_TIMEOUT = 10.0  # seconds

_NODE_SYSCTLS = {
    "net/ipv4/ip_forward": "0",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    # What the bridge turns back to the node may come from the node's own address.
    "net/ipv4/conf/all/accept_local": "1",
    # A Service without endpoints is refused by the node's kernel: each time, not a few times a second.
    "net/ipv4/icmp_ratelimit": "0",
    # The kernel sees what arrives at the bridge's ports, too, and would answer a pod's broadcast ARP request for its
    # gateway with the MAC of the wrong device. Flows answer.
    "net/ipv4/conf/all/arp_ignore": "8",
    "net/ipv4/icmp_ratemask": "0",
}
_NODE_IPV6_SYSCTLS = {
    # As below for IPv4: it answers what must make no further hop. Nothing else for others reaches it.
    "net/ipv6/conf/all/forwarding": "1",
    "net/ipv6/icmp/ratelimit": "0",
}


class UnderlayError(Exception):
    """The machine cannot hold this cluster, or something in the kernel went wrong."""


def bridge_mac(address: IPv4Address) -> str:
    """MAC address of a node's bridge device; its datapath id follows from it."""
    return "0a:5c:" + ":".join(f"{byte:02x}" for byte in address.packed)


def node_uplink(plan: NodePlan) -> Uplink:
    """Both ends of a node's uplink."""
    return Uplink.of(plan.address, f"uplink of {plan.name}", plan.uplink)


@dataclass(slots=True)
class _Node:
    plan: NodePlan
    space: Space
    switch: Switch
    pods: dict[str, PodPort] = field(default_factory=dict)  # by uid


class Underlay:
    """The kernel side of one cluster. Not safe for calls from two threads at a time."""

    def __init__(self, spec: ClusterSpec, paths: Paths) -> None:
        self._spec = spec
        self._paths = paths
        self._fabric = Fabric(spec)
        self._offload = offload(spec)
        self._edge: Edge | None = None
        self._nodes: dict[str, _Node] = {}
        self._template = paths.root / "empty.db"
        self.datapath_type: str = "netdev"

    def check(self) -> None:
        """Refuse, before anything is touched, what this machine cannot do. Raises UnderlayError."""
        problems = features.problems(self._spec)
        if problems:
            raise UnderlayError("\n".join(problems))
        self.datapath_type = features.datapath_type(self._spec.datapath)

    # --- fabric and edge ----------------------------------------------------------------------------------------------

    def build_fabric(self) -> None:
        """Make the routers, and the edge where there are outside hosts."""
        for folder in (self._paths.root, self._paths.log, self._paths.root / "nodes", self._paths.root / "etc"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        ovs.make_database(self._template)
        self._fabric.build()
        if self._spec.outside_hosts:
            self._edge = Edge(self._spec, self._paths, self._template)
            ovs.start_all([self._edge.build(self._fabric, self.datapath_type)])
            for host in self._spec.outside_hosts:
                self._write_etc(host_netns(self._spec, host), {"resolv.conf": outside_resolv_conf(self._spec)})

    def plug(self, port: EdgePort) -> None:
        """Make something on the edge's bridge. Raises UnderlayError."""
        if self._edge is None:
            raise UnderlayError(f"{port.name}: there is no edge: spec.internet.hosts of the cluster file is empty")
        try:
            self._edge.plug(port)
        except (OSError, OvsdbError) as error:
            raise UnderlayError(f"{port.name}: {error}") from error

    def unplug(self, port: EdgePort) -> None:
        """Undo :meth:`plug`. What is gone already is no error."""
        if self._edge is not None:
            self._edge.unplug(port)

    def api_socket(self) -> socket.socket:
        """A listening socket at the fabric's address, where nodes and pods reach the API server."""
        with netns.entered(self._fabric.edge_space.file):
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((str(self._spec.fabric_address), API_PORT))
        listener.listen(1024)
        return listener

    # --- nodes --------------------------------------------------------------------------------------------------------

    def build_nodes(self, plans: Sequence[NodePlan]) -> None:
        """Make nodes with their switches; those that are there already are left alone. All of them or none."""
        plans = [plan for plan in plans if plan.name not in self._nodes]
        try:
            ovs.start_all([self._build_node(plan) for plan in plans])
            for plan in plans:
                self._await_sending(self._nodes[plan.name].space, {"eth0", "host", "uplink"})
        except (OSError, OvsdbError) as error:
            self.remove_nodes([plan.name for plan in plans])
            raise UnderlayError(str(error)) from error

    def _build_node(self, plan: NodePlan) -> BridgePlan:
        spec = self._spec
        name = self.node_netns(plan.name)
        space = Space.create(name, _NODE_SYSCTLS)
        log = self._paths.log / f"{plan.name}-ovs.log"
        switch = Switch(spec.name, plan.name, name, self._paths.ovs(plan.name), log, self._template)
        self._nodes[plan.name] = _Node(plan, space, switch)
        self._write_etc(name, {"resolv.conf": node_resolv_conf(spec)})
        eth0 = Veth("eth0", mac_of(str(plan.address)), _ETH0)
        space.netlink.apply(
            [
                netlink.veth_add(eth0, Veth("host", index=_ETH0 + 1)),
                netlink.link_up("host"),
            ]
        )
        with netns.entered(space.file):
            if plan.ipv6:
                # Not on the bridge's ports: their kernel side is to say nothing.
                netns.ipv6_on("lo", "eth0")
                for key, value in _NODE_IPV6_SYSCTLS.items():
                    netns.sysctl(key, value)
            # The bridge hands over packets whose time to live ends here. A kernel answers these only where it routes.
            netns.sysctl("net/ipv4/conf/eth0/forwarding", "1")
            if not self._offload:
                ethtool.segmentation_offload_off("eth0")
        for address, pod_cidr in zip(plan.addresses, plan.pod_cidrs, strict=True):
            space.netlink.apply(_node_requests(address, pod_cidr[1]))
        self._fabric.attach(plan.name, plan.router, space, Veth("uplink"), node_uplink(plan), node_networks(plan))
        mac = bridge_mac(plan.address)
        ports = (Port("uplink", UPLINK_OFPORT), Port("host", HOST_OFPORT))
        return BridgePlan(switch, name, self.datapath_type, datapath_id(mac), mac, ports)

    def node_netns(self, name: str) -> str:
        """Name of a node's namespace."""
        return naming.netns(self._spec.name, "node", name)

    def remove_nodes(self, names: Iterable[str]) -> None:
        """Remove nodes with their switches and the devices of their pods. One that is gone is no error."""
        for name in names:
            node = self._nodes.pop(name, None)
            if node is None:
                continue
            ovs.kill_all([node.switch])
            self._fabric.detach(name)
            for pod in node.pods.values():
                self._forget_pod(pod)
            node.space.close()
            self._remove_etc(node.space.name)
            shutil.rmtree(self._paths.ovs(name), ignore_errors=True)

    def set_controllers(self, names: Iterable[str]) -> None:
        """Let the bridges of these nodes connect to the controller (the edge's by the name of its Edge)."""
        for name in names:
            switch = self._switch(name)
            if switch is not None:
                switch.set_controller()

    def switches(self) -> dict[str, Switch]:
        """The switches by node, the edge's by the name of its Edge."""
        found = {name: node.switch for name, node in self._nodes.items()}
        if self._edge is not None:
            found[EDGE_NAME] = self._edge.switch
        return found

    def revive(self, name: str) -> list[str]:
        """Restart what has ended of a switch; the names of the programs. Flows are the controller's to bring back."""
        switch = self._switch(name)
        if switch is None:
            return []
        try:
            return switch.revive()
        except (OSError, OvsdbError) as error:
            raise UnderlayError(str(error)) from error

    def _switch(self, name: str) -> Switch | None:
        return self.switches().get(name)

    # --- pods ---------------------------------------------------------------------------------------------------------

    def attach_pods(self, pods: Sequence[PodPort]) -> dict[str, str]:
        """Make pods' namespaces and ports. What went wrong, by uid; the others are attached.

        A pod that is attached already is left as it is. A port carries no packet before the controller gives it flows.
        """
        errors: dict[str, str] = {}
        made: dict[str, list[PodPort]] = defaultdict(list)
        with netns.restored():
            for pod in pods:
                node = self._nodes.get(pod.node)
                if node is None:
                    errors[pod.uid] = f"Pod {pod.name}: node {pod.node} is not there"
                elif pod.uid not in node.pods:
                    try:
                        self._make_pod(pod, node)
                        made[pod.node].append(pod)
                    except OSError as error:
                        errors[pod.uid] = f"Pod {pod.name}: {error}"
                        self._forget_pod(pod)
        self._connect(made, errors)
        for name, there in made.items():
            self._await_sending(self._nodes[name].space, {self._port(pod) for pod in there if pod.uid not in errors})
        return errors

    @staticmethod
    def _await_sending(space: Space, devices: set[str]) -> None:
        """Wait until devices send, so that no first packet is lost. As a rule they do by the time they are asked."""
        deadline = time.monotonic() + _CARRIER_TIMEOUT
        while missing := devices - space.netlink.transmitting():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{space.name}: {', '.join(sorted(missing))}: no carrier")
            time.sleep(0.001)

    def _make_pod(self, pod: PodPort, node: _Node) -> None:
        """The calling thread ends up in the pod's namespace."""
        self._write_etc(pod.netns, {"resolv.conf": pod.resolv_conf, "hosts": pod.hosts})
        try:
            netns.create(pod.netns, ipv6=pod.ipv6 is not None)
        except FileExistsError:
            # Left by an attempt that failed: nobody lists it as attached.
            netns.delete(pod.netns)
            netns.create(pod.netns, ipv6=pod.ipv6 is not None)
        port = Veth(self._port(pod), netns=node.space.file, alias=pod.name)
        with Netlink(pod.netns) as link:
            link.apply([netlink.veth_add(Veth("eth0", pod.mac, _ETH0), port, up=False)])
            # The port first: the end that is set up last finds a carrier and sends at once, the other one some time
            # later. That of the node is in reach to wait for.
            node.space.netlink.apply([netlink.link_up(port.name)])
            link.apply(_pod_requests(pod))
        if not self._offload:
            ethtool.segmentation_offload_off("eth0")

    def _port(self, pod: PodPort) -> str:
        return device(self._spec.name, "pod", pod.uid)

    def _connect(self, made: dict[str, list[PodPort]], errors: dict[str, str]) -> None:
        """Put devices on the bridges: all nodes work at the same time."""
        ports: dict[str, list[Port]] = {}
        for name, pods in made.items():
            ports[name] = [
                Port(self._port(pod), pod.ofport, {"pod": pod.name, "pod-uid": pod.uid})
                for pod in pods
                if pod.uid not in errors
            ]
        failed = self._each({name: self._nodes[name].switch for name in made}, ports)
        for name, pods in made.items():
            for pod in pods:
                problem = failed[name].get(self._port(pod)) or failed[name].get("")
                if problem:
                    errors[pod.uid] = f"Pod {pod.name}: {problem}"
                if pod.uid in errors:
                    self._drop(self._nodes[name], [pod])
                else:
                    self._nodes[name].pods[pod.uid] = pod

    @staticmethod
    def _each(switches: dict[str, Switch], add: dict[str, list[Port]]) -> dict[str, dict[str, str]]:
        """Add ports on many switches; problems by switch and device, under "" what is wrong with a whole switch."""
        problems: dict[str, dict[str, str]] = {name: {} for name in switches}

        def step(action: str) -> None:
            for name, switch in switches.items():
                if "" in problems[name]:
                    continue
                try:
                    if action == "send":
                        switch.send_ports(add[name])
                    elif action == "receive":
                        switch.receive(add[name])
                        switch.send_wait()
                    else:
                        problems[name] |= switch.receive_wait()
                except OvsdbError as error:
                    problems[name][""] = str(error)

        for action in ("send", "receive", "wait"):
            step(action)
        return problems

    def detach_pods(self, pods: Sequence[PodPort]) -> None:
        """Remove pods' ports, devices and namespaces. What is gone already is no error."""
        by_node: dict[str, list[PodPort]] = defaultdict(list)
        for pod in pods:
            by_node[pod.node].append(pod)
        for name, there in by_node.items():
            node = self._nodes.get(name)
            if node is not None:
                self._drop(node, there)
            else:
                for pod in there:
                    self._forget_pod(pod)

    def _drop(self, node: _Node, pods: Sequence[PodPort]) -> None:
        devices = [self._port(pod) for pod in pods]
        try:
            node.switch.send_ports(remove=devices)
            node.switch.receive()
        except OvsdbError:
            pass  # the switch is down: it forgets ports whose devices are gone when it is back
        node.space.netlink.apply([netlink.link_group(name, _DOOMED) for name in devices])
        node.space.netlink.apply([netlink.group_delete(_DOOMED)])
        for pod in pods:
            node.pods.pop(pod.uid, None)
            self._forget_pod(pod)

    def _write_etc(self, space: str, files: Mapping[str, str]) -> None:
        folder = self._paths.etc(space)
        os.makedirs(folder, mode=0o755, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text)
        netns.link_etc(space, folder)

    def _remove_etc(self, space: str) -> None:
        netns.unlink_etc(space)
        shutil.rmtree(self._paths.etc(space), ignore_errors=True)

    def _forget_pod(self, pod: PodPort) -> None:
        netns.delete(pod.netns)
        self._remove_etc(pod.netns)

    # --- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the switches and let go of all files and sockets; ``purge`` then removes the rest by name."""
        ovs.kill_all(self.switches().values())
        for node in self._nodes.values():
            node.space.release()
        self._nodes.clear()
        if self._edge is not None:
            self._edge.space.release()
            self._edge = None
        self._fabric.release()


def _node_requests(address: Address, gateway: Address) -> list[Request]:
    """Addresses and routes of one family of a node."""
    default, hop = DEFAULT_ROUTES[address.version], NextHop(_ETH0, _NODE_GATEWAYS[address.version])
    return [
        netlink.address_add(LOOPBACK_INDEX, _REJECT[address.version]),
        netlink.address_add(_ETH0, address),
        netlink.address_add(_ETH0, gateway),
        netlink.neighbour_add(_ETH0, hop.gateway, GATEWAY_MAC),
        netlink.route_add(default, [hop], address),
        *through_bridge(address, default, hop),
    ]


def _pod_requests(pod: PodPort) -> list[Request]:
    requests = [netlink.link_up(LOOPBACK_INDEX), netlink.link_up(_ETH0)]
    # Everything by way of the gateway, whose MAC is known: the kernel has room for 1,024 neighbours that it asks
    # for, in all namespaces together (net.ipv4.neigh.default.gc_thresh3). Beyond, packets are lost.
    for interface in (pod.address, pod.ipv6):
        if interface is None:
            continue
        hop: Address = pod.gateway if interface.version == 4 else interface.network[1]
        requests += [
            netlink.address_add(_ETH0, interface.ip, interface.network.prefixlen, on_link=False),
            netlink.neighbour_add(_ETH0, hop, GATEWAY_MAC),
            netlink.route_add(DEFAULT_ROUTES[interface.version], [NextHop(_ETH0, hop)]),
        ]
    return [
        *requests,
        *shaping.egress(_ETH0, pod.link),
        *shaping.ingress(_ETH0, pod.link, "ifb", _IFB),
    ]
