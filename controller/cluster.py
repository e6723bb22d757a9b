"""The objects that the controller knows, and the flows that follow from them: the pure heart of the application.

Events of objects go in (:meth:`Cluster.apply`, :meth:`Cluster.replace`), :meth:`Cluster.compute` recomputes the
contributions of the objects concerned, and the scopes hold the result. No sockets, threads or clocks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from controller.backends import Backends, backends
from controller.balancing import Balancing, Scheduler
from controller.desired import Changes, OwnerKey, Scope
from controller.family import V4, V6
from controller.features.connectivity import connectivity, family_connectivity
from controller.features.directreturn import insider_flows, restore_flows
from controller.features.edge import edge_flows
from controller.features.masquerade import exempt_flows, masquerade_flows
from controller.features.node import node_flows
from controller.features.pod import pod_flows
from controller.features.policy import established_flows
from controller.features.service import (
    CLUSTER,
    LOCAL,
    NEAR,
    Part,
    Programmed,
    group_name,
    parts,
    service_cidr_flows,
    service_flows,
)
from controller.features.stale import stale_connections
from controller.leveling import Leveler
from controller.numbering import Numbering
from controller.openflow.cookie import feature_of, object_hash, object_of
from controller.openflow.match import Address
from controller.openflow.readback import Installed
from controller.openflow.wire import (
    AddressFlush,
    CtFlush,
    Forgotten,
    Unlearn,
    flow_add,
    flow_delete,
    group_add,
    group_delete,
    group_modify,
)
from controller.outside import Outside
from controller.outside_views import application_balancer_view
from controller.parsing import Malformed
from controller.pipeline import Feature
from controller.podsets import Place
from controller.policies import Policies
from controller.service_views import ServiceView, SliceView, pod_weight, service_view, slice_view
from controller.snapshot import Snapshot
from controller.views import (
    ClusterView,
    EdgeView,
    Masquerade,
    NodeView,
    PodView,
    cluster_view,
    edge_view,
    node_view,
    pod_view,
    policy_view,
)
from kmn.k8s.objects import Key, Object, key_of, labels
from kmn.k8s.resources import POLICIES
from kmn.policy.flows import isolation_names, rules_of
from kmn.policy.model import Log

__all__ = ["Bridge", "Cluster"]

LOG = logging.getLogger(__name__)

# Whose the flows are that known connections take.
_ESTABLISHED: OwnerKey = ("Pipeline", "", "established")
_NOBODY = Key("", "")
# A view of an object, and where it lives.
Bridge = NodeView | EdgeView

_VIEWS: Mapping[str, Callable[[Object], Any]] = {
    "nodes": node_view,
    "pods": pod_view,
    "services": service_view,
    "endpointslices": slice_view,
    "edges": edge_view,
    "clusters": cluster_view,
    "applicationloadbalancers": application_balancer_view,
    "weights": pod_weight,
    "namespaces": lambda obj: None,  # for controller.outside and controller.policies only
    **dict.fromkeys((resource.plural for resource in POLICIES), policy_view),
}

_KIND_OF_POLICIES = {resource.plural: resource.kind for resource in POLICIES}


def _views_of(resource: str) -> tuple[str, ...]:
    """Of a pod, its weight is a view by itself: it also counts where the pod has no port on a bridge."""
    return ("pods", "weights") if resource == "pods" else (resource,)


class Cluster:
    """All objects, all scopes. ``resources`` are plural names as in the API."""

    def __init__(self) -> None:
        self._known = Snapshot[SliceView](_VIEWS)
        self.malformed: dict[tuple[str, Key], str] = {}
        self.common = Scope()  # of all nodes' bridges
        self._bridges: dict[str, Scope] = {}  # by name of Node or Edge
        self._pods: dict[Key, PodView] = {}  # as computed last
        self._held: dict[Address, Key] = {}  # addresses, and which pod had them last
        self._services: dict[Key, tuple[ServiceView, Backends]] = {}  # as computed last
        self._service_nodes: dict[Key, set[str]] = {}  # that have flows of their own of it
        self._zones: dict[str, str] = {}  # of nodes
        self._scheduler: Scheduler = "random"
        self._learned: dict[Key, frozenset[int]] = {}  # cookies of what switches may learn
        self._groups = Numbering()
        self._stale: list[Forgotten] = []
        self.outside = Outside()
        self.leveler = Leveler(lambda node: self._bridges.setdefault(node, Scope()))
        self.policies = Policies(lambda node: self._bridges.setdefault(node, Scope()))
        self.stale_outside: list[CtFlush] = []  # connections for the edges to forget
        self.common.contribute(("Pipeline", "", ""), connectivity())
        self.common.contribute(_ESTABLISHED, established_flows(V4, cut=False))

    # What is there.

    @property
    def masquerade(self) -> Masquerade | None:
        """Whether, and how, nodes translate what their pods send to the outside."""
        clusters: Iterable[ClusterView] = self._known.views["clusters"].values()
        return next((cluster.masquerade for cluster in clusters), None)

    def bridges(self) -> dict[str, Bridge]:
        """Bridges that can be programmed, by name. An Edge and a Node of one name: the Node's is meant."""
        edges: dict[Key, EdgeView] = self._known.views["edges"]
        nodes: dict[Key, NodeView] = self._known.views["nodes"]
        views: list[Bridge] = [*edges.values(), *nodes.values()]
        return {view.name: view for view in views}

    def scopes(self, bridge: str) -> list[Scope]:
        """The scopes that together are the desired state of a bridge."""
        scope = self._bridges.setdefault(bridge, Scope())
        return [self.common, scope] if Key("", bridge) in self._known.views["nodes"] else [scope]

    def size(self, bridge: str) -> tuple[int, int]:
        """How many flows and groups a bridge should have by the objects, whatever connections there are."""
        scopes = self.scopes(bridge)
        flows = sum(len(scope.flows) for scope in scopes) - self.leveler.size(bridge)
        return flows, sum(len(scope.groups) for scope in scopes)

    def owner_of(self, cookie: int) -> tuple[str, list[str]]:
        """Feature and object(s) behind a cookie: ``("SERVICE", ["Service/default/web"])``.

        Several names only where hashes collide, none when the object is gone.
        """
        try:
            feature = Feature(feature_of(cookie)).name
        except ValueError:
            feature = "UNKNOWN"
        views = self._known.views
        names = ["Pipeline", "Cluster"]
        for kind, resource in (("Node", "nodes"), ("Pod", "pods"), ("Service", "services"), ("Edge", "edges")):
            names += [f"{kind}/{key}" for key in views[resource]]
        names += [f"Edge/{edge}/nat" for edge in views["edges"]]
        names += [f"Node/{node}/nat" for node in views["nodes"]]
        names += [f"Edge/{edge.name}/{host.name}" for edge in views["edges"].values() for host in edge.hosts]
        names += [f"ApplicationLoadBalancer/{key}" for key in views["applicationloadbalancers"]]
        names += [name for pod in views["pods"] for name in isolation_names(str(pod))]
        names += ["NetworkPolicies"]
        names += [
            name for plural in _KIND_OF_POLICIES for policy in views[plural].values() for name in rules_of(policy)
        ]
        return feature, [name for name in names if object_hash(name) == object_of(cookie)]

    # What happens.

    def replace(self, resource: str, items: Iterable[Object]) -> None:
        """A new list of a whole resource: what is not in it is gone."""
        items = list(items)
        self.outside.replace(resource, items)
        present = {key_of(item) for item in items}
        for kind in _views_of(resource):
            malformed = [key for what, key in self.malformed if what == kind]
            for key in {*self._known.views[kind], *malformed, *self.policies.known(kind)} - present:
                self._forget(kind, key)
        for item in items:
            self.apply(resource, "MODIFIED", item)

    def apply(self, resource: str, event: str, obj: Object) -> None:
        """One event of a watch: ADDED, MODIFIED or DELETED."""
        key = key_of(obj)
        self.outside.apply(resource, event, obj)
        for kind in _views_of(resource):
            if event == "DELETED":
                self._forget(kind, key)
            else:
                self._look(kind, key, obj)

    def _forget(self, resource: str, key: Key) -> None:
        self.malformed.pop((resource, key), None)
        self._set(resource, key, None)
        self._tell_policies(resource, key, None)

    def _look(self, resource: str, key: Key, obj: Object) -> None:
        try:
            view = _VIEWS[resource](obj)
        except Malformed as error:
            if self.malformed.get((resource, key)) != str(error):
                LOG.error("%s; ignored until it is corrected", error)
            self.malformed[resource, key] = str(error)
            view = None
            self._tell_policies(resource, key, None)
        else:
            self.malformed.pop((resource, key), None)
            self._tell_policies(resource, key, obj, view)
        self._set(resource, key, view)

    def _tell_policies(self, resource: str, key: Key, obj: Object | None, view: Any = None) -> None:
        match resource:
            case "pods":
                self.policies.put_pod(key, obj, Place(view.node, view.ofport) if view is not None else None)
            case "namespaces":
                self.policies.put_namespace(key.name, labels(obj) if obj is not None else None)
            case "nodes":
                self.policies.put_node(key, obj)
            case _ if resource in _KIND_OF_POLICIES:
                self.policies.put_policy(_KIND_OF_POLICIES[resource], key, view)

    def _set(self, resource: str, key: Key, view: Any) -> None:
        if not self._known.put(resource, key, view):
            return
        if resource == "nodes":
            self._place(key.name, view)
        elif resource == "clusters":  # whether nodes masquerade
            for node in self._known.views["nodes"]:
                self._known.touch("nodes", node)

    def _place(self, node: str, view: NodeView | None) -> None:
        """A node is in a zone: what hints say is another matter there."""
        before = self._zones.get(node)
        if view is None:
            self._zones.pop(node, None)
        else:
            self._zones[node] = view.zone
        if self._zones.get(node) != before:
            for service, slices in self._known.slices.items():
                if any(
                    candidate.zones or candidate.nodes for piece in slices.values() for candidate in piece.candidates
                ):
                    self._known.touch("services", service)

    # What follows.

    def compute(self) -> list[Forgotten]:
        """Bring the scopes up to date; answers with what switches must forget once that is in force."""
        for resource, key in self._known.take_changed():
            _COMPUTE[resource](self, key)
        self.policies.compute()
        self.stale_outside = self.outside.compute(
            self._known.views["edges"], self._bridges, masquerade=self.masquerade is not None
        )
        stale, self._stale = self._stale, []
        return stale

    def _compute_node(self, key: Key) -> None:
        node: NodeView | None = self._known.views["nodes"].get(key)
        scope = self._bridges.setdefault(key.name, Scope())
        flows = node_flows(node) if node else []
        if node and (masquerade := self.masquerade):
            flows += masquerade_flows(node, masquerade)
        scope.contribute(("Node", *key), flows)

    def _compute_edge(self, key: Key) -> None:
        edge: EdgeView | None = self._known.views["edges"].get(key)
        self._bridges.setdefault(key.name, Scope()).contribute(("Edge", *key), edge_flows(edge) if edge else ())

    def _compute_pod(self, key: Key) -> None:
        pod: PodView | None = self._known.views["pods"].get(key)
        owner: OwnerKey = ("Pod", *key)
        before = self._pods.pop(key, None)
        if before is not None and (pod is None or pod.node != before.node):
            self._bridges[before.node].contribute(owner)
        if before is not None and pod is None:
            self._held |= dict.fromkeys(before.addresses, _NOBODY)
        if pod is not None:
            self._pods[key] = pod
            self._bridges.setdefault(pod.node, Scope()).contribute(owner, pod_flows(pod))
            # What was allowed between others and who had the address before says nothing of this pod.
            self._stale += [AddressFlush(each) for each in pod.addresses if self._held.get(each, key) != key]
            self._held |= dict.fromkeys(pod.addresses, key)

    def _compute_service(self, key: Key) -> None:
        service: ServiceView | None = self._known.views["services"].get(key)
        slices, weights = self._known.slices_of(key), self._known.views["weights"]
        chosen = backends(service, slices, self._zones, weights) if service else {}
        old, chosen_before = self._services.pop(key, (None, {}))
        made = Programmed()
        if service is not None:
            self._services[key] = (service, chosen)
            made = service_flows(service, chosen, self._group_numbers(service, chosen), self._scheduler)
            made.common[0].extend(restore_flows(service))
        else:
            self._groups.assign(key, ())
        if service is not None and Balancing(self._scheduler).leveled:
            self.leveler.put(service, made.turns)
        else:
            self.leveler.remove(key)
        owner: OwnerKey = ("Service", *key)
        self.common.contribute(owner, *made.common)
        for node in self._service_nodes.pop(key, set()) - made.nodes.keys():
            self._bridges[node].contribute(owner)
        if made.nodes:
            self._service_nodes[key] = set(made.nodes)
            for node, contribution in made.nodes.items():
                self._bridges.setdefault(node, Scope()).contribute(owner, *contribution)
        self._stale += stale_connections(old, chosen_before, service, chosen)
        self._unlearn(key, frozenset(made.learned))

    def _unlearn(self, key: Key, cookies: frozenset[int]) -> None:
        """Forget what switches learned of endpoints that are gone."""
        self._stale += [Unlearn(cookie) for cookie in sorted(self._learned.pop(key, frozenset()) - cookies)]
        if cookies:
            self._learned[key] = cookies

    def _group_numbers(self, service: ServiceView, chosen: Backends) -> dict[Part, int]:
        """Numbers for the groups that a Service needs."""
        needed: list[Part] = []
        balancing = Balancing(self._scheduler, bool(service.affinity))
        for port, choice in chosen.items():
            for kind, most in (
                (CLUSTER, len(choice.cluster)),
                (NEAR, max(map(len, choice.near.values()), default=0)),
                (LOCAL, max(map(len, choice.local.values()), default=0)),
            ):
                if most:
                    needed += [(port, kind, part) for part in range(parts(most, balancing))]
        names = {part: group_name(service, part) for part in needed}
        numbers = self._groups.assign(service.key, names.values())
        return {part: numbers[name] for part, name in names.items()}

    def _compute_weight(self, pod: Key) -> None:
        for service, slices in self._known.slices.items():
            if any(candidate.pod == pod for piece in slices.values() for candidate in piece.candidates):
                self._compute_service(service)

    def _compute_cluster(self, key: Key) -> None:
        cluster: ClusterView | None = self._known.views["clusters"].get(key)
        families = [V4]
        flows = [flow for network in cluster.service_cidrs for flow in service_cidr_flows(network)] if cluster else []
        if cluster and any(network.version == 6 for network in cluster.service_cidrs):
            flows += family_connectivity(V6)
            families.append(V6)
        if cluster:
            flows += insider_flows(cluster.own)
        if cluster and cluster.masquerade:
            flows += exempt_flows(cluster.masquerade.exempt)
        self.common.contribute(("Cluster", *key), flows)
        cut = cluster is not None and cluster.cut
        self.common.contribute(
            _ESTABLISHED, [flow for family in families for flow in established_flows(family, cut=cut)]
        )
        self.policies.set_log(cluster.log if cluster else Log.DENIED)
        scheduler: Scheduler = cluster.scheduler if cluster else "random"
        if scheduler != self._scheduler:
            self._scheduler = scheduler
            for service in self._known.views["services"]:
                self._compute_service(service)

    def difference(self, bridge: str, installed: Installed) -> Changes:
        """What a switch lacks, has too much, or has otherwise than it should. Scopes must be up to date and taken."""
        scopes = self.scopes(bridge)
        if not installed.flows and not installed.groups:
            all_of = [scope.everything() for scope in scopes]
            return Changes(sum((each.groups for each in all_of), ()), sum((each.flows for each in all_of), ()))
        groups, flows = [], []
        valid = frozenset[int]().union(*self._learned.values())
        gone_flows = {key: cookie for key, cookie in installed.flows.items() if cookie not in valid}
        gone_groups = dict(installed.groups)
        for scope in scopes:
            for number, group in scope.groups.items():
                has = gone_groups.pop(number, None)
                if has is None:
                    groups.append(group_add(group))
                elif has != group.content:
                    groups.append(group_modify(group))
            for key, flow in scope.flows.items():
                if gone_flows.pop(key, None) != flow.cookie:
                    flows.append(flow_add(flow))
        return Changes(
            tuple(groups),
            tuple(flows),
            tuple([flow_delete(*key) for key in gone_flows]),
            tuple([group_delete(number) for number in gone_groups]),
        )


_COMPUTE: Mapping[str, Callable[[Cluster, Key], None]] = {
    "nodes": Cluster._compute_node,
    "pods": Cluster._compute_pod,
    "services": Cluster._compute_service,
    "edges": Cluster._compute_edge,
    **dict.fromkeys(_KIND_OF_POLICIES, lambda cluster, key: None),  # computed by controller.policies
    "applicationloadbalancers": lambda cluster, key: None,  # computed by controller.outside
    "clusters": Cluster._compute_cluster,
    "weights": Cluster._compute_weight,
}
