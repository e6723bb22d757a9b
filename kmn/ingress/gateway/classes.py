"""Which Gateways are ours: those of a GatewayClass whose ``spec.controllerName`` is one that users know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kmn.k8s.dataplane import GATEWAY_CONTROLLERS
from kmn.k8s.objects import Key, Object

__all__ = ["class_problem", "controller_of_gateway"]

_OURS = frozenset(GATEWAY_CONTROLLERS.values())


def controller_of_gateway(gateway: Object, classes: Mapping[Key, Object]) -> str | None:
    """``spec.controllerName`` of a Gateway's class if it is one of ours; None otherwise, or if the class is refused."""
    found = classes.get(Key("", gateway["spec"]["gatewayClassName"]))
    name = found["spec"]["controllerName"] if found is not None else None
    return name if found is not None and name in _OURS and class_problem(found) is None else None


def class_problem(gateway_class: Object) -> str | None:
    """Why a class of one of our controllers is not accepted."""
    reference: dict[str, Any] | None = gateway_class["spec"].get("parametersRef")
    if reference is None:
        return None
    what = f"{reference['kind']}.{reference['group']}" if reference["group"] else reference["kind"]
    return f"spec.parametersRef: {what} {reference['name']}: no parameters are known to kmn: remove it"
