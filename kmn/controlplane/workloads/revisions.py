"""ControllerRevisions: the templates that a StatefulSet or DaemonSet had, so that pods can be told apart by template
and ``kubectl rollout history`` and ``undo`` work.

Rules: upstream's ``pkg/controller/history``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from kmn.controlplane.runtime import LoopClient
from kmn.controlplane.workloads.template import same_template, template_hash
from kmn.k8s.errors import AlreadyExists
from kmn.k8s.objects import Key, Object, labels, name_of, namespace_of, owner_reference, uid_of
from kmn.k8s.resources import CONTROLLERREVISIONS

__all__ = ["REVISION_LABEL", "Revisions", "clean_up", "hash_of", "sync_revisions", "template_of"]

REVISION_LABEL = "controller-revision-hash"  # of pods


class Revisions(NamedTuple):
    """``update`` is the revision of the present template, ``current`` the one that pods came from before."""

    current: Object
    update: Object
    all: list[Object]


def template_of(revision: Object) -> dict[str, Any]:
    """The pod template that a revision keeps."""
    template = dict(revision["data"]["spec"]["template"])
    template.pop("$patch", None)
    return template


def sync_revisions(client: LoopClient, owner: Object, current: str = "") -> Revisions:
    """Make the present template the newest revision. ``current`` is the name in ``status.currentRevision``."""
    revisions = sorted(
        (obj for obj in client.owned_by(uid_of(owner)) if obj["kind"] == "ControllerRevision"),
        key=lambda obj: obj["revision"],
    )
    template = owner["spec"]["template"]
    number = revisions[-1]["revision"] + 1 if revisions else 1
    update = next((r for r in reversed(revisions) if same_template(template_of(r), template)), None)
    if update is None:
        update = _create(client, owner, template, number)
        revisions.append(update)
    elif update is not revisions[-1]:  # rolled back: the old revision becomes the newest
        revisions.remove(update)
        update = client.update({**update, "revision": number})
        revisions.append(update)
    return Revisions(next((r for r in revisions if name_of(r) == current), update), update, revisions)


def clean_up(client: LoopClient, owner: Object, revisions: Revisions, pods: Iterable[Object]) -> None:
    """Delete the oldest revisions that nobody uses, beyond ``revisionHistoryLimit``."""
    limit = owner["spec"].get("revisionHistoryLimit")
    live = {labels(pod).get(REVISION_LABEL) for pod in pods}
    named = {name_of(revisions.current), name_of(revisions.update)}
    idle = [r for r in revisions.all if name_of(r) not in named and not {name_of(r), hash_of(r)} & live]
    for revision in idle[: max(0, len(idle) - (10 if limit is None else limit))]:
        client.delete(CONTROLLERREVISIONS, namespace_of(revision), name_of(revision), uid=uid_of(revision))


def hash_of(revision: Object) -> str:
    """The part of a revision's name that follows from the template."""
    return labels(revision).get("controller.kubernetes.io/hash", "")


def _create(client: LoopClient, owner: Object, template: dict[str, Any], number: int) -> Object:
    collisions = 0
    while True:
        digest = template_hash(template, collisions)
        key = Key(namespace_of(owner), f"{name_of(owner)}-{digest}")
        meta = {
            "name": key.name,
            "namespace": key.namespace,
            "labels": {
                **((template.get("metadata") or {}).get("labels") or {}),
                "controller.kubernetes.io/hash": digest,
            },
            "ownerReferences": [owner_reference(owner)],
        }
        try:
            return client.create(
                {
                    "apiVersion": CONTROLLERREVISIONS.api_version,
                    "kind": "ControllerRevision",
                    "metadata": meta,
                    # A strategic merge patch that puts the template back: what `kubectl rollout undo` applies.
                    "data": {"spec": {"template": {**template, "$patch": "replace"}}},
                    "revision": number,
                }
            )
        except AlreadyExists:
            collisions += 1
