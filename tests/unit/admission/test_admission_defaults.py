"""Defaulting, each kind as it comes in and as it is stored."""

from __future__ import annotations

import base64
import copy
from typing import Any

import pytest

from kmn.apiserver.admission.defaults import set_defaults
from kmn.k8s.objects import Object

TEMPLATE = {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}


def defaulted(api_version: str, kind: str, **fields: Any) -> Object:
    obj: Object = {"apiVersion": api_version, "kind": kind, "metadata": {"name": "a"}, **copy.deepcopy(fields)}
    set_defaults(obj)
    return obj


def test_pod() -> None:
    probe = {"httpGet": {"port": 80}}
    container = {"name": "c", "image": "i:1", "ports": [{"containerPort": 80}], "readinessProbe": probe}
    obj = defaulted("v1", "Pod", spec={"containers": [container], "volumes": [{"name": "v"}]})
    assert obj["status"] == {"phase": "Pending"}
    assert obj["spec"] == {
        "restartPolicy": "Always",
        "dnsPolicy": "ClusterFirst",
        "terminationGracePeriodSeconds": 30,
        "schedulerName": "default-scheduler",
        "securityContext": {},
        "enableServiceLinks": True,
        "serviceAccountName": "default",
        "volumes": [{"name": "v", "emptyDir": {}}],
        "containers": [
            {
                "name": "c",
                "image": "i:1",
                "imagePullPolicy": "IfNotPresent",
                "resources": {},
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "readinessProbe": {
                    "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
                    "timeoutSeconds": 1,
                    "periodSeconds": 10,
                    "successThreshold": 1,
                    "failureThreshold": 3,
                },
            }
        ],
    }


def test_host_network_ports_and_requests() -> None:
    container = {"name": "c", "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": "1"}}}
    spec = defaulted("v1", "Pod", spec={"hostNetwork": True, "containers": [container]})["spec"]
    assert spec["containers"][0]["ports"] == [{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}]
    assert spec["containers"][0]["resources"]["requests"] == {"cpu": "1"}


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("i", "Always"),
        ("host:5000/i", "Always"),
        ("host:5000/i:latest", "Always"),
        ("host:5000/i:1", "IfNotPresent"),
        ("i@sha256:0", "IfNotPresent"),
    ],
)
def test_image_pull_policy(image: str, policy: str) -> None:
    spec = defaulted("v1", "Pod", spec={"containers": [{"name": "c", "image": image}]})["spec"]
    assert spec["containers"][0]["imagePullPolicy"] == policy


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (
            "apps/v1 Deployment",
            {
                "replicas": 1,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}},
                "revisionHistoryLimit": 10,
                "progressDeadlineSeconds": 600,
            },
        ),
        ("apps/v1 ReplicaSet", {"replicas": 1}),
        ("v1 ReplicationController", {"replicas": 1, "selector": {"app": "a"}}),
        (
            "apps/v1 StatefulSet",
            {
                "replicas": 1,
                "podManagementPolicy": "OrderedReady",
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
                "revisionHistoryLimit": 10,
                "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
            },
        ),
        (
            "apps/v1 DaemonSet",
            {
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
                "revisionHistoryLimit": 10,
            },
        ),
        (
            "batch/v1 Job",
            {
                "completions": 1,
                "parallelism": 1,
                "backoffLimit": 6,
                "completionMode": "NonIndexed",
                "suspend": False,
                "podReplacementPolicy": "TerminatingOrFailed",
            },
        ),
    ],
)
def test_workloads(kind: str, expected: dict[str, Any]) -> None:
    obj = defaulted(*kind.split(), spec={"template": TEMPLATE})
    template = obj["spec"].pop("template")
    assert obj["spec"] == expected
    assert template["spec"]["restartPolicy"] == "Always"
    assert "serviceAccountName" not in template["spec"], "that is the pods' default, not the template's"


@pytest.mark.parametrize("kind", ["v1 ReplicationController", "apps/v1 ReplicaSet", "batch/v1 Job"])
def test_labels_come_from_the_template(kind: str) -> None:
    assert defaulted(*kind.split(), spec={"template": TEMPLATE})["metadata"]["labels"] == {"app": "a"}


def test_cronjob() -> None:
    spec = defaulted(
        "batch/v1", "CronJob", spec={"schedule": "@daily", "jobTemplate": {"spec": {"template": TEMPLATE}}}
    )
    assert spec["spec"]["concurrencyPolicy"] == "Allow"
    assert spec["spec"]["jobTemplate"]["spec"]["backoffLimit"] == 6


def test_service() -> None:
    obj = defaulted("v1", "Service", spec={"ports": [{"port": 80}]})
    assert obj["spec"] == {
        "type": "ClusterIP",
        "sessionAffinity": "None",
        "internalTrafficPolicy": "Cluster",
        "ports": [{"port": 80, "targetPort": 80, "protocol": "TCP"}],
    }
    assert obj["status"] == {"loadBalancer": {}}


def test_service_types() -> None:
    balancer = defaulted("v1", "Service", spec={"type": "LoadBalancer", "sessionAffinity": "ClientIP"})["spec"]
    assert balancer["externalTrafficPolicy"] == "Cluster"
    assert balancer["allocateLoadBalancerNodePorts"] is True
    assert balancer["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 10800}}
    external = defaulted("v1", "Service", spec={"type": "ExternalName", "externalName": "a.b"})["spec"]
    assert external == {"type": "ExternalName", "externalName": "a.b", "sessionAffinity": "None"}


@pytest.mark.parametrize(
    ("spec", "types"),
    [({}, ["Ingress"]), ({"egress": [{}]}, ["Ingress", "Egress"]), ({"policyTypes": ["Egress"]}, ["Egress"])],
)
def test_policy_types(spec: dict[str, Any], types: list[str]) -> None:
    obj = defaulted("networking.k8s.io/v1", "NetworkPolicy", spec=spec)
    assert obj["spec"]["policyTypes"] == types
    assert obj["spec"]["podSelector"] == {}


def test_policy_ports_endpoints_and_slices() -> None:
    policy = defaulted("networking.k8s.io/v1", "NetworkPolicy", spec={"ingress": [{"ports": [{"port": 1}]}]})
    assert policy["spec"]["ingress"] == [{"ports": [{"port": 1, "protocol": "TCP"}]}]
    assert defaulted("v1", "Endpoints", subsets=[{"ports": [{"port": 1}]}])["subsets"] == [
        {"ports": [{"port": 1, "protocol": "TCP"}]}
    ]
    piece = defaulted("discovery.k8s.io/v1", "EndpointSlice", addressType="IPv4", ports=[{"port": 1}])
    assert piece["ports"] == [{"port": 1, "name": "", "protocol": "TCP"}]
    assert piece["endpoints"] == []


def test_namespace_and_secret() -> None:
    assert defaulted("v1", "Namespace")["metadata"]["labels"] == {"kubernetes.io/metadata.name": "a"}
    secret = defaulted("v1", "Secret", stringData={"a": "b"})
    assert secret["type"] == "Opaque"
    assert base64.b64decode(secret["data"]["a"]) == b"b"
    assert "stringData" not in secret
