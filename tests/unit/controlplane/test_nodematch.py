"""Node selectors, node affinity, taints and tolerations."""

from __future__ import annotations

from typing import Any

import pytest

from kmn.controlplane.scheduling.nodematch import effective_taints, node_matches, tolerates, untolerated
from kmn.controlplane.workloads.daemonsets import daemon_tolerations

NODE: dict[str, Any] = {
    "metadata": {"name": "n1", "labels": {"zone": "a", "cores": "8", "disk": "ssd"}},
    "status": {"conditions": [{"type": "Ready", "status": "True"}]},
}


def affinity(*terms: dict[str, Any]) -> dict[str, Any]:
    required = {"nodeSelectorTerms": list(terms)}
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}}


def labels(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


def fields(operator: str, *values: str) -> dict[str, Any]:
    return {"matchFields": [{"key": "metadata.name", "operator": operator, "values": list(values)}]}


MATCHES: list[tuple[dict[str, Any], bool]] = [
    ({}, True),
    ({"nodeSelector": {}}, True),
    ({"nodeSelector": {"zone": "a", "disk": "ssd"}}, True),
    ({"nodeSelector": {"zone": "b"}}, False),
    (affinity(labels("zone", "In", "a", "b")), True),
    (affinity(labels("zone", "NotIn", "a")), False),
    (affinity(labels("none", "NotIn", "a")), True),
    (affinity(labels("zone", "Exists")), True),
    (affinity(labels("zone", "DoesNotExist")), False),
    (affinity(labels("cores", "Gt", "4")), True),
    (affinity(labels("cores", "Gt", "8")), False),
    (affinity(labels("cores", "Lt", "9")), True),
    (affinity(labels("zone", "Gt", "1")), False),
    (affinity(fields("In", "n1")), True),
    (affinity(fields("NotIn", "n1")), False),
    (affinity(labels("zone", "In", "b"), labels("disk", "In", "ssd")), True),  # terms are alternatives
    (affinity({**labels("zone", "In", "b"), **fields("In", "n1")}), False),  # within one, all must hold
    (affinity({}), False),  # an empty term selects nothing
    ({"nodeSelector": {"zone": "b"}, **affinity(labels("zone", "In", "a"))}, False),
]


@pytest.mark.parametrize(("spec", "expected"), MATCHES)
def test_node_matches(spec: dict[str, Any], expected: bool) -> None:
    assert node_matches(spec, NODE) is expected


TAINT = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}
TOLERATES: list[tuple[dict[str, Any], bool]] = [
    ({"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoSchedule"}, True),
    ({"key": "gpu", "value": "yes"}, True),
    ({"key": "gpu", "value": "no"}, False),
    ({"key": "gpu", "operator": "Exists"}, True),
    ({"key": "gpu", "operator": "Exists", "effect": "NoExecute"}, False),
    ({"operator": "Exists"}, True),
    ({"key": "cpu", "operator": "Exists"}, False),
]


@pytest.mark.parametrize(("toleration", "expected"), TOLERATES)
def test_tolerates(toleration: dict[str, Any], expected: bool) -> None:
    assert tolerates(toleration, TAINT) is expected


def test_soft_taints_rule_nothing_out() -> None:
    soft = {"key": "slow", "effect": "PreferNoSchedule"}
    assert untolerated([soft], []) is None
    assert untolerated([soft, TAINT], []) == TAINT


def test_a_node_that_is_cordoned_or_not_ready_is_tainted() -> None:
    assert effective_taints(NODE) == []
    cordoned = {**NODE, "spec": {"unschedulable": True}}
    assert [t["key"] for t in effective_taints(cordoned)] == ["node.kubernetes.io/unschedulable"]
    assert untolerated(effective_taints(cordoned), daemon_tolerations({})) is None, "DaemonSets ignore cordons"
    fresh = {"metadata": {"name": "n2"}}
    assert [t["key"] for t in effective_taints(fresh)] == ["node.kubernetes.io/not-ready"]
