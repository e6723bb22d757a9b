"""Subresources that are more than a part of their object: scale, and a pod's binding and eviction."""

from __future__ import annotations

from typing import Any, get_args

from kmn.apiserver.registry import DeleteOptions, Propagation, Registry, Reply
from kmn.k8s.errors import ApiError, Conflict, FieldError, Invalid, Reason
from kmn.k8s.objects import Object, draft, set_condition
from kmn.k8s.resources import PODS, Resource
from kmn.k8s.selectors import selector_of_map, selector_of_object

__all__ = ["bind", "delete_options", "evict", "scale_of", "set_scale"]


def scale_of(obj: Object) -> Object:
    """The ``autoscaling/v1`` Scale of a workload."""
    spec, status, meta = obj.get("spec") or {}, obj.get("status") or {}, obj["metadata"]
    selector = spec.get("selector")
    parsed = selector_of_map(selector) if obj["kind"] == "ReplicationController" else selector_of_object(selector)
    names = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    replicas = spec.get("replicas")
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {name: meta[name] for name in names},
        "spec": {"replicas": 1 if replicas is None else replicas},
        "status": {"replicas": status.get("replicas", 0), "selector": str(parsed)},
    }


def set_scale(
    registry: Registry, resource: Resource, namespace: str, name: str, scale: Any, *, dry_run: bool = False
) -> Reply:
    """Write ``spec.replicas`` of a Scale to its workload; the answer is the new Scale."""
    replicas = ((scale if isinstance(scale, dict) else {}).get("spec") or {}).get("replicas", 0)
    if not isinstance(replicas, int) or isinstance(replicas, bool) or replicas < 0:
        error = FieldError("spec.replicas", f"{replicas!r} is not a whole number of at least 0")
        raise Invalid("Scale", f"{namespace}/{name}", [error])
    wanted = (scale.get("metadata") or {}).get("resourceVersion")

    def change(obj: Object) -> Object:
        meta = {**obj["metadata"], "resourceVersion": wanted or obj["metadata"]["resourceVersion"]}
        return {**obj, "metadata": meta, "spec": {**obj["spec"], "replicas": replicas}}

    reply = registry.patch(resource, namespace, name, change, trusted=False, dry_run=dry_run)
    return Reply(scale_of(reply.object), reply.warnings)


def bind(registry: Registry, namespace: str, name: str, binding: Any, *, dry_run: bool = False) -> None:
    """Put a pod on a node, as a scheduler does."""
    node = ((binding if isinstance(binding, dict) else {}).get("target") or {}).get("name")
    if not node:
        raise Invalid("Binding", f"{namespace}/{name}", [FieldError("target.name", "the name of a node is required")])

    def change(pod: Object) -> Object:
        bound = (pod.get("spec") or {}).get("nodeName")
        if bound:
            raise Conflict("pods/binding", name, f"pod {name} is already assigned to node {bound!r}")
        pod = draft(pod)
        pod["spec"]["nodeName"] = node
        return pod

    def scheduled(pod: Object) -> Object:
        pod = draft(pod)
        set_condition(pod, "PodScheduled", True)
        return pod

    registry.patch(PODS, namespace, name, change, trusted=True, dry_run=dry_run)
    if not dry_run:
        registry.patch(PODS, namespace, name, scheduled, subresource="status", trusted=True)


def evict(registry: Registry, namespace: str, name: str, eviction: Any, *, dry_run: bool = False) -> None:
    """Delete a pod by an Eviction. PodDisruptionBudgets are stored only, and hold nothing up."""
    options = delete_options((eviction if isinstance(eviction, dict) else {}).get("deleteOptions"), {}, dry_run=dry_run)
    registry.delete(PODS, namespace, name, options)


def delete_options(body: Any, query: dict[str, str], *, dry_run: bool = False) -> DeleteOptions:
    """DeleteOptions out of a body, or out of the query for what the body leaves open."""
    body = body or {}
    if not isinstance(body, dict):
        raise ApiError(400, Reason.BAD_REQUEST, "the body of a deletion is a DeleteOptions object")
    grace = body.get("gracePeriodSeconds", query.get("gracePeriodSeconds"))
    policy: Any = body.get("propagationPolicy") or query.get("propagationPolicy")
    if policy is None:  # the older way to say it
        orphan = body.get("orphanDependents", query.get("orphanDependents")) in (True, "true")
        policy = "Orphan" if orphan else "Background"
    if policy not in get_args(Propagation):
        raise ApiError(
            422,
            Reason.INVALID,
            f"DeleteOptions: propagationPolicy: {policy!r} is none of Background, Foreground, Orphan",
        )
    try:
        seconds = None if grace is None else int(grace)
    except (TypeError, ValueError):
        raise ApiError(
            400, Reason.BAD_REQUEST, f"DeleteOptions: gracePeriodSeconds: {grace!r} is not a whole number"
        ) from None
    preconditions = body.get("preconditions") or {}
    return DeleteOptions(
        seconds,
        policy,
        preconditions.get("uid"),
        preconditions.get("resourceVersion"),
        dry_run or bool(body.get("dryRun")),
    )
