"""What the machine can do, asked before anything is made: programs, rights, and what the kernel has.

Nothing is guessed from versions: a queueing discipline is there if one can be made, in a namespace without a name that
goes at once. Problems come as messages that name the field of the cluster file and the remedy.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from kmn.cluster_spec import ClusterSpec, Link
from kmn.emulator import netlink, netns, ovs, shaping
from kmn.emulator.edge import EDGE_NAME
from kmn.emulator.fabric import router_address
from kmn.emulator.netlink import Netlink

__all__ = ["datapath_type", "kernel_datapath", "problems"]

_PROGRAMS = ("ovsdb-server", "ovsdb-tool", "ovs-vswitchd")
_GENERIC, _GET_FAMILY, _FAMILY_NAME = 16, 3, 2
_INDEX = 100
_BANDWIDTH = Link(bandwidth=1_000_000)
_DELAY = Link(delay=0.001)


def problems(spec: ClusterSpec) -> list[str]:
    """What keeps this cluster from being emulated on this machine; empty when nothing does."""
    if os.geteuid() != 0:
        return ["kmn needs root: it makes network namespaces and devices; run it with sudo"]
    missing = [*_missing(), *([] if ovs.SCHEMA.exists() else [str(ovs.SCHEMA)])]
    remedy = "not found; install the package openvswitch-switch"
    found = [f"Open vSwitch: {', '.join(missing)}: {remedy}"] if missing else []
    error = _in_scratch(lambda nl: nl.apply([_device()]))
    if error:
        return [*found, f"network namespaces and veth pairs: {error}; kmn needs CAP_SYS_ADMIN and CAP_NET_ADMIN"]
    return found + _name_problems(spec) + _datapath_problems(spec) + _link_problems(spec)


def _name_problems(spec: ClusterSpec) -> list[str]:
    """Names and addresses that the emulator needs itself."""
    found = []
    routers = {router_address(spec, router): router for router in spec.routers}
    for node in spec.nodes:
        if node.name == EDGE_NAME and spec.outside_hosts:
            found.append(f"spec.nodes[{node.name}].name: the edge's bridge has this name; call the node something else")
        if node.address in routers:
            owner = routers[node.address]
            found.append(f"spec.nodes[{node.name}].address: {node.address} is that of router {owner}; use another one")
    return found


def _missing() -> list[str]:
    return [program for program in _PROGRAMS if shutil.which(program) is None]


def _datapath_problems(spec: ClusterSpec) -> list[str]:
    found = []
    if spec.datapath == "system" and not kernel_datapath():
        found.append("spec.datapath: system: the kernel has no openvswitch module; use auto or netdev")
    if datapath_type(spec.datapath) == "netdev" and not Path("/dev/net/tun").exists():
        found.append("spec.datapath: netdev: the kernel has no TUN devices (/dev/net/tun); load the module tun")
    return found


def datapath_type(wanted: Literal["auto", "system", "netdev"]) -> Literal["system", "netdev"]:
    """The datapath that bridges get: for ``auto`` the kernel's where it has one."""
    if wanted == "auto":
        return "system" if kernel_datapath() else "netdev"
    return wanted


def kernel_datapath() -> bool:
    """Whether the kernel has Open vSwitch's datapath (asking loads the module where there is one)."""
    body = struct.pack("=BBxx", _GET_FAMILY, 1) + netlink.attribute(_FAMILY_NAME, b"ovs_datapath\0")
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _GENERIC) as sock:
        sock.send(struct.pack("=IHHII", 16 + len(body), 16, 0x5, 1, 0) + body)
        answer = sock.recv(4096)
    kind = struct.unpack_from("=IH", answer)[1]
    return bool(kind != 2 or struct.unpack_from("=i", answer, 16)[0] == 0)


def _link_problems(spec: ClusterSpec) -> list[str]:
    links = list(_links(spec))
    found = []
    tbf = netem = ifb = ""
    if any(link.bandwidth is not None for _, link in links):
        tbf = _in_scratch(lambda nl: nl.apply([_device(), *shaping.egress(_INDEX, _BANDWIDTH)]))
    if any(shaping.needs_netem(link) for _, link in links):
        netem = _in_scratch(lambda nl: nl.apply([_device(), *shaping.egress(_INDEX, _DELAY)]))
    if not tbf and any(link for _, link in links):
        ifb = _in_scratch(lambda nl: nl.apply([_device(), *shaping.ingress(_INDEX, _BANDWIDTH, "i", _INDEX + 2)]))
    # One message for each thing that is missing, with all fields that need it.
    if tbf:
        fields = _given(links, "bandwidth")
        found.append(f"{fields}: the kernel cannot do it (sch_tbf: {tbf}); leave it out")
    elif ifb:
        fields = ", ".join(field for field, _ in links)
        found.append(f"{fields}: the kernel cannot do it (ifb, sch_ingress, cls_u32, act_mirred: {ifb}); leave it out")
    if netem:
        fields = _given(links, "delay", "jitter", "loss")
        found.append(
            f"{fields}: this kernel cannot do it (sch_netem: {netem}); load the module sch_netem, use a kernel that "
            "has it, or leave it out"
        )
    return found


def _given(links: Iterable[tuple[str, Link]], *names: str) -> str:
    """Those of the fields that the cluster file gives, by their paths."""
    return ", ".join(f"{field}.{name}" for field, link in links for name in names if getattr(link, name) is not None)


def _device() -> netlink.Request:
    return netlink.veth_add(netlink.Veth("a", index=_INDEX), netlink.Veth("b", index=_INDEX + 1))


def _links(spec: ClusterSpec) -> Iterable[tuple[str, Link]]:
    for node in spec.nodes:
        if node.uplink:
            yield f"spec.nodes[{node.name}].uplink", node.uplink
        if node.pod_link:
            yield f"spec.nodes[{node.name}].podLink", node.pod_link
    for fabric_link in spec.fabric_links:
        if fabric_link.link:
            yield f"spec.fabric.links[{fabric_link.a}-{fabric_link.b}]", fabric_link.link
    for host in spec.outside_hosts:
        if host.link:
            yield f"spec.internet.hosts[{host.name}].link", host.link


def _in_scratch(trial: Callable[[Netlink], None]) -> str:
    """Try something in a namespace that goes with its thread; what went wrong, empty if nothing did."""
    outcome: list[str] = []

    def run() -> None:
        try:
            netns.isolate()
            with Netlink("trial") as nl:
                trial(nl)
        except OSError as error:
            outcome.append(os.strerror(error.errno) if error.errno else str(error))

    thread = threading.Thread(target=run, name="kernel-feature-trial")
    thread.start()
    thread.join()
    return outcome[0] if outcome else ""
