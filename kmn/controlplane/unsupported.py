"""Kinds and fields that are stored and have no effect although their users expect one: an Event says so."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from kmn.controlplane.runtime import Reconciler
from kmn.controlplane.workloads.ownership import get_or_none
from kmn.ingress.gateway.attachment import other_parents
from kmn.ingress.gateway.report import ROUTES
from kmn.k8s.client import WatchEvent
from kmn.k8s.objects import Key, Object, describe, key_of
from kmn.k8s.resources import (
    ADMINNETWORKPOLICIES,
    BACKENDTLSPOLICIES,
    CLUSTERNETWORKPOLICIES,
    CRONJOBS,
    LISTENERSETS,
    UDPROUTES,
    Resource,
    by_kind,
)
from kmn.policy.clusterwide import not_emulated

__all__ = ["Unsupported"]

_WHY = {
    CRONJOBS: "its Jobs are not started by the clock; `kubectl create job NAME --from=cronjob/NAME` starts one",
    by_kind("autoscaling/v2", "HorizontalPodAutoscaler"): "nothing is measured that it could scale by",
    by_kind("autoscaling/v1", "HorizontalPodAutoscaler"): "nothing is measured that it could scale by",
    LISTENERSETS: "give its listeners to the Gateway",
    UDPROUTES: "Gateways pass on TCP only; a Service of type LoadBalancer takes UDP",
    BACKENDTLSPOLICIES: "Gateways speak plain HTTP with backends",
    by_kind(
        "networking.istio.io/v1", "ServiceEntry"
    ): "pods have no sidecars: their connections go straight to the host",
    by_kind("networking.istio.io/v1", "Sidecar"): "pods have no sidecars",
    by_kind("networking.istio.io/v1", "WorkloadEntry"): "pods have no sidecars",
    by_kind("networking.istio.io/v1", "WorkloadGroup"): "pods have no sidecars",
    by_kind("networking.istio.io/v1alpha3", "EnvoyFilter"): "Envoy's configuration is kmn's own",
}
# Of kinds that have an effect: what of an object has none.
_FIELDS: dict[Resource, Callable[[Object], Iterable[str]]] = {
    **dict.fromkeys((ADMINNETWORKPOLICIES, CLUSTERNETWORKPOLICIES), not_emulated),
    **dict.fromkeys(ROUTES.values(), other_parents),
}


class _Kept(NamedTuple):
    resource: Resource
    key: Key


class Unsupported(Reconciler[_Kept]):
    """Tells once for each such object and field."""

    component = "kmn"

    def watches(self) -> Iterable[tuple[Resource, Callable[[WatchEvent], None]]]:
        return [(resource, partial(self._on_object, resource)) for resource in (*_WHY, *_FIELDS)]

    def reconcile(self, key: _Kept) -> None:
        obj = get_or_none(self.client, *key)
        if obj is not None:
            for message in _messages(key.resource, obj):
                self.recorder.once(obj, "Warning", "NotEmulated", message)

    def _on_object(self, resource: Resource, event: WatchEvent) -> None:
        if event.type == "ADDED" or (event.type == "MODIFIED" and resource in _FIELDS):
            self.queue.add(_Kept(resource, key_of(event.object)))


def _messages(resource: Resource, obj: Object) -> Iterable[str]:
    if resource in _WHY:
        return (f"{describe(obj)} is stored, not emulated: {_WHY[resource]}",)
    return (f"{describe(obj)}: {text}" for text in _FIELDS[resource](obj))
