"""Which pods a workload gives up first, and int-or-percent fields. Pure functions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from kmn.controlplane.podstate import is_ready, node_of, phase
from kmn.k8s.objects import Object, annotation, condition

__all__ = ["deletion_order", "scaled"]

_PHASES = {"Pending": 0, "Unknown": 1, "Running": 2}
_DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"


def deletion_order(pods: Sequence[Object], related: Sequence[Object] | None = None) -> list[Object]:
    """Pods in the order in which a scale-down deletes them (``ActivePodsWithRanks`` upstream, its eight criteria).

    ``related`` are pods that count for crowding: those of all ReplicaSets of one Deployment; by default ``pods``.
    """
    crowd = Counter(node_of(pod) for pod in (pods if related is None else related))
    # Stable sorts from the least to the most important criterion; timestamps sort as text. Newest go first.
    ordered = sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp") or ""), reverse=True)
    ordered.sort(key=_restarts, reverse=True)
    ordered.sort(key=_ready_since, reverse=True)
    ordered.sort(
        key=lambda pod: (
            node_of(pod) != "",
            _PHASES.get(phase(pod), 1),
            is_ready(pod),
            _deletion_cost(pod),
            -crowd[node_of(pod)] if node_of(pod) else 0,
        )
    )
    return ordered


def _deletion_cost(pod: Object) -> int:
    try:
        return int(annotation(pod, _DELETION_COST) or 0)
    except ValueError:
        return 0  # as upstream: an invalid cost is no cost


def _ready_since(pod: Object) -> str:
    ready = condition(pod, "Ready")
    return str(ready["lastTransitionTime"]) if ready is not None and ready["status"] == "True" else ""


def _restarts(pod: Object) -> int:
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    return max((status.get("restartCount", 0) for status in statuses), default=0)


def scaled(value: int | str, total: int, *, round_up: bool) -> int:
    """An int-or-percent field: ``2`` is 2, ``25%`` of 10 is 2 or 3."""
    if isinstance(value, int):
        return value
    exact = int(value.removesuffix("%")) * total / 100
    return math.ceil(exact) if round_up else math.floor(exact)
