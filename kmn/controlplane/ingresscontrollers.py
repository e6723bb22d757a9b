"""Ingress controllers are there when the cluster file says so, or when an object asks for one that users know by name.

And an Ingress that no controller takes is told so: real clusters are silent, which costs their users hours.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from kmn.cluster_spec import ClusterSpec, IngressController
from kmn.controlplane.runtime import LoopClient, Reconciler
from kmn.controlplane.workloads.ownership import get_or_none
from kmn.ingress.classes import class_of
from kmn.ingress.manifests import ingress_objects
from kmn.k8s.client import WatchEvent
from kmn.k8s.dataplane import INGRESS_CONTROLLERS
from kmn.k8s.errors import AlreadyExists
from kmn.k8s.objects import Key, Object, describe, key_of
from kmn.k8s.resources import INGRESSCLASSES, INGRESSES, Resource

__all__ = ["IngressControllers"]

log = logging.getLogger(__name__)

_CLASS_MAY_FOLLOW = 1.0  # seconds: one file may have an Ingress before its class


class IngressControllers(Reconciler[Key]):
    """Keys are those of Ingresses, and of IngressClasses (without a namespace).

    ``serve`` is called when the first controller's objects are there: it starts the process that they need.
    """

    component = "kmn"

    def __init__(self, client: LoopClient, spec: ClusterSpec, serve: Callable[[], None]) -> None:
        super().__init__(client)
        self._serve = serve
        self._on_demand = {} if spec.ingress is not None else {c: n for n, c in INGRESS_CONTROLLERS.items()}
        self._declared = spec.ingress or ()
        self._installed: set[str] = set()  # by spec.controller of their classes
        self._unclaimed: set[Key] = set()

    def watches(self) -> Iterable[tuple[Resource, Callable[[WatchEvent], None]]]:
        for controller in self._declared:  # the control plane begins here
            self._install(controller)
        return ((INGRESSCLASSES, self._on_object), (INGRESSES, self._on_object))

    def reconcile(self, key: Key) -> None:
        if not key.namespace:
            found = get_or_none(self.client, INGRESSCLASSES, key)
            if found is not None:
                self._demand(found["spec"].get("controller") or "")
            return
        ingress = get_or_none(self.client, INGRESSES, key)
        problem = self._why_unclaimed(ingress) if ingress is not None else None
        if ingress is None or problem is None:
            self._unclaimed.discard(key)
        elif key not in self._unclaimed:
            self._unclaimed.add(key)
            self.queue.add_after(key, _CLASS_MAY_FOLLOW)
        else:
            self.recorder.once(ingress, "Warning", "NoController", f"{describe(ingress)}: nobody serves it: {problem}")

    def _why_unclaimed(self, ingress: Object) -> str | None:
        name = class_of(ingress)
        if name is None:
            return "it names no class, and no IngressClass was the default when it was created: set ingressClassName"
        found = get_or_none(self.client, INGRESSCLASSES, Key("", name))
        controller = found["spec"].get("controller") or "" if found else INGRESS_CONTROLLERS.get(name, "")
        if self._demand(controller):
            return None
        if found is None:
            return f"there is no IngressClass {name}"
        return (
            f"IngressClass {name} is for controller {controller}, which spec.ingress of the cluster file does not have"
        )

    def _demand(self, controller: str) -> bool:
        """Have a controller, if it can be had; whether there is one."""
        if controller in self._on_demand and controller not in self._installed:
            self._install(IngressController(self._on_demand[controller], controller))
        return controller in self._installed

    def _install(self, controller: IngressController) -> None:
        first = not self._installed
        self._installed.add(controller.controller)
        log.info("ingress controller %s (%s)", controller.name, controller.controller)
        for obj in ingress_objects(controller):
            try:
                self.client.create(obj)
            except AlreadyExists:
                pass  # a manifest brought one of its own
        if first:
            self._serve()

    def _on_object(self, event: WatchEvent) -> None:
        self.queue.add(key_of(event.object))
