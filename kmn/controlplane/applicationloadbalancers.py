"""The cloud's part of Ingresses of class ``alb``: an ApplicationLoadBalancer object for each group of them, with an
address out of the cluster's pool, a name, and a place at the edge; gone with the last Ingress of the group.

What runs there is ``kmn.ingress``, the place is made by ``kmn.emulator.balancers``, and the edge's flows are the
controller's (``controller.features.applicationbalancer``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address
from typing import Any

from kmn.cluster_spec import ClusterSpec
from kmn.controlplane.pools import Exhausted, Pool, SharedPool
from kmn.controlplane.runtime import LoopClient, Reconciler
from kmn.ingress.classes import controller_of
from kmn.ingress.dialects.alb.groups import Group, balancer_name, groups_of, hostname_of
from kmn.ingress.dialects.alb.params import as_its_class_says, ignored_fields, params_name
from kmn.k8s.client import WatchEvent
from kmn.k8s.dataplane import ALB_CONTROLLER, FIRST_BALANCER_OFPORT, LAST_BALANCER_OFPORT, mac_of
from kmn.k8s.objects import Key, Object, describe, draft, key_of, labels, name_of
from kmn.k8s.resources import (
    APPLICATIONLOADBALANCERS,
    INGRESSCLASSES,
    INGRESSCLASSPARAMS,
    INGRESSES,
    NODES,
    Resource,
)
from kmn.naming import netns

__all__ = ["ApplicationLoadBalancers"]

_REGION_LABEL = "topology.kubernetes.io/region"
_NO_REGION = "us-east-1"  # where nodes say nothing of theirs
_PACE = 0.05  # seconds: many Ingresses come together
_ALL = ""  # the one key: groups are worked out together


class ApplicationLoadBalancers(Reconciler[str]):
    """Gives and takes back the objects, addresses and ports at the edge."""

    component = "alb-controller"

    def __init__(self, client: LoopClient, spec: ClusterSpec, pool: SharedPool) -> None:
        super().__init__(client)
        self._spec = spec
        self._pool = pool
        self._ofports = Pool(FIRST_BALANCER_OFPORT, LAST_BALANCER_OFPORT)
        self._ingresses: dict[Key, Object] = {}
        self._classes: dict[Key, Object] = {}
        self._params: dict[Key, Object] = {}
        self._regions: dict[str, str] = {}  # by node
        self._places: dict[str, tuple[int, int]] = {}  # address and port of each, by name
        pool.when_freed(self._look_again)

    def watches(self) -> Iterable[tuple[Resource, Callable[[WatchEvent], None]]]:
        return (
            (NODES, self._on_node),
            (INGRESSCLASSPARAMS, self._on_params),
            (INGRESSCLASSES, self._on_class),
            (INGRESSES, self._on_ingress),
            (APPLICATIONLOADBALANCERS, self._on_balancer),
        )

    def reconcile(self, key: str) -> None:
        taken = [i for i in self._ingresses.values() if controller_of(i, self._classes) == ALB_CONTROLLER]
        wanted: dict[str, Group] = {}
        self._tell_of_params(taken)
        for group in groups_of(as_its_class_says(each, self._classes, self._params) for each in taken)[0]:
            name = balancer_name(self._spec.name, group)
            if name in wanted:
                self._tell(group, "Conflict", f"group {wanted[name].id} has the load balancer {name} already")
            elif not self._spec.outside_hosts:
                message = "the cluster has no outside for it to be in: spec.internet.hosts of the cluster file is empty"
                self._tell(group, "NotEmulated", message)
            else:
                wanted[name] = group
        there = {name_of(each): each for each in self.client.list(APPLICATIONLOADBALANCERS).items}
        for name in {*self._places, *there} - wanted.keys():
            self._remove(name, there.pop(name, None))
        for name, group in wanted.items():
            self._ensure(name, group, there.get(name))

    def _ensure(self, name: str, group: Group, found: Object | None) -> None:
        scheme = "internal" if group.internal else "internet-facing"
        region = min(self._regions.values(), default=_NO_REGION)
        spec: dict[str, Any] = {
            "group": group.id,
            "scheme": scheme,
            "hostname": found["spec"]["hostname"] if found else hostname_of(name, group.internal, region),
            "listeners": [
                {"port": each.port, "protocol": each.protocol, "sources": [str(source) for source in each.sources]}
                for each in group.listeners
            ],
        }
        if found is None:
            found = self.client.create(_object(name, spec))
        elif found["spec"] != spec:
            found = self.client.update({**found, "spec": spec})
        place = self._places.get(name) or self._take(name, group)
        if place is not None:
            address, ofport = IPv4Address(place[0]), place[1]
            where = netns(self._spec.name, "alb", name)
            status = {"address": str(address), "mac": mac_of(str(address)), "ofport": ofport, "netns": where}
            if found.get("status") != status:
                self.client.update({**draft(found), "status": status}, subresource="status")

    def _take(self, name: str, group: Group) -> tuple[int, int] | None:
        """An address and a port, None when there is none, which is told."""
        network = self._spec.load_balancer_cidr
        try:
            address = self._pool.take()
        except Exhausted:
            message = (
                f"all {self._pool.size} addresses of {network} are in use; a larger spec.internet.loadBalancers of the "
                "cluster file makes room"
            )
            self._tell(group, "FailedDeployModel", message)
            return None
        try:
            self._places[name] = address, self._ofports.take()
        except Exhausted:
            self._pool.give_back(address)
            self._tell(group, "FailedDeployModel", "all ports of the edge's bridge are in use")
            return None
        return self._places[name]

    def _remove(self, name: str, found: Object | None) -> None:
        if found is not None:
            self.client.delete(APPLICATIONLOADBALANCERS, "", name)
        if name in self._places:
            address, ofport = self._places.pop(name)
            self._ofports.give_back(ofport)
            self._pool.give_back(address)

    def _tell(self, group: Group, reason: str, message: str) -> None:
        for ingress in group.members:
            self.recorder.once(ingress, "Warning", reason, f"{describe(ingress)}: no load balancer: {message}")

    def _tell_of_params(self, taken: Iterable[Object]) -> None:
        for ingress in taken:
            name = params_name(ingress, self._classes)
            if name is not None and Key("", name) not in self._params:
                message = f"{describe(ingress)}: its class names IngressClassParams {name}, which does not exist"
                self.recorder.once(ingress, "Warning", "FailedBuildModel", message)
        for params in self._params.values():
            for each in ignored_fields(params):
                message = f"{describe(params)}: spec.{each} is not emulated: it has no effect"
                self.recorder.once(params, "Warning", "NotEmulated", message)

    # --- what it is told of -------------------------------------------------------------------------------------------

    def _look_again(self) -> None:
        self.queue.add_paced(_ALL, _PACE)

    def _on_ingress(self, event: WatchEvent) -> None:
        key = key_of(event.object)
        before = self._ingresses.pop(key, None)
        if event.type != "DELETED":
            self._ingresses[key] = event.object
        if any(controller_of(i, self._classes) == ALB_CONTROLLER for i in (before, event.object) if i is not None):
            self._look_again()

    def _on_class(self, event: WatchEvent) -> None:
        key = key_of(event.object)
        self._classes.pop(key, None)
        if event.type != "DELETED":
            self._classes[key] = event.object
        if self._places or event.object["spec"].get("controller") == ALB_CONTROLLER:
            self._look_again()

    def _on_params(self, event: WatchEvent) -> None:
        key = key_of(event.object)
        self._params.pop(key, None)
        if event.type != "DELETED":
            self._params[key] = event.object
        self._look_again()

    def _on_balancer(self, event: WatchEvent) -> None:
        """Somebody else may have deleted or changed one."""
        if self._places:
            self._look_again()

    def _on_node(self, event: WatchEvent) -> None:
        self._regions.pop(name_of(event.object), None)
        region = labels(event.object).get(_REGION_LABEL)
        if event.type != "DELETED" and region:
            self._regions[name_of(event.object)] = region


def _object(name: str, spec: dict[str, Any]) -> Object:
    resource = APPLICATIONLOADBALANCERS
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": name}, "spec": spec}
