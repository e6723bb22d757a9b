"""StatefulSets: order, identity, updates."""

from __future__ import annotations

from typing import Any

from kmn.k8s.objects import Object, labels, name_of
from kmn.k8s.resources import CONTROLLERREVISIONS, PODS, STATEFULSETS, by_kind

from .world import World, in_loop, labelled, running, template

CLAIMS = by_kind("v1", "PersistentVolumeClaim")


def stateful(replicas: int = 3, **spec: Any) -> Object:
    fields = {"replicas": replicas, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}}}
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": labelled("db"),
        "spec": {**fields, "template": template("db"), **spec},
    }


def names(world: World) -> list[str]:
    return [name_of(pod) for pod in world.pods()]


def podip(pod: Object) -> str:
    return str(pod["status"].get("podIP") or "")


def settled(world: World, replicas: int) -> bool:
    status = world.get(STATEFULSETS, "db").get("status") or {}
    counts = [status.get(n) for n in ("replicas", "readyReplicas", "updatedReplicas")]
    return counts == [replicas] * 3 and status["currentRevision"] == status["updateRevision"]


def images(world: World) -> dict[str, str]:
    return {name_of(p): p["spec"]["containers"][0]["image"] for p in world.pods()}


def set_image(obj: Object) -> None:
    obj["spec"]["template"]["spec"]["containers"][0]["image"] = "web:2"


@in_loop
async def test_one_after_the_other_each_with_its_identity() -> None:
    async with running("n1", "n2", kubelet=True) as world:
        assert world.kubelet is not None
        world.kubelet.hold = lambda pod: name_of(pod) == "db-1"
        claim = {"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}
        world.client.create(stateful(volumeClaimTemplates=[claim]))
        await world.until(lambda: names(world) == ["db-0", "db-1"] and world.get(PODS, "db-1")["status"].get("podIP"))
        assert world.get(STATEFULSETS, "db")["status"]["replicas"] <= 2, "db-2 waits for db-1"
        world.set_status(world.get(PODS, "db-1"), "Running", ready=True)
        await world.until(lambda: settled(world, 3))
        pod = world.get(PODS, "db-2")
        assert (pod["spec"]["hostname"], pod["spec"]["subdomain"]) == ("db-2", "db")
        assert labels(pod)["statefulset.kubernetes.io/pod-name"] == "db-2"
        assert labels(pod)["apps.kubernetes.io/pod-index"] == "2"
        assert pod["spec"]["volumes"][0] == {"name": "data", "persistentVolumeClaim": {"claimName": "data-db-2"}}
        assert [name_of(c) for c in world.client.list(CLAIMS).items] == ["data-db-0", "data-db-1", "data-db-2"]


@in_loop
async def test_parallel_waits_for_nobody_and_ordinals_may_start_elsewhere() -> None:
    async with running("n1") as world:
        world.client.create(stateful(podManagementPolicy="Parallel", ordinals={"start": 5}))
        await world.until(lambda: names(world) == ["db-5", "db-6", "db-7"])


@in_loop
async def test_a_pod_comes_back_under_its_name_with_another_address() -> None:
    async with running("n1", kubelet=True) as world:
        world.client.create(stateful(2))
        await world.until(lambda: settled(world, 2))
        before = world.get(PODS, "db-0")
        world.client.delete(PODS, "default", "db-0")
        old = before["metadata"]["uid"]
        await world.until(
            lambda: [p for p in world.pods() if p["metadata"]["uid"] != old and name_of(p) == "db-0" and podip(p)]
        )
        after = world.get(PODS, "db-0")
        assert after["status"]["podIP"] != before["status"]["podIP"]


@in_loop
async def test_scaling_down_removes_the_highest() -> None:
    async with running("n1", kubelet=True) as world:
        world.client.create(stateful(3))
        await world.until(lambda: settled(world, 3))
        world.change(STATEFULSETS, "db", lambda s: s["spec"].update(replicas=1))
        await world.until(lambda: names(world) == ["db-0"])


@in_loop
async def test_a_rolling_update_respects_its_partition_then_completes() -> None:
    async with running("n1", kubelet=True) as world:
        strategy = {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}
        world.client.create(stateful(3, updateStrategy=strategy))
        await world.until(lambda: settled(world, 3))
        world.change(STATEFULSETS, "db", set_image)
        expected = {"db-0": "web:1", "db-1": "web:1", "db-2": "web:2"}
        await world.until(lambda: images(world) == expected)
        world.client.delete(PODS, "default", "db-0")  # below the partition: the old template again
        await world.until(lambda: len(images(world)) == 3 and images(world) == expected)
        world.change(STATEFULSETS, "db", lambda s: s["spec"]["updateStrategy"]["rollingUpdate"].update(partition=0))
        await world.until(lambda: set(images(world).values()) == {"web:2"} and settled(world, 3))
        assert [r["revision"] for r in world.client.list(CONTROLLERREVISIONS).items] in ([1, 2], [2, 1])


@in_loop
async def test_on_delete_replaces_only_what_the_user_deletes() -> None:
    async with running("n1", kubelet=True) as world:
        world.client.create(stateful(2, updateStrategy={"type": "OnDelete"}))
        await world.until(lambda: (world.get(STATEFULSETS, "db").get("status") or {}).get("readyReplicas") == 2)
        world.change(STATEFULSETS, "db", set_image)
        world.client.delete(PODS, "default", "db-1")
        await world.until(lambda: images(world) == {"db-0": "web:1", "db-1": "web:2"})


@in_loop
async def test_fields_without_effect_are_named_once() -> None:
    async with running("n1", kubelet=True) as world:
        world.client.create(stateful(2, persistentVolumeClaimRetentionPolicy={"whenScaled": "Delete"}))
        await world.until(lambda: settled(world, 2))
        expected = (
            "StatefulSet default/db: spec.persistentVolumeClaimRetentionPolicy.whenScaled: not emulated, and ignored"
        )
        assert world.events("NotEmulated") == [expected]
