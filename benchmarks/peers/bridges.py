"""Two hosts at one bridge, or at two: bare Open vSwitch with userspace TSO, or the kernel's Linux bridge."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.iperf import tcp_gbps
from benchmarks.peers.bare import BareNetwork

__all__ = ["bare_across", "bare_same", "linux_bridge"]


def bare_same(seconds: int) -> float:
    """Gbit/s between two hosts at one bare Open vSwitch bridge that does plain learning."""
    with _bare(nodes=1) as network:
        return tcp_gbps(*network.pods, "10.9.0.2", seconds)


def bare_across(seconds: int) -> float:
    """Gbit/s through two bare Open vSwitch bridges joined by a veth pair."""
    with _bare(nodes=2) as network:
        return tcp_gbps(*network.pods, "10.9.0.2", seconds)


def linux_bridge(seconds: int) -> float:
    """Gbit/s between two hosts at a Linux bridge, all in the kernel: what no userspace switch reaches."""
    bridge, hosts = "kmnlb-b", ("kmnlb-h1", "kmnlb-h2")
    try:
        for name in (bridge, *hosts):
            _ip("netns", "add", name)
        _ip("-n", bridge, "link", "add", "br0", "up", "type", "bridge")
        for i, host in enumerate(hosts):
            _ip("link", "add", f"p{i}", "netns", bridge, "type", "veth", "peer", "name", "eth0", "netns", host)
            _ip("-n", bridge, "link", "set", f"p{i}", "up", "master", "br0")
            _address(host, i + 1)
        return tcp_gbps(*hosts, "10.9.0.2", seconds)
    finally:
        for name in (bridge, *hosts):
            subprocess.run(["ip", "netns", "del", name], check=False)


@contextmanager
def _bare(nodes: int) -> Iterator[BareNetwork]:
    network = BareNetwork(pods=2, nodes=nodes, prefix="kmnbare")
    network.up()
    try:
        for i, pod in enumerate(network.pods):
            _address(pod, i + 1)
        if nodes == 2:
            left, right = network.nodes
            _ip("link", "add", "wire", "netns", left, "type", "veth", "peer", "name", "wire", "netns", right)
            for index, node in enumerate(network.nodes):
                _ip("-n", node, "link", "set", "wire", "up")
                network.vsctl(index, "add-port", "br0", "wire")
        for index in range(nodes):
            network.ofctl(index, "add-flow", "br0", "actions=NORMAL")
        yield network
    finally:
        network.down()


def _address(namespace: str, number: int) -> None:
    _ip("-n", namespace, "addr", "add", f"10.9.0.{number}/24", "dev", "eth0")
    _ip("-n", namespace, "link", "set", "eth0", "up")


def _ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True)
