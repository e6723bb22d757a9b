"""What a kubelet asks before it takes a pod in: whoever bound it may not have asked the scheduler (``spec.nodeName``).

Of upstream's ``pkg/kubelet/lifecycle`` (predicates) it is that of host ports. Requests of CPU and memory are not
counted by the scheduler either; a nodeSelector, affinity or taints are not looked at again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from kmn.emulator.podstatus import qos_class
from kmn.k8s.hostports import host_ports
from kmn.k8s.objects import Object, set_condition

__all__ = ["Refusal", "refusal", "refused_status"]


class Refusal(NamedTuple):
    """Why a pod may not run on its node; the words are the kubelet's."""

    reason: str
    message: str


def refusal(pod: Object, others: Iterable[Object]) -> Refusal | None:
    """``others``: pods that the node has taken in and that have not run to their end. None: the pod may run."""
    wanted = host_ports(pod)
    if wanted and any(port.conflicts(taken) for other in others for taken in host_ports(other) for port in wanted):
        text = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
        return Refusal("NodePorts", text)
    return None


def refused_status(pod: Object, why: Refusal, now: str) -> dict[str, Any]:
    """``status`` of a pod that will never run: Failed, as by upstream's ``rejectPod``, and without an address."""
    status: dict[str, Any] = dict(pod.get("status") or {})
    for field in ("podIP", "podIPs"):  # another pod may have it from now on
        status.pop(field, None)
    status |= {
        "phase": "Failed",
        "reason": why.reason,
        "message": f"Pod was rejected: {why.message}",
        "startTime": status.get("startTime") or now,
        "qosClass": status.get("qosClass") or qos_class(pod),
        "conditions": [dict(condition) for condition in status.get("conditions") or ()],
    }
    for kind in ("Ready", "ContainersReady"):
        set_condition({"status": status}, kind, False, "PodFailed", at=now)
    return status
