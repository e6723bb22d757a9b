"""What is known of the cluster, kept up by events, and what one controller makes of it: an index, pure functions."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from kmn.ingress.backends import DNS_SERVICE, Endpoints, endpoints_of, node_ports_of
from kmn.ingress.certificates import KeyPair, key_pair_of
from kmn.ingress.classes import controller_of
from kmn.ingress.dialects.alb import rules as alb
from kmn.ingress.dialects.alb.groups import Group, groups_of
from kmn.ingress.envoy.config import Config, config_of
from kmn.ingress.manifests import CONTROLLER, INGRESS_PROGRAM
from kmn.ingress.model import Owner, Problem, Reach, Routing, Upstream
from kmn.ingress.routing import routing_of
from kmn.k8s.dataplane import ALB_CONTROLLER, PROGRAM
from kmn.k8s.families import internal_ips
from kmn.k8s.loadbalancers import takes_traffic
from kmn.k8s.objects import Key, Object, annotation, key_of, labels, namespace_of
from kmn.k8s.resources import (
    APPLICATIONLOADBALANCERS,
    ENDPOINTSLICES,
    INGRESSCLASSES,
    INGRESSES,
    NODES,
    PODS,
    SECRETS,
    SERVICES,
    Resource,
)

__all__ = ["RESOURCES", "State", "View", "balancer"]

RESOURCES = (
    INGRESSES, INGRESSCLASSES, SERVICES, ENDPOINTSLICES, SECRETS, PODS, NODES, APPLICATIONLOADBALANCERS,
)  # fmt: skip
_KINDS = {"Ingress": INGRESSES}


_BALANCER = f"{ALB_CONTROLLER} "  # what names of application load balancers begin with, among those of controllers


def balancer(group: str) -> str:
    """How the load balancer of a group of Ingresses is called among controllers."""
    return f"{_BALANCER}{group}"


@dataclass(frozen=True, slots=True)
class View:
    """What one controller does."""

    ingresses: dict[Key, Object]  # those that it takes
    config: Config
    problems: tuple[Problem, ...]
    addresses: tuple[str, ...]  # of its load balancers, or the name of the one that it is


class State:
    """Objects of RESOURCES; of pods only those of ingress controllers, of Secrets only those with a certificate."""

    def __init__(self, default_certificate: KeyPair) -> None:
        self._default_certificate = default_certificate
        self._objects: dict[Resource, dict[Key, Object]] = {resource: {} for resource in RESOURCES}
        self._slices: defaultdict[Key, dict[Key, Object]] = defaultdict(dict)  # by Service
        self._pairs: dict[Key, KeyPair | ValueError] = {}
        self._nodes: dict[Key, str] = {}  # addresses of those that load balancers send to
        self._groups: tuple[int, dict[str, Group], tuple[Problem, ...]] = (-1, {}, ())  # with the version
        self.version = 0  # another one when views may be

    def update(self, resource: Resource, key: Key, obj: Object | None) -> bool:
        """Take an object's new state in (None: it is gone); whether it is one that counts."""
        known = self._objects[resource]
        if obj is not None and not _counts(resource, obj):
            obj = None
        before = known.pop(key, None)
        if obj is not None:
            known[key] = obj
        if resource is ENDPOINTSLICES:
            self._file_slice(key, before, obj)
        elif resource is SECRETS:
            self._pairs.pop(key, None)
        elif resource is NODES and not self._file_node(key, obj):
            return False
        if obj is None and before is None:
            return False
        if resource is not INGRESSES or _meaning(before) != _meaning(obj):
            self.version += 1
        return True

    def ingresses(self) -> dict[Key, Object]:
        """All of them, whoever takes them."""
        return self._objects[INGRESSES]

    def find(self, owner: Owner) -> Object | None:
        """The object that a rule is of, while it is there."""
        return self._objects[_KINDS[owner.kind]].get(owner.key)

    def controllers(self) -> set[str]:
        """Those that have pods."""
        return {controller for pod in self._objects[PODS].values() if (controller := annotation(pod, CONTROLLER))}

    def balancers(self) -> dict[str, Object]:
        """Application load balancers that have a place, by what :meth:`view` calls them."""
        found = self._objects[APPLICATIONLOADBALANCERS].values()
        return {balancer(each["spec"]["group"]): each for each in found if (each.get("status") or {}).get("netns")}

    def views(self) -> dict[str, View]:
        """Of all that have proxies."""
        return {name: self.view(name) for name in (*self.controllers(), *self.balancers())}

    def view(self, controller: str) -> View:
        """What a controller does with what there is, or an application load balancer."""
        if controller.startswith(_BALANCER):
            return self._view_of_balancer(controller)
        taken = self._taken(controller)
        return self._view(taken, routing_of(taken.values()), self._addresses(controller))

    def _view_of_balancer(self, name: str) -> View:
        """Nothing without Ingresses."""
        found, there = self.groups()[0].get(name.removeprefix(_BALANCER)), self.balancers().get(name)
        routing = alb.routing_of(found, self._objects[SERVICES]) if found is not None else Routing((), {})
        taken = {key_of(each): each for each in found.members} if found is not None else {}
        return self._view(taken, routing, (there["spec"]["hostname"],) if there is not None else ())

    def groups(self) -> tuple[dict[str, Group], tuple[Problem, ...]]:
        """The Ingresses of class ``alb`` by group, and what is wrong with those that are in none."""
        if self._groups[0] != self.version:
            groups, problems = groups_of(self._taken(ALB_CONTROLLER).values())
            self._groups = self.version, {group.id: group for group in groups}, tuple(problems)
        return self._groups[1:]

    def _taken(self, controller: str) -> dict[Key, Object]:
        classes = self._objects[INGRESSCLASSES]
        return {key: i for key, i in self.ingresses().items() if controller_of(i, classes) == controller}

    def _view(self, taken: dict[Key, Object], routing: Routing, addresses: tuple[str, ...]) -> View:
        problems = list(routing.problems)
        pairs = self._certificates(routing, problems)
        endpoints = {}
        why: dict[Upstream, str] = {}
        for upstream in sorted(routing.upstreams(), key=str):
            endpoints[upstream] = found = self._resolved(self._endpoints(upstream))
            if found.problem is not None:
                why[upstream] = found.problem
        problems += _of_backends(routing, why)
        config = config_of(routing, endpoints, pairs, self._default_certificate)
        return View(taken, config, tuple(problems), addresses)

    def _endpoints(self, upstream: Upstream) -> Endpoints:
        backend = upstream.backend
        key = Key(backend.namespace, backend.service)
        service = self._objects[SERVICES].get(key)
        if upstream.reach is Reach.NODES:
            return node_ports_of(backend, service, self._nodes.values())
        return endpoints_of(backend, service, self._slices[key].values())

    def _certificates(self, routing: Routing, problems: list[Problem]) -> dict[Key, KeyPair]:
        pairs: dict[Key, KeyPair] = {}
        for certificate in routing.certificates():
            found = self._pair(certificate.secret)
            if isinstance(found, KeyPair):
                pairs[certificate.secret] = found
            else:
                message = f"{certificate.owner}: {certificate.host} has the default certificate: {found}"
                problems.append(Problem(certificate.owner, "BadCertificate", message))
        return pairs

    def _pair(self, key: Key) -> KeyPair | ValueError:
        secret = self._objects[SECRETS].get(key)
        if secret is None:
            return ValueError(f"there is no Secret {key} with tls.crt in its data")
        if key not in self._pairs:
            try:
                self._pairs[key] = key_pair_of(secret)
            except ValueError as error:
                self._pairs[key] = error
        return self._pairs[key]

    def _addresses(self, controller: str) -> tuple[str, ...]:
        """Of the load balancers that lead to a controller's pods."""
        pods = [pod for pod in self._objects[PODS].values() if annotation(pod, CONTROLLER) == controller]
        found: dict[str, None] = {}
        for service in self._objects[SERVICES].values():
            selector = service["spec"].get("selector") or {}
            leads = any(
                namespace_of(pod) == namespace_of(service) and selector.items() <= labels(pod).items() for pod in pods
            )
            if selector and leads:
                entries = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
                found.update(dict.fromkeys(entry["ip"] for entry in entries if entry.get("ip")))
        return tuple(found)

    def _file_node(self, key: Key, node: Object | None) -> bool:
        """Whether that is a change for load balancers."""
        before = self._nodes.pop(key, None)
        address = None
        if node is not None and takes_traffic(node):
            address = next((each for each in internal_ips(node) if ":" not in each), None)
        if address is not None:
            self._nodes[key] = address
        return before != address

    def _resolved(self, endpoints: Endpoints) -> Endpoints:
        """External ones are looked up with the cluster's DNS, as it is asked in pods."""
        if not endpoints.external:
            return endpoints
        dns = self._objects[SERVICES].get(DNS_SERVICE)
        address = dns["spec"].get("clusterIP", "None") if dns is not None else "None"
        if address == "None":
            return Endpoints((), f"its name cannot be looked up: there is no Service {DNS_SERVICE} with an address")
        return endpoints._replace(resolver=address)

    def alone(self, ingress: Object) -> Routing:
        """What an Ingress would say if it were the only one."""
        if controller_of(ingress, self._objects[INGRESSCLASSES]) == ALB_CONTROLLER:
            groups, _ = groups_of([ingress])
            return alb.routing_of(groups[0], self._objects[SERVICES]) if groups else Routing((), {})
        return routing_of([ingress])

    def _file_slice(self, key: Key, before: Object | None, after: Object | None) -> None:
        for each in (before, after):
            if each is not None:
                service = Key(key.namespace, labels(each).get("kubernetes.io/service-name", ""))
                self._slices[service].pop(key, None)
                if each is after:
                    self._slices[service][key] = each


def _counts(resource: Resource, obj: Object) -> bool:
    if resource is PODS:
        return annotation(obj, PROGRAM) == INGRESS_PROGRAM
    if resource is SECRETS:
        return "tls.crt" in (obj.get("data") or {})
    return True


def _meaning(ingress: Object | None) -> tuple[object, ...] | None:
    """All of an Ingress but its status, which is what comes of it."""
    if ingress is None:
        return None
    meta = ingress["metadata"]
    return meta.get("uid"), meta.get("creationTimestamp"), meta.get("annotations"), ingress.get("spec")


def _of_backends(routing: Routing, why: dict[Upstream, str]) -> list[Problem]:
    """Each object that names a backend is told what is wrong with it."""
    found: dict[Problem, None] = {}
    for owner, upstream in routing.uses():
        if upstream in why:
            message = f"{owner}: requests for {upstream.backend} are answered 503: {why[upstream]}"
            found[Problem(owner, "NoBackend", message)] = None
    return list(found)
