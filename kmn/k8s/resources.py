"""The resources that kmn's API serves: one table, read by the server, the clients and the manifest loader.

A *resource* is the REST collection (``pods``), a *kind* is the type of the objects in it (``Pod``). The table follows
Kubernetes 1.37's API reference; kinds that have no effect on the network are in it as well, so that they can be
stored and listed. Cluster-wide policies are those of kubernetes-sigs/network-policy-api; Gateway API is 1.6, with the
older versions that it still serves. A kind that is served in several versions is stored in one (:attr:`Resource.home`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches

from kmn.k8s.errors import ApiError, Reason

__all__ = [
    "ADMINNETWORKPOLICIES",
    "ALL",
    "APPLICATIONLOADBALANCERS",
    "BACKENDTLSPOLICIES",
    "BASELINEADMINNETWORKPOLICIES",
    "CLUSTERNETWORKPOLICIES",
    "CLUSTERS",
    "CONFIGMAPS",
    "CONTROLLERREVISIONS",
    "CRONJOBS",
    "DAEMONSETS",
    "DATAPLANES",
    "DEPLOYMENTS",
    "EDGES",
    "ENDPOINTS",
    "ENDPOINTSLICES",
    "EVENTS",
    "GATEWAYCLASSES",
    "GATEWAYS",
    "GRPCROUTES",
    "HTTPROUTES",
    "INGRESSCLASSES",
    "INGRESSCLASSPARAMS",
    "INGRESSES",
    "ISTIO_DESTINATIONRULES",
    "ISTIO_GATEWAYS",
    "ISTIO_VIRTUALSERVICES",
    "JOBS",
    "LISTENERSETS",
    "MIDDLEWARES",
    "NAMESPACES",
    "NETWORKPOLICIES",
    "NODES",
    "PODS",
    "POLICIES",
    "REFERENCEGRANTS",
    "REPLICASETS",
    "REPLICATIONCONTROLLERS",
    "SECRETS",
    "SERVED",
    "SERVICEACCOUNTS",
    "SERVICES",
    "STATEFULSETS",
    "TCPROUTES",
    "TLSROUTES",
    "UDPROUTES",
    "Resource",
    "by_kind",
    "by_path",
    "by_word",
]


@dataclass(frozen=True, slots=True, eq=False)
class Resource:
    """One REST collection of the API. There is one instance for each, so it is compared and hashed by identity.

    ``group`` is "" for the core group. ``effect`` says whether kmn acts on the kind; objects of the others are
    stored and listed only. ``stored`` is set for another version of a resource: the one that its objects are kept as.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    short: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    status: bool = False
    scale: bool = False
    effect: bool = False
    stored: Resource | None = None

    @property
    def home(self) -> Resource:
        """The resource in whose collection the objects are, in its version."""
        return self.stored or self

    @property
    def api_version(self) -> str:
        """``v1`` for the core group, ``group/version`` otherwise: the ``apiVersion`` of the objects."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def singular(self) -> str:
        """The lower-case kind: what kubectl accepts and prints."""
        return self.kind.lower()

    @property
    def custom(self) -> bool:
        """Whether a CustomResourceDefinition defines the kind: such objects take no strategic merge patches."""
        return self.group in _CUSTOM_GROUPS

    @property
    def qualified(self) -> str:
        """``deployments.apps``; plain ``pods`` for the core group. kubectl's name for the resource in messages."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """REST path of the collection (of all namespaces when ``namespace`` is None), object or subresource."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        scope = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return "/".join(part for part in (f"{root}{scope}/{self.plural}", name, subresource) if part)


def _core(plural: str, kind: str, *short: str, **flags: object) -> Resource:
    return Resource("", "v1", plural, kind, short=short, **flags)  # type: ignore[arg-type]


def _in(group_version: str, plural: str, kind: str, *short: str, **flags: object) -> Resource:
    group, version = group_version.split("/")
    return Resource(group, version, plural, kind, short=short, **flags)  # type: ignore[arg-type]


_CUSTOM_GROUPS = frozenset(
    (
        "kmn.io",
        "policy.networking.k8s.io",
        "gateway.networking.k8s.io",
        "networking.istio.io",
        "traefik.io",
        "elbv2.k8s.aws",
    )
)

_WORKLOAD = {"status": True, "effect": True, "categories": ("all",)}
_CLUSTER = {"namespaced": False}

# Core group.
NAMESPACES = _core("namespaces", "Namespace", "ns", status=True, effect=True, namespaced=False)
NODES = _core("nodes", "Node", "no", status=True, effect=True, namespaced=False)
PODS = _core("pods", "Pod", "po", status=True, effect=True, categories=("all",))
SERVICES = _core("services", "Service", "svc", status=True, effect=True, categories=("all",))
ENDPOINTS = _core("endpoints", "Endpoints", "ep", effect=True)
REPLICATIONCONTROLLERS = Resource(
    "", "v1", "replicationcontrollers", "ReplicationController", short=("rc",), categories=("all",), status=True,
    scale=True, effect=True,
)  # fmt: skip
CONFIGMAPS = _core("configmaps", "ConfigMap", "cm")
SECRETS = _core("secrets", "Secret")
SERVICEACCOUNTS = _core("serviceaccounts", "ServiceAccount", "sa")
EVENTS = _core("events", "Event", "ev")

# Workloads.
DEPLOYMENTS = _in("apps/v1", "deployments", "Deployment", "deploy", scale=True, **_WORKLOAD)
REPLICASETS = _in("apps/v1", "replicasets", "ReplicaSet", "rs", scale=True, **_WORKLOAD)
STATEFULSETS = _in("apps/v1", "statefulsets", "StatefulSet", "sts", scale=True, **_WORKLOAD)
DAEMONSETS = _in("apps/v1", "daemonsets", "DaemonSet", "ds", **_WORKLOAD)
CONTROLLERREVISIONS = _in("apps/v1", "controllerrevisions", "ControllerRevision")
JOBS = _in("batch/v1", "jobs", "Job", **_WORKLOAD)
CRONJOBS = _in("batch/v1", "cronjobs", "CronJob", "cj", status=True, categories=("all",))

# Networking.
ENDPOINTSLICES = _in("discovery.k8s.io/v1", "endpointslices", "EndpointSlice", effect=True)
NETWORKPOLICIES = _in("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy", "netpol", effect=True)
INGRESSES = _in("networking.k8s.io/v1", "ingresses", "Ingress", "ing", status=True, effect=True)
INGRESSCLASSES = _in("networking.k8s.io/v1", "ingressclasses", "IngressClass", effect=True, **_CLUSTER)

# What is said of all Ingresses of a class alb; what requests go through, of Ingresses of class traefik.
INGRESSCLASSPARAMS = _in(
    "elbv2.k8s.aws/v1beta1", "ingressclassparams", "IngressClassParams", effect=True, **_CLUSTER
)  # fmt: skip
MIDDLEWARES = _in("traefik.io/v1alpha1", "middlewares", "Middleware", effect=True)

# Policies of the cluster's administrators. The newer version has one kind for what the older one has two for.
_CLUSTERWIDE = {"status": True, "effect": True, **_CLUSTER}
CLUSTERNETWORKPOLICIES = _in(
    "policy.networking.k8s.io/v1alpha2", "clusternetworkpolicies", "ClusterNetworkPolicy", "cnp", **_CLUSTERWIDE
)
ADMINNETWORKPOLICIES = _in(
    "policy.networking.k8s.io/v1alpha1", "adminnetworkpolicies", "AdminNetworkPolicy", "anp", **_CLUSTERWIDE
)
BASELINEADMINNETWORKPOLICIES = _in(
    "policy.networking.k8s.io/v1alpha1", "baselineadminnetworkpolicies", "BaselineAdminNetworkPolicy", "banp",
    **_CLUSTERWIDE,
)  # fmt: skip
POLICIES = (NETWORKPOLICIES, ADMINNETWORKPOLICIES, BASELINEADMINNETWORKPOLICIES, CLUSTERNETWORKPOLICIES)

# Gateway API, and Istio's way to say much the same.
_GATEWAY_API = {"status": True, "effect": True, "categories": ("gateway-api",)}
_GATEWAY_V1, _ISTIO_V1 = "gateway.networking.k8s.io/v1", "networking.istio.io/v1"
GATEWAYCLASSES = _in(_GATEWAY_V1, "gatewayclasses", "GatewayClass", "gc", **_GATEWAY_API, **_CLUSTER)
GATEWAYS = _in(_GATEWAY_V1, "gateways", "Gateway", "gtw", **_GATEWAY_API)
HTTPROUTES = _in(_GATEWAY_V1, "httproutes", "HTTPRoute", **_GATEWAY_API)
GRPCROUTES = _in(_GATEWAY_V1, "grpcroutes", "GRPCRoute", **_GATEWAY_API)
TLSROUTES = _in(_GATEWAY_V1, "tlsroutes", "TLSRoute", **_GATEWAY_API)
TCPROUTES = _in(_GATEWAY_V1, "tcproutes", "TCPRoute", **_GATEWAY_API)
REFERENCEGRANTS = _in(
    _GATEWAY_V1, "referencegrants", "ReferenceGrant", "refgrant", effect=True, categories=("gateway-api",)
)
_STORED = {"status": True, "categories": ("gateway-api",)}
LISTENERSETS = _in(_GATEWAY_V1, "listenersets", "ListenerSet", "lset", **_STORED)
UDPROUTES = _in(_GATEWAY_V1, "udproutes", "UDPRoute", **_STORED)
BACKENDTLSPOLICIES = _in(_GATEWAY_V1, "backendtlspolicies", "BackendTLSPolicy", "btlspolicy", **_STORED)
_ISTIO = {"status": True, "categories": ("istio-io", "networking-istio-io")}
ISTIO_GATEWAYS = _in(_ISTIO_V1, "gateways", "Gateway", "gw", effect=True, **_ISTIO)
ISTIO_VIRTUALSERVICES = _in(_ISTIO_V1, "virtualservices", "VirtualService", "vs", effect=True, **_ISTIO)
ISTIO_DESTINATIONRULES = _in(_ISTIO_V1, "destinationrules", "DestinationRule", "dr", effect=True, **_ISTIO)

# kmn's own. A Cluster is the resolved cluster file; an Edge is the way to the emulated internet; a DataPlane is what
# the controller reports: how far the flows of every bridge have come. An ApplicationLoadBalancer is what Ingresses of
# class alb ask for: a proxy outside the cluster. Its spec: {group, scheme, hostname, listeners: [{port, protocol,
# sources}]}; its status, once it has a place at the edge: {address, mac, ofport, netns}.
CLUSTERS = _in("kmn.io/v1", "clusters", "Cluster", effect=True, **_CLUSTER)
EDGES = _in("kmn.io/v1", "edges", "Edge", effect=True, **_CLUSTER)
APPLICATIONLOADBALANCERS = _in(
    "kmn.io/v1", "applicationloadbalancers", "ApplicationLoadBalancer", "alb", "albs", status=True, effect=True,
    **_CLUSTER,
)  # fmt: skip
DATAPLANES = _in("kmn.io/v1", "dataplanes", "DataPlane", "dp", status=True, effect=True, **_CLUSTER)

ALL: tuple[Resource, ...] = (
    NAMESPACES,
    NODES,
    PODS,
    SERVICES,
    ENDPOINTS,
    REPLICATIONCONTROLLERS,
    CONFIGMAPS,
    SECRETS,
    SERVICEACCOUNTS,
    EVENTS,
    _core("persistentvolumeclaims", "PersistentVolumeClaim", "pvc", status=True),
    _core("persistentvolumes", "PersistentVolume", "pv", status=True, namespaced=False),
    _core("limitranges", "LimitRange", "limits"),
    _core("resourcequotas", "ResourceQuota", "quota", status=True),
    _core("podtemplates", "PodTemplate"),
    DEPLOYMENTS,
    REPLICASETS,
    STATEFULSETS,
    DAEMONSETS,
    CONTROLLERREVISIONS,
    JOBS,
    CRONJOBS,
    ENDPOINTSLICES,
    NETWORKPOLICIES,
    INGRESSES,
    INGRESSCLASSES,
    CLUSTERNETWORKPOLICIES,
    ADMINNETWORKPOLICIES,
    BASELINEADMINNETWORKPOLICIES,
    GATEWAYCLASSES,
    GATEWAYS,
    HTTPROUTES,
    GRPCROUTES,
    TLSROUTES,
    TCPROUTES,
    REFERENCEGRANTS,
    LISTENERSETS,
    UDPROUTES,
    BACKENDTLSPOLICIES,
    ISTIO_GATEWAYS,
    ISTIO_VIRTUALSERVICES,
    ISTIO_DESTINATIONRULES,
    _in(_ISTIO_V1, "serviceentries", "ServiceEntry", "se", **_ISTIO),
    _in(_ISTIO_V1, "sidecars", "Sidecar", **_ISTIO),
    _in(_ISTIO_V1, "workloadentries", "WorkloadEntry", "we", **_ISTIO),
    _in(_ISTIO_V1, "workloadgroups", "WorkloadGroup", "wg", **_ISTIO),
    _in("networking.istio.io/v1alpha3", "envoyfilters", "EnvoyFilter", **_ISTIO),
    INGRESSCLASSPARAMS,
    MIDDLEWARES,
    _in("autoscaling/v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", "hpa", status=True),
    _in("autoscaling/v1", "horizontalpodautoscalers", "HorizontalPodAutoscaler", "hpa", status=True),
    _in("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget", "pdb", status=True),
    _in("rbac.authorization.k8s.io/v1", "roles", "Role"),
    _in("rbac.authorization.k8s.io/v1", "rolebindings", "RoleBinding"),
    _in("rbac.authorization.k8s.io/v1", "clusterroles", "ClusterRole", **_CLUSTER),
    _in("rbac.authorization.k8s.io/v1", "clusterrolebindings", "ClusterRoleBinding", **_CLUSTER),
    _in("storage.k8s.io/v1", "storageclasses", "StorageClass", "sc", **_CLUSTER),
    _in("scheduling.k8s.io/v1", "priorityclasses", "PriorityClass", "pc", **_CLUSTER),
    _in("coordination.k8s.io/v1", "leases", "Lease"),
    _in("apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition", "crd", "crds",
        status=True, **_CLUSTER),
    _in("admissionregistration.k8s.io/v1", "validatingwebhookconfigurations", "ValidatingWebhookConfiguration",
        **_CLUSTER),
    _in("admissionregistration.k8s.io/v1", "mutatingwebhookconfigurations", "MutatingWebhookConfiguration",
        **_CLUSTER),
    _in("admissionregistration.k8s.io/v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy",
        status=True, **_CLUSTER),
    _in("admissionregistration.k8s.io/v1", "validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding",
        **_CLUSTER),
    CLUSTERS,
    EDGES,
    APPLICATIONLOADBALANCERS,
    DATAPLANES,
)  # fmt: skip


def _also(version: str, *resources: Resource) -> tuple[Resource, ...]:
    return tuple(replace(resource, version=version, stored=resource) for resource in resources)


# The table and the other versions that objects of it are served in, the preferred version of a group first.
SERVED: tuple[Resource, ...] = (
    *ALL,
    *_also("v1beta1", GATEWAYCLASSES, GATEWAYS, HTTPROUTES, REFERENCEGRANTS),
    *_also("v1alpha3", TLSROUTES),
    *_also("v1alpha2", TLSROUTES, TCPROUTES, UDPROUTES),
    *_also("v1beta1", *(r for r in ALL if r.api_version == _ISTIO_V1)),
    *_also("v1alpha3", *(r for r in ALL if r.api_version == _ISTIO_V1)),
)

_BY_KIND = {(r.api_version, r.kind): r.home for r in SERVED}
_BY_PATH = {(r.group, r.version, r.plural): r for r in SERVED}


def by_kind(api_version: str, kind: str) -> Resource:
    """The resource of an object's ``apiVersion`` and ``kind``; that in which it is stored, if that is another one.

    Raises ApiError (404, as kubectl words it) naming near misses: the same kind under another version.
    """
    found = _BY_KIND.get((api_version, kind))
    if found is None:
        others = sorted({r.api_version for r in SERVED if r.kind == kind})
        hint = f"; kmn serves {kind} as {' and '.join(others)}" if others else ""
        if near := get_close_matches(kind, sorted({r.kind for r in ALL} - {kind}), n=1):
            hint = hint or f', did you mean "{near[0]}"?'
        raise ApiError(404, Reason.NOT_FOUND, f'no matches for kind "{kind}" in version "{api_version}"{hint}')
    return found


def by_path(group: str, version: str, plural: str) -> Resource | None:
    """The resource of a REST path's segments, None when it is not served; see :attr:`Resource.home`."""
    return _BY_PATH.get((group, version, plural))


def by_word(word: str) -> Iterator[Resource]:
    """Resources that a user may mean by ``word``: plural, singular, kind, short name, or ``plural.group``."""
    wanted = word.lower()
    for resource in ALL:
        if wanted in (resource.plural, resource.singular, resource.qualified, *resource.short):
            yield resource
