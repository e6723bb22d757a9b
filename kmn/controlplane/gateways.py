"""Gateways get a Deployment of proxies and a load balancer; their classes are there when a Gateway asks for one that
users know by name.

And a Gateway that nobody serves is told so. What comes in by a Gateway is the business of ``kmn.ingress.gateway``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from kmn.controlplane.runtime import LoopClient, Reconciler
from kmn.controlplane.workloads.ownership import get_or_none
from kmn.ingress.gateway.classes import class_problem
from kmn.ingress.gateway.conditions import Condition, merge_conditions
from kmn.ingress.gateway.manifests import gateway_objects
from kmn.ingress.gateway.reading import gateway_problem
from kmn.k8s.client import WatchEvent
from kmn.k8s.dataplane import GATEWAY_CONTROLLERS
from kmn.k8s.objects import Key, Object, controller_of, describe, key_of, resource_of, uid_of
from kmn.k8s.resources import DEPLOYMENTS, GATEWAYCLASSES, GATEWAYS, SERVICES, Resource

__all__ = ["Gateways"]

log = logging.getLogger(__name__)

_CLASS_MAY_FOLLOW = 1.0  # seconds: one file may have a Gateway before its class
_OURS = frozenset(GATEWAY_CONTROLLERS.values())


class Gateways(Reconciler[Key]):
    """Keys are those of Gateways, and of GatewayClasses (without a namespace).

    ``serve`` is called when the first Gateway is to be served: it starts the process that its pods need.
    """

    component = "gateway-controller"

    def __init__(self, client: LoopClient, serve: Callable[[], None]) -> None:
        super().__init__(client)
        self._serve = serve
        self._unclaimed: set[Key] = set()

    def watches(self) -> Iterable[tuple[Resource, Callable[[WatchEvent], None]]]:
        return (
            (GATEWAYCLASSES, self._on_class),
            (GATEWAYS, self._on_gateway),
            (DEPLOYMENTS, self._on_owned),
            (SERVICES, self._on_owned),
        )

    def subject(self, key: Key) -> Object | None:
        return get_or_none(self.client, GATEWAYS, key) if key.namespace else None

    def reconcile(self, key: Key) -> None:
        if not key.namespace:
            self._accept(key)
            return
        gateway = get_or_none(self.client, GATEWAYS, key)
        problem = self._why_unclaimed(gateway) if gateway is not None else None
        if gateway is None or problem is None:
            self._unclaimed.discard(key)
            if gateway is not None and "deletionTimestamp" not in gateway["metadata"]:
                self._build(gateway)
        elif key not in self._unclaimed:
            self._unclaimed.add(key)
            self.queue.add_after(key, _CLASS_MAY_FOLLOW)
        else:
            message = f"{describe(gateway)}: nobody serves it: {problem}"
            self.recorder.once(gateway, "Warning", "NoController", message)

    def _accept(self, key: Key) -> None:
        """Say on a class of ours whether it is good."""
        found = get_or_none(self.client, GATEWAYCLASSES, key)
        if found is None or found["spec"]["controllerName"] not in _OURS:
            return
        problem = class_problem(found)
        condition = Condition("Accepted", True, "Accepted", "Gateways of this class are served")
        if problem is not None:
            condition = Condition("Accepted", False, "InvalidParameters", problem)
        present = found.get("status") or {}
        conditions = merge_conditions(present.get("conditions") or (), [condition], found["metadata"]["generation"])
        if conditions != present.get("conditions"):
            self.client.update({**found, "status": {**present, "conditions": conditions}}, subresource="status")

    def _why_unclaimed(self, gateway: Object) -> str | None:
        name = gateway["spec"]["gatewayClassName"]
        found = get_or_none(self.client, GATEWAYCLASSES, Key("", name))
        if found is None and name in GATEWAY_CONTROLLERS:
            found = self._make_class(name)
        if found is None:
            return f"there is no GatewayClass {name}; kmn has {', '.join(GATEWAY_CONTROLLERS)}"
        controller = found["spec"]["controllerName"]
        if controller not in _OURS:
            return f"GatewayClass {name} is for controller {controller}; kmn takes {', '.join(sorted(_OURS))}"
        problem = class_problem(found)
        return f"GatewayClass {name}: {problem}" if problem is not None else None

    def _make_class(self, name: str) -> Object:
        log.info("gateway class %s", name)
        return self.client.create(
            {
                "apiVersion": GATEWAYCLASSES.api_version,
                "kind": GATEWAYCLASSES.kind,
                "metadata": {"name": name},
                "spec": {"controllerName": GATEWAY_CONTROLLERS[name]},
            }
        )

    def _build(self, gateway: Object) -> None:
        """Make what is missing, and bring what is there in line."""
        self._serve()
        if gateway_problem(gateway) is not None:
            return  # its conditions say so
        objects = gateway_objects(gateway)
        for wanted in objects:
            resource, key = resource_of(wanted), key_of(wanted)
            present = get_or_none(self.client, resource, key)
            if present is None:
                self.client.create(wanted)
            elif (controller_of(present) or {}).get("uid") != uid_of(gateway):
                message = f"{describe(gateway)}: {describe(present)} is there already, and is not its own: rename one"
                self.recorder.once(gateway, "Warning", "NameTaken", message)
            else:
                changed = _in_line(present, wanted)
                if changed != present:
                    self.client.update(changed)

        names = {(wanted["kind"], key_of(wanted)) for wanted in objects}
        for old in self.client.owned_by(uid_of(gateway)):
            if (old["kind"], key_of(old)) not in names:  # it was of another class, or had other listeners
                self.client.delete(resource_of(old), *key_of(old))

    def _on_class(self, event: WatchEvent) -> None:
        key = key_of(event.object)
        if event.type != "DELETED":
            self.queue.add(key)
        for gateway in self.client.list(GATEWAYS).items:
            if gateway["spec"]["gatewayClassName"] == key.name:
                self.queue.add(key_of(gateway))

    def _on_gateway(self, event: WatchEvent) -> None:
        self.queue.add(key_of(event.object))

    def _on_owned(self, event: WatchEvent) -> None:
        """What somebody has deleted or changed comes back."""
        owner = controller_of(event.object)
        if owner is not None and (owner["apiVersion"], owner["kind"]) == (GATEWAYS.api_version, GATEWAYS.kind):
            self.queue.add(Key(event.object["metadata"]["namespace"], owner["name"]))


def _in_line(present: Object, wanted: Object) -> Object:
    """What is there with all that is wanted; what others have set beside stays (``kmn scale`` sets replicas)."""
    meta = {**present["metadata"]}
    for field in ("labels", "annotations"):
        meta[field] = {**(meta.get(field) or {}), **wanted["metadata"][field]}
    spec = {**present["spec"]}
    if wanted["kind"] == "Service":
        spec["ports"] = _with_node_ports(spec.get("ports") or (), wanted["spec"]["ports"])
    else:
        template = wanted["spec"]["template"]
        spec["template"] = {**spec["template"], "metadata": {**spec["template"]["metadata"], **template["metadata"]}}
    return {**present, "metadata": meta, "spec": spec}


def _with_node_ports(present: Iterable[Object], wanted: Iterable[Object]) -> list[Object]:
    """Ports that stay keep their node port."""
    earlier = {port["port"]: port for port in present}
    return [{**earlier.get(port["port"], {}), **port} for port in wanted]
