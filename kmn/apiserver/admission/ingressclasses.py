"""The default class of Ingresses, after upstream's admission plugin DefaultIngressClass."""

from __future__ import annotations

from kmn.apiserver.store import Store
from kmn.ingress.classes import class_of
from kmn.ingress.manifests import DEFAULT_CLASS
from kmn.k8s.objects import Object, annotation, name_of
from kmn.k8s.resources import INGRESSCLASSES

__all__ = ["fill_default_class"]


def fill_default_class(ingress: Object, store: Store) -> None:
    """Give a new Ingress without a class the default one: the newest that is marked, the first by name of these."""
    if class_of(ingress) is not None:
        return
    classes = [record.object for record in store.collections[INGRESSCLASSES].records()]
    marked = sorted((each for each in classes if annotation(each, DEFAULT_CLASS) == "true"), key=name_of)
    if marked:
        newest = max(marked, key=lambda each: each["metadata"].get("creationTimestamp") or "")
        ingress.setdefault("spec", {})["ingressClassName"] = name_of(newest)
