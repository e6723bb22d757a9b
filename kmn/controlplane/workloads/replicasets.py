"""ReplicaSets and ReplicationControllers: as many pods of one template as are wanted.

Rules: upstream's ``pkg/controller/replicaset`` (there, too, one does both, behind an adapter).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Any

from kmn.controlplane.podstate import available_in, failed, is_active, is_ready, terminating
from kmn.controlplane.runtime import LoopClient
from kmn.controlplane.workloads.ownership import Workloads, get_or_none, put_status
from kmn.controlplane.workloads.replicas import deletion_order
from kmn.controlplane.workloads.template import pod_from_template
from kmn.k8s.errors import ApiError, NotFound
from kmn.k8s.objects import Key, Object, controller_of, name_of, namespace_of, parse_time, set_condition, uid_of
from kmn.k8s.resources import PODS, REPLICASETS, REPLICATIONCONTROLLERS, Resource
from kmn.k8s.selectors import LabelSelector, selector_of_map, selector_of_object

__all__ = ["ReplicaSets", "pause_after_refusals"]

# Pods made or deleted in one turn; then others get theirs.
_BURST = 32
# Seconds before pods are made again after the first refusal of a kubelet; twice as many with each further one.
_PAUSE, _PAUSE_MAX = 0.1, 600.0


class ReplicaSets(Workloads):
    """Keeps the number of a ReplicaSet's (or ReplicationController's) pods."""

    def __init__(self, client: LoopClient, resource: Resource = REPLICASETS) -> None:
        assert resource in (REPLICASETS, REPLICATIONCONTROLLERS)
        self.resource = resource
        self.component = "replicaset-controller" if resource is REPLICASETS else "replication-controller"
        super().__init__(client)

    def selector(self, workload: Object) -> LabelSelector:
        selector = workload["spec"].get("selector") or {}
        return selector_of_map(selector) if self.resource is REPLICATIONCONTROLLERS else selector_of_object(selector)

    def reconcile(self, key: Key) -> None:
        rs = get_or_none(self.client, self.resource, key)
        if rs is None:
            return
        pods = self.claimed(rs)
        active = [pod for pod in pods if is_active(pod)]
        error: ApiError | None = None
        if not terminating(rs):
            pause = pause_after_refusals(pods, dt.datetime.now(dt.UTC))
            if pause > 0:
                self.queue.add_after(key, pause)
            error = self._manage(key, rs, active, may_create=pause <= 0)
        status, wait = status_of(rs, active, dt.datetime.now(dt.UTC), error)
        put_status(self.client, rs, status)
        if wait is not None:
            self.queue.add_after(key, wait)
        if error is not None:
            raise error

    def _manage(self, key: Key, rs: Object, active: list[Object], *, may_create: bool) -> ApiError | None:
        """Make or delete pods, ``active`` is brought up to date; the error that stopped it."""
        missing = _replicas(rs) - len(active)
        if missing > 0 and not may_create:
            return None
        if abs(missing) > _BURST:
            self.queue.add(key)
        try:
            if missing > 0:
                for _ in range(min(missing, _BURST)):
                    active.append(self._create(rs))
            elif missing < 0:
                for pod in deletion_order(active, self._related(rs))[: min(-missing, _BURST)]:
                    self._delete(rs, pod)
                    active.remove(pod)
        except ApiError as error:
            return error
        return None

    def _create(self, rs: Object) -> Object:
        try:
            pod = self.client.create(pod_from_template(rs, rs["spec"]["template"]))
        except ApiError as error:
            self.recorder.event(rs, "Warning", "FailedCreate", f"Error creating: {error}")
            raise
        self.recorder.event(rs, "Normal", "SuccessfulCreate", f"Created pod: {name_of(pod)}")
        return pod

    def _delete(self, rs: Object, pod: Object) -> None:
        try:
            self.client.delete(PODS, namespace_of(pod), name_of(pod), uid=uid_of(pod))
        except NotFound:
            return
        self.recorder.event(rs, "Normal", "SuccessfulDelete", f"Deleted pod: {name_of(pod)}")

    def _related(self, rs: Object) -> list[Object] | None:
        """Pods of all ReplicaSets of the same Deployment: they crowd a node as well."""
        ref = controller_of(rs)
        if ref is None:
            return None
        sets = [obj for obj in self.client.owned_by(ref["uid"]) if obj["kind"] == "ReplicaSet"]
        return [pod for obj in sets for pod in self.owned(obj) if is_active(pod)]


def pause_after_refusals(pods: Iterable[Object], at: dt.datetime) -> float:
    """Seconds to wait until a kubelet is asked again that has refused pods of the same template (``podadmission``).

    Upstream does not wait: a Deployment with ``nodeName`` and a host port makes failed pods until somebody looks.
    """
    refused = [pod for pod in pods if failed(pod) and not pod["status"].get("containerStatuses")]
    if not refused:
        return 0.0
    newest = max(parse_time(pod["metadata"]["creationTimestamp"]) for pod in refused)
    pause = min(_PAUSE * 2.0 ** min(len(refused) - 1, 32), _PAUSE_MAX)
    return pause - (at - newest).total_seconds()


def _replicas(rs: Object) -> int:
    wanted = rs["spec"].get("replicas")
    return 1 if wanted is None else int(wanted)


def status_of(
    rs: Object, active: list[Object], at: dt.datetime, error: ApiError | None
) -> tuple[dict[str, Any], float | None]:
    """The status that follows from the active pods, and when to look again for ``minReadySeconds``' sake."""
    template = rs["spec"].get("template") or {}
    wanted = ((template.get("metadata") or {}).get("labels") or {}).items()
    waits = [available_in(pod, rs["spec"].get("minReadySeconds") or 0, at) for pod in active]
    status: dict[str, Any] = {
        "replicas": len(active),
        "fullyLabeledReplicas": sum(wanted <= pod["metadata"].get("labels", {}).items() for pod in active),
        "readyReplicas": sum(map(is_ready, active)),
        "availableReplicas": waits.count(0),
        "observedGeneration": rs["metadata"].get("generation", 0),
    }
    holder: Object = {"status": {"conditions": [dict(c) for c in (rs.get("status") or {}).get("conditions") or ()]}}
    if error is not None:
        set_condition(holder, "ReplicaFailure", True, "FailedCreate", str(error))
    conditions = holder["status"]["conditions"]
    if error is None:
        conditions = [c for c in conditions if c["type"] != "ReplicaFailure"]
    if conditions:
        status["conditions"] = conditions
    return status, min((wait for wait in waits if wait), default=None)
