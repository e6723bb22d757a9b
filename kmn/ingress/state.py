"""What is known of the cluster, kept up by events, and what one controller makes of it: an index, pure functions."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from kmn.ingress.backends import DNS_SERVICE, Endpoints, cluster_address_of, endpoints_of, node_ports_of, nodes_of
from kmn.ingress.certificates import KeyPair, key_pair_of
from kmn.ingress.classes import controller_of
from kmn.ingress.dialects import dialect_of
from kmn.ingress.dialects.alb import rules as alb
from kmn.ingress.dialects.alb.groups import Group, groups_of
from kmn.ingress.dialects.alb.params import as_its_class_says
from kmn.ingress.envoy.config import Config, config_of
from kmn.ingress.envoy.limits import within_limits
from kmn.ingress.gateway.classes import controller_of_gateway
from kmn.ingress.gateway.manifests import program_of
from kmn.ingress.gateway.reading import Reading, Site, read_gateway
from kmn.ingress.gateway.report import ROUTES
from kmn.ingress.gateway.world import World
from kmn.ingress.istio.manifests import PROGRAM_NAME
from kmn.ingress.istio.reading import ISTIO_GATEWAY_KIND, IstioWorld, read_istio
from kmn.ingress.manifests import CONTROLLER, INGRESS_PROGRAM
from kmn.ingress.model import Backend, Owner, Problem, Reach, Routing, Upstream
from kmn.ingress.nets import read_without_the_unreadable
from kmn.ingress.streams import streams_of
from kmn.k8s.dataplane import ALB_CONTROLLER, NLB_CONTROLLER, PROGRAM
from kmn.k8s.families import internal_ips, pod_ips
from kmn.k8s.loadbalancers import takes_traffic
from kmn.k8s.objects import Key, Object, annotation, condition, key_of, labels, namespace_of
from kmn.k8s.resources import (
    APPLICATIONLOADBALANCERS,
    CONFIGMAPS,
    ENDPOINTSLICES,
    GATEWAYCLASSES,
    GATEWAYS,
    INGRESSCLASSES,
    INGRESSCLASSPARAMS,
    INGRESSES,
    ISTIO_DESTINATIONRULES,
    ISTIO_GATEWAYS,
    ISTIO_VIRTUALSERVICES,
    MIDDLEWARES,
    NAMESPACES,
    NETWORKLOADBALANCERS,
    NODES,
    PODS,
    REFERENCEGRANTS,
    SECRETS,
    SERVICES,
    Resource,
)

__all__ = ["RESOURCES", "State", "View", "balancer"]

log = logging.getLogger(__name__)

_ROUTING = (INGRESSES, GATEWAYS, *ROUTES.values())  # what says where requests go; statuses of these are ours
_ISTIO = (ISTIO_GATEWAYS, ISTIO_VIRTUALSERVICES, ISTIO_DESTINATIONRULES)
RESOURCES = (
    *_ROUTING,
    *_ISTIO,
    INGRESSCLASSES,
    GATEWAYCLASSES,
    REFERENCEGRANTS,
    NAMESPACES,
    SERVICES,
    ENDPOINTSLICES,
    SECRETS,
    CONFIGMAPS,
    PODS,
    NODES,
    APPLICATIONLOADBALANCERS,
    NETWORKLOADBALANCERS,
    INGRESSCLASSPARAMS,
    MIDDLEWARES,
)
_KINDS = {resource.kind: resource for resource in (*_ISTIO, *_ROUTING, CONFIGMAPS, SERVICES)} | {
    ISTIO_GATEWAY_KIND: ISTIO_GATEWAYS
}
_MOSTLY_UNUSED = (SECRETS, CONFIGMAPS, MIDDLEWARES)  # one that no view has asked for changes none


# What names of load balancers begin with, among those of controllers.
_BALANCER = f"{ALB_CONTROLLER} "  # of groups of Ingresses
_NETWORK_BALANCER = f"{NLB_CONTROLLER} "  # of Services


def balancer(obj: Object) -> str:
    """How an application load balancer is called among controllers, by its group, or one of a Service, by that."""
    spec = obj["spec"]
    return f"{_BALANCER}{spec['group']}" if "group" in spec else f"{_NETWORK_BALANCER}{spec['service']}"


@dataclass(frozen=True, slots=True)
class View:
    """What one controller does, or one Gateway (then ``reading`` is of it)."""

    ingresses: dict[Key, Object]  # those that it takes
    config: Config
    problems: tuple[Problem, ...]
    addresses: tuple[str, ...]  # of its load balancers, or the name of the one that it is
    reading: Reading | None = None


class State:
    """Objects of RESOURCES; of pods only those of ingress controllers (and the labels of all)."""

    def __init__(self, default_certificate: KeyPair) -> None:
        self._default_certificate = default_certificate
        self._objects: dict[Resource, dict[Key, Object]] = {resource: {} for resource in RESOURCES}
        self._slices: defaultdict[Key, dict[Key, Object]] = defaultdict(dict)  # by Service
        self._pod_labels: dict[Key, dict[str, str]] = {}
        self._pairs: dict[Key, KeyPair | ValueError] = {}
        self._nodes: dict[Key, str] = {}  # addresses of those that load balancers send to
        self._groups: tuple[int, dict[str, Group], tuple[Problem, ...]] = (-1, {}, ())  # with the version
        self._asked: set[tuple[Resource, Key]] = set()  # what views have been made of, of _MOSTLY_UNUSED
        self.version = 0  # another one when views may be

    def update(self, resource: Resource, key: Key, obj: Object | None) -> bool:
        """Take an object's new state in (None: it is gone); whether it is one that counts."""
        known = self._objects[resource]
        told = self._file_labels(key, obj) if resource is PODS else False
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
            return told
        if resource in _MOSTLY_UNUSED and (resource, key) not in self._asked:
            return told
        if resource not in _ROUTING or _meaning(before) != _meaning(obj):
            self.version += 1
        return True

    def ingresses(self) -> dict[Key, Object]:
        """All of them, whoever takes them."""
        return self._objects[INGRESSES]

    def find(self, owner: Owner) -> Object | None:
        """The object that a rule is of, while it is there."""
        return self._objects[_KINDS[owner.kind]].get(owner.key)

    def gateways(self) -> dict[Key, Object]:
        """All of them, whose ever they are."""
        return self._objects[GATEWAYS]

    def routes(self) -> dict[str, Collection[Object]]:
        """All that attach to Gateways, by kind."""
        return {kind: self._objects[resource].values() for kind, resource in ROUTES.items()}

    def controllers(self) -> set[str]:
        """Ingress controllers that have pods, all Gateways that are ours, and Istio's when it has something to do."""
        return {
            *((PROGRAM_NAME,) if any(self._objects[resource] for resource in _ISTIO) else ()),
            *(controller for pod in self._objects[PODS].values() if (controller := annotation(pod, CONTROLLER))),
            *self._our_gateways(),
        }

    def _our_gateways(self) -> dict[str, tuple[Object, str]]:
        """With the controller's name in statuses, by what their pods say that they are."""
        classes = self._objects[GATEWAYCLASSES]
        found = ((key, each, controller_of_gateway(each, classes)) for key, each in self.gateways().items())
        return {program_of(key): (each, name) for key, each, name in found if name is not None}

    def balancers(self) -> dict[str, Object]:
        """Load balancers that have a place, by what :meth:`view` calls them."""
        found = [*self._objects[APPLICATIONLOADBALANCERS].values(), *self._objects[NETWORKLOADBALANCERS].values()]
        return {balancer(each): each for each in found if (each.get("status") or {}).get("netns")}

    def views(self, before: Mapping[str, View] | None = None) -> dict[str, View]:
        """Of all that have proxies. One that cannot be made stays as it was before, so that others change."""
        found = {}
        for name in (*self.controllers(), *self.balancers()):
            try:
                found[name] = self.view(name)
            except Exception:
                log.exception("%s: what it is to do cannot be made out: it does what it did", name)
                if before is not None and name in before:
                    found[name] = before[name]
        return found

    def view(self, controller: str) -> View:
        """What a controller does with what there is, or a load balancer."""
        if controller.startswith(_BALANCER):
            return self._view_of_balancer(controller)
        if controller.startswith(_NETWORK_BALANCER):
            return self._view_of_network_balancer(controller)
        if controller in (gateways := self._our_gateways()):
            return self._gateway_view(controller, *gateways[controller])
        if controller == PROGRAM_NAME:
            config, problems = self._read(self._istio, (o for each in _ISTIO for o in self._objects[each].values()))
            return View({}, config, problems, ())
        taken = self._taken(controller)
        dialect = dialect_of(controller)
        config, problems = self._read(lambda ingresses: dialect(ingresses, self._look_up), taken.values())
        return View(taken, config, problems, self._addresses(controller))

    def _read(
        self, read: Callable[[Sequence[Object]], Routing], objects: Iterable[Object]
    ) -> tuple[Config, tuple[Problem, ...]]:
        """What comes of some objects, without those that cannot be read."""
        found, unread = read_without_the_unreadable(lambda some: self._config(read(some)), list(objects), _kind_of)
        config, problems = found
        return config, (*problems, *unread)

    def _taken(self, controller: str) -> dict[Key, Object]:
        classes = self._objects[INGRESSCLASSES]
        return {key: i for key, i in self.ingresses().items() if controller_of(i, classes) == controller}

    def _view_of_balancer(self, name: str) -> View:
        """Nothing without Ingresses."""
        found, there = self.groups()[0].get(name.removeprefix(_BALANCER)), self.balancers().get(name)
        services = self._objects[SERVICES]
        taken = {key_of(each): each for each in found.members} if found is not None else {}

        def read(members: Sequence[Object]) -> Routing:
            return alb.routing_of(replace(found, members=tuple(members)), services) if found else Routing((), {})

        config, problems = self._read(read, taken.values())
        return View(taken, config, problems, (there["spec"]["hostname"],) if there is not None else ())

    def _view_of_network_balancer(self, name: str) -> View:
        """Nothing without its Service."""
        namespace, _, service = name.removeprefix(_NETWORK_BALANCER).partition("/")
        found = self._objects[SERVICES].get(Key(namespace, service))
        config, problems = self._config(streams_of(found) if found is not None else Routing((), {}))
        return View({}, config, problems, ())

    def groups(self) -> tuple[dict[str, Group], tuple[Problem, ...]]:
        """The Ingresses of class ``alb`` by group, and what is wrong with those that are in none."""
        if self._groups[0] != self.version:
            classes, params = self._objects[INGRESSCLASSES], self._objects[INGRESSCLASSPARAMS]
            taken = self._taken(ALB_CONTROLLER).values()
            (groups, problems), unread = read_without_the_unreadable(
                lambda some: groups_of(as_its_class_says(ingress, classes, params) for ingress in some),
                list(taken), _kind_of,
            )  # fmt: skip
            self._groups = self.version, {group.id: group for group in groups}, (*problems, *unread)
        return self._groups[1:]

    def _gateway_view(self, controller: str, gateway: Object, name: str) -> View:
        site = Site(self._addresses(controller), any(_is_ready(pod) for pod in self._pods(controller)))

        def read(routes: Sequence[Object]) -> tuple[Reading, tuple[Config, tuple[Problem, ...]]]:
            by_kind = {kind: [route for route in routes if route["kind"] == kind] for kind in ROUTES}
            grants = self._objects[REFERENCEGRANTS].values()
            world = World(self._objects[NAMESPACES], self._objects[SERVICES], grants, by_kind, self._pair)
            reading = read_gateway(gateway, name, world, site)
            return reading, self._config(reading.routing)

        routes = [route for resource in ROUTES.values() for route in self._objects[resource].values()]
        (reading, (config, problems)), unread = read_without_the_unreadable(read, routes, _kind_of)
        return View({}, config, (*problems, *unread), (), reading)

    def _istio(self, objects: Sequence[Object]) -> Routing:
        """``objects`` are those of _ISTIO that count."""
        gateways, virtual_services, rules = ([o for o in objects if o["kind"] == each.kind] for each in _ISTIO)
        return read_istio(IstioWorld(gateways, virtual_services, rules, self._objects[SERVICES], self._pair))

    def _config(self, routing: Routing) -> tuple[Config, tuple[Problem, ...]]:
        routing = within_limits(routing)
        problems = list(routing.problems)
        pairs = self._certificates(routing, problems)
        endpoints = {}
        why: dict[Upstream, str] = {}
        for upstream in sorted(routing.upstreams(), key=str):
            found = self._endpoints(upstream, upstream.backend)
            if not found.addresses and upstream.spare is not None:
                found = self._endpoints(upstream, upstream.spare)
            endpoints[upstream] = found = self._resolved(found)
            if found.problem is not None:
                why[upstream] = found.problem
        problems += _of_backends(routing, why)
        default, dual_stack = self._default_certificate, self._is_dual_stack()
        return config_of(routing, endpoints, pairs, default, dual_stack=dual_stack), tuple(problems)

    def _is_dual_stack(self) -> bool:
        """A cluster is, as a whole: so one pod tells."""
        return any(len(pod_ips(pod)) > 1 for pod in self._objects[PODS].values())

    def _endpoints(self, upstream: Upstream, backend: Backend) -> Endpoints:
        key = Key(backend.namespace, backend.service)
        service = self._objects[SERVICES].get(key)
        if upstream.reach is Reach.NODES:
            return node_ports_of(backend, service, self._nodes.values())
        if upstream.reach is Reach.LOCAL_NODES:
            having = nodes_of(self._slices[key].values())
            nodes = (address for node, address in self._nodes.items() if node.name in having)
            return node_ports_of(backend, service, nodes)
        if upstream.cluster_address:
            return cluster_address_of(backend, service)
        return endpoints_of(backend, service, self._slices[key].values(), self._labelled(upstream))

    def _look_up(self, resource: Resource, key: Key) -> Object | None:
        self._asked.add((resource, key))
        return self._objects[resource].get(key)

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
        secret = self._look_up(SECRETS, key)
        if secret is None:
            return ValueError(f"there is no Secret {key}")
        if key not in self._pairs:
            try:
                self._pairs[key] = key_pair_of(secret)
            except ValueError as error:
                self._pairs[key] = error
        return self._pairs[key]

    def _pods(self, controller: str) -> list[Object]:
        return [pod for pod in self._objects[PODS].values() if annotation(pod, CONTROLLER) == controller]

    def addresses(self, controller: str) -> tuple[str, ...]:
        """Where clients outside reach what :meth:`view` calls so: addresses, and the name of a load balancer."""
        there = self.balancers().get(controller)
        if there is None:
            return self._addresses(controller)
        hostname = there["spec"].get("hostname")
        return (there["status"]["address"], *((hostname,) if hostname else ()))

    def _addresses(self, controller: str) -> tuple[str, ...]:
        """Of the load balancers that lead to a controller's pods."""
        pods = self._pods(controller)
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

    def _labelled(self, upstream: Upstream) -> Callable[[Object], bool]:
        """Which endpoints an upstream means: those of pods with its labels."""
        wanted = dict(upstream.labels)

        def admits(endpoint: Object) -> bool:
            pod = endpoint.get("targetRef") or {}
            has = self._pod_labels.get(Key(pod.get("namespace", ""), pod.get("name", "")), {})
            return wanted.items() <= has.items()

        return admits

    def _file_labels(self, key: Key, pod: Object | None) -> bool:
        """Whether subsets may be others now: labels of pods that are there already seldom change."""
        before = self._pod_labels.pop(key, None)
        if pod is None:
            return False
        self._pod_labels[key] = labels(pod)
        changed = before not in (None, labels(pod)) and bool(self._objects[ISTIO_DESTINATIONRULES])
        self.version += changed
        return changed

    def _resolved(self, endpoints: Endpoints) -> Endpoints:
        """External ones are looked up with the cluster's DNS, as it is asked in pods."""
        if not endpoints.external:
            return endpoints
        dns = self._objects[SERVICES].get(DNS_SERVICE)
        address = dns["spec"].get("clusterIP", "None") if dns is not None else "None"
        if address == "None":
            return Endpoints((), f"its name cannot be looked up: there is no Service {DNS_SERVICE} with an address")
        return endpoints._replace(resolver=address)

    def alone(self, controller: str, ingress: Object) -> Routing:
        """What an Ingress would say if it were the only one of a controller."""
        if controller.startswith(_BALANCER):
            groups, _ = groups_of([ingress])
            return alb.routing_of(groups[0], self._objects[SERVICES]) if groups else Routing((), {})
        return dialect_of(controller)([ingress], self._look_up)

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
    return True


def _kind_of(obj: Object) -> str:
    """What owners of rules are called: Gateways are of two groups."""
    kind: str = obj.get("kind", INGRESSES.kind)
    return ISTIO_GATEWAY_KIND if obj.get("apiVersion") == ISTIO_GATEWAYS.api_version and kind == "Gateway" else kind


def _is_ready(pod: Object) -> bool:
    return (condition(pod, "Ready") or {}).get("status") == "True"


def _meaning(obj: Object | None) -> tuple[object, ...] | None:
    """All of an Ingress, a Gateway or a route but its status, which is what comes of it."""
    if obj is None:
        return None
    meta = obj["metadata"]
    return meta.get("uid"), meta.get("creationTimestamp"), meta.get("annotations"), obj.get("spec")


def _of_backends(routing: Routing, why: dict[Upstream, str]) -> list[Problem]:
    """Each object that names a backend is told what is wrong with it."""
    found: dict[Problem, None] = {}
    for owner, upstream in routing.uses():
        if upstream in why:
            message = f"{owner}: requests for {upstream.backend} are answered 503: {why[upstream]}"
            found[Problem(owner, "NoBackend", message)] = None
    return list(found)
