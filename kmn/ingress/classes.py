"""Which controller takes an Ingress: by its class, whose ``spec.controller`` names the controller.

After the API reference of IngressClass. A class is named by ``spec.ingressClassName`` or by the annotation that came
before it. An Ingress without either belongs to nobody: the default class is filled in when it is created (admission),
and is not looked up later.
"""

from __future__ import annotations

from collections.abc import Mapping

from kmn.k8s.objects import Key, Object, annotation

__all__ = ["CLASS_ANNOTATION", "class_of", "controller_of"]

CLASS_ANNOTATION = "kubernetes.io/ingress.class"


def class_of(ingress: Object) -> str | None:
    """The name of an Ingress's class, None if it has none."""
    return (ingress.get("spec") or {}).get("ingressClassName") or annotation(ingress, CLASS_ANNOTATION)


def controller_of(ingress: Object, classes: Mapping[Key, Object]) -> str | None:
    """``spec.controller`` of the class of an Ingress, None without a class or where there is no such class."""
    name = class_of(ingress)
    found = classes.get(Key("", name)) if name else None
    return found["spec"].get("controller") if found else None
