"""Status as a function of a pod and of what has happened to its containers."""

from __future__ import annotations

from typing import Any

import pytest

from kmn.emulator.podstatus import (
    PodFacts,
    compute_status,
    finished,
    finished_by_others,
    qos_class,
    restarts_after,
    startable,
)

NOW = "2030-01-01T00:00:00Z"
LATER = "2030-01-01T00:00:09Z"


def pod(**spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"containers": [{"name": "a"}, {"name": "b"}], "nodeName": "n1", **spec},
        "status": {
            "phase": "Pending",
            "podIP": "10.244.0.2",
            "conditions": [{"type": "PodScheduled", "status": "True"}],
        },
    }


def facts_of(obj: dict[str, Any]) -> PodFacts:
    facts = PodFacts.of(obj, NOW)
    facts.attached = True
    return facts


def run(facts: PodFacts, *names: str, ready: bool = True) -> None:
    for name in names:
        state = facts.containers[name]
        state.state, state.run, state.started_at, state.started, state.ready = "running", "r", NOW, True, ready


def end(facts: PodFacts, name: str, code: int = 0) -> None:
    state = facts.containers[name]
    state.state, state.run, state.terminated, state.ready = "terminated", "r", {"exitCode": code}, False


def conditions(status: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c.get("reason", "")) for c in status["conditions"]}


def test_nothing_runs_yet() -> None:
    obj = pod(initContainers=[{"name": "i"}])
    status = compute_status(obj, facts_of(obj), NOW)
    assert (status["phase"], status["podIP"], status["startTime"]) == ("Pending", "10.244.0.2", NOW)
    assert [c["state"]["waiting"]["reason"] for c in status["containerStatuses"]] == ["PodInitializing"] * 2
    assert conditions(status) == {
        "PodScheduled": ("True", ""),
        "PodReadyToStartContainers": ("True", ""),
        "Initialized": ("False", "ContainersNotInitialized"),
        "Ready": ("False", "ContainersNotReady"),
        "ContainersReady": ("False", "ContainersNotReady"),
    }


def test_readiness_of_containers_gates_and_node() -> None:
    obj = pod(readinessGates=[{"conditionType": "x"}])
    facts = facts_of(obj)
    run(facts, "a", "b")
    obj["status"] = compute_status(obj, facts, NOW)
    assert conditions(obj["status"])["Ready"] == ("False", "ReadinessGatesNotReady")
    assert conditions(obj["status"])["ContainersReady"] == ("True", "")
    obj["status"]["conditions"].append({"type": "x", "status": "True"})
    obj["status"] = compute_status(obj, facts, LATER)
    assert conditions(obj["status"])["Ready"] == ("True", "")
    since = {c["type"]: c.get("lastTransitionTime") for c in obj["status"]["conditions"]}
    assert (since["Ready"], since["ContainersReady"]) == (LATER, NOW)
    facts.node_ready = False
    assert conditions(compute_status(obj, facts, LATER))["Ready"] == ("False", "NodeNotReady")


def test_same_facts_same_status() -> None:
    obj = pod()
    facts = facts_of(obj)
    run(facts, "a", "b")
    obj["status"] = compute_status(obj, facts, NOW)
    assert compute_status(obj, facts, LATER) == obj["status"]


def test_back_off_is_shown_with_the_end_before() -> None:
    obj = pod()
    facts = facts_of(obj)
    run(facts, "a")
    state = facts.containers["b"]
    state.run, state.last, state.restarts = "r", {"exitCode": 1}, 2
    state.waiting = ("CrashLoopBackOff", "back-off 20s")
    status = compute_status(obj, facts, NOW)
    assert status["phase"] == "Running"
    shown = status["containerStatuses"][1]
    assert shown["state"] == {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s"}}
    assert (shown["lastState"], shown["restartCount"]) == ({"terminated": {"exitCode": 1}}, 2)


@pytest.mark.parametrize(
    ("codes", "phase", "reason"), [((0, 0), "Succeeded", "PodCompleted"), ((0, 1), "Failed", "PodFailed")]
)
def test_a_pod_that_is_over(codes: tuple[int, int], phase: str, reason: str) -> None:
    obj = pod(restartPolicy="Never")
    facts = facts_of(obj)
    for name, code in zip("ab", codes, strict=True):
        assert not finished(obj, facts)
        end(facts, name, code)
    assert finished(obj, facts)
    status = compute_status(obj, facts, NOW)
    assert (status["phase"], conditions(status)["Ready"]) == (phase, ("False", reason))


def test_a_phase_that_somebody_else_wrote_is_kept() -> None:
    obj = pod()
    facts = facts_of(obj)
    run(facts, "a", "b")
    assert not finished_by_others(obj, facts)
    obj["status"]["phase"] = "Failed"
    assert finished_by_others(obj, facts)
    end(facts, "a")
    end(facts, "b")  # which a restart policy of Always would start again
    status = compute_status(obj, facts, NOW)
    assert (status["phase"], conditions(status)["Ready"]) == ("Failed", ("False", "PodFailed"))


def test_turns_of_init_containers() -> None:
    obj = pod(initContainers=[{"name": "i"}, {"name": "side", "restartPolicy": "Always"}, {"name": "j"}])
    facts = facts_of(obj)

    def turn() -> list[str]:
        return [c["name"] for c in startable(obj, facts)]

    assert turn() == ["i"]
    end(facts, "i")
    assert turn() == ["side"]
    run(facts, "side")
    facts.containers["side"].started = False
    assert turn() == []  # its startup probe has not passed
    run(facts, "side")
    assert turn() == ["j"]
    end(facts, "j")
    assert turn() == ["a", "b"]


@pytest.mark.parametrize(
    ("policy", "succeeded", "again"),
    [
        ("Always", True, True),
        ("OnFailure", True, False),
        ("OnFailure", False, True),
        ("Never", False, False),
    ],
)
def test_restart_policy(policy: str, succeeded: bool, again: bool) -> None:
    obj = pod(restartPolicy=policy, initContainers=[{"name": "side", "restartPolicy": "Always"}])
    assert restarts_after(obj, obj["spec"]["containers"][0], succeeded=succeeded) is again
    assert restarts_after(obj, obj["spec"]["initContainers"][0], succeeded=succeeded)


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, "BestEffort"),
        ({"requests": {"cpu": "1"}}, "Burstable"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}, "Burstable"),
    ],
)
def test_qos_class(resources: dict[str, Any], expected: str) -> None:
    assert qos_class(pod(containers=[{"name": "a", "resources": resources}])) == expected
