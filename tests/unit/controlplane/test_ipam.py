"""Networks of nodes, addresses of pods."""

from __future__ import annotations

from ipaddress import IPv6Network
from typing import Any

from kmn.cluster_spec import ClusterSpec, Ipv6Spec
from kmn.controlplane import ControlPlane
from kmn.k8s.objects import Object, annotation, annotations, condition, draft, name_of
from kmn.k8s.resources import NODES, PODS

from .world import World, in_loop, labelled, running, small, template


def pod(name: str, node: str = "", **spec: Any) -> Object:
    fields = {**template()["spec"], **({"nodeName": node} if node else {}), **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": labelled(name), "spec": fields}


def ip(world: World, name: str) -> str:
    return str(world.get(PODS, name)["status"].get("podIP") or "")


def cidr(world: World, name: str) -> str:
    return str(world.get(NODES, name)["spec"].get("podCIDR") or "")


def end(world: World, name: str) -> None:
    world.client.delete(PODS, "default", name, grace_seconds=0)


@in_loop
async def test_nodes_get_networks_in_order_and_give_them_back() -> None:
    async with running("b", "a", spec=small("10.0.0.0/23", 25)) as world:
        await world.until(lambda: cidr(world, "a") and cidr(world, "b"))
        world.node("c")
        await world.until(lambda: cidr(world, "c") == "10.0.1.0/25")
        world.node("d")
        await world.until(lambda: cidr(world, "d") == "10.0.1.128/25")
        assert world.get(NODES, "d")["spec"]["podCIDRs"] == ["10.0.1.128/25"]
        world.node("e")
        [message] = await world.until(lambda: world.events("CIDRNotAvailable"))
        assert message.startswith("Node e: no pod network left: 10.0.0.0/23 has 4 networks of length /25, all in use")
        assert (condition(world.get(NODES, "e"), "NetworkUnavailable") or {})["status"] == "True"
        freed = cidr(world, "a")
        world.client.delete(NODES, "", "a")
        await world.until(lambda: cidr(world, "e") == freed)
        assert (condition(world.get(NODES, "e"), "NetworkUnavailable") or {})["status"] == "False"


@in_loop
async def test_a_network_that_a_node_brings_is_kept() -> None:
    async with running(spec=small("10.0.0.0/23", 24)) as world:
        world.node("a")
        world.node("b", podCIDR="10.0.0.0/24")
        await world.until(lambda: cidr(world, "a") == "10.0.1.0/24")
        world.node("c", podCIDR="10.0.0.0/24")
        [message] = await world.until(lambda: world.events("CIDRConflict"))
        assert message == "Node c: spec.podCIDR: 10.0.0.0/24 belongs to b; leave it out to get another"


@in_loop
async def test_all_that_the_data_plane_needs_comes_in_one_write() -> None:
    async with running("n1") as world:
        versions: list[Object] = []
        world.client.subscribe(PODS, lambda event: versions.append(event.object))
        world.client.create(pod("web"))
        await world.until(lambda: ip(world, "web"))
        found = world.get(PODS, "web")
        assert annotations(found) == {
            "kmn.io/netns": "kmn.hc-test.pod.default.web",
            "kmn.io/mac": "0a:58:0a:f4:00:02",
            "kmn.io/ofport": "10",
        }
        status = found["status"]
        assert (status["podIP"], status["podIPs"]) == ("10.244.0.2", [{"ip": "10.244.0.2"}])
        assert (status["hostIP"], status["hostIPs"]) == ("172.18.0.2", [{"ip": "172.18.0.2"}])
        assert (condition(found, "PodScheduled") or {})["status"] == "True"
        await world.until(lambda: versions and versions[-1]["status"].get("podIP"))
        halves = [v for v in versions if bool(v["status"].get("podIP")) != bool(annotation(v, "kmn.io/netns"))]
        assert not halves


@in_loop
async def test_an_address_is_not_used_again_at_once() -> None:
    async with running("n1", spec=small("10.0.0.0/24", 29)) as world:
        for name in ("a", "b", "c"):
            world.client.create(pod(name, "n1"))
        await world.until(lambda: ip(world, "c"))
        assert [ip(world, n) for n in "abc"] == ["10.0.0.2", "10.0.0.3", "10.0.0.4"]
        end(world, "b")
        world.client.create(pod("b", "n1"))
        await world.until(lambda: ip(world, "b") == "10.0.0.5")
        assert annotation(world.get(PODS, "b"), "kmn.io/ofport") == "13"


@in_loop
async def test_an_exhausted_network_is_told_and_a_freed_address_used() -> None:
    async with running("n1", spec=small("10.0.0.0/24", 29)) as world:
        for name in "abcdef":
            world.client.create(pod(name, "n1"))
        [message] = await world.until(lambda: world.events("FailedCreatePodSandBox"))
        assert message.endswith("no address left in 10.0.0.0/29, the podCIDR of node n1: all 5 are in use")
        [waiting] = [p for p in world.pods() if not p["status"].get("podIP")]
        world.set_status(world.get(PODS, "a"), "Succeeded")  # ended, not deleted: the address is free all the same
        await world.until(lambda: ip(world, name_of(waiting)) == "10.0.0.2")


@in_loop
async def test_a_host_network_pod_shares_its_node() -> None:
    async with running("n1") as world:
        world.client.create(pod("agent", hostNetwork=True))
        await world.until(lambda: world.get(PODS, "agent")["spec"].get("nodeName"))
        assert not ip(world, "agent"), "the node's namespace is not known yet"
        node = draft(world.get(NODES, "n1"))
        node["metadata"]["annotations"] = {"kmn.io/netns": "kmn.hc-test.node.n1", "kmn.io/mac": "0a:58:ac:12:00:02"}
        world.client.update(node, subresource="status")
        await world.until(lambda: ip(world, "agent") == "172.18.0.2")
        assert annotations(world.get(PODS, "agent")) == annotations(node)


@in_loop
async def test_a_restarted_control_plane_knows_what_is_in_use() -> None:
    async with running("n1") as world:
        for name in "abc":
            world.client.create(pod(name, "n1"))
        await world.until(lambda: ip(world, "c"))
        await world.control_plane.stop()
        end(world, "b")
        world.control_plane = ControlPlane(world.client, world.spec)
        world.control_plane.start()
        world.client.create(pod("d"))
        await world.until(lambda: ip(world, "d") == "10.244.0.5")
        assert annotation(world.get(PODS, "d"), "kmn.io/ofport") == "13"
        world.node("n2")
        await world.until(lambda: cidr(world, "n2") == "10.244.1.0/24")


@in_loop
async def test_dual_stack_nodes_and_pods_have_the_same_number_in_both_families() -> None:
    spec = ClusterSpec("hc-test", (), ipv6=Ipv6Spec(pod_cidr=IPv6Network("fd00:10:244::/63")))
    async with running("a", "b", spec=spec) as world:
        await world.until(lambda: cidr(world, "a") and cidr(world, "b"))
        assert [world.get(NODES, name)["spec"]["podCIDRs"] for name in "ab"] == [
            ["10.244.0.0/24", "fd00:10:244::/64"],
            ["10.244.1.0/24", "fd00:10:244:1::/64"],
        ]
        world.node("c")
        await world.until(lambda: world.events("CIDRNotAvailable"), "the smaller network counts")
        node = draft(world.get(NODES, "b"))
        internal = [{"type": "InternalIP", "address": ip} for ip in ("172.18.0.3", "fd00:172:18::3")]
        node["status"] = {**(node.get("status") or {}), "addresses": internal}
        node["metadata"]["annotations"] = {"kmn.io/netns": "n"}
        world.client.update(node, subresource="status")
        world.client.create(pod("own", "b"))
        world.client.create(pod("shared", "b", hostNetwork=True))
        await world.until(lambda: ip(world, "own") and ip(world, "shared"))
        for name, ips in (("own", ["10.244.1.2", "fd00:10:244:1::2"]), ("shared", ["172.18.0.3", "fd00:172:18::3"])):
            status = world.get(PODS, name)["status"]
            assert [entry["ip"] for entry in status["podIPs"]] == ips
            assert [entry["ip"] for entry in status["hostIPs"]] == ["172.18.0.3", "fd00:172:18::3"]
            assert (status["podIP"], status["hostIP"]) == (ips[0], "172.18.0.3")
