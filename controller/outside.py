"""The edge's flows that follow from Services and pods: load balancers and egress addresses. Pure, as ``cluster``.

``controller.cluster`` hands on every object that it is told of; what an edge is itself is ``features.edge``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any

from controller.desired import Scope
from controller.features.applicationbalancer import application_balancer_flows
from controller.features.egress import egress_flows
from controller.features.loadbalancer import Targets, balancer_flows, count_groups, group_name, stale, targets
from controller.features.masquerade import egress_exemption
from controller.numbering import Numbering
from controller.openflow.wire import CtFlush
from controller.outside_views import (
    ApplicationBalancerView,
    BalancerPort,
    BalancerView,
    EgressPod,
    TargetSlice,
    application_balancer_view,
    balancer_view,
    egress_addresses,
    egress_pod,
    target_node,
    target_slice,
)
from controller.parsing import Malformed
from controller.snapshot import Snapshot
from controller.views import EdgeView
from kmn.k8s.dataplane import EGRESS_ADDRESS
from kmn.k8s.objects import Key, Object, key_of

__all__ = ["Outside"]

LOG = logging.getLogger(__name__)

_VIEWS: Mapping[str, Callable[[Object], Any]] = {
    "nodes": target_node,
    "pods": egress_pod,
    "services": balancer_view,
    "endpointslices": target_slice,
    "namespaces": egress_addresses,
    "applicationloadbalancers": application_balancer_view,
}


class Outside:
    """What is known, and what it means for the edges' scopes."""

    def __init__(self) -> None:
        self._known = Snapshot[TargetSlice](_VIEWS)
        self._pods_of: dict[str, set[Key]] = {}
        self._computed: dict[Key, tuple[BalancerView, Targets]] = {}
        self._groups = Numbering()
        self._edges: dict[Key, EdgeView] = {}  # as they were computed last
        self._masquerade = False
        self._exempt_at: dict[Key, str] = {}  # nodes where pods are exempt from masquerade
        self._malformed: dict[tuple[str, Key], str] = {}
        self._unmet: dict[Key, str] = {}  # by pod: why an egress address has no effect

    @property
    def problems(self) -> set[str]:
        """What cannot be used of egress addresses, by object and field."""
        return {*self._malformed.values(), *self._unmet.values()}

    def replace(self, resource: str, items: Iterable[Object]) -> None:
        """A new list: forget what is not in it; what is comes by :meth:`apply`."""
        if resource in _VIEWS:
            present = {key_of(item) for item in items}
            malformed = [key for what, key in self._malformed if what == resource]
            for key in {*self._known.views[resource], *malformed} - present:
                self._forget(resource, key)

    def apply(self, resource: str, event: str, obj: Object) -> None:
        if resource not in _VIEWS:
            return
        key, view = key_of(obj), None
        self._malformed.pop((resource, key), None)
        if event != "DELETED":
            try:
                view = _VIEWS[resource](obj)
            except Malformed as error:
                LOG.error("%s; ignored until it is corrected", error)
                self._malformed[resource, key] = str(error)
            except (ValueError, KeyError, TypeError, IndexError):
                pass  # told of by controller.views, which parses the same fields
        self._set(resource, key, view)

    def _forget(self, resource: str, key: Key) -> None:
        self._malformed.pop((resource, key), None)
        self._set(resource, key, None)

    def _set(self, resource: str, key: Key, view: Any) -> None:
        if self._known.put(resource, key, view) and resource == "pods":
            pods = self._pods_of.setdefault(key.namespace, set())
            (pods.discard if view is None else pods.add)(key)

    def compute(
        self, edges: Mapping[Key, EdgeView], scopes: dict[str, Scope], *, masquerade: bool = False
    ) -> list[CtFlush]:
        """Bring the edges' scopes up to date; the connections that the edges must forget.

        With ``masquerade`` pods with an egress address are exempt from it on their nodes' bridges, too.
        """
        dirty = self._known.take_changed()
        services = {key: None for resource, key in dirty if resource == "services"}
        proxies = {key: None for resource, key in dirty if resource == "applicationloadbalancers"}
        pods = {key: None for resource, key in dirty if resource == "pods"}
        if any(resource == "nodes" for resource, _ in dirty):
            services |= {
                key: None for key, view in self._known.views["services"].items() if view.addresses and not view.to_pods
            }
        for resource, key in dirty:
            if resource == "namespaces":
                pods |= dict.fromkeys(self._pods_of.get(key.name, ()))
        if masquerade != self._masquerade:
            self._masquerade = masquerade
            pods |= dict.fromkeys(self._known.views["pods"])
        if edges != self._edges:
            self._edges = dict(edges)
            services |= dict.fromkeys(self._known.views["services"])
            proxies |= dict.fromkeys(self._known.views["applicationloadbalancers"])
            pods |= dict.fromkeys(self._known.views["pods"])
        flushes: list[CtFlush] = []
        for key in services:
            flushes += self._compute_service(key, scopes)
        for key in pods:
            self._compute_pod(key, scopes)
        for key in proxies:
            self._compute_proxy(key, scopes)
        return flushes

    def _compute_service(self, key: Key, scopes: Mapping[str, Scope]) -> list[CtFlush]:
        view: BalancerView | None = self._known.views["services"].get(key)
        if view is None and key not in self._computed:
            return []
        chosen = targets(view, self._known.slices_of(key), self._known.views["nodes"].values()) if view else {}
        old, chosen_before = self._computed.pop(key, (None, {}))
        names: dict[BalancerPort, list[str]] = {}
        if view is not None:
            self._computed[key] = (view, chosen)
            names = {
                port: [group_name(view, port, part) for part in range(count_groups(view, endpoints))]
                for port, endpoints in chosen.items()
                if endpoints and not view.internal
            }
        numbers = self._groups.assign(key, chain.from_iterable(names.values()))
        ids = {port: [numbers[name] for name in of_port] for port, of_port in names.items()}
        for edge in self._edges.values():
            flows, groups = balancer_flows(edge, view, chosen, ids) if view else ([], [])
            scopes[edge.name].contribute(("Service", *key), flows, groups)
        return stale(old, chosen_before, view, chosen)

    def _compute_proxy(self, key: Key, scopes: Mapping[str, Scope]) -> None:
        view: ApplicationBalancerView | None = self._known.views["applicationloadbalancers"].get(key)
        for edge in self._edges.values():
            flows = application_balancer_flows(edge, view) if view else []
            scopes[edge.name].contribute(("ApplicationLoadBalancer", *key), flows)

    def _compute_pod(self, key: Key, scopes: dict[str, Scope]) -> None:
        pod: EgressPod | None = self._known.views["pods"].get(key)
        wish = (pod and (pod.egress or self._known.views["namespaces"].get(Key("", key.namespace)))) or ()
        own = {address.version: address for address in (pod.addresses if pod else ())}
        pairs = [(own[egress.version], egress) for egress in wish if egress.version in own]
        self._unmet.pop(key, None)
        if pod and len(pairs) < len(wish):
            unmet = next(egress for egress in wish if egress.version not in own)
            whose = f"Pod {key}" if pod.egress else f"Namespace {key.namespace}"
            self._unmet[key] = (
                f"{whose}: metadata.annotations[{EGRESS_ADDRESS}]: {unmet} has no effect, as pods have no "
                f"IPv{unmet.version} address here"
            )
        for edge in self._edges.values():
            flows = [flow for address, egress in pairs for flow in egress_flows(edge, key, address, egress)]
            scopes[edge.name].contribute(("Pod", *key), flows)
        before = self._exempt_at.pop(key, None)
        exempt = pod if pairs and self._masquerade else None
        if before is not None and (exempt is None or exempt.node != before):
            scopes[before].contribute(("Egress", *key))
        if exempt is not None:
            self._exempt_at[key] = exempt.node
            scope = scopes.setdefault(exempt.node, Scope())
            scope.contribute(("Egress", *key), [egress_exemption(key, address) for address, _ in pairs])
