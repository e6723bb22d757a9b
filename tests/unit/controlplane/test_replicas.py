"""Which pods go first, and names made of hashes."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

from kmn.controlplane.workloads.replicas import deletion_order, scaled
from kmn.controlplane.workloads.replicasets import pause_after_refusals
from kmn.controlplane.workloads.template import same_template, template_hash

FIRST = "2030-01-01T00:00:00Z"


def pod(
    name: str, *, node: str = "n1", phase: str = "Running", ready: str | None = FIRST, created: str = FIRST,
    cost: str | None = None, restarts: int = 0,
) -> dict[str, Any]:  # fmt: skip
    condition = {"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": ready or created}
    return {
        "metadata": {
            "name": name,
            "creationTimestamp": created,
            "annotations": {"controller.kubernetes.io/pod-deletion-cost": cost} if cost else {},
        },
        "spec": {"nodeName": node},
        "status": {"phase": phase, "conditions": [condition], "containerStatuses": [{"restartCount": restarts}]},
    }


def test_deletion_order() -> None:
    """From the first to go to the last; each differs from the next in one criterion."""
    pods = [
        pod("unbound", node="", phase="Pending", ready=None),
        pod("pending", node="n2", phase="Pending", ready=None),
        pod("not ready", node="n2", ready=None),
        pod("cheap", node="n2", cost="-5"),
        pod("crowded", node="n1"),
        pod("ready since later", node="n3", ready="2030-01-03T00:00:00Z"),
        pod("restarted", node="n4", restarts=3),
        pod("younger", node="n5", created="2030-01-02T00:00:00Z"),
        pod("older", node="n6"),
        pod("dear", node="n2", cost="5"),
    ]
    related = [*pods, *(pod(f"other {i}", node="n1") for i in range(6))]
    ordered = [p["metadata"]["name"] for p in deletion_order(pods[::-1], related)]
    assert ordered[:5] == ["unbound", "pending", "not ready", "cheap", "crowded"]
    assert ordered[5:9] == ["ready since later", "restarted", "younger", "older"]
    assert ordered[9] == "dear"


def test_int_or_percent() -> None:
    assert scaled(3, 10, round_up=True) == 3
    assert scaled("25%", 10, round_up=True) == 3
    assert scaled("25%", 10, round_up=False) == 2
    assert scaled("100%", 7, round_up=True) == 7


def test_template_hashes() -> None:
    a = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "web:1"}]}}
    b = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "web:2"}]}}
    assert re.fullmatch(r"[bcdfghjklmnpqrstvwxz2456789]{1,10}", template_hash(a))
    assert template_hash(a) == template_hash(dict(reversed(a.items())))
    assert len({template_hash(a), template_hash(b), template_hash(a, 1)}) == 3
    labelled = {**a, "metadata": {"labels": {"app": "web", "pod-template-hash": template_hash(a)}}}
    assert same_template(a, labelled)
    assert not same_template(a, b)


def test_pods_that_a_kubelet_refuses_are_made_again_ever_later() -> None:
    at = dt.datetime(2030, 1, 1, 0, 0, 1, tzinfo=dt.UTC)
    refused = pod("refused", phase="Failed", ready=None)
    refused["status"]["containerStatuses"] = []
    evicted = pod("evicted", phase="Failed", ready=None)
    assert pause_after_refusals([pod("a"), evicted], at) == 0
    assert pause_after_refusals([refused], at) < 0, "a second has passed"
    assert [pause_after_refusals([refused] * n, at) + 1 for n in (5, 6, 7)] == [1.6, 3.2, 6.4]
    assert pause_after_refusals([refused] * 2000, at) + 1 == 600
