"""Which rules apply to which kind: the table. The rules themselves stand in one module a group of kinds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kmn.apiserver.admission.cluster_objects import check_configmap, check_node, check_secret
from kmn.apiserver.admission.clusterwide import check_clusterwide, named_default
from kmn.apiserver.admission.gatewayapi import (
    check_gateway,
    check_gatewayclass,
    check_grpcroute,
    check_httproute,
    check_l4route,
)
from kmn.apiserver.admission.istio import check_istio_gateway, check_virtualservice
from kmn.apiserver.admission.metadata import check_metadata, subdomain_and_shorter
from kmn.apiserver.admission.networking import (
    check_endpoints,
    check_endpointslice,
    check_ingress,
    check_ingressclass,
    check_networkpolicy,
)
from kmn.apiserver.admission.pods import check_pod
from kmn.apiserver.admission.rules import Errors, Rule, dns1035_label, dns_label, dns_subdomain, path_segment
from kmn.apiserver.admission.service_rules import check_service
from kmn.apiserver.admission.workloads import (
    check_cronjob,
    check_daemonset,
    check_deployment,
    check_job,
    check_replicaset,
    check_replicationcontroller,
    check_statefulset,
)
from kmn.k8s.errors import FieldError
from kmn.k8s.objects import Object
from kmn.k8s.resources import Resource

__all__ = ["validate"]


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a kind asks of its names, and of the object (new, and old on an update)."""

    name: Rule = dns_subdomain
    check: Callable[[Errors, Object, Object | None], None] | None = None


_KINDS: dict[tuple[str, str], _Kind] = {
    ("v1", "Namespace"): _Kind(name=dns_label),
    ("v1", "Node"): _Kind(check=check_node),
    ("v1", "Pod"): _Kind(check=check_pod),
    ("v1", "Service"): _Kind(name=dns1035_label, check=check_service),
    ("v1", "Endpoints"): _Kind(check=check_endpoints),
    ("v1", "ConfigMap"): _Kind(check=check_configmap),
    ("v1", "Secret"): _Kind(check=check_secret),
    ("v1", "ReplicationController"): _Kind(check=check_replicationcontroller),
    ("apps/v1", "ReplicaSet"): _Kind(check=check_replicaset),
    ("apps/v1", "Deployment"): _Kind(check=check_deployment),
    ("apps/v1", "StatefulSet"): _Kind(check=check_statefulset),
    ("apps/v1", "DaemonSet"): _Kind(check=check_daemonset),
    ("batch/v1", "Job"): _Kind(check=check_job),
    ("batch/v1", "CronJob"): _Kind(name=subdomain_and_shorter(52), check=check_cronjob),
    ("discovery.k8s.io/v1", "EndpointSlice"): _Kind(check=check_endpointslice),
    ("networking.k8s.io/v1", "NetworkPolicy"): _Kind(check=check_networkpolicy),
    ("networking.k8s.io/v1", "Ingress"): _Kind(check=check_ingress),
    ("networking.k8s.io/v1", "IngressClass"): _Kind(check=check_ingressclass),
    ("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy"): _Kind(check=check_clusterwide),
    ("policy.networking.k8s.io/v1alpha1", "BaselineAdminNetworkPolicy"): _Kind(
        name=named_default, check=check_clusterwide
    ),
    ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy"): _Kind(check=check_clusterwide),
    ("gateway.networking.k8s.io/v1", "GatewayClass"): _Kind(check=check_gatewayclass),
    ("gateway.networking.k8s.io/v1", "Gateway"): _Kind(check=check_gateway),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): _Kind(check=check_httproute),
    ("gateway.networking.k8s.io/v1", "GRPCRoute"): _Kind(check=check_grpcroute),
    ("gateway.networking.k8s.io/v1", "TLSRoute"): _Kind(check=check_l4route),
    ("gateway.networking.k8s.io/v1", "TCPRoute"): _Kind(check=check_l4route),
    ("networking.istio.io/v1", "Gateway"): _Kind(check=check_istio_gateway),
    ("networking.istio.io/v1", "VirtualService"): _Kind(check=check_virtualservice),
    ("rbac.authorization.k8s.io/v1", "Role"): _Kind(name=path_segment),
    ("rbac.authorization.k8s.io/v1", "RoleBinding"): _Kind(name=path_segment),
    ("rbac.authorization.k8s.io/v1", "ClusterRole"): _Kind(name=path_segment),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"): _Kind(name=path_segment),
}
_ANY = _Kind()


def validate(resource: Resource, new: Object, old: Object | None) -> list[FieldError]:
    """All that is wrong with a defaulted object whose schema is right."""
    errors = Errors()
    kind = _KINDS.get((resource.api_version, resource.kind), _ANY)
    check_metadata(errors, resource, new, old, kind.name)
    if kind.check is not None:
        kind.check(errors, new, old)
    return errors
