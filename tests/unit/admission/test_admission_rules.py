"""Each rule by an object that breaks it: a good object, one change, and what is said about it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from kmn.apiserver.admission import ClusterAdmission
from kmn.apiserver.admission.warnings import warnings_of
from kmn.cluster_spec import ClusterSpec
from kmn.k8s.errors import Invalid
from kmn.k8s.objects import Object, resource_of

SPEC = ClusterSpec.default("test")
CONTAINER: dict[str, Any] = {"name": "c", "image": "i"}
TEMPLATE = {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [CONTAINER]}}
SELECTOR = {"matchLabels": {"app": "a"}}


def made(api_version: str, kind: str, name: str = "a", **fields: Any) -> Object:
    obj: Object = {"apiVersion": api_version, "kind": kind, "metadata": {"name": name}}
    if resource_of(obj).namespaced:
        obj["metadata"]["namespace"] = "default"
    obj["metadata"].update(fields.pop("metadata", {}))
    return {**obj, **copy.deepcopy(fields)}


def pod(**spec: Any) -> Object:
    return made("v1", "Pod", spec={"containers": [CONTAINER], **spec})


def container(**fields: Any) -> Object:
    return pod(containers=[{**CONTAINER, **fields}])


def service(**spec: Any) -> Object:
    return made("v1", "Service", spec={"selector": {"app": "a"}, "ports": [{"port": 80}], **spec})


def deployment(**spec: Any) -> Object:
    return made("apps/v1", "Deployment", spec={"selector": SELECTOR, "template": TEMPLATE, **spec})


def statefulset(**spec: Any) -> Object:
    return made("apps/v1", "StatefulSet", spec={"selector": SELECTOR, "template": TEMPLATE, **spec})


def job(**spec: Any) -> Object:
    template = copy.deepcopy(TEMPLATE)
    template["spec"]["restartPolicy"] = "Never"  # type: ignore[index]
    return made("batch/v1", "Job", spec={"template": template, **spec})


def policy(**spec: Any) -> Object:
    return made("networking.k8s.io/v1", "NetworkPolicy", spec=spec)


def peer(**fields: Any) -> Object:
    return policy(ingress=[{"from": [fields]}])


def policy_port(**fields: Any) -> Object:
    return policy(egress=[{"ports": [fields]}])


def ingress(backend: Any = None, **path: Any) -> Object:
    backend = backend or {"service": {"name": "web", "port": {"number": 80}}}
    rule = {"http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend, **path}]}}
    return made("networking.k8s.io/v1", "Ingress", spec={"rules": [rule]})


def endpointslice(**fields: Any) -> Object:
    whole = {
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.1.2.3"]}],
        "ports": [{"name": "a", "port": 80}],
        **fields,
    }
    return made("discovery.k8s.io/v1", "EndpointSlice", **whole)


def endpoints(*subsets: Any) -> Object:
    return made("v1", "Endpoints", subsets=list(subsets))


def admit(new: Object, old: Object | None = None, **flags: Any) -> tuple[Object, list[str]]:
    admission = ClusterAdmission(SPEC)
    if old is not None:
        old = admission.admit("CREATE", resource_of(old), copy.deepcopy(old), None, trusted=False)[0]
    operation: Any = "CREATE" if old is None else "UPDATE"
    return admission.admit(operation, resource_of(new), copy.deepcopy(new), old, trusted=False, **flags)


def refusal(new: Object, old: Object | None = None) -> str:
    with pytest.raises(Invalid) as refused:
        admit(new, old)
    return str(refused.value)


GOOD = [
    pod(),
    container(ports=[{"containerPort": 80, "name": "http"}], readinessProbe={"httpGet": {"port": "http"}}),
    service(),
    service(clusterIP="None", ports=[]),
    service(type="LoadBalancer", loadBalancerSourceRanges=["10.0.0.0/8"], externalTrafficPolicy="Local"),
    service(type="ExternalName", externalName="example.com.", ports=[]),
    service(ports=[{"name": "a", "port": 53}, {"name": "b", "port": 53, "protocol": "UDP"}]),
    deployment(strategy={"type": "Recreate"}),
    statefulset(),
    made("apps/v1", "DaemonSet", spec={"selector": SELECTOR, "template": TEMPLATE}),
    made("v1", "ReplicationController", spec={"template": TEMPLATE}),
    job(),
    made("batch/v1", "CronJob", spec={"schedule": "@hourly", "jobTemplate": {"spec": job()["spec"]}}),
    policy(),
    peer(ipBlock={"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}),
    policy_port(port=80, endPort=90),
    ingress(),
    endpointslice(),
    endpoints({"addresses": [{"ip": "10.1.2.3"}], "ports": [{"port": 80}]}),
    made("v1", "Node"),
]

BAD: list[tuple[Object, str]] = [
    # schema
    (deployment(replcias=1), 'spec.replcias: unknown field, did you mean "replicas"?'),
    (
        container(ports=[{"containerPort": "80"}]),
        'spec.containers[0].ports[0].containerPort: must be an integer, is "80"',
    ),
    (pod(containers=[{"image": "i"}]), "spec.containers[0].name: required"),
    (container(resources={"limits": {"cpu": "lots"}}), "spec.containers[0].resources.limits[cpu]: must be a quantity"),
    (made("v1", "Secret", data={"a": "?"}), "data[a]: must be base64"),
    (made("v1", "Pod"), "spec.containers: required: at least one container"),
    # metadata
    (made("v1", "Pod", "A_b", spec=pod()["spec"]), "metadata.name: must be at most 253 characters"),
    (made("v1", "Service", "1a", spec=service()["spec"]), "beginning with a letter"),
    (made("v1", "Namespace", "a.b"), "a DNS label"),
    (made("v1", "ConfigMap", metadata={"labels": {"-a": "b"}}), "metadata.labels: keys must be at most 63 letters"),
    (made("v1", "ConfigMap", metadata={"labels": {"a": "b c"}}), "metadata.labels[a]: must be at most 63 letters"),
    (made("v1", "ConfigMap", metadata={"annotations": {"a": "x" * 300000}}), "must be at most 262144 bytes together"),
    (made("v1", "Node", metadata={"namespace": "default"}), "metadata.namespace: Node belongs to no namespace"),
    (made("v1", "ConfigMap", data={"a b": ""}), "data[a b]: keys must be"),
    # pods
    (
        pod(containers=[CONTAINER, CONTAINER]),
        'spec.containers[1].name: "c" is used twice, here and in spec.containers[0]',
    ),
    (pod(initContainers=[CONTAINER]), 'spec.containers[0].name: "c" is used twice'),
    (pod(containers=[{"name": "c"}]), "spec.containers[0].image: required"),
    (container(ports=[{"containerPort": 70000}]), "must be a port number, 1 to 65535, is 70000"),
    (container(ports=[{"containerPort": 1, "name": "a"}, {"containerPort": 2, "name": "a"}]), ".ports[1].name"),
    (container(ports=[{"containerPort": 1, "name": "too-long-for-a-name"}]), "must be a port name"),
    (
        container(ports=[{"containerPort": 1, "protocol": "tcp"}]),
        'must be one of TCP, UDP, SCTP; is "tcp", did you mean "TCP"?',
    ),
    (
        container(ports=[{"containerPort": 1, "hostPort": 9}, {"containerPort": 2, "hostPort": 9}]),
        "[1].hostPort: 9 is used",
    ),
    (container(livenessProbe={}), "livenessProbe: required: one of exec, httpGet, tcpSocket, grpc"),
    (
        container(livenessProbe={"tcpSocket": {"port": 1}, "grpc": {"port": 1}}),
        "there is tcpSocket already: exactly one",
    ),
    (container(livenessProbe={"tcpSocket": {"port": 1}, "successThreshold": 2}), "must be 1 in a livenessProbe, is 2"),
    (container(readinessProbe={"httpGet": {"port": 0}}), "readinessProbe.httpGet.port: must be a port number"),
    (container(readinessProbe={"tcpSocket": {"port": 1}, "periodSeconds": -1}), "periodSeconds: must be 0 or more"),
    (pod(initContainers=[{"name": "i", "image": "i", "readinessProbe": {"tcpSocket": {"port": 1}}}]), "have no probes"),
    (container(volumeMounts=[{"name": "v", "mountPath": "/"}]), "must be the name of one of the pod's volumes"),
    (pod(restartPolicy="always"), "spec.restartPolicy: must be one of Always, OnFailure, Never"),
    (pod(dnsPolicy="None"), "spec.dnsConfig.nameservers: required with dnsPolicy None"),
    (pod(dnsConfig={"nameservers": ["x"]}), "spec.dnsConfig.nameservers[0]: must be an IP address"),
    (
        pod(hostNetwork=True, containers=[{**CONTAINER, "ports": [{"containerPort": 1, "hostPort": 2}]}]),
        "with hostNetwork",
    ),
    (pod(tolerations=[{"operator": "Equal"}]), "must be Exists when there is no key"),
    (pod(hostAliases=[{"ip": "x"}]), "spec.hostAliases[0].ip: must be an IP address"),
    (
        pod(topologySpreadConstraints=[{"maxSkew": 0, "topologyKey": "a", "whenUnsatisfiable": "DoNotSchedule"}]),
        "maxSkew",
    ),
    # workloads
    (deployment(selector={"matchLabels": {"app": "b"}}), "spec.template.metadata.labels: must match spec.selector"),
    (deployment(selector={}), "spec.selector: must select something"),
    (deployment(replicas=-1), "spec.replicas: must be 0 or more, is -1"),
    (deployment(strategy={"type": "Recreate", "rollingUpdate": {}}), "may not be given with type Recreate"),
    (deployment(strategy={"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}), "may not be 0 when maxSurge is 0"),
    (deployment(strategy={"rollingUpdate": {"maxSurge": "x"}}), 'a percentage such as "25%"'),
    (statefulset(podManagementPolicy="Serial"), "must be one of OrderedReady, Parallel"),
    (made("batch/v1", "Job", spec={"template": TEMPLATE}), "restartPolicy: must be OnFailure or Never here"),
    (job(selector=SELECTOR), "spec.selector: must be left out"),
    (made("batch/v1", "CronJob", spec={"schedule": "often", "jobTemplate": {"spec": job()["spec"]}}), "five fields"),
    # Services
    (service(ports=[]), "spec.ports: required: at least one port"),
    (service(ports=[{"port": 80}, {"port": 81}]), "spec.ports[1].name: required when there is more than one port"),
    (service(ports=[{"name": "a", "port": 1}, {"name": "b", "port": 1}]), 'spec.ports[1]: "TCP 1" is used twice'),
    (service(ports=[{"port": 80, "nodePort": 30000}]), "may not be given with type ClusterIP"),
    (service(ports=[{"port": 80, "targetPort": "a--b"}]), "spec.ports[0].targetPort: must be a port name"),
    (
        service(type="Clusterip"),
        'spec.type: must be one of ClusterIP, ExternalName, LoadBalancer, NodePort; is "Clusterip"',
    ),
    (service(clusterIP="x"), 'spec.clusterIP: must be an IP address such as "10.1.2.3", "None" for a headless Service'),
    (service(clusterIP="None", type="NodePort"), "may not be None with type NodePort"),
    (
        service(clusterIP="10.96.0.9", clusterIPs=["10.96.0.8"]),
        "spec.clusterIPs[0]: must be spec.clusterIP (10.96.0.9)",
    ),
    (service(type="ExternalName"), "spec.externalName: required with type ExternalName"),
    (service(type="ExternalName", externalName="a", clusterIP="10.96.0.9"), "may not be given with type ExternalName"),
    (service(ipFamilies=["IPv6"]), "spec.ipFamilies[0]: not configured on this cluster"),
    (service(sessionAffinity="Cookie"), "spec.sessionAffinity: must be one of ClientIP, None"),
    (service(externalTrafficPolicy="Local"), "may only be given with type NodePort or LoadBalancer"),
    (service(externalIPs=["127.0.0.1"]), "not a loopback one"),
    (service(loadBalancerClass="a/b"), "may only be given with type LoadBalancer"),
    (service(healthCheckNodePort=30000), "may only be given with type LoadBalancer and externalTrafficPolicy Local"),
    # policies
    (peer(), "spec.ingress[0].from[0]: required: podSelector, namespaceSelector or ipBlock"),
    (peer(ipBlock={"cidr": "10.0.0.0/8"}, podSelector={}), "ipBlock may not stand beside podSelector"),
    (peer(ipBlock={"cidr": "10.0.0.1"}), "must have a prefix length"),
    (
        peer(ipBlock={"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}),
        "must be a part of cidr 10.0.0.0/8, smaller than it",
    ),
    (peer(ipBlock={"cidr": "10.0.0.0/8", "except": ["fd00::/64"]}), "must be a part of cidr"),
    (peer(podSelector={"matchExpressions": [{"key": "a", "operator": "In"}]}), "required with operator In"),
    (policy_port(port=80, endPort=79), "spec.egress[0].ports[0].endPort: must be 80 (the port) or more, is 79"),
    (policy_port(port="http", endPort=79), "needs a numeric port beside it"),
    (policy_port(endPort=79), "needs a numeric port beside it"),
    (policy(policyTypes=["Ingress", "Egress", "Egress"]), "must be at most two"),
    # Ingress and endpoints
    (ingress(path="x"), 'spec.rules[0].http.paths[0].path: must begin with "/"'),
    (ingress(path="/a//b"), 'may not have "//" in it'),
    (ingress(pathType="prefix"), 'is "prefix", did you mean "Prefix"?'),
    (ingress({"service": {"name": "web"}}), "service.port: required: exactly one of name, number"),
    (ingress({"service": {"name": "web", "port": {"number": 1, "name": "a"}}}), "exactly one of name, number"),
    (made("networking.k8s.io/v1", "Ingress", spec={}), "spec: required: rules or defaultBackend"),
    (made("networking.k8s.io/v1", "Ingress", spec={"rules": [{"host": "10.0.0.1"}]}), "a DNS name, not an IP address"),
    (
        endpointslice(addressType="ipv4"),
        'addressType: must be one of IPv4, IPv6, FQDN; is "ipv4", did you mean "IPv4"?',
    ),
    (endpointslice(endpoints=[{"addresses": ["fd00::1"]}]), "endpoints[0].addresses[0]: must be an IPv4 address"),
    (endpointslice(ports=[{"port": 1}, {"port": 2}]), 'ports[1].name: "" is used twice'),
    (endpoints({}), "subsets[0]: required: addresses or notReadyAddresses"),
    (endpoints({"addresses": [{"ip": "224.0.0.1"}]}), "not a multicast one"),
    (made("v1", "Node", spec={"taints": [{"key": "a", "effect": "Never"}]}), "spec.taints[0].effect: must be one of"),
]

UPDATES: list[tuple[Object, Object, str]] = [
    (pod(), pod(hostname="x"), "spec.hostname: may not change (was null): delete the pod and create it again"),
    (pod(), pod(containers=[CONTAINER, {"name": "d", "image": "i"}]), "containers cannot be added or removed"),
    (pod(), container(workingDir="/"), "spec.containers[0].workingDir: may not change"),
    (pod(tolerations=[{"key": "a"}]), pod(), "tolerations can only be added"),
    (
        deployment(),
        deployment(selector={"matchLabels": {"app": "a"}, "matchExpressions": [{"key": "app", "operator": "Exists"}]}),
        "spec.selector: may not change",
    ),
    (statefulset(), statefulset(serviceName="b"), "spec.serviceName: may not change"),
    (job(), job(completions=3), "spec.completions: may not change"),
    (service(), service(clusterIP="10.96.7.7"), "spec.clusterIP: may not change"),
    (service(), service(clusterIP="None"), "spec.clusterIP: may not change"),
    (
        endpointslice(),
        endpointslice(addressType="FQDN", endpoints=[{"addresses": ["a.b"]}]),
        "addressType: may not change",
    ),
    (
        made("v1", "ConfigMap", immutable=True, data={"a": "b"}),
        made("v1", "ConfigMap", immutable=True),
        "data: may not change",
    ),
    (made("v1", "Secret", type="a/b"), made("v1", "Secret", type="a/c"), "type: may not change"),
]

ALLOWED_UPDATES: list[tuple[Object, Object]] = [
    (pod(), container(image="j")),
    (pod(), pod(tolerations=[{"key": "a"}], activeDeadlineSeconds=5)),
    (
        deployment(),
        deployment(replicas=7, template={**TEMPLATE, "spec": {"containers": [{**CONTAINER, "image": "j"}]}}),
    ),
    (statefulset(), statefulset(replicas=5)),
    (job(), job(parallelism=3, completions=1)),
    (service(), service(ports=[{"port": 81}])),
    (service(), service(type="ExternalName", externalName="a.b", ports=[])),
    (service(type="ExternalName", externalName="a.b", ports=[]), service(clusterIP="10.96.7.7")),
]


@pytest.mark.parametrize("obj", GOOD, ids=lambda obj: obj["kind"])
def test_good_objects_are_taken(obj: Object) -> None:
    admitted, warnings = admit(obj)
    assert admitted["metadata"]["name"] == obj["metadata"]["name"]
    assert [warning for warning in warnings if "yet" not in warning] == []


@pytest.mark.parametrize(("obj", "told"), BAD)
def test_bad_objects_are_refused_by_field_and_remedy(obj: Object, told: str) -> None:
    assert told in refusal(obj)


@pytest.mark.parametrize(("old", "new", "told"), UPDATES)
def test_what_may_not_change(old: Object, new: Object, told: str) -> None:
    assert told in refusal(new, old)


@pytest.mark.parametrize(("old", "new"), ALLOWED_UPDATES)
def test_what_may_change(old: Object, new: Object) -> None:
    assert admit(new, old)[0]["kind"] == new["kind"]


def test_all_errors_are_told_with_object_and_causes() -> None:
    with pytest.raises(Invalid) as refused:
        admit(container(ports=[{"containerPort": "80"}], imag="x"))
    assert str(refused.value) == (
        'Pod default/a: spec.containers[0].ports[0].containerPort: must be an integer, is "80"; '
        'spec.containers[0].imag: unknown field, did you mean "image"?'
    )
    assert len(refused.value.status()["details"]["causes"]) == 2


def test_unknown_fields_are_dropped_with_a_warning_when_asked() -> None:
    admitted, warnings = admit(deployment(replcias=3), strict=False)
    assert "replcias" not in admitted["spec"]
    assert warnings == ['spec.replcias: unknown field, did you mean "replicas"?']


def test_nulls_are_fields_not_given() -> None:
    admitted, _ = admit(made("v1", "ConfigMap", metadata={"labels": {"a": None}, "creationTimestamp": None}, data=None))
    assert admitted["metadata"] == {"name": "a", "namespace": "default", "labels": {"a": ""}}
    assert "data" not in admitted
    allow_all, _ = admit(policy(ingress=[None]))
    assert allow_all["spec"]["ingress"] == [{}]


def test_the_cluster_object_is_not_for_writing() -> None:
    assert "written by kmn alone" in refusal(SPEC.to_object())


def test_trusted_objects_are_defaulted_and_not_questioned() -> None:
    odd = pod(containers=[{"name": "A B"}], unknown=1)
    admitted, _ = ClusterAdmission(SPEC).admit("CREATE", resource_of(odd), odd, None, trusted=True)
    assert admitted["spec"]["restartPolicy"] == "Always"


@pytest.mark.parametrize("kind", ["Pod", "Deployment", "CronJob"])
def test_a_port_that_two_containers_declare_is_warned_of(kind: str) -> None:
    containers = [{"name": n, "image": "i", "ports": [{"containerPort": 80, "protocol": "TCP"}]} for n in "ab"]
    wrapped: Any = {"containers": containers}
    path = "spec"
    if kind != "Pod":
        wrapped, path = {"template": {"spec": wrapped}}, "spec.template.spec"
    if kind == "CronJob":
        wrapped, path = {"jobTemplate": {"spec": wrapped}}, "spec.jobTemplate.spec.template.spec"
    (warning,) = warnings_of({"kind": kind, "metadata": {"name": "web", "namespace": "default"}, "spec": wrapped})
    assert warning == (
        f"{kind} default/web: {path}.containers[1].ports[0]: TCP port 80 is given twice, here and in "
        f"{path}.containers[0].ports[0]: only one can listen there"
    )
    containers[1]["ports"] = [{"containerPort": 80, "protocol": "UDP"}]
    assert not warnings_of({"kind": kind, "metadata": {"name": "web"}, "spec": wrapped})


def test_what_has_an_effect_is_not_warned_of() -> None:
    for obj in (
        service(),
        service(type="NodePort", sessionAffinity="ClientIP"),
        container(ports=[{"containerPort": 80, "hostPort": 8080}]),
    ):
        assert warnings_of(obj) == []
