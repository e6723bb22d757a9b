"""IngressClassParams (``elbv2.k8s.aws/v1beta1``): what an administrator says of all Ingresses of a class.

Where it says something, annotations do not count: an Ingress is read as if it had said that itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from kmn.ingress.classes import class_of
from kmn.ingress.dialects.alb.annotations import PREFIX
from kmn.k8s import objects
from kmn.k8s.objects import Key, Object
from kmn.k8s.resources import INGRESSCLASSPARAMS

__all__ = ["as_its_class_says", "ignored_fields", "params_name"]


def _attributes(value: Any) -> str:
    return ",".join(f"{each['key']}={each['value']}" for each in value)


# The annotation that says the same, and how.
_FIELDS: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "group": ("group.name", lambda value: str(value["name"])),
    "scheme": ("scheme", str),
    "inboundCIDRs": ("inbound-cidrs", ",".join),
    "targetType": ("target-type", str),
    "loadBalancerName": ("load-balancer-name", str),
    "loadBalancerAttributes": ("load-balancer-attributes", _attributes),
    "ipAddressType": ("ip-address-type", str),
    "sslRedirectPort": ("ssl-redirect", str),
    "certificateArn": ("certificate-arn", ",".join),
    "tags": ("tags", json.dumps),
}


def params_name(ingress: Object, classes: Mapping[Key, Object]) -> str | None:
    """The IngressClassParams of an Ingress's class, None if it has none."""
    found = classes.get(Key("", class_of(ingress) or ""))
    named = ((found or {}).get("spec") or {}).get("parameters") or {}
    mine = named.get("apiGroup") == INGRESSCLASSPARAMS.group and named.get("kind") == INGRESSCLASSPARAMS.kind
    return str(named["name"]) if mine else None


def as_its_class_says(ingress: Object, classes: Mapping[Key, Object], params: Mapping[Key, Object]) -> Object:
    """The Ingress with annotations for what its class's parameters say; as it is without any."""
    found = params.get(Key("", params_name(ingress, classes) or ""))
    if found is None:
        return ingress
    said = {f"{PREFIX}{name}": text for name, text, _ in _read(found) if text is not None}
    metadata = {**ingress["metadata"], "annotations": {**objects.annotations(ingress), **said}}
    return {**ingress, "metadata": metadata}


def ignored_fields(params: Object) -> list[str]:
    """Fields that have no effect: not emulated, or not to be read."""
    known = {field for _, text, field in _read(params) if text is not None}
    return sorted((params.get("spec") or {}).keys() - known)


def _read(params: Object) -> Iterator[tuple[str, str | None, str]]:
    """Annotation, value and field. The value is None for one that cannot be read."""
    for field, value in (params.get("spec") or {}).items():
        if field in _FIELDS:
            name, text_of = _FIELDS[field]
            try:
                yield name, text_of(value), field
            except (KeyError, TypeError):
                yield name, None, field
