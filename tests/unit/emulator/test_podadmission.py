"""What a kubelet refuses, and what the pod's status says then."""

from __future__ import annotations

from typing import Any

import pytest

from kmn.emulator.podadmission import Refusal, refusal, refused_status

NOW = "2030-01-01T00:00:00Z"
TAKEN = Refusal("NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports")


def pod(*ports: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, **port} for port in ports]}], **spec},
        "status": {
            "phase": "Pending",
            "podIP": "10.244.0.2",
            "podIPs": [{"ip": "10.244.0.2"}],
            "hostIP": "172.18.0.2",
            "conditions": [{"type": "PodScheduled", "status": "True"}],
        },
    }


@pytest.mark.parametrize(
    ("mine", "theirs", "answer"),
    [
        ({"hostPort": 8080}, {"hostPort": 8080}, TAKEN),
        ({"hostPort": 8080}, {"hostPort": 8081}, None),
        ({"hostPort": 8080}, {"hostPort": 8080, "protocol": "UDP"}, None),
        ({"hostPort": 8080}, {"hostPort": 8080, "hostIP": "172.18.0.2"}, TAKEN),
        ({"hostPort": 8080, "hostIP": "172.18.0.2"}, {"hostPort": 8080, "hostIP": "0.0.0.0"}, TAKEN),
        ({"hostPort": 8080, "hostIP": "172.18.0.2"}, {"hostPort": 8080, "hostIP": "127.0.0.1"}, None),
        ({}, {"hostPort": 80}, None),
    ],
)
def test_host_ports(mine: dict[str, Any], theirs: dict[str, Any], answer: Refusal | None) -> None:
    assert refusal(pod(mine), [pod(), pod(theirs)]) == answer
    assert refusal(pod(theirs), [pod(mine)]) == answer


def test_pods_in_the_nodes_network_take_all_their_ports() -> None:
    assert refusal(pod({"hostPort": 80}), [pod({}, hostNetwork=True)]) == TAKEN


def test_status_of_a_refused_pod() -> None:
    before = pod({"hostPort": 80})
    status = refused_status(before, TAKEN, NOW)
    assert before == pod({"hostPort": 80}), "the object is not touched"
    shown = {name: value for name, value in status.items() if name != "conditions"}
    assert shown == {
        "phase": "Failed",
        "reason": "NodePorts",
        "message": f"Pod was rejected: {TAKEN.message}",
        "hostIP": "172.18.0.2",
        "startTime": NOW,
        "qosClass": "BestEffort",
    }
    conditions = {c["type"]: (c["status"], c.get("reason")) for c in status["conditions"]}
    assert conditions == {
        "PodScheduled": ("True", None),
        "Ready": ("False", "PodFailed"),
        "ContainersReady": ("False", "PodFailed"),
    }
