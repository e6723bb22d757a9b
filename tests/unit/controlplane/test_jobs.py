"""Jobs: pods that end."""

from __future__ import annotations

from typing import Any

import pytest

from kmn.controlplane.workloads.jobs import format_indexes, parse_indexes
from kmn.k8s.objects import Object, annotation, condition, name_of
from kmn.k8s.resources import CRONJOBS, JOBS

from .world import World, in_loop, labelled, running, template


def job(name: str = "sum", **spec: Any) -> Object:
    pod = template("sum", restartPolicy="Never")
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": labelled(name), "spec": {"template": pod, **spec}}


def active(world: World) -> list[Object]:
    return [p for p in world.pods() if p["status"]["phase"] in ("Pending", "Running")]


def end(world: World, pods: list[Object], phase: str = "Succeeded") -> None:
    for pod in pods:
        world.set_status(pod, phase)


def state(world: World, kind: str) -> str:
    found = condition(world.get(JOBS, "sum"), kind)
    return str(found["reason"]) if found is not None and found["status"] == "True" else ""


@in_loop
async def test_parallel_completions() -> None:
    async with running("n1") as world:
        world.client.create(job(completions=3, parallelism=2))
        await world.until(lambda: len(active(world)) == 2)
        end(world, active(world))
        await world.until(lambda: len(active(world)) == 1)
        assert not state(world, "Complete")
        end(world, active(world))
        await world.until(lambda: state(world, "Complete") == "CompletionsReached")
        status = world.get(JOBS, "sum")["status"]
        assert (status["succeeded"], status["active"]) == (3, 0)
        assert status["completionTime"]


@in_loop
async def test_indexed() -> None:
    async with running("n1") as world:
        world.client.create(job(completions=3, parallelism=3, completionMode="Indexed"))
        await world.until(lambda: len(active(world)) == 3)
        by_index = {annotation(p, "batch.kubernetes.io/job-completion-index"): p for p in active(world)}
        assert sorted(map(str, by_index)) == ["0", "1", "2"]
        assert name_of(by_index["1"]).startswith("sum-1-")
        assert by_index["1"]["spec"]["hostname"] == "sum-1"
        variables = by_index["1"]["spec"]["containers"][0]["env"]
        assert {"name": "JOB_COMPLETION_INDEX", "value": "1"} in variables
        end(world, [by_index["0"], by_index["2"]])
        await world.until(lambda: world.get(JOBS, "sum")["status"].get("completedIndexes") == "0,2")
        end(world, [by_index["1"]])
        await world.until(lambda: state(world, "Complete"))
        assert world.get(JOBS, "sum")["status"]["completedIndexes"] == "0-2"


@in_loop
async def test_fails_after_its_backoff_limit() -> None:
    async with running("n1") as world:
        world.client.create(job(backoffLimit=0))
        await world.until(lambda: len(active(world)) == 1)
        end(world, active(world), "Failed")
        await world.until(lambda: state(world, "Failed") == "BackoffLimitExceeded")


@in_loop
async def test_deadline_and_ttl() -> None:
    async with running("n1", kubelet=True) as world:
        world.client.create(job(activeDeadlineSeconds=1, ttlSecondsAfterFinished=0))
        await world.until(lambda: len(active(world)) == 1)
        await world.until(lambda: not world.client.list(JOBS).items)
        assert "Job was active longer than specified deadline" in world.events("DeadlineExceeded")
        await world.until(lambda: not world.pods())


@in_loop
async def test_a_suspended_job_has_no_pods_until_it_is_resumed() -> None:
    async with running("n1") as world:
        world.client.create(job(suspend=True))
        await world.until(lambda: state(world, "Suspended") == "JobSuspended")
        assert not world.pods()
        world.change(JOBS, "sum", lambda j: j["spec"].update(suspend=False))
        await world.until(lambda: len(active(world)) == 1)


@in_loop
async def test_a_cron_job_is_stored_and_says_that_it_does_nothing() -> None:
    async with running("n1") as world:
        spec = {"schedule": "* * * * *", "jobTemplate": {"spec": job()["spec"]}}
        world.client.create({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": labelled("tick"), "spec": spec})
        [message] = await world.until(lambda: world.events("NotEmulated"))
        assert message.startswith("CronJob default/tick is stored, not emulated")
        assert world.get(CRONJOBS, "tick")


@pytest.mark.parametrize(
    ("indexes", "text"), [([], ""), ([3], "3"), ([0, 1], "0,1"), ([0, 1, 2, 5], "0-2,5"), ([1, 3, 4, 5], "1,3-5")]
)
def test_indexes_as_text(indexes: list[int], text: str) -> None:
    assert format_indexes(indexes) == text
    assert parse_indexes(text) == set(indexes)
