"""The scheduler on a real store: who is bound when, and what is said to those that are not."""

from __future__ import annotations

from typing import Any

from kmn.k8s.objects import Object, condition, set_condition
from kmn.k8s.resources import NODES, PODS

from .world import World, in_loop, labelled, running, template


def pod(name: str, **spec: Any) -> Object:
    fields = {**template()["spec"], **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": labelled(name), "spec": fields}


def node_of(world: World, name: str) -> str:
    return str(world.get(PODS, name)["spec"].get("nodeName") or "")


def scheduled(world: World, name: str) -> dict[str, Any]:
    return condition(world.get(PODS, name), "PodScheduled") or {}


@in_loop
async def test_a_node_chosen_by_the_user_is_kept() -> None:
    async with running("n1", "n2") as world:
        world.client.create(pod("a", nodeName="n2"))
        await world.until(lambda: scheduled(world, "a").get("status") == "True")
        assert node_of(world, "a") == "n2"
        assert not world.events("Scheduled")


@in_loop
async def test_a_pod_waits_with_a_reason_until_a_node_suits() -> None:
    async with running("n1") as world:
        world.client.create(pod("a", nodeSelector={"disk": "ssd"}))
        await world.until(lambda: scheduled(world, "a"))
        reason = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."
        assert scheduled(world, "a") | {"lastTransitionTime": ""} == {
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": reason,
            "lastProbeTime": None, "lastTransitionTime": "",
        }  # fmt: skip
        await world.until(lambda: world.events("FailedScheduling") == [reason])
        world.change(NODES, "n1", lambda n: n["metadata"]["labels"].update(disk="ssd"))
        await world.until(lambda: node_of(world, "a") == "n1")
        await world.until(lambda: scheduled(world, "a")["status"] == "True")
        assert world.events("Scheduled") == ["Successfully assigned default/a to n1"]


@in_loop
async def test_a_pod_waits_until_another_goes() -> None:
    async with running("n1") as world:
        port = [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]
        world.client.create(pod("a", containers=port))
        await world.until(lambda: node_of(world, "a"))
        world.client.create(pod("b", containers=port))
        await world.until(lambda: scheduled(world, "b").get("reason") == "Unschedulable")
        world.client.delete(PODS, "default", "a", grace_seconds=0)
        await world.until(lambda: node_of(world, "b") == "n1")


@in_loop
async def test_cordoned_and_not_ready_nodes_get_nothing() -> None:
    async with running() as world:
        world.node("n1", unschedulable=True)
        world.node("n2", ready=False)
        world.client.create(pod("a"))
        await world.until(lambda: scheduled(world, "a").get("reason") == "Unschedulable")
        message = scheduled(world, "a")["message"]
        assert "1 node(s) were unschedulable" in message
        assert "1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }" in message
        node = {**world.get(NODES, "n2"), "status": {}}
        set_condition(node, "Ready", True)
        world.client.update(node, subresource="status")
        await world.until(lambda: node_of(world, "a") == "n2")


@in_loop
async def test_while_nodes_come_up_pods_wait_without_complaint() -> None:
    async with running("n1") as world:
        world.client.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n2"}})
        world.client.create(pod("a", nodeSelector={"kubernetes.io/hostname": "n1"}))
        world.client.create(pod("done", nodeName="n1"))
        await world.until(lambda: scheduled(world, "done").get("status") == "True")
        assert not scheduled(world, "a")
        node = {**world.get(NODES, "n2"), "status": {}}
        set_condition(node, "Ready", False, "NotBuilt", "no bridge")
        world.client.update(node, subresource="status")
        await world.until(lambda: node_of(world, "a") == "n1")
        assert not world.events("FailedScheduling")


@in_loop
async def test_gates_hold_a_pod_back() -> None:
    async with running("n1") as world:
        world.client.create(pod("a", schedulingGates=[{"name": "example.com/wait"}]))
        await world.until(lambda: scheduled(world, "a").get("reason") == "SchedulingGated")
        world.change(PODS, "a", lambda p: p["spec"].pop("schedulingGates"))
        await world.until(lambda: node_of(world, "a") == "n1")


@in_loop
async def test_another_scheduler_is_not_there() -> None:
    async with running("n1") as world:
        world.client.create(pod("a", schedulerName="mine"))
        [message] = await world.until(lambda: world.events("NotEmulated"))
        assert message == "Pod default/a: spec.schedulerName: mine: kmn has one scheduler, default-scheduler"


@in_loop
async def test_pods_of_a_deleted_node_go_and_come_elsewhere() -> None:
    async with running("n1", "n2", kubelet=True) as world:
        spec = {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template()}
        world.client.create({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": labelled("web"), "spec": spec})
        await world.until(lambda: [p for p in world.pods() if p["spec"].get("nodeName") == "n2"])
        world.client.create(pod("early", nodeName="n9"))
        world.client.delete(NODES, "", "n2")
        await world.until(lambda: [p["spec"].get("nodeName") for p in world.pods("app=web")] == ["n1", "n1"])
        assert node_of(world, "early") == "n9", "waits for its node"
