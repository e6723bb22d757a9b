"""Defaulting: what the API server fills in, for the kinds and fields that kmn (or a reader of the object) uses.

One function a kind, in the table at the end; each is idempotent. After ``pkg/apis/*/v1/defaults.go`` of Kubernetes.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from kmn.k8s.objects import Object

__all__ = ["set_defaults"]

Fields = dict[str, Any]

CLIENT_IP_TIMEOUT = 10800  # seconds, three hours
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")


def set_defaults(obj: Object) -> None:
    """Fill in the defaults of an object's kind, in place."""
    default = _BY_KIND.get((obj["apiVersion"], obj["kind"]))
    if default is not None:
        default(obj)


def _fill(fields: Fields, **defaults: Any) -> None:
    """Set what is not there; a field that is there and empty stays empty."""
    for name, value in defaults.items():
        if fields.get(name) is None:
            fields[name] = value


def _spec(obj: Object) -> Fields:
    if obj.get("spec") is None:
        obj["spec"] = {}
    return obj["spec"]  # type: ignore[no-any-return]


# --- pods -------------------------------------------------------------------------------------------------------


def _pod(obj: Object) -> None:
    spec = _spec(obj)
    _pod_spec(spec)
    _fill(spec, enableServiceLinks=True, serviceAccountName="default")
    _fill(obj, status={})
    _fill(obj["status"], phase="Pending")


def _pod_spec(spec: Fields) -> None:
    _fill(
        spec,
        restartPolicy="Always",
        dnsPolicy="ClusterFirst",
        terminationGracePeriodSeconds=30,
        schedulerName="default-scheduler",
        securityContext={},
    )
    host_network = spec.get("hostNetwork") is True
    for role in ("initContainers", "containers", "ephemeralContainers"):
        for container in spec.get(role) or ():
            _container(container, host_network)
    for volume in spec.get("volumes") or ():
        if len(volume) == 1:  # only a name
            volume["emptyDir"] = {}


def _container(container: Fields, host_network: bool) -> None:
    image = container.get("image", "")
    tag = image.rpartition("/")[2].partition(":")[2]
    latest = "@" not in image and tag in ("", "latest")
    _fill(
        container,
        imagePullPolicy="Always" if latest else "IfNotPresent",
        resources={},
        terminationMessagePath="/dev/termination-log",
        terminationMessagePolicy="File",
    )
    for port in container.get("ports") or ():
        _fill(port, protocol="TCP")
        if host_network:
            _fill(port, hostPort=port.get("containerPort"))
    for name in _PROBES:
        probe = container.get(name)
        if probe is not None:
            _fill(probe, timeoutSeconds=1, periodSeconds=10, successThreshold=1, failureThreshold=3)
            _handler(probe)
    for hook in (container.get("lifecycle") or {}).values():
        if isinstance(hook, dict):
            _handler(hook)
    resources = container["resources"]
    for name, limit in (resources.get("limits") or {}).items():
        _fill(resources, requests={})
        resources["requests"].setdefault(name, limit)


def _handler(handler: Fields) -> None:
    if handler.get("httpGet") is not None:
        _fill(handler["httpGet"], path="/", scheme="HTTP")
    if handler.get("grpc") is not None:
        _fill(handler["grpc"], service="")


# --- workloads --------------------------------------------------------------------------------------------------


def _template(spec: Fields) -> Fields:
    """The pod template, defaulted; metadata is there afterwards."""
    _fill(spec, template={})
    template: Fields = spec["template"]
    _fill(template, metadata={}, spec={})
    _pod_spec(template["spec"])
    return template


def _labels_from_template(obj: Object, template: Fields) -> None:
    labels = template["metadata"].get("labels")
    if labels and not obj["metadata"].get("labels"):
        obj["metadata"]["labels"] = dict(labels)


def _rolling(strategy: Fields, **parameters: Any) -> None:
    _fill(strategy, type="RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        _fill(strategy, rollingUpdate={})
        _fill(strategy["rollingUpdate"], **parameters)


def _deployment(obj: Object) -> None:
    spec = _spec(obj)
    _template(spec)
    _fill(spec, replicas=1, strategy={}, revisionHistoryLimit=10, progressDeadlineSeconds=600)
    _rolling(spec["strategy"], maxUnavailable="25%", maxSurge="25%")


def _replicaset(obj: Object) -> None:
    spec = _spec(obj)
    _labels_from_template(obj, _template(spec))
    _fill(spec, replicas=1)


def _replicationcontroller(obj: Object) -> None:
    spec = _spec(obj)
    template = _template(spec)
    _labels_from_template(obj, template)
    if not spec.get("selector") and template["metadata"].get("labels"):
        spec["selector"] = dict(template["metadata"]["labels"])
    _fill(spec, replicas=1)


def _statefulset(obj: Object) -> None:
    spec = _spec(obj)
    _template(spec)
    _fill(spec, replicas=1, podManagementPolicy="OrderedReady", revisionHistoryLimit=10, updateStrategy={})
    _rolling(spec["updateStrategy"], partition=0)
    _fill(spec, persistentVolumeClaimRetentionPolicy={})
    _fill(spec["persistentVolumeClaimRetentionPolicy"], whenDeleted="Retain", whenScaled="Retain")


def _daemonset(obj: Object) -> None:
    spec = _spec(obj)
    _template(spec)
    _fill(spec, updateStrategy={}, revisionHistoryLimit=10)
    _rolling(spec["updateStrategy"], maxUnavailable=1, maxSurge=0)


def _job(obj: Object) -> None:
    _labels_from_template(obj, _job_spec(_spec(obj)))


def _job_spec(spec: Fields) -> Fields:
    template = _template(spec)
    if spec.get("completions") is None and spec.get("parallelism") is None:
        spec["completions"] = 1
    replacement = "Failed" if spec.get("podFailurePolicy") is not None else "TerminatingOrFailed"
    _fill(spec, parallelism=1, completionMode="NonIndexed", suspend=False, podReplacementPolicy=replacement)
    _fill(spec, backoffLimit=6)
    return template


def _cronjob(obj: Object) -> None:
    spec = _spec(obj)
    _fill(spec, concurrencyPolicy="Allow", suspend=False, successfulJobsHistoryLimit=3, failedJobsHistoryLimit=1)
    _fill(spec, jobTemplate={})
    _fill(spec["jobTemplate"], spec={})
    _job_spec(spec["jobTemplate"]["spec"])


# --- Services and endpoints -------------------------------------------------------------------------------------


def _service(obj: Object) -> None:
    spec = _spec(obj)
    _fill(spec, type="ClusterIP", sessionAffinity="None")
    kind = spec["type"]
    if spec["sessionAffinity"] == "ClientIP":
        _fill(spec, sessionAffinityConfig={})
        _fill(spec["sessionAffinityConfig"], clientIP={})
        _fill(spec["sessionAffinityConfig"]["clientIP"], timeoutSeconds=CLIENT_IP_TIMEOUT)
    elif spec["sessionAffinity"] == "None":
        spec.pop("sessionAffinityConfig", None)
    for port in spec.get("ports") or ():
        _fill(port, protocol="TCP")
        if port.get("targetPort") in (None, 0, ""):
            port["targetPort"] = port.get("port")
    if kind in ("ClusterIP", "NodePort", "LoadBalancer"):
        _fill(spec, internalTrafficPolicy="Cluster")
    if kind in ("NodePort", "LoadBalancer") or spec.get("externalIPs"):
        _fill(spec, externalTrafficPolicy="Cluster")
    if kind == "LoadBalancer":
        _fill(spec, allocateLoadBalancerNodePorts=True)
    _fill(obj, status={})
    _fill(obj["status"], loadBalancer={})


def _endpoints(obj: Object) -> None:
    for subset in obj.get("subsets") or ():
        for port in subset.get("ports") or ():
            _fill(port, protocol="TCP")


def _endpointslice(obj: Object) -> None:
    for port in obj.get("ports") or ():
        _fill(port, name="", protocol="TCP")
    _fill(obj, endpoints=[])


# --- policies and the rest --------------------------------------------------------------------------------------


def _networkpolicy(obj: Object) -> None:
    spec = _spec(obj)
    _fill(spec, podSelector={})
    for direction in ("ingress", "egress"):
        for rule in spec.get(direction) or ():
            for port in rule.get("ports") or ():
                _fill(port, protocol="TCP")
    if not spec.get("policyTypes"):
        # Egress only when there are egress rules: a policy for ingress says nothing about what leaves.
        spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]


def _clusterwide(obj: Object) -> None:
    spec = _spec(obj)
    for direction in ("ingress", "egress"):
        for rule in spec.get(direction) or ():
            for port in rule.get("ports") or ():
                for field in ("portNumber", "portRange"):
                    if port.get(field) is not None:
                        _fill(port[field], protocol="TCP")


def _namespace(obj: Object) -> None:
    if obj["metadata"].get("name"):
        _fill(obj["metadata"], labels={})
        obj["metadata"]["labels"]["kubernetes.io/metadata.name"] = obj["metadata"]["name"]
    _fill(obj, spec={}, status={})
    _fill(obj["spec"], finalizers=["kubernetes"])
    _fill(obj["status"], phase="Active")


def _secret(obj: Object) -> None:
    _fill(obj, type="Opaque")
    plain = obj.pop("stringData", None)
    if plain:
        _fill(obj, data={})
        obj["data"].update({name: base64.b64encode(text.encode()).decode() for name, text in plain.items()})


def _ingressclass(obj: Object) -> None:
    parameters = _spec(obj).get("parameters")
    if parameters is not None:
        _fill(parameters, scope="Cluster")


_BY_KIND: dict[tuple[str, str], Callable[[Object], None]] = {
    ("v1", "Pod"): _pod,
    ("v1", "ReplicationController"): _replicationcontroller,
    ("apps/v1", "ReplicaSet"): _replicaset,
    ("apps/v1", "Deployment"): _deployment,
    ("apps/v1", "StatefulSet"): _statefulset,
    ("apps/v1", "DaemonSet"): _daemonset,
    ("batch/v1", "Job"): _job,
    ("batch/v1", "CronJob"): _cronjob,
    ("v1", "Service"): _service,
    ("v1", "Endpoints"): _endpoints,
    ("discovery.k8s.io/v1", "EndpointSlice"): _endpointslice,
    ("networking.k8s.io/v1", "NetworkPolicy"): _networkpolicy,
    ("networking.k8s.io/v1", "IngressClass"): _ingressclass,
    ("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy"): _clusterwide,
    ("policy.networking.k8s.io/v1alpha1", "BaselineAdminNetworkPolicy"): _clusterwide,
    ("v1", "Namespace"): _namespace,
    ("v1", "Secret"): _secret,
}
