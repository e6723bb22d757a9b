"""`link A B down` and `up` on a real cluster with a fabric of two spines: what is cut off, and that all comes back."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from kmn import Cluster
from kmn.mininet import build
from kmn.mininet.net import ClusterNet

pytestmark = pytest.mark.packet

NAME = f"hplink{os.getpid()}"
FILE = {
    "apiVersion": "kmn.io/v1",
    "kind": "Cluster",
    "metadata": {"name": NAME},
    "spec": {
        "fabric": {
            "routers": ["leaf1", "leaf2", "spine1", "spine2"],
            "links": [{"ends": [leaf, spine]} for leaf in ("leaf1", "leaf2") for spine in ("spine1", "spine2")],
            "edge": "spine1",
        },
        "nodes": [{"name": "n1", "router": "leaf1"}, {"name": "n2", "router": "leaf2"}],
    },
}
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "client"},
    "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "example.com/c:1"}]},
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(FILE, manifests=[POD]) as running:
        running.wait_ready()
        yield running


@pytest.fixture
def net(cluster: Cluster) -> ClusterNet:
    return cluster.net


def reaches(net: ClusterNet, source: str, target: str) -> bool:
    return " 0% packet loss" in net[source].cmd(f"ping -c 3 -i 0.1 -W 1 {net[target].IP()}")


def state(net: ClusterNet) -> dict[str, str]:
    """Routes and neighbours of all places. (Neighbours that Linux found by itself come and go.)"""
    shown = "ip route; ip neigh show nud permanent"
    names = [name for name in net if name not in (switch.name for switch in net.switches)]
    return {name: "\n".join(sorted(net[name].cmd(shown).splitlines())) for name in names}


def test_the_fabric_is_in_the_view(net: ClusterNet) -> None:
    assert [router.name for router in net.routers] == ["leaf1", "leaf2", "spine1", "spine2"]
    links = {str(link) for link in net.links}
    assert {"leaf1-spine1<->spine1-leaf1", "n1-br0-port1<->leaf1-n1-br0", "edge-br0-port1<->spine1-edge-br0"} <= links
    assert all(link.status() == "(OK OK)" for link in net.links)
    assert reaches(net, "client", "leaf2")


@pytest.mark.parametrize(
    ("ends", "cut_off"),
    [
        (("client", "n1-br0"), "client"),
        (("n1-br0", "n1"), "n1"),
        (("n2-br0", "leaf2"), "n2"),
        (("e1", "edge-br0"), "e1"),
    ],
)
def test_a_link_goes_down_and_comes_back(net: ClusterNet, ends: tuple[str, str], cut_off: str) -> None:
    before = state(net)
    assert reaches(net, "leaf1", cut_off)
    net.configLinkStatus(*ends, "down")
    assert not reaches(net, "leaf1", cut_off)
    ((near, _far),) = net[ends[0]].connectionsTo(net[ends[1]])
    assert near.link.status() == "(DOWN DOWN)"
    net.configLinkStatus(*ends, "up")
    assert reaches(net, "leaf1", cut_off)
    assert state(net) == before


def test_routers_take_the_other_path_and_another_view_mends_the_link(cluster: Cluster, net: ClusterNet) -> None:
    before = state(net)
    for leaf in ("leaf1", "leaf2"):
        net.configLinkStatus(leaf, "spine1", "down")
    assert reaches(net, "n1", "n2")
    assert not reaches(net, "leaf1", "spine1")
    other = build(cluster.client, NAME)
    other.configLinkStatus("spine1", "leaf1", "up")
    assert reaches(net, "leaf1", "spine1")
    other.configLinkStatus("spine1", "leaf2", "up")
    other.close()
    assert state(net) == before
    assert reaches(net, "leaf1", "spine1")
