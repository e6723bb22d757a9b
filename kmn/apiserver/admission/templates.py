"""Where the pods of a kind are described: the Pod itself, or the template of a workload."""

from __future__ import annotations

from typing import Any

from kmn.k8s.objects import Object

__all__ = ["KINDS", "pod_of", "spec_path"]

_TEMPLATES = {
    "Pod": (),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
    **dict.fromkeys(
        ("Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job", "ReplicationController"),
        ("spec", "template"),
    ),
}
KINDS = frozenset(_TEMPLATES)  # that have pods


def spec_path(kind: str) -> str:
    """The path of the pods' spec in an object of one of ``KINDS``."""
    return ".".join((*_TEMPLATES[kind], "spec"))


def pod_of(obj: Object) -> Any:
    """The pod (template) of an object of one of ``KINDS``; {} where it has none."""
    found: Any = obj
    for field in _TEMPLATES[obj["kind"]]:
        found = found.get(field) or {}
    return found
