"""Jobs: pods that run to their end, until enough of them did.

Rules: upstream's ``pkg/controller/job``. Containers end because the kubelet says so; here pods are counted. Not
emulated (an Event says so): podFailurePolicy, successPolicy, backoffLimitPerIndex, managedBy.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from kmn.controlplane.podstate import is_active, is_ready, phase, terminating
from kmn.controlplane.workloads.ownership import Workloads, get_or_none, put_status
from kmn.controlplane.workloads.replicas import deletion_order
from kmn.controlplane.workloads.template import pod_from_template
from kmn.k8s.errors import ApiError, NotFound
from kmn.k8s.objects import (
    Key,
    Object,
    annotation,
    condition,
    describe,
    name_of,
    namespace_of,
    now,
    parse_time,
    set_condition,
    uid_of,
)
from kmn.k8s.resources import JOBS, PODS
from kmn.k8s.selectors import LabelSelector, selector_of_object

__all__ = ["Jobs", "format_indexes", "parse_indexes"]

_INDEX = "batch.kubernetes.io/job-completion-index"
_NOT_EMULATED = ("podFailurePolicy", "successPolicy", "backoffLimitPerIndex", "managedBy")
_BURST = 32  # pods made in one turn
_BACKOFF, _BACKOFF_MAX = 10.0, 600.0  # seconds before a failed pod is replaced: 10, 20, 40, ...


@dataclass(frozen=True, slots=True)
class _Count:
    """The pods of a Job in numbers. ``indexes`` are those completed (Indexed)."""

    active: list[Object]
    succeeded: int
    failed: int
    indexes: frozenset[int]
    restarts: int  # of containers that are restarted in place (restartPolicy OnFailure)
    failed_at: dt.datetime | None  # when the last pod failed


class Jobs(Workloads):
    """Runs Jobs to completion."""

    component = "job-controller"
    resource = JOBS

    def selector(self, workload: Object) -> LabelSelector:
        """The Job's own, or (as the API server generates it) the label with its uid."""
        selector = workload["spec"].get("selector")
        return selector_of_object(selector or {"matchLabels": {"batch.kubernetes.io/controller-uid": uid_of(workload)}})

    def reconcile(self, key: Key) -> None:
        job = get_or_none(self.client, JOBS, key)
        if job is None or terminating(job):
            return
        if finished_at(job) is not None:
            self._expire(key, job)
            return
        for field in _NOT_EMULATED:
            if job["spec"].get(field) is not None:
                message = f"{describe(job)}: spec.{field}: not emulated, and ignored"
                self.recorder.once(job, "Warning", "NotEmulated", message)
        at = dt.datetime.now(dt.UTC)
        count = count_pods(job, self.claimed(job))
        status = dict(job.get("status") or {})
        status["conditions"] = [dict(c) for c in status.get("conditions") or ()]
        holder: Object = {**job, "status": status}
        if not job["spec"].get("suspend"):
            status.setdefault("startTime", now())
        verdict = _verdict(job, count, status.get("startTime"), at)
        active = self._finish(holder, count, *verdict) if verdict is not None else self._run(key, holder, count, at)
        status |= {"active": len(active), "ready": sum(map(is_ready, active)), "terminating": 0}
        status |= {"succeeded": count.succeeded, "failed": count.failed}
        if _indexed(job):
            status["completedIndexes"] = format_indexes(count.indexes)
        put_status(self.client, job, status)
        if verdict is not None:
            self._expire(key, {**job, "status": status})

    def _finish(self, holder: Object, count: _Count, kind: str, reason: str, message: str) -> list[Object]:
        """Record the verdict and end what still runs."""
        interim = "SuccessCriteriaMet" if kind == "Complete" else "FailureTarget"
        set_condition(holder, interim, True, reason, message)
        set_condition(holder, kind, True, reason, message)
        if kind == "Complete":
            holder["status"]["completionTime"] = now()
            self.recorder.event(holder, "Normal", "Completed", "Job completed")
        else:
            self.recorder.event(holder, "Warning", reason, message)
        self._delete(holder, count.active)
        return []

    def _run(self, key: Key, holder: Object, count: _Count, at: dt.datetime) -> list[Object]:
        """Make or delete pods; the active ones afterwards."""
        spec = holder["spec"]
        if spec.get("suspend"):
            if set_condition(holder, "Suspended", True, "JobSuspended", "Job suspended"):
                self.recorder.event(holder, "Normal", "Suspended", "Job suspended")
            holder["status"].pop("startTime", None)
            self._delete(holder, count.active)
            return []
        if condition(holder, "Suspended"):
            set_condition(holder, "Suspended", False, "JobResumed", "Job resumed")
        if spec.get("activeDeadlineSeconds") is not None:
            started = parse_time(holder["status"]["startTime"])
            self.queue.add_after(key, max(0.0, spec["activeDeadlineSeconds"] - (at - started).total_seconds()) + 0.1)
        wanted = _wanted_active(spec, count)
        missing = wanted - len(count.active)
        if missing < 0:
            surplus = deletion_order(count.active)[:-missing]
            self._delete(holder, surplus)
            return [pod for pod in count.active if pod not in surplus]
        wait = _backoff(count, at)
        if missing and wait > 0:
            self.queue.add_after(key, wait)
            return count.active
        if missing > _BURST:
            self.queue.add(key)
        return count.active + self._create(holder, count, min(missing, _BURST))

    def _create(self, job: Object, count: _Count, number: int) -> list[Object]:
        made: list[Object] = []
        indexes = _free_indexes(job["spec"], count) if _indexed(job) else None
        try:
            for _ in range(number):
                index = next(indexes, None) if indexes is not None else None
                made.append(self.client.create(pod_of(job, index)))
                self.recorder.event(job, "Normal", "SuccessfulCreate", f"Created pod: {name_of(made[-1])}")
        except ApiError as error:
            self.recorder.event(job, "Warning", "FailedCreate", f"Error creating: {error}")
            raise
        return made

    def _delete(self, job: Object, pods: Iterable[Object]) -> None:
        for pod in pods:
            try:
                self.client.delete(PODS, namespace_of(pod), name_of(pod), uid=uid_of(pod))
            except NotFound:
                continue
            self.recorder.event(job, "Normal", "SuccessfulDelete", f"Deleted pod: {name_of(pod)}")

    def _expire(self, key: Key, job: Object) -> None:
        """Delete a finished Job ``ttlSecondsAfterFinished`` after its end."""
        ttl, end = job["spec"].get("ttlSecondsAfterFinished"), finished_at(job)
        if ttl is None or end is None:
            return
        left = ttl - (dt.datetime.now(dt.UTC) - end).total_seconds()
        if left > 0:
            self.queue.add_after(key, left + 0.05)
            return
        try:
            self.client.delete(JOBS, key.namespace, key.name, uid=uid_of(job))
        except NotFound:
            pass


def count_pods(job: Object, pods: Iterable[Object]) -> _Count:
    """Count a Job's pods. What was counted before and is deleted since still counts."""
    pods = list(pods)
    before = job.get("status") or {}
    done = [pod for pod in pods if phase(pod) == "Succeeded"]
    failed = [pod for pod in pods if phase(pod) == "Failed"]
    indexes = parse_indexes(before.get("completedIndexes") or "")
    indexes |= {i for pod in done if (i := _index_of(pod)) is not None}
    if _indexed(job):
        indexes = {i for i in indexes if i < (job["spec"].get("completions") or 0)}
    succeeded = len(indexes) if _indexed(job) else max(len(done), before.get("succeeded") or 0)
    ends = (pod["metadata"].get("deletionTimestamp") or _ended(pod) for pod in failed)
    last = max(ends, default=None)
    return _Count(
        [pod for pod in pods if is_active(pod)],
        succeeded,
        max(len(failed), before.get("failed") or 0),
        frozenset(indexes),
        sum(_restarts(pod) for pod in pods if pod["spec"].get("restartPolicy") == "OnFailure"),
        parse_time(last) if last else None,
    )


def _verdict(job: Object, count: _Count, started: str | None, at: dt.datetime) -> tuple[str, str, str] | None:
    """Condition, reason and message of a Job that is at its end."""
    spec = job["spec"]
    limit = 6 if spec.get("backoffLimit") is None else spec["backoffLimit"]
    if count.failed > limit or (count.restarts and count.restarts >= max(limit, 1)):
        return "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and started and (at - parse_time(started)).total_seconds() >= deadline:
        return "Failed", "DeadlineExceeded", "Job was active longer than specified deadline"
    completions = spec.get("completions")
    # Without a number it is a work queue: one success means that there is no more work.
    queue_empty = count.succeeded > 0 and not count.active
    complete = queue_empty if completions is None else count.succeeded >= completions
    return ("Complete", "CompletionsReached", "Reached expected number of succeeded pods") if complete else None


def _wanted_active(spec: dict[str, Any], count: _Count) -> int:
    parallelism = 1 if spec.get("parallelism") is None else int(spec["parallelism"])
    if spec.get("completions") is None:
        return min(parallelism, len(count.active)) if count.succeeded else parallelism
    return min(parallelism, int(spec["completions"]) - count.succeeded)


def _backoff(count: _Count, at: dt.datetime) -> float:
    if not count.failed or count.failed_at is None:
        return 0
    wait = min(_BACKOFF * 2.0 ** (count.failed - 1), _BACKOFF_MAX)
    return wait - (at - count.failed_at).total_seconds()


def _free_indexes(spec: dict[str, Any], count: _Count) -> Iterator[int]:
    taken = count.indexes | {_index_of(pod) for pod in count.active}
    return (index for index in range(spec.get("completions") or 0) if index not in taken)


def pod_of(job: Object, index: int | None) -> Object:
    """A pod of a Job, with the labels that the API server puts on its template."""
    name = name_of(job)
    pod = pod_from_template(job, job["spec"]["template"], prefix=f"{name}-" if index is None else f"{name}-{index}-")
    meta, spec = pod["metadata"], pod["spec"]
    for prefix in ("batch.kubernetes.io/", ""):
        meta["labels"] |= {f"{prefix}controller-uid": uid_of(job), f"{prefix}job-name": name}
    if index is not None:
        meta["labels"][_INDEX] = meta["annotations"][_INDEX] = str(index)
        spec["hostname"] = f"{name}-{index}"
        variable = {"name": "JOB_COMPLETION_INDEX", "value": str(index)}
        for role in ("initContainers", "containers"):
            if spec.get(role):
                spec[role] = [{**c, "env": [*(c.get("env") or ()), variable]} for c in spec[role]]
    return pod


def finished_at(job: Object) -> dt.datetime | None:
    """When a Job became Complete or Failed."""
    for kind in ("Complete", "Failed"):
        found = condition(job, kind)
        if found is not None and found["status"] == "True":
            return parse_time(found["lastTransitionTime"])
    return None


def format_indexes(indexes: Iterable[int]) -> str:
    """``status.completedIndexes``: ``0-2,5``."""
    parts: list[list[int]] = []
    for index in sorted(indexes):
        if parts and parts[-1][1] == index - 1:
            parts[-1][1] = index
        else:
            parts.append([index, index])
    return ",".join(str(a) if a == b else f"{a},{b}" if b == a + 1 else f"{a}-{b}" for a, b in parts)


def parse_indexes(text: str) -> set[int]:
    """The reverse of :func:`format_indexes`."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def _indexed(job: Object) -> bool:
    return bool(job["spec"].get("completionMode") == "Indexed")


def _index_of(pod: Object) -> int | None:
    text = annotation(pod, _INDEX)
    return int(text) if text is not None and text.isdigit() else None


def _restarts(pod: Object) -> int:
    return sum(s.get("restartCount", 0) for s in (pod.get("status") or {}).get("containerStatuses") or ())


def _ended(pod: Object) -> str:
    ready = condition(pod, "Ready")
    return str((ready or {}).get("lastTransitionTime") or pod["metadata"].get("creationTimestamp") or now())
