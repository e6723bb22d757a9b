"""A Deployment's status: counts, and the conditions Available and Progressing. Pure functions.

Rules: upstream's ``pkg/controller/deployment/progress.go`` and ``sync.go`` (``calculateStatus``).
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from kmn.controlplane.workloads.rollout import fenceposts
from kmn.k8s.objects import Object, name_of, parse_time

__all__ = ["deployment_status"]

_COUNTS = ("replicas", "readyReplicas", "availableReplicas")
_DEFAULT_DEADLINE = 600  # spec.progressDeadlineSeconds
_NO_DEADLINE = 2**31 - 1


def deployment_status(
    deployment: Object, new: Object | None, sets: list[Object], at: dt.datetime
) -> tuple[dict[str, Any], float | None]:
    """The status that follows from the ReplicaSets, and in how many seconds the progress deadline is to be checked."""
    spec, old = deployment["spec"], deployment.get("status") or {}
    desired = 1 if spec.get("replicas") is None else spec["replicas"]
    total, ready, available = (sum((s.get("status") or {}).get(name, 0) for s in sets) for name in _COUNTS)
    status: dict[str, Any] = {
        "observedGeneration": deployment["metadata"].get("generation", 0),
        "replicas": total,
        "updatedReplicas": ((new or {}).get("status") or {}).get("replicas", 0),
        "readyReplicas": ready,
        "availableReplicas": available,
        "unavailableReplicas": max(0, max(sum(s["spec"].get("replicas", 1) for s in sets), desired) - available),
    }
    if old.get("collisionCount"):
        status["collisionCount"] = old["collisionCount"]
    conditions = {c["type"]: c for c in old.get("conditions") or ()}
    _set(conditions, at, *_available(spec, desired, available))
    progressing, wait = _progressing(deployment, new, status, desired, conditions.get("Progressing"), at)
    if progressing is not None:
        moved = status != {k: v for k, v in old.items() if k in status}
        _set(conditions, at, *progressing, touch=moved and progressing[2] == "ReplicaSetUpdated")
    failure = next(
        (c for s in sets for c in (s.get("status") or {}).get("conditions") or () if c["type"] == "ReplicaFailure"),
        None,
    )
    conditions.pop("ReplicaFailure", None)
    if failure is not None:
        conditions["ReplicaFailure"] = failure
    status["conditions"] = list(conditions.values())
    return status, wait


_Condition = tuple[str, str, str, str]  # type, status, reason, message


def _available(spec: dict[str, Any], desired: int, available: int) -> _Condition:
    strategy = spec.get("strategy") or {}
    rolling = strategy.get("rollingUpdate") or {}
    unavailable = 0
    if (strategy.get("type") or "RollingUpdate") == "RollingUpdate" and desired:
        unavailable = fenceposts(rolling.get("maxSurge", "25%"), rolling.get("maxUnavailable", "25%"), desired)[1]
    if available >= desired - unavailable:
        return "Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability."
    return "Available", "False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability."


def _progressing(
    deployment: Object, new: Object | None, status: dict[str, Any], desired: int, current: dict[str, Any] | None,
    at: dt.datetime,
) -> tuple[_Condition | None, float | None]:  # fmt: skip
    deadline = deployment["spec"].get("progressDeadlineSeconds", _DEFAULT_DEADLINE)
    if deadline is None or deadline == _NO_DEADLINE:
        return None, None
    what = f'ReplicaSet "{name_of(new)}"' if new is not None else f'Deployment "{name_of(deployment)}"'
    if deployment["spec"].get("paused"):
        return ("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused"), None
    if status["updatedReplicas"] == status["replicas"] == status["availableReplicas"] == desired:
        return ("Progressing", "True", "NewReplicaSetAvailable", f"{what} has successfully progressed."), None
    old = deployment.get("status") or {}
    names = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
    if (
        current is None
        or any(old.get(n, 0) != status[n] for n in names)
        or current["reason"] == "NewReplicaSetAvailable"
    ):
        return ("Progressing", "True", "ReplicaSetUpdated", f"{what} is progressing."), float(deadline)
    since = (at - parse_time(current.get("lastUpdateTime", current["lastTransitionTime"]))).total_seconds()
    if since < deadline:
        return None, deadline - since + 0.1
    return ("Progressing", "False", "ProgressDeadlineExceeded", f"{what} has timed out progressing."), None


def _set(
    conditions: dict[str, dict[str, Any]], at: dt.datetime, kind: str, value: str, reason: str, message: str,
    *, touch: bool = False,
) -> None:  # fmt: skip
    """Set a condition; both of its times move as upstream's do. ``touch``: set the update time anyway."""
    now = at.strftime("%Y-%m-%dT%H:%M:%SZ")
    current = conditions.get(kind)
    if current and not touch and (current["status"], current["reason"]) == (value, reason):
        return
    since = current["lastTransitionTime"] if current and current["status"] == value else now
    conditions[kind] = {
        "type": kind,
        "status": value,
        "reason": reason,
        "message": message,
        "lastUpdateTime": now,
        "lastTransitionTime": since,
    }
