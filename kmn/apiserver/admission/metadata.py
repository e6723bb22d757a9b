"""Rules for ``metadata``, of every kind. After apimachinery's ``pkg/api/validation/objectmeta.go``."""

from __future__ import annotations

from typing import Any

from kmn.apiserver.admission.rules import Errors, Rule, dns_label, dns_subdomain, qualified_name
from kmn.k8s.objects import Object
from kmn.k8s.resources import Resource

__all__ = ["check_metadata"]

_ANNOTATIONS_LIMIT = 256 * 1024  # bytes, all keys and values together
_GENERATED = 5  # characters that the server appends to generateName


def check_metadata(errors: Errors, resource: Resource, new: Object, old: Object | None, name_rule: Rule) -> None:
    """Name, namespace, labels, annotations, owners, finalizers; what an update may not change."""
    meta = new["metadata"]
    _name(errors, meta, name_rule)
    namespace = meta.get("namespace", "")
    if resource.namespaced:
        if not namespace:
            errors.required("metadata.namespace")
        else:
            errors.check("metadata.namespace", namespace, dns_label)
    elif namespace:
        errors.forbidden("metadata.namespace", f"{resource.kind} belongs to no namespace: remove it")
    errors.labels("metadata.labels", meta.get("labels"))
    _annotations(errors, meta.get("annotations") or {})
    _owners(errors, meta.get("ownerReferences") or [])
    for index, name in enumerate(meta.get("finalizers") or ()):
        errors.check(f"metadata.finalizers[{index}]", name, qualified_name)
    if old is not None:
        for field in ("name", "namespace", "uid"):
            if meta.get(field):
                errors.immutable(f"metadata.{field}", meta[field], old["metadata"].get(field, ""))


def _name(errors: Errors, meta: dict[str, Any], rule: Rule) -> None:
    name, prefix = meta.get("name", ""), meta.get("generateName", "")
    if name:
        errors.check("metadata.name", name, rule)
    elif prefix:
        errors.check("metadata.generateName", prefix, lambda value: rule(value[:58] + "x" * _GENERATED))
    else:
        errors.required("metadata.name", "required: name or generateName")


def _annotations(errors: Errors, annotations: dict[str, str]) -> None:
    for key in annotations:
        errors.check("metadata.annotations", key.lower(), qualified_name)
    size = sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items())
    if size > _ANNOTATIONS_LIMIT:
        errors.invalid("metadata.annotations", f"{size} bytes", f"must be at most {_ANNOTATIONS_LIMIT} bytes together")


def _owners(errors: Errors, references: list[dict[str, Any]]) -> None:
    controllers = 0
    for index, reference in enumerate(references):
        for field in ("apiVersion", "kind", "name", "uid"):
            if not reference.get(field):
                errors.required(f"metadata.ownerReferences[{index}].{field}")
        controllers += reference.get("controller") is True
    if controllers > 1:
        errors.invalid("metadata.ownerReferences", controllers, "must have at most one with controller: true")


def subdomain_and_shorter(limit: int) -> Rule:
    """A DNS name that leaves room for what a controller appends to it."""

    def rule(value: str) -> str:
        return dns_subdomain(value) or ("" if len(value) <= limit else f"must be at most {limit} characters")

    return rule
