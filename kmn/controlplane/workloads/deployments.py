"""Deployments: one ReplicaSet a template, and the way from one template to the next.

Rules: upstream's ``pkg/controller/deployment``. The arithmetic is in ``rollout``; here is what talks to the API.
"""

from __future__ import annotations

import copy
import datetime as dt
from dataclasses import dataclass
from typing import Any

from kmn.controlplane.podstate import finished, terminating
from kmn.controlplane.workloads import rollout
from kmn.controlplane.workloads.ownership import Workloads, get_or_none, put_status
from kmn.controlplane.workloads.progress import deployment_status
from kmn.controlplane.workloads.template import same_template, template_hash
from kmn.k8s.errors import AlreadyExists
from kmn.k8s.objects import Key, Object, annotation, name_of, namespace_of, owner_reference, uid_of
from kmn.k8s.objects import annotations as annotations_of
from kmn.k8s.resources import DEPLOYMENTS, REPLICASETS
from kmn.k8s.selectors import LabelSelector, selector_of_object

__all__ = ["Deployments"]

_REVISION = "deployment.kubernetes.io/revision"
_DESIRED = "deployment.kubernetes.io/desired-replicas"
_MAX = "deployment.kubernetes.io/max-replicas"
_HASH = "pod-template-hash"
# Annotations of a Deployment that its ReplicaSets do not get.
_NOT_COPIED = frozenset({"kubectl.kubernetes.io/last-applied-configuration", _REVISION, _DESIRED, _MAX})


@dataclass(slots=True)
class _Sets:
    """A Deployment's ReplicaSets. ``new`` is the one of its present template."""

    new: Object | None
    old: list[Object]

    @property
    def all(self) -> list[Object]:
        return [*self.old, self.new] if self.new is not None else list(self.old)

    def replace(self, rs: Object) -> None:
        if self.new is not None and uid_of(self.new) == uid_of(rs):
            self.new = rs
        else:
            self.old = [rs if uid_of(s) == uid_of(rs) else s for s in self.old]


class Deployments(Workloads):
    """Rolls Deployments out."""

    component = "deployment-controller"
    resource = DEPLOYMENTS
    children = REPLICASETS

    def selector(self, workload: Object) -> LabelSelector:
        return selector_of_object(workload["spec"].get("selector") or {})

    def reconcile(self, key: Key) -> None:
        deployment = get_or_none(self.client, DEPLOYMENTS, key)
        if deployment is None:
            return
        sets = _split(deployment, self.claimed(deployment))
        if not terminating(deployment):
            deployment = self._sync(deployment, sets)
        status, wait = deployment_status(deployment, sets.new, sets.all, dt.datetime.now(dt.UTC))
        put_status(self.client, deployment, status)
        if wait is not None:
            self.queue.add_after(key, wait)

    def _sync(self, deployment: Object, sets: _Sets) -> Object:
        """One step; the Deployment as it is then."""
        spec = deployment["spec"]
        if spec.get("paused") or _scaled_since(deployment, sets):
            if sets.new is not None:
                deployment = self._sync_revision(deployment, sets)
            self._scale_in_place(deployment, sets)
        elif _strategy(deployment) == "Recreate":
            if self._apply(deployment, sets, {uid_of(s): 0 for s in sets.old}) or self._old_pods_live(sets):
                return deployment
            deployment = self._with_new(deployment, sets)
            self._apply(deployment, sets, {uid_of(sets.new): _replicas(deployment)} if sets.new else {})
        else:
            deployment = self._with_new(deployment, sets)
            assert sets.new is not None
            surge, unavailable = _fenceposts(deployment)
            plan = rollout.rolling_step(
                _replicas(deployment), surge, unavailable, _numbers(sets.new), [_numbers(s) for s in sets.old]
            )
            self._apply(deployment, sets, plan)
        self._clean_up(deployment, sets)
        return deployment

    def _with_new(self, deployment: Object, sets: _Sets) -> Object:
        """Make the ReplicaSet of the present template unless it is there, and number the revision."""
        if sets.new is None:
            deployment, sets.new = self._create(deployment, sets)
        return self._sync_revision(deployment, sets)

    def _create(self, deployment: Object, sets: _Sets) -> tuple[Object, Object]:
        template = deployment["spec"]["template"]
        collisions = (deployment.get("status") or {}).get("collisionCount") or 0
        digest = template_hash(template, collisions)
        surge, unavailable = _fenceposts(deployment)
        old = [_numbers(s) for s in sets.old]
        size = rollout.rolling_step(_replicas(deployment), surge, unavailable, rollout.Set("", 0, 0), old).get("", 0)
        if _strategy(deployment) == "Recreate":
            size = _replicas(deployment)
        try:
            rs = self.client.create(_replica_set(deployment, template, digest, size, _next_revision(sets)))
        except AlreadyExists:
            # Another template's set (or somebody else's) has the name: the next hash is mixed with a count.
            status = {**(deployment.get("status") or {}), "collisionCount": collisions + 1}
            put_status(self.client, deployment, status)
            raise
        if size:
            self._tell(deployment, name_of(rs), 0, size)
        return deployment, rs

    def _sync_revision(self, deployment: Object, sets: _Sets) -> Object:
        """The present set has the highest revision, also when it is an old one come back; so has the Deployment."""
        assert sets.new is not None
        revision = max((_revision(s) for s in sets.old), default=0) + 1
        wanted = {**annotations_of(sets.new), **_inherited(deployment)}
        if _revision(sets.new) < revision:
            wanted[_REVISION] = str(revision)
        ready_after = deployment["spec"].get("minReadySeconds") or 0
        if wanted != annotations_of(sets.new) or (sets.new["spec"].get("minReadySeconds") or 0) != ready_after:
            changed = _annotated(sets.new, wanted)
            changed["spec"] = {**changed["spec"], "minReadySeconds": ready_after}
            sets.new = self.client.update(changed)
        if annotation(deployment, _REVISION) != wanted[_REVISION]:
            revisions = {**annotations_of(deployment), _REVISION: wanted[_REVISION]}
            return self.client.update(_annotated(deployment, revisions))
        return deployment

    def _scale_in_place(self, deployment: Object, sets: _Sets) -> None:
        """The Deployment's size changed, or it is paused: no set's share of the rollout changes."""
        desired = _replicas(deployment)
        active = [s for s in sets.all if s["spec"].get("replicas", 1)]
        if len(active) <= 1:
            only = active[0] if active else (sets.new or max(sets.old, key=_created, default=None))
            self._apply(deployment, sets, {uid_of(only): desired} if only is not None else {})
        elif sets.new is not None and _saturated(deployment, sets.new):
            self._apply(deployment, sets, {uid_of(s): 0 for s in sets.old})
        elif _strategy(deployment) != "Recreate":
            surge, _ = _fenceposts(deployment)
            deployed = (deployment.get("status") or {}).get("replicas") or 0
            newest = uid_of(sets.new) if sets.new is not None else ""
            plan = rollout.proportional(desired, surge, [_numbers(s) for s in active], newest, deployed)
            self._apply(deployment, sets, plan)
        # The sets say for which size they were scaled: that is how a change of size is seen.
        for rs in sets.all:
            if rs["spec"].get("replicas", 1):
                self._resize(deployment, sets, rs, rs["spec"].get("replicas", 1))

    def _apply(self, deployment: Object, sets: _Sets, plan: rollout.Plan) -> bool:
        """Scale the sets that the plan names; whether that changed any."""
        changed = False
        for rs in sets.all:
            size = plan.get(uid_of(rs))
            if size is None:
                continue
            before = rs["spec"].get("replicas", 1)
            self._resize(deployment, sets, rs, size)
            if size != before:
                changed = True
                self._tell(deployment, name_of(rs), before, size)
        return changed

    def _resize(self, deployment: Object, sets: _Sets, rs: Object, size: int) -> None:
        wanted = {**annotations_of(rs), **_size_annotations(deployment)}
        if size == rs["spec"].get("replicas", 1) and wanted == annotations_of(rs):
            return
        changed = _annotated(rs, wanted)
        changed["spec"] = {**changed["spec"], "replicas": size}
        sets.replace(self.client.update(changed))

    def _tell(self, deployment: Object, rs: str, before: int, size: int) -> None:
        way = "up" if size > before else "down"
        message = f"Scaled {way} replica set {rs} from {before} to {size}"
        self.recorder.event(deployment, "Normal", "ScalingReplicaSet", message)

    def _old_pods_live(self, sets: _Sets) -> bool:
        return any(
            obj["kind"] == "Pod" and not finished(obj) for rs in sets.old for obj in self.client.owned_by(uid_of(rs))
        )

    def _clean_up(self, deployment: Object, sets: _Sets) -> None:
        """Delete the oldest sets beyond ``revisionHistoryLimit`` once the rollout is complete."""
        status, desired = deployment.get("status") or {}, _replicas(deployment)
        counts = [status.get(name, 0) for name in ("replicas", "updatedReplicas", "availableReplicas")]
        if counts != [desired] * 3:
            return
        limit = deployment["spec"].get("revisionHistoryLimit")
        idle = [
            s for s in sets.old
            if not s["spec"].get("replicas", 1) and not (s.get("status") or {}).get("replicas") and not terminating(s)
        ]  # fmt: skip
        for rs in sorted(idle, key=_revision)[: max(0, len(idle) - (10 if limit is None else limit))]:
            self.client.delete(REPLICASETS, namespace_of(rs), name_of(rs), uid=uid_of(rs))


def _split(deployment: Object, sets: list[Object]) -> _Sets:
    """The set of the present template (the oldest, should there be several) and the others, oldest first."""
    template = deployment["spec"]["template"]
    ordered = sorted(sets, key=_created)
    new = next((s for s in ordered if same_template(s["spec"]["template"], template)), None)
    return _Sets(new, [s for s in ordered if s is not new])


def _replica_set(deployment: Object, template: dict[str, Any], digest: str, size: int, revision: int) -> Object:
    template = copy.deepcopy(template)
    template.setdefault("metadata", {}).setdefault("labels", {})[_HASH] = digest
    selector = copy.deepcopy(deployment["spec"]["selector"])
    selector.setdefault("matchLabels", {})[_HASH] = digest
    return {
        "apiVersion": REPLICASETS.api_version,
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{name_of(deployment)}-{digest}",
            "namespace": namespace_of(deployment),
            "labels": dict(template["metadata"]["labels"]),
            "annotations": {**_inherited(deployment), **_size_annotations(deployment), _REVISION: str(revision)},
            "ownerReferences": [owner_reference(deployment)],
        },
        "spec": {
            "replicas": size,
            "minReadySeconds": deployment["spec"].get("minReadySeconds") or 0,
            "selector": selector,
            "template": template,
        },
    }


def _annotated(obj: Object, wanted: dict[str, str]) -> Object:
    return {**obj, "metadata": {**obj["metadata"], "annotations": wanted}}


def _inherited(deployment: Object) -> dict[str, str]:
    return {k: v for k, v in annotations_of(deployment).items() if k not in _NOT_COPIED}


def _size_annotations(deployment: Object) -> dict[str, str]:
    desired = _replicas(deployment)
    surge = _fenceposts(deployment)[0] if _strategy(deployment) != "Recreate" else 0
    return {_DESIRED: str(desired), _MAX: str(desired + surge)}


def _scaled_since(deployment: Object, sets: _Sets) -> bool:
    """The Deployment's size is not the one that its active sets were scaled for."""
    wanted = str(_replicas(deployment))
    return any(s["spec"].get("replicas", 1) and annotation(s, _DESIRED) not in (None, wanted) for s in sets.all)


def _saturated(deployment: Object, rs: Object) -> bool:
    desired = _replicas(deployment)
    available = (rs.get("status") or {}).get("availableReplicas", 0)
    return bool(rs["spec"].get("replicas", 1) == desired == available and annotation(rs, _DESIRED) == str(desired))


def _numbers(rs: Object) -> rollout.Set:
    most = annotation(rs, _MAX)
    return rollout.Set(
        uid_of(rs),
        rs["spec"].get("replicas", 1),
        (rs.get("status") or {}).get("availableReplicas", 0),
        _created(rs),
        int(most) if most and most.isdigit() else None,
    )


def _replicas(deployment: Object) -> int:
    wanted = deployment["spec"].get("replicas")
    return 1 if wanted is None else int(wanted)


def _strategy(deployment: Object) -> str:
    return (deployment["spec"].get("strategy") or {}).get("type") or "RollingUpdate"


def _fenceposts(deployment: Object) -> tuple[int, int]:
    rolling = (deployment["spec"].get("strategy") or {}).get("rollingUpdate") or {}
    return rollout.fenceposts(
        rolling.get("maxSurge", "25%"), rolling.get("maxUnavailable", "25%"), _replicas(deployment)
    )


def _revision(rs: Object) -> int:
    text = annotation(rs, _REVISION) or "0"
    return int(text) if text.isdigit() else 0


def _next_revision(sets: _Sets) -> int:
    return max((_revision(s) for s in sets.old), default=0) + 1


def _created(rs: Object) -> str:
    # Timestamps have whole seconds; the revision orders sets of the same second.
    return f"{rs['metadata'].get('creationTimestamp', '')}/{_revision(rs):08d}"
