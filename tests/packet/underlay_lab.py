"""For tests of the underlay: clusters without a control plane or controller, and flows that a person would write."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

from kmn.cluster_spec import ClusterSpec, Link, NodeSpec
from kmn.emulator.model import NodePlan, PodPort
from kmn.emulator.purge import purge
from kmn.emulator.underlay import Underlay, node_uplink
from kmn.k8s.dataplane import BRIDGE, FIRST_POD_OFPORT, GATEWAY_MAC, HOST_OFPORT, UPLINK_OFPORT, mac_of
from kmn.naming import Paths, netns


def spec_of(name: str, nodes: int = 3, uplink: Link = Link(), **rest: Any) -> ClusterSpec:  # noqa: B008
    """A cluster of nodes n1, n2, … at the usual addresses; ``uplink`` is the first one's."""
    specs = [NodeSpec(f"n{n}", IPv4Address("172.18.0.1") + n) for n in range(1, nodes + 1)]
    specs[0] = replace(specs[0], uplink=uplink)
    return ClusterSpec(name, tuple(specs), **rest)


def plans_of(spec: ClusterSpec) -> list[NodePlan]:
    networks = spec.pod_cidr.subnets(new_prefix=spec.node_pod_prefix)
    return [
        NodePlan(node.name, node.address, network, node.router, node.uplink)
        for node, network in zip(spec.nodes, networks, strict=False)
    ]


def pod_of(spec: ClusterSpec, node: str, number: int, link: Link = Link()) -> PodPort:  # noqa: B008
    """Pod ``default/NODE-NUMBER``."""
    plan = next(plan for plan in plans_of(spec) if plan.name == node)
    address = plan.pod_cidr[number + 2]
    return PodPort(
        uid=f"uid-{node}-{number}",
        name=f"default/{node}-{number}",
        node=node,
        netns=netns(spec.name, "pod", "default", f"{node}-{number}"),
        address=IPv4Interface(f"{address}/{plan.pod_cidr.prefixlen}"),
        gateway=plan.pod_cidr[1],
        mac=mac_of(str(address)),
        ofport=FIRST_POD_OFPORT + number,
        resolv_conf="nameserver 10.96.0.10\n",
        hosts="127.0.0.1 localhost\n",
        link=link,
    )


class Lab:
    """A cluster's kernel side, built; pods as asked for; plain routing flows."""

    def __init__(self, spec: ClusterSpec) -> None:
        self.spec = spec
        self.paths = Paths(spec.name)
        self.underlay = Underlay(spec, self.paths)
        self.pods: dict[str, PodPort] = {}

    def up(self) -> None:
        self.underlay.check()
        self.underlay.build_fabric()
        self.underlay.build_nodes(plans_of(self.spec))

    def down(self) -> None:
        self.underlay.close()
        purge(self.spec.name)

    def attach(self, *pods: PodPort) -> None:
        assert self.underlay.attach_pods(pods) == {}
        self.pods |= {pod.name: pod for pod in pods}

    def ofctl(self, node: str, *args: str) -> str:
        directory = self.paths.ovs(node)
        return run("env", f"OVS_RUNDIR={directory}", "ovs-ofctl", "-O", "OpenFlow15", args[0], BRIDGE, *args[1:])

    def ports(self, node: str) -> dict[str, int]:
        """OpenFlow ports of a bridge by device, as the switch itself says."""
        listed = self.ofctl(node, "dump-ports-desc").splitlines()
        rows = [line.strip() for line in listed if line.startswith(" ") and "(" in line]
        return {row.split("(")[1].split(")")[0]: int(row.split("(")[0]) for row in rows if not row.startswith("LOCAL")}

    def route(self) -> None:
        """Plain routing on every bridge: pods here, the node, all else to the fabric."""
        for plan in plans_of(self.spec):
            uplink = node_uplink(plan)
            flows = [ARP_ANSWER, _to(plan.address, mac_of(str(plan.address)), HOST_OFPORT, 20)]
            flows.append(
                f"priority=10,ip,actions=mod_dl_src:{uplink.port_mac},mod_dl_dst:{uplink.router_mac},dec_ttl,"
                f"output:{UPLINK_OFPORT}"
            )
            for pod in self.pods.values():
                if pod.node == plan.name:
                    flows.append(_to(pod.address.ip, pod.mac, pod.ofport, 20))
            for flow in flows:
                self.ofctl(plan.name, "add-flow", flow)

    def ping(self, source: str, target: str, wait: float = 5.0) -> bool:
        """Whether a namespace of the cluster gets an answer from an address in time."""
        code = subprocess.run(
            ["ip", "netns", "exec", source, "ping", "-n", "-c1", f"-W{wait:g}", target], capture_output=True
        ).returncode
        return code == 0


ARP_ANSWER = (
    f"priority=30,arp,arp_op=1,actions=move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],set_field:{GATEWAY_MAC}->eth_src,"
    f"set_field:2->arp_op,move:NXM_NX_ARP_SHA[]->NXM_NX_ARP_THA[],set_field:{GATEWAY_MAC}->arp_sha,"
    "move:NXM_OF_ARP_SPA[]->NXM_NX_REG0[],move:NXM_OF_ARP_TPA[]->NXM_OF_ARP_SPA[],"
    "move:NXM_NX_REG0[]->NXM_OF_ARP_TPA[],IN_PORT"
)


def _to(address: IPv4Address, mac: str, port: int, priority: int) -> str:
    actions = f"mod_dl_src:{GATEWAY_MAC},mod_dl_dst:{mac},dec_ttl,output:{port}"
    return f"priority={priority},ip,nw_dst={address},actions={actions}"


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def eventually(condition: Callable[[], bool], timeout: float = 10.0) -> bool:
    """Whether a condition comes true in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def root_state() -> dict[str, object]:
    """What the machine's own network looks like, as far as clusters must leave it alone."""
    return {
        "links": run("ip", "-o", "link"),
        "addresses": [line.split(" valid_lft")[0] for line in run("ip", "-o", "addr").splitlines()],
        "routes": run("ip", "route", "show", "table", "all"),
        "rules": run("ip", "rule"),
        "nft": run("nft", "list", "ruleset"),
    }


def traces(cluster: str) -> list[str]:
    """What a cluster has on the machine, found without the code under test."""
    names = [f"netns {n}" for n in os.listdir("/run/netns") if n.startswith(f"kmn.{cluster}.")]
    if os.path.isdir("/etc/netns"):
        names += [f"etc {n}" for n in os.listdir("/etc/netns") if n.startswith(f"kmn.{cluster}.")]
    if Paths(cluster).root.exists():
        names.append("files")
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                if f"KMN_CLUSTER={cluster}\0".encode() in file.read():
                    names.append(f"process {pid}")
        except OSError:
            continue
    return names
