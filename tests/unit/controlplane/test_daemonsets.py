"""DaemonSets: one pod a node."""

from __future__ import annotations

from typing import Any

from kmn.k8s.objects import Object, name_of
from kmn.k8s.resources import DAEMONSETS, NODES, PODS

from .world import World, in_loop, labelled, running, template


def daemon(*, pod: dict[str, Any] | None = None, **spec: Any) -> Object:
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": labelled("agent"),
        "spec": {"selector": {"matchLabels": {"app": "agent"}}, "template": template("agent", **(pod or {})), **spec},
    }


def nodes(world: World) -> list[str]:
    return sorted(p["spec"].get("nodeName", "") for p in world.pods() if not p["metadata"].get("deletionTimestamp"))


@in_loop
async def test_a_pod_on_every_node_also_on_later_and_cordoned_ones() -> None:
    async with running("n1", "n2", kubelet=True) as world:
        world.client.create(daemon())
        await world.until(lambda: nodes(world) == ["n1", "n2"])
        world.node("n3", unschedulable=True)
        await world.until(lambda: nodes(world) == ["n1", "n2", "n3"])
        await world.until(lambda: world.get(DAEMONSETS, "agent")["status"].get("numberReady") == 3)
        status = world.get(DAEMONSETS, "agent")["status"]
        assert (status["desiredNumberScheduled"], status["numberAvailable"]) == (3, 3)
        assert status["updatedNumberScheduled"] == 3


@in_loop
async def test_only_nodes_that_the_template_selects_and_tolerates() -> None:
    async with running("n1", kubelet=True) as world:
        world.node("n2", labels={"disk": "ssd"})
        world.node("n3", labels={"disk": "ssd"}, taints=[{"key": "gpu", "effect": "NoSchedule"}])
        world.client.create(daemon(pod={"nodeSelector": {"disk": "ssd"}}))
        await world.until(lambda: nodes(world) == ["n2"])
        world.change(NODES, "n1", lambda n: n["metadata"]["labels"].update(disk="ssd"))
        await world.until(lambda: nodes(world) == ["n1", "n2"])
        world.change(NODES, "n2", lambda n: n["metadata"]["labels"].pop("disk"))
        await world.until(lambda: nodes(world) == ["n1"])


@in_loop
async def test_a_rolling_update_goes_node_by_node() -> None:
    async with running("n1", "n2", "n3", kubelet=True) as world:
        world.client.create(daemon())
        await world.until(lambda: world.get(DAEMONSETS, "agent").get("status", {}).get("numberReady") == 3)
        fewest = 3

        def set_image(obj: Object) -> None:
            obj["spec"]["template"]["spec"]["containers"][0]["image"] = "web:2"

        def done() -> bool:
            nonlocal fewest
            fewest = min(fewest, world.get(DAEMONSETS, "agent")["status"]["numberAvailable"])
            images = [p["spec"]["containers"][0]["image"] for p in world.pods()]
            status = world.get(DAEMONSETS, "agent")["status"]
            return images == ["web:2"] * 3 and status["numberReady"] == status["updatedNumberScheduled"] == 3

        world.change(DAEMONSETS, "agent", set_image)
        await world.until(done)
        assert fewest >= 2


@in_loop
async def test_a_failed_pod_is_replaced() -> None:
    async with running("n1", kubelet=True) as world:
        world.client.create(daemon())
        [pod] = await world.until(lambda: [p for p in world.pods() if p["status"]["phase"] == "Running"])
        world.set_status(pod, "Failed")
        await world.until(lambda: [p for p in world.pods() if name_of(p) != name_of(pod)])
        await world.until(lambda: not [p for p in world.client.list(PODS).items if name_of(p) == name_of(pod)])
