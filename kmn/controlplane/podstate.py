"""What a pod's fields say about it: active, ready, available. Pure functions, as in upstream's ``pkg/api/v1/pod``."""

from __future__ import annotations

import datetime as dt

from kmn.k8s.objects import Object, condition, parse_time

__all__ = [
    "address",
    "available_in",
    "failed",
    "finished",
    "is_active",
    "is_ready",
    "node_of",
    "phase",
    "terminating",
    "uses_host_network",
]


def phase(pod: Object) -> str:
    return (pod.get("status") or {}).get("phase") or "Pending"


def failed(pod: Object) -> bool:
    return phase(pod) == "Failed"


def finished(pod: Object) -> bool:
    """All containers ended and none will be started again: the pod has no address and serves nobody."""
    return phase(pod) in ("Succeeded", "Failed")


def terminating(pod: Object) -> bool:
    return bool(pod["metadata"].get("deletionTimestamp"))


def is_active(pod: Object) -> bool:
    """Counts as a replica: neither finished nor being deleted."""
    return not finished(pod) and not terminating(pod)


def is_ready(pod: Object) -> bool:
    ready = condition(pod, "Ready")
    return ready is not None and ready["status"] == "True"


def available_in(pod: Object, min_ready_seconds: int, at: dt.datetime) -> float | None:
    """Seconds until the pod has been ready for ``minReadySeconds``: 0 when it has, None while it is not ready."""
    ready = condition(pod, "Ready")
    if ready is None or ready["status"] != "True":
        return None
    if not min_ready_seconds:
        return 0
    since = parse_time(ready["lastTransitionTime"])
    return max(0.0, min_ready_seconds - (at - since).total_seconds())


def node_of(pod: Object) -> str:
    """Name of the node that the pod is bound to, "" before it is."""
    return pod["spec"].get("nodeName") or ""


def address(pod: Object) -> str:
    return (pod.get("status") or {}).get("podIP") or ""


def uses_host_network(pod: Object) -> bool:
    return bool(pod["spec"].get("hostNetwork"))
