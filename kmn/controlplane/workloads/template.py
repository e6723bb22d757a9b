"""Pods from pod templates, and the hashes in their names."""

from __future__ import annotations

import json
from typing import Any

from kmn.k8s.objects import Object, namespace_of, owner_reference

__all__ = ["pod_from_template", "safe_encode", "same_template", "template_hash"]

# Upstream's alphabet for generated names: no vowels, so that no words come out (apimachinery's util/rand).
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"


def safe_encode(text: str) -> str:
    """``rand.SafeEncodeString``: every character becomes one of the alphabet."""
    return "".join(_ALPHABET[ord(char) % len(_ALPHABET)] for char in text)


def template_hash(template: dict[str, Any], collision_count: int = 0) -> str:
    """A name's part that tells templates apart, in upstream's form: FNV-32a, encoded (``7d9f8c6b5``).

    ``collision_count`` is mixed in when two different templates met in one hash (``status.collisionCount``).
    """
    text = json.dumps(template, sort_keys=True, separators=(",", ":"))
    if collision_count:
        text += str(collision_count)
    value = 0x811C9DC5
    for byte in text.encode():
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return safe_encode(str(value))


def same_template(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Templates are equal but for the label that the Deployment adds (``EqualIgnoreHash`` upstream)."""
    return _comparable(a) == _comparable(b)


def _comparable(template: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    meta = template.get("metadata") or {}
    labels = {k: v for k, v in (meta.get("labels") or {}).items() if k != "pod-template-hash"}
    return labels, meta.get("annotations") or {}, template.get("spec") or {}


def pod_from_template(
    owner: Object, template: dict[str, Any], *, name: str | None = None, prefix: str | None = None
) -> Object:
    """A new pod of ``owner``: named ``name``, or by the server from ``prefix`` (``generateName``).

    The spec is a new dictionary, what is in it is the template's: the caller may set fields but not change values.
    """
    meta = template.get("metadata") or {}
    metadata: dict[str, Any] = {
        "namespace": namespace_of(owner),
        "labels": dict(meta.get("labels") or {}),
        "annotations": dict(meta.get("annotations") or {}),
        "ownerReferences": [owner_reference(owner)],
    }
    if meta.get("finalizers"):
        metadata["finalizers"] = list(meta["finalizers"])
    if name is not None:
        metadata["name"] = name
    else:
        metadata["generateName"] = prefix or f"{owner['metadata']['name']}-"
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": dict(template.get("spec") or {})}
