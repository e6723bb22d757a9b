"""StatefulSets: pods with ordinals that keep their names and claims.

Rules: upstream's ``pkg/controller/statefulset`` (``updateStatefulSet``). One reconcile makes one step where order
matters (OrderedReady), all steps at once where it does not (Parallel).
"""

from __future__ import annotations

import copy
import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kmn.controlplane.podstate import available_in, failed, is_ready, phase, terminating
from kmn.controlplane.workloads.ownership import Workloads, get_or_none, put_status
from kmn.controlplane.workloads.revisions import REVISION_LABEL, Revisions, clean_up, sync_revisions, template_of
from kmn.controlplane.workloads.template import pod_from_template
from kmn.k8s.errors import ApiError, NotFound
from kmn.k8s.objects import Key, Object, describe, labels, name_of, namespace_of, owner_reference, uid_of
from kmn.k8s.resources import PODS, STATEFULSETS, by_kind
from kmn.k8s.selectors import LabelSelector, selector_of_object

__all__ = ["StatefulSets"]

_POD_NAME = "statefulset.kubernetes.io/pod-name"
_POD_INDEX = "apps.kubernetes.io/pod-index"
_CLAIMS = by_kind("v1", "PersistentVolumeClaim")


@dataclass(slots=True)
class _Set:
    """A StatefulSet being reconciled, and its pods by ordinal."""

    obj: Object
    revisions: Revisions
    pods: dict[int, Object]
    at: dt.datetime

    @property
    def spec(self) -> dict[str, Any]:
        return self.obj["spec"]  # type: ignore[no-any-return]

    @property
    def ordinals(self) -> range:
        start = (self.spec.get("ordinals") or {}).get("start") or 0
        replicas = self.spec.get("replicas")
        return range(start, start + (1 if replicas is None else replicas))

    @property
    def monotonic(self) -> bool:
        return self.spec.get("podManagementPolicy") != "Parallel"

    @property
    def partition(self) -> int | None:
        """Ordinals from here on get the new template; None when pods are only replaced by hand (OnDelete)."""
        strategy = self.spec.get("updateStrategy") or {}
        if strategy.get("type") == "OnDelete":
            return None
        return int((strategy.get("rollingUpdate") or {}).get("partition") or 0) + self.ordinals.start

    def healthy(self, pod: Object) -> bool:
        """Running, and ready for ``minReadySeconds``."""
        return not terminating(pod) and available_in(pod, self.spec.get("minReadySeconds") or 0, self.at) == 0

    def revision_for(self, ordinal: int) -> Object:
        """The revision that a pod made now gets."""
        partition = self.partition
        return self.revisions.current if partition is not None and ordinal < partition else self.revisions.update


class StatefulSets(Workloads):
    """Makes, replaces and removes pods in order."""

    component = "statefulset-controller"
    resource = STATEFULSETS

    def selector(self, workload: Object) -> LabelSelector:
        return selector_of_object(workload["spec"].get("selector") or {})

    def reconcile(self, key: Key) -> None:
        obj = get_or_none(self.client, STATEFULSETS, key)
        if obj is None:
            return
        for field in _not_emulated(obj["spec"]):
            message = f"{describe(obj)}: spec.{field}: not emulated, and ignored"
            self.recorder.once(obj, "Warning", "NotEmulated", message)
        at = dt.datetime.now(dt.UTC)
        pods = {n: pod for pod in self.claimed(obj) if (n := ordinal_of(obj, pod)) is not None}
        revisions = sync_revisions(self.client, obj, (obj.get("status") or {}).get("currentRevision", ""))
        the_set = _Set(obj, revisions, pods, at)
        try:
            if not terminating(obj):
                self._step(the_set)
        finally:
            put_status(self.client, obj, status_of(the_set))
        clean_up(self.client, obj, revisions, the_set.pods.values())
        waits = (available_in(pod, obj["spec"].get("minReadySeconds") or 0, at) for pod in the_set.pods.values())
        wait = min((w for w in waits if w), default=None)
        if wait is not None:
            self.queue.add_after(key, wait)

    def _step(self, the_set: _Set) -> None:
        if not self._fill(the_set):
            return
        if not self._shrink(the_set):
            return
        self._replace(the_set)

    def _fill(self, the_set: _Set) -> bool:
        """Make the pods that are missing, lowest first; whether the later steps may go on."""
        for ordinal in the_set.ordinals:
            pod = the_set.pods.get(ordinal)
            if pod is not None and (failed(pod) or phase(pod) == "Succeeded") and not terminating(pod):
                self._delete(the_set, pod)  # it comes again under the same name when it is gone
                pod = the_set.pods.get(ordinal)
            if pod is None:
                self._create(the_set, ordinal)
                if the_set.monotonic:
                    return False
            elif the_set.monotonic and not the_set.healthy(pod):
                return False
            elif not terminating(pod):
                self._claims(the_set, ordinal)
        return True

    def _shrink(self, the_set: _Set) -> bool:
        """Delete pods beyond the size, highest first."""
        condemned = sorted((n for n in the_set.pods if n not in the_set.ordinals), reverse=True)
        for ordinal in condemned:
            pod = the_set.pods[ordinal]
            if not terminating(pod):
                self._delete(the_set, pod)
            if the_set.monotonic:
                return False
        return True

    def _replace(self, the_set: _Set) -> None:
        """Rolling update: delete one pod of an old revision, highest first, once all above are healthy."""
        if the_set.partition is None:
            return
        update = name_of(the_set.revisions.update)
        for ordinal in reversed(the_set.ordinals):
            pod = the_set.pods.get(ordinal)
            if ordinal < the_set.partition or pod is None:
                return
            if labels(pod).get(REVISION_LABEL) != update and not terminating(pod):
                self._delete(the_set, pod)
                return
            if not the_set.healthy(pod):
                return

    def _create(self, the_set: _Set, ordinal: int) -> None:
        obj = the_set.obj
        self._claims(the_set, ordinal)
        try:
            pod = self.client.create(pod_of(obj, ordinal, the_set.revision_for(ordinal)))
        except ApiError as error:
            name = f"{name_of(obj)}-{ordinal}"
            self.recorder.event(
                obj, "Warning", "FailedCreate", f"create Pod {name} in StatefulSet {name_of(obj)} failed error: {error}"
            )
            raise
        the_set.pods[ordinal] = pod
        message = f"create Pod {name_of(pod)} in StatefulSet {name_of(obj)} successful"
        self.recorder.event(obj, "Normal", "SuccessfulCreate", message)

    def _delete(self, the_set: _Set, pod: Object) -> None:
        try:
            self.client.delete(PODS, namespace_of(pod), name_of(pod), uid=uid_of(pod))
        except NotFound:
            return
        message = f"delete Pod {name_of(pod)} in StatefulSet {name_of(the_set.obj)} successful"
        self.recorder.event(the_set.obj, "Normal", "SuccessfulDelete", message)
        left = get_or_none(self.client, PODS, Key(namespace_of(pod), name_of(pod)))
        ordinal = ordinal_of(the_set.obj, pod)
        assert ordinal is not None
        if left is None:
            del the_set.pods[ordinal]
        else:
            the_set.pods[ordinal] = left

    def _claims(self, the_set: _Set, ordinal: int) -> None:
        """Make the pod's claims; they outlive the pod. Volumes themselves are not emulated."""
        for claim in claims_of(the_set.obj, ordinal):
            if get_or_none(self.client, _CLAIMS, Key(namespace_of(the_set.obj), name_of(claim))) is None:
                self.client.create(claim)


def _not_emulated(spec: dict[str, Any]) -> Iterable[str]:
    """Fields with a value that asks for something else than what is done."""
    if (spec.get("persistentVolumeClaimRetentionPolicy") or {}).get("whenScaled") == "Delete":
        yield "persistentVolumeClaimRetentionPolicy.whenScaled"
    if (spec.get("updateStrategy") or {}).get("rollingUpdate", {}).get("maxUnavailable") not in (None, 1):
        yield "updateStrategy.rollingUpdate.maxUnavailable"


def ordinal_of(the_set: Object, pod: Object) -> int | None:
    """The number at the end of a pod's name, None for a pod that only looks like one of the set's."""
    prefix, _, number = name_of(pod).rpartition("-")
    return int(number) if prefix == name_of(the_set) and number.isdigit() else None


def pod_of(the_set: Object, ordinal: int, revision: Object) -> Object:
    """The pod of an ordinal: name, labels, hostname and subdomain, volumes of its claims."""
    name = f"{name_of(the_set)}-{ordinal}"
    pod = pod_from_template(the_set, template_of(revision), name=name)
    pod["metadata"]["labels"] |= {_POD_NAME: name, _POD_INDEX: str(ordinal), REVISION_LABEL: name_of(revision)}
    spec = pod["spec"]
    spec["hostname"] = name
    spec["subdomain"] = the_set["spec"].get("serviceName") or ""
    templates = [t["metadata"]["name"] for t in the_set["spec"].get("volumeClaimTemplates") or ()]
    if templates:
        others = [v for v in spec.get("volumes") or () if v["name"] not in templates]
        claims = [{"name": t, "persistentVolumeClaim": {"claimName": f"{t}-{name}"}} for t in templates]
        spec["volumes"] = [*claims, *others]
    return pod


def claims_of(the_set: Object, ordinal: int) -> Iterable[Object]:
    """The PersistentVolumeClaims of an ordinal. With ``whenDeleted: Delete`` they go with the StatefulSet."""
    wanted = (the_set["spec"].get("selector") or {}).get("matchLabels") or {}
    policy = the_set["spec"].get("persistentVolumeClaimRetentionPolicy") or {}
    for template in the_set["spec"].get("volumeClaimTemplates") or ():
        claim = copy.deepcopy(template)
        claim |= {"apiVersion": "v1", "kind": "PersistentVolumeClaim"}
        meta = claim["metadata"]
        meta |= {"name": f"{meta['name']}-{name_of(the_set)}-{ordinal}", "namespace": namespace_of(the_set)}
        meta["labels"] = {**(meta.get("labels") or {}), **wanted}
        if policy.get("whenDeleted") == "Delete":
            meta["ownerReferences"] = [owner_reference(the_set)]
        yield claim


def status_of(the_set: _Set) -> dict[str, Any]:
    """The status that follows from the pods. When all are of the new revision, it becomes the current one."""
    obj, (current, update, _) = the_set.obj, the_set.revisions
    live = [pod for pod in the_set.pods.values() if not terminating(pod)]
    of_update = sum(labels(pod).get(REVISION_LABEL) == name_of(update) for pod in live)
    of_current = sum(labels(pod).get(REVISION_LABEL) == name_of(current) for pod in live)
    ready = sum(phase(pod) == "Running" and is_ready(pod) for pod in live)
    complete = of_update == ready == len(the_set.pods) == len(the_set.ordinals)
    if complete and the_set.partition is not None:
        current, of_current = update, of_update
    return {
        "observedGeneration": obj["metadata"].get("generation", 0),
        "replicas": len(the_set.pods),
        "readyReplicas": ready,
        "availableReplicas": sum(map(the_set.healthy, live)),
        "currentReplicas": of_current,
        "updatedReplicas": of_update,
        "currentRevision": name_of(current),
        "updateRevision": name_of(update),
        "collisionCount": 0,
    }
