"""The objects that the controller knows, and the flows that follow from them: the pure heart of the application.

Events of objects go in (:meth:`Cluster.apply`, :meth:`Cluster.replace`), :meth:`Cluster.compute` recomputes the
contributions of the objects concerned, and the scopes hold the result. No sockets, threads or clocks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from controller.desired import Changes, OwnerKey, Scope
from controller.features.connectivity import connectivity
from controller.features.edge import edge_flows
from controller.features.node import node_flows
from controller.features.pod import pod_flows
from controller.features.service import (
    Backends,
    backends,
    group_wish,
    parts,
    service_cidr_flows,
    service_flows,
    stale_connections,
)
from controller.openflow.cookie import feature_of, object_hash, object_of
from controller.openflow.readback import Installed
from controller.openflow.wire import CtFlush, flow_add, flow_delete, group_add, group_delete, group_modify
from controller.outside import Outside
from controller.pipeline import Feature
from controller.views import (
    EdgeView,
    Malformed,
    NodeView,
    PodView,
    ServicePort,
    ServiceView,
    SliceView,
    edge_view,
    node_view,
    pod_view,
    service_cidr,
    service_view,
    slice_view,
)
from kmn.k8s.objects import Key, Object, key_of

__all__ = ["Bridge", "Cluster"]

LOG = logging.getLogger(__name__)

# A view of an object, and where it lives.
Bridge = NodeView | EdgeView

_VIEWS: Mapping[str, Callable[[Object], Any]] = {
    "nodes": node_view,
    "pods": pod_view,
    "services": service_view,
    "endpointslices": slice_view,
    "edges": edge_view,
    "clusters": service_cidr,
    "namespaces": lambda obj: None,  # for controller.outside only
}


_GroupName = tuple[Key, ServicePort, int]  # of a Service's port, the part of its endpoints


class Cluster:
    """All objects, all scopes. ``resources`` are plural names as in the API."""

    def __init__(self) -> None:
        self._views: dict[str, dict[Key, Any]] = {resource: {} for resource in _VIEWS}
        self.malformed: dict[tuple[str, Key], str] = {}
        self.common = Scope()  # of all nodes' bridges
        self._bridges: dict[str, Scope] = {}  # by name of Node or Edge
        self._dirty: dict[tuple[str, Key], None] = {}  # in order of arrival
        self._pods_of: dict[str, set[Key]] = {}
        self._slices_of: dict[Key, dict[Key, SliceView]] = {}
        self._pod_at: dict[Key, str] = {}
        self._services: dict[Key, tuple[ServiceView, Backends]] = {}  # as computed last
        self._group_ids: dict[_GroupName, int] = {}
        self._groups_taken: dict[int, _GroupName] = {}
        self._stale: list[CtFlush] = []
        self.outside = Outside()
        self.stale_outside: list[CtFlush] = []  # connections for the edges to forget
        self.common.contribute(("Pipeline", "", ""), connectivity())

    # What is there.

    def bridges(self) -> dict[str, Bridge]:
        """Bridges that can be programmed, by name. An Edge and a Node of one name: the Node's is meant."""
        edges: dict[Key, EdgeView] = self._views["edges"]
        nodes: dict[Key, NodeView] = self._views["nodes"]
        views: list[Bridge] = [*edges.values(), *nodes.values()]
        return {view.name: view for view in views}

    def scopes(self, bridge: str) -> list[Scope]:
        """The scopes that together are the desired state of a bridge."""
        scope = self._bridges.setdefault(bridge, Scope())
        return [self.common, scope] if Key("", bridge) in self._views["nodes"] else [scope]

    def owner_of(self, cookie: int) -> tuple[str, list[str]]:
        """Feature and object(s) behind a cookie: ``("SERVICE", ["Service/default/web"])``.

        Several names only where hashes collide, none when the object is gone.
        """
        try:
            feature = Feature(feature_of(cookie)).name
        except ValueError:
            feature = "UNKNOWN"
        names = ["Pipeline", "Cluster"]
        for kind, resource in (("Node", "nodes"), ("Pod", "pods"), ("Service", "services"), ("Edge", "edges")):
            names += [f"{kind}/{key}" for key in self._views[resource]]
        names += [f"Edge/{edge}/nat" for edge in self._views["edges"]]
        names += [f"Edge/{edge.name}/{host.name}" for edge in self._views["edges"].values() for host in edge.hosts]
        return feature, [name for name in names if object_hash(name) == object_of(cookie)]

    # What happens.

    def replace(self, resource: str, items: Iterable[Object]) -> None:
        """A new list of a whole resource: what is not in it is gone."""
        items = list(items)
        self.outside.replace(resource, items)
        present = {key_of(item) for item in items}
        known = [*self._views[resource], *(key for kind, key in self.malformed if kind == resource)]
        for key in known:
            if key not in present:
                self._set(resource, key, None)
        for item in items:
            self.apply(resource, "MODIFIED", item)

    def apply(self, resource: str, event: str, obj: Object) -> None:
        """One event of a watch: ADDED, MODIFIED or DELETED."""
        key = key_of(obj)
        self.outside.apply(resource, event, obj)
        if event == "DELETED":
            self.malformed.pop((resource, key), None)
            self._set(resource, key, None)
            return
        try:
            view = _VIEWS[resource](obj)
        except Malformed as error:
            if self.malformed.get((resource, key)) != str(error):
                LOG.error("%s; ignored until it is corrected", error)
            self.malformed[resource, key] = str(error)
            view = None
        else:
            self.malformed.pop((resource, key), None)
        self._set(resource, key, view)

    def _set(self, resource: str, key: Key, view: Any) -> None:
        views = self._views[resource]
        old = views.get(key)
        if old == view:
            return
        if view is None:
            del views[key]
        else:
            views[key] = view
        if resource == "endpointslices":
            if old is not None:
                self._slices_of[old.service].pop(key)
                self._dirty["services", old.service] = None
            if view is not None:
                self._slices_of.setdefault(view.service, {})[key] = view
                self._dirty["services", view.service] = None
        else:
            self._dirty[resource, key] = None

    # What follows.

    def compute(self) -> list[CtFlush]:
        """Bring the scopes up to date; answers with the connections that must be forgotten once that is in force."""
        dirty, self._dirty = self._dirty, {}
        for resource, key in dirty:
            _COMPUTE[resource](self, key)
        self.stale_outside = self.outside.compute(self._views["edges"], self._bridges)
        stale, self._stale = self._stale, []
        return stale

    def _compute_node(self, key: Key) -> None:
        node: NodeView | None = self._views["nodes"].get(key)
        scope = self._bridges.setdefault(key.name, Scope())
        scope.contribute(("Node", *key), node_flows(node) if node else ())

    def _compute_edge(self, key: Key) -> None:
        edge: EdgeView | None = self._views["edges"].get(key)
        self._bridges.setdefault(key.name, Scope()).contribute(("Edge", *key), edge_flows(edge) if edge else ())

    def _compute_pod(self, key: Key) -> None:
        pod: PodView | None = self._views["pods"].get(key)
        owner: OwnerKey = ("Pod", *key)
        before = self._pod_at.pop(key, None)
        if before is not None and (pod is None or pod.node != before):
            self._bridges[before].contribute(owner)
        if pod is not None:
            self._pod_at[key] = pod.node
            self._bridges.setdefault(pod.node, Scope()).contribute(owner, pod_flows(pod))

    def _compute_service(self, key: Key) -> None:
        service: ServiceView | None = self._views["services"].get(key)
        slices = self._slices_of.get(key)
        if slices is not None and not slices:
            del self._slices_of[key]
        chosen = backends(service, slices.values() if slices else ()) if service else {}
        old, chosen_before = self._services.pop(key, (None, {}))
        if service is not None:
            self._services[key] = (service, chosen)
        used = {port: parts(endpoints) for port, endpoints in chosen.items() if endpoints}
        for port, endpoints in chosen_before.items():
            for part in range(used.get(port, 0), parts(endpoints)):
                if (key, port, part) in self._group_ids:
                    del self._groups_taken[self._group_ids.pop((key, port, part))]
        ids: dict[ServicePort, list[int]] = {}
        if service is not None:
            ids = {port: [self._group_id(service, port, part) for part in range(n)] for port, n in used.items()}
        flows, groups = service_flows(service, chosen, ids) if service else ([], [])
        self.common.contribute(("Service", *key), flows, groups)
        self._stale += stale_connections(old, chosen_before, service, chosen)

    def _group_id(self, service: ServiceView, port: ServicePort, part: int) -> int:
        name = (service.key, port, part)
        number = self._group_ids.get(name)
        if number is None:
            number = group_wish(service, port, part)
            while number in self._groups_taken:
                number = (number + 1) & 0x7FFFFFFF
            self._group_ids[name] = number
            self._groups_taken[number] = name
        return number

    def _compute_cidr(self, key: Key) -> None:
        cidr = self._views["clusters"].get(key)
        self.common.contribute(("Cluster", *key), service_cidr_flows(cidr) if cidr else ())

    def difference(self, bridge: str, installed: Installed) -> Changes:
        """What a switch lacks, has too much, or has otherwise than it should. Scopes must be up to date and taken."""
        scopes = self.scopes(bridge)
        if not installed.flows and not installed.groups:
            parts = [scope.everything() for scope in scopes]
            return Changes(sum((p.groups for p in parts), ()), sum((p.flows for p in parts), ()))
        groups, flows = [], []
        gone_flows, gone_groups = dict(installed.flows), dict(installed.groups)
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
    "clusters": Cluster._compute_cidr,
}
