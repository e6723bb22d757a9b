"""Deployments, ReplicaSets and ReplicationControllers on a real store."""

from __future__ import annotations

import re
from typing import Any

from kmn.k8s.client import WatchEvent
from kmn.k8s.objects import Object, annotation, condition, controller_of, labels, name_of
from kmn.k8s.resources import DEPLOYMENTS, PODS, REPLICASETS, REPLICATIONCONTROLLERS

from .world import World, in_loop, labelled, running, template


def deployment(replicas: int = 3, name: str = "web", **spec: Any) -> Object:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": labelled(name),
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template(name), **spec},
    }


def ready_pods(world: World) -> list[Object]:
    return [p for p in world.pods() if (condition(p, "Ready") or {}).get("status") == "True"]


def complete(world: World, replicas: int, name: str = "web") -> bool:
    obj = world.get(DEPLOYMENTS, name)
    status = obj.get("status") or {}
    counts = [status.get(n) for n in ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")]
    return counts == [replicas] * 4 and status["observedGeneration"] == obj["metadata"]["generation"]


def images(world: World) -> set[str]:
    return {p["spec"]["containers"][0]["image"] for p in world.pods()}


def set_image(image: str) -> Any:
    def edit(obj: Object) -> None:
        obj["spec"]["template"]["spec"]["containers"][0]["image"] = image

    return edit


@in_loop
async def test_pods_are_made_named_bound_and_counted() -> None:
    async with running("n1", "n2", "n3", kubelet=True) as world:
        world.client.create(deployment(6))
        await world.until(lambda: complete(world, 6))
        [rs] = world.client.list(REPLICASETS).items
        digest = labels(rs)["pod-template-hash"]
        assert name_of(rs) == f"web-{digest}"
        for pod in world.pods():
            assert re.fullmatch(rf"web-{digest}-[a-z0-9]{{5}}", name_of(pod))
            assert labels(pod) == {"app": "web", "pod-template-hash": digest}
            assert (controller_of(pod) or {})["name"] == name_of(rs)
        assert sorted(p["spec"]["nodeName"] for p in world.pods()) == ["n1", "n1", "n2", "n2", "n3", "n3"]
        found = world.get(DEPLOYMENTS, "web")
        assert annotation(found, "deployment.kubernetes.io/revision") == "1"
        assert condition(found, "Available") is not None
        assert (condition(found, "Progressing") or {})["reason"] == "NewReplicaSetAvailable"
        assert world.events("ScalingReplicaSet") == [f"Scaled up replica set {name_of(rs)} from 0 to 6"]


@in_loop
async def test_a_rolling_update_keeps_its_bounds_and_can_be_undone() -> None:
    async with running("n1", "n2", kubelet=True) as world:
        strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}}
        world.client.create(deployment(4, strategy=strategy))
        await world.until(lambda: complete(world, 4))
        fewest, most = 4, 4

        def watch(wanted: int) -> bool:
            nonlocal fewest, most
            alive = [p for p in ready_pods(world) if not p["metadata"].get("deletionTimestamp")]
            fewest, most = min(fewest, len(alive)), max(most, len(alive))
            present = images(world)
            return complete(world, wanted) and present == {image}

        image = "web:2"
        world.change(DEPLOYMENTS, "web", set_image(image))
        await world.until(lambda: watch(4))
        assert fewest >= 3
        assert most <= 5
        image = "web:1"
        world.change(DEPLOYMENTS, "web", set_image(image))  # what `kubectl rollout undo` does
        await world.until(lambda: watch(4))
        assert len(world.client.list(REPLICASETS).items) == 2, "the old ReplicaSet came back"
        assert annotation(world.get(DEPLOYMENTS, "web"), "deployment.kubernetes.io/revision") == "3"


@in_loop
async def test_recreate_ends_old_pods_before_it_makes_new_ones() -> None:
    async with running("n1", kubelet=True) as world:
        world.client.create(deployment(3, strategy={"type": "Recreate"}))
        await world.until(lambda: complete(world, 3))
        mixed = False

        def done() -> bool:
            nonlocal mixed
            present = images(world)
            mixed = mixed or len(present) > 1
            return complete(world, 3) and present == {"web:2"}

        world.change(DEPLOYMENTS, "web", set_image("web:2"))
        await world.until(done)
        assert not mixed


@in_loop
async def test_scaling_in_the_middle_of_a_rollout_is_proportional_and_ends_well() -> None:
    async with running("n1", "n2", kubelet=True) as world:
        world.client.create(deployment(4))
        await world.until(lambda: complete(world, 4))
        assert world.kubelet is not None
        world.kubelet.hold = lambda pod: pod["spec"]["containers"][0]["image"] == "web:2"
        world.change(DEPLOYMENTS, "web", set_image("web:2"))
        await world.until(lambda: any(p["spec"]["containers"][0]["image"] == "web:2" for p in world.pods()))
        world.change(DEPLOYMENTS, "web", lambda d: d["spec"].update(replicas=8))
        await world.until(lambda: sum(s["spec"]["replicas"] for s in world.client.list(REPLICASETS).items) == 10)
        sizes = [s["spec"]["replicas"] for s in world.client.list(REPLICASETS).items]
        assert all(size > 1 for size in sizes), "both sets have their share"
        world.kubelet.hold = lambda pod: False
        for pod in world.pods():
            if pod["status"]["phase"] == "Pending" and pod["status"].get("podIP"):
                world.set_status(pod, "Running", ready=True)
        await world.until(lambda: complete(world, 8))


@in_loop
async def test_a_paused_deployment_scales_but_does_not_roll() -> None:
    async with running("n1", kubelet=True) as world:
        world.client.create(deployment(2))
        await world.until(lambda: complete(world, 2))

        def pause(obj: Object) -> None:
            set_image("web:2")(obj)
            obj["spec"].update(paused=True, replicas=3)

        world.change(DEPLOYMENTS, "web", pause)
        await world.until(lambda: len(ready_pods(world)) == 3)
        assert images(world) == {"web:1"}
        await world.until(
            lambda: (condition(world.get(DEPLOYMENTS, "web"), "Progressing") or {})["status"] == "Unknown"
        )
        world.change(DEPLOYMENTS, "web", lambda d: d["spec"].update(paused=False))
        await world.until(lambda: images(world) == {"web:2"})


@in_loop
async def test_old_replica_sets_beyond_the_limit_go() -> None:
    async with running("n1", kubelet=True) as world:
        world.client.create(deployment(1, revisionHistoryLimit=1))
        await world.until(lambda: complete(world, 1))
        for image in ("web:2", "web:3", "web:4"):
            world.change(DEPLOYMENTS, "web", set_image(image))
            await world.until(lambda image=image: complete(world, 1) and images(world) == {image})
        await world.until(lambda: len(world.client.list(REPLICASETS).items) == 2)


@in_loop
async def test_a_rollout_without_progress_says_so() -> None:
    async with running("n1") as world:  # nobody makes pods ready
        world.client.create(deployment(1, progressDeadlineSeconds=1))
        await world.until(
            lambda: (
                (condition(world.get(DEPLOYMENTS, "web"), "Progressing") or {}).get("reason")
                == "ProgressDeadlineExceeded"
            )
        )


@in_loop
async def test_deleting_a_deployment_takes_everything() -> None:
    async with running("n1", kubelet=True) as world:
        world.client.create(deployment(3))
        await world.until(lambda: complete(world, 3))
        world.client.delete(DEPLOYMENTS, "default", "web")
        await world.until(lambda: not world.pods() and not world.client.list(REPLICASETS).items)


@in_loop
async def test_a_replica_set_adopts_and_releases_by_its_selector() -> None:
    async with running("n1") as world:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": labelled("lone", app="web"), "spec": template()["spec"]}
        world.client.create(pod)
        spec = {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template()}
        world.client.create({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": labelled("web"), "spec": spec})
        await world.until(lambda: len(world.pods()) == 2 and controller_of(world.get(PODS, "lone")))
        world.change(PODS, "lone", lambda p: p["metadata"]["labels"].update(app="other"))
        await world.until(lambda: len(world.pods("app=web")) == 2)
        await world.until(lambda: controller_of(world.get(PODS, "lone")) is None)


@in_loop
async def test_scaling_down_gives_up_pods_that_are_not_ready_first() -> None:
    async with running("n1", "n2") as world:
        spec = {"replicas": 4, "selector": {"app": "web"}, "template": template()}
        world.client.create(
            {"apiVersion": "v1", "kind": "ReplicationController", "metadata": labelled("web"), "spec": spec}
        )
        await world.until(lambda: sum(bool(p["status"].get("podIP")) for p in world.pods()) == 4)
        keep = world.pods()[2]
        world.set_status(keep, "Running", ready=True)
        await world.until(lambda: world.get(REPLICATIONCONTROLLERS, "web")["status"].get("readyReplicas") == 1)
        world.change(REPLICATIONCONTROLLERS, "web", lambda rc: rc["spec"].update(replicas=1))
        await world.until(lambda: sum(not p["metadata"].get("deletionTimestamp") for p in world.pods()) == 1)
        [left] = [p for p in world.pods() if not p["metadata"].get("deletionTimestamp")]
        assert name_of(left) == name_of(keep)


@in_loop
async def test_pods_that_a_kubelet_refuses_do_not_multiply() -> None:
    """A kubelet that refuses whatever comes is asked again, though not at once for ever."""
    async with running("n1") as world:

        def refuse(event: WatchEvent) -> None:
            if event.type == "MODIFIED" and event.object["status"]["phase"] == "Pending":
                world.set_status(event.object, "Failed")

        world.client.subscribe(PODS, refuse)
        world.client.create(deployment(1))
        await world.until(lambda: len(world.pods()) >= 3, "others are tried")
        made = len(world.pods())
        await world.until(lambda: len(world.pods()) > made, "and others again")
        assert len(world.pods()) < 10
