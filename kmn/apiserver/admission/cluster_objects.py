"""Rules for nodes, ConfigMaps and Secrets. After ``pkg/apis/core/validation``."""

from __future__ import annotations

import re

from kmn.apiserver.admission.rules import Errors, cidr, label_value, qualified_name
from kmn.k8s.objects import Object

__all__ = ["check_configmap", "check_node", "check_secret"]

_DATA_KEY = re.compile(r"[-._a-zA-Z0-9]+")
_DATA_LIMIT = 1024 * 1024  # bytes
_SECRET_KEYS = {
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
}


def check_node(errors: Errors, new: Object, old: Object | None) -> None:
    spec = new.get("spec") or {}
    seen: set[tuple[str, str]] = set()
    for index, taint in enumerate(spec.get("taints") or ()):
        at = f"spec.taints[{index}]"
        errors.check(f"{at}.key", taint["key"], qualified_name)
        errors.check(f"{at}.value", taint.get("value") or "", label_value)
        errors.choice(f"{at}.effect", taint["effect"], ("NoSchedule", "PreferNoSchedule", "NoExecute"))
        if (taint["key"], taint["effect"]) in seen:
            errors.duplicate(at, f"{taint['key']}:{taint['effect']}")
        seen.add((taint["key"], taint["effect"]))
    if spec.get("podCIDR"):
        errors.check("spec.podCIDR", spec["podCIDR"], cidr)
    if old is not None and (old.get("spec") or {}).get("podCIDR"):
        for field in ("podCIDR", "podCIDRs"):
            errors.immutable(f"spec.{field}", spec.get(field), old["spec"].get(field))


def check_configmap(errors: Errors, new: Object, old: Object | None) -> None:
    _data(errors, new, old, ("data", "binaryData"))
    for key in set(new.get("data") or {}) & set(new.get("binaryData") or {}):
        errors.duplicate(f"binaryData[{key}]", key, f"data[{key}]")


def check_secret(errors: Errors, new: Object, old: Object | None) -> None:
    _data(errors, new, old, ("data",))
    for key in _SECRET_KEYS.get(new["type"], ()):
        if key not in (new.get("data") or {}):
            errors.required(f"data[{key}]", f"required in a Secret of type {new['type']}")
    if old is not None:
        errors.immutable("type", new["type"], old.get("type"))


def _data(errors: Errors, new: Object, old: Object | None, fields: tuple[str, ...]) -> None:
    size = 0
    for field in fields:
        for key, value in (new.get(field) or {}).items():
            errors.check(f"{field}[{key}]", key, _data_key)
            size += len(value.encode())
    if size > _DATA_LIMIT:
        errors.invalid(fields[0], f"{size} bytes", f"must be at most {_DATA_LIMIT} bytes together")
    if old is not None and old.get("immutable") is True:
        for field in (*fields, "immutable"):
            errors.immutable(field, new.get(field), old.get(field))


def _data_key(value: str) -> str:
    if len(value) <= 253 and _DATA_KEY.fullmatch(value) and value != "." and not value.startswith(".."):
        return ""
    return "keys must be at most 253 letters, digits, -, _ and ., and not begin with two dots"
