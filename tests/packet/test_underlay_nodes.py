"""Node objects become nodes: the manager on a real store and real switches, without the rest of the control plane."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from underlay_lab import run, spec_of

from kmn.apiserver.admission import ClusterAdmission
from kmn.apiserver.local import LocalClient
from kmn.apiserver.store import Store
from kmn.cluster_spec import ClusterSpec
from kmn.controlplane.nodeipam import NodeIpam
from kmn.controlplane.runtime import Runtime
from kmn.emulator.nodes import NodeManager
from kmn.emulator.purge import purge
from kmn.emulator.underlay import Underlay, UnderlayError
from kmn.k8s import dataplane
from kmn.k8s.objects import Object, condition
from kmn.k8s.resources import NODES
from kmn.naming import Paths

pytestmark = [pytest.mark.packet, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


class World:
    """What the cluster's process has of it, for nodes alone."""

    def __init__(self, spec: ClusterSpec) -> None:
        self.spec = spec
        self.kernel = ThreadPoolExecutor(1)
        self.client = LocalClient(Store(), ClusterAdmission(spec))
        self.underlay = Underlay(spec, Paths(spec.name))
        ipam: list[Any] = [NodeIpam(self.client, spec)]
        self.ipam = Runtime(self.client, ipam)
        self.manager = NodeManager(self.client, spec, Paths(spec.name), self.underlay, self.kernel)

    def node(self, name: str) -> Object:
        return self.client.get(NODES, "", name)

    def ready(self, name: str) -> bool:
        found = condition(self.node(name), "Ready")
        return found is not None and found["status"] == "True"

    async def eventually(self, check: Callable[[], bool]) -> bool:
        for _ in range(500):
            if check():
                return True
            await asyncio.sleep(0.02)
        return False


def in_world(spec: ClusterSpec, story: Callable[[World], Awaitable[None]]) -> None:
    """Run a story in a world that has begun, and end it whatever happens."""

    async def tell() -> None:
        world = World(spec)
        try:
            world.underlay.check()
            world.underlay.build_fabric()
            world.ipam.start()
            world.manager.start()
            await story(world)
        finally:
            await world.manager.stop()
            await world.ipam.stop()
            world.kernel.shutdown()
            world.underlay.close()
            purge(spec.name)

    asyncio.run(tell())


def test_nodes_of_the_cluster_file_are_built_and_ready() -> None:
    async def story(world: World) -> None:
        seen: list[tuple[int, int]] = []
        await world.manager.wait_built(lambda done, total: seen.append((done, total)))
        assert seen[-1] == (2, 2)
        node = world.node("n1")
        assert world.ready("n1")
        notes: dict[str, str] = node["metadata"]["annotations"]
        assert notes[dataplane.NETNS] == "kmn.hdn.node.n1"
        assert notes[dataplane.OFPORT] == str(dataplane.HOST_OFPORT)
        assert notes[dataplane.MAC] in run("ip", "-n", notes[dataplane.NETNS], "link", "show", "eth0")
        # Not the device's own: the node's kernel must not take what the fabric sends to the bridge.
        assert notes[dataplane.UPLINK_MAC] not in run("ip", "-n", notes[dataplane.NETNS], "link", "show")
        assert notes[dataplane.UPLINK_MAC] in run("ip", "-n", "kmn.hdn.fabric", "neigh", "show", "172.18.0.2")
        assert notes[dataplane.UPLINK_NEXT_HOP_MAC] in run("ip", "-n", "kmn.hdn.fabric", "link")
        shown = run("env", f"OVS_RUNDIR={Paths('hdn').ovs('n1')}", "ovs-ofctl", "-O", "OpenFlow15", "show", "br0")
        assert f"dpid:{notes[dataplane.DATAPATH_ID]}" in shown
        assert node["status"]["capacity"]["pods"] == "253"

    in_world(spec_of("hdn", 2), story)


def test_a_node_of_a_manifest_comes_and_goes() -> None:
    async def story(world: World) -> None:
        await world.manager.wait_built()
        world.client.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "late"}})
        assert await world.eventually(lambda: world.ready("late"))
        assert "kmn.hdm.node.late" in os.listdir("/run/netns")
        assert world.node("late")["status"]["addresses"][0]["address"] == "172.18.0.3"
        world.client.delete(NODES, "", "late")
        assert await world.eventually(lambda: "kmn.hdm.node.late" not in os.listdir("/run/netns"))
        assert await world.eventually(lambda: not Paths("hdm").ovs("late").exists())

    in_world(spec_of("hdm", 1), story)


@pytest.mark.parametrize("program", ["ovs-vswitchd", "ovsdb-server"])
def test_a_killed_switch_makes_its_node_not_ready_and_comes_back(program: str) -> None:
    async def story(world: World) -> None:
        await world.manager.wait_built()
        states: list[str] = []

        def note(event: Any) -> None:
            found = condition(event.object, "Ready")
            states.append(found["status"] if found else "")

        world.client.subscribe(NODES, note, replay=False)
        before = world.underlay.switches()["n1"].processes()[program]
        os.kill(before, signal.SIGKILL)
        assert await world.eventually(lambda: states[-1:] == ["True"])
        assert states == ["False", "True"]
        assert world.underlay.switches()["n1"].processes()[program] != before
        assert world.underlay.switches()["n1"].settle() == {}

    in_world(spec_of("hdv", 1), story)


def test_the_controller_is_set_when_it_listens() -> None:
    async def story(world: World) -> None:
        await world.manager.wait_built()
        switch = world.underlay.switches()["n1"]

        def targets() -> list[str]:
            asked = [{"op": "select", "table": "Controller", "where": [], "columns": ["target"]}]
            return [row["target"] for row in switch.ovsdb.transact(asked)[0]["rows"]]

        assert targets() == []
        status = {"nodes": [{"name": "n1", "listening": True, "connected": False, "flows": 0, "groups": 0}]}
        world.client.create(
            {"apiVersion": "kmn.io/v1", "kind": "DataPlane", "metadata": {"name": "default"}, "status": status}
        )
        assert await world.eventually(lambda: targets() == ["tcp:127.0.0.1:6653"])

    in_world(spec_of("hdc", 1), story)


def test_a_node_that_cannot_be_built_is_named() -> None:
    async def story(world: World) -> None:
        with pytest.raises(UnderlayError, match=r"Node n2: .*kmn\.hdp\.node\.n2"):
            await world.manager.wait_built()
        assert await world.eventually(lambda: world.ready("n1"))
        found = condition(world.node("n2"), "Ready")
        assert found is not None
        assert found["reason"] == "NodeBuildFailed"

    run("ip", "netns", "add", "kmn.hdp.node.n2")
    in_world(spec_of("hdp", 2), story)
