"""The real kubectl against the server, with the kubeconfig that the server's part writes."""

from __future__ import annotations

import shutil

import pytest
from conftest import Kubectl, LiveServer

from kmn.k8s.resources import PODS

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")

MANIFEST = """\
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{selector: {{app: web}}, ports: [{{name: http, port: {port}}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: p, labels: {{app: web}}}}
spec: {{containers: [{{name: a, image: b, env: [{env}]}}]}}
"""


def test_apply_twice_with_a_change(kubectl: Kubectl) -> None:
    one, two = (
        MANIFEST.format(port=80, env="{name: A, value: '1'}, {name: B, value: '2'}"),
        MANIFEST.format(port=81, env="{name: B, value: '2'}"),
    )
    assert kubectl("apply --validate=false -f -", one) == "service/web created\npod/p created\n"
    assert kubectl("apply --validate=false -f -", two) == "service/web configured\npod/p configured\n"
    assert kubectl("apply -f -", two) == "service/web unchanged\npod/p unchanged\n"
    assert kubectl("get svc web -o jsonpath={.spec.ports[*].port}") == "81"
    assert kubectl("get pod p -o jsonpath={.spec.containers[0].env[*].name}") == "B"
    assert 'service "web" deleted' in kubectl("delete -f -", two)


def test_changes_of_one_object(kubectl: Kubectl, server: LiveServer) -> None:
    kubectl("apply -f -", MANIFEST.format(port=80, env=""))
    kubectl("label pod p x=y")
    kubectl("annotate pod p x=y")
    kubectl('patch pod p -p {"metadata":{"labels":{"z":"1"}}}')
    assert kubectl("get pod -l x=y,z=1 -o name") == "pod/p\n"
    status = {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}
    server.call(lambda local: local.patch(PODS, "default", "p", status, subresource="status"))
    assert kubectl("wait --for=condition=Ready pod/p --timeout=5s") == "pod/p condition met\n"
    assert kubectl("get pods --field-selector status.phase=Running --no-headers").split()[:3] == ["p", "0/1", "Running"]
    assert "Labels:       app=web" in kubectl("describe pod p")
    assert kubectl("delete pod p --wait --timeout=5s").startswith('pod "p" deleted')


def test_create_deployment_and_scale(kubectl: Kubectl) -> None:
    """Since 1.32 this body is protobuf."""
    assert kubectl("create deployment web --image=nginx --replicas=2 --port=80") == "deployment.apps/web created\n"
    kubectl("scale deploy web --replicas=5")
    line = kubectl("get deploy -o wide").splitlines()[1].split()
    assert line[:4] == ["web", "0/5", "0", "0"]
    assert line[5:] == ["nginx", "nginx", "app=web"]
    assert "5 desired" in kubectl("describe deploy web")


def test_namespaces_and_errors(kubectl: Kubectl) -> None:
    kubectl("create ns shop")
    kubectl("-n shop create configmap c --from-literal=a=b")
    assert kubectl("delete ns shop --timeout=5s").startswith('namespace "shop" deleted')
    assert 'namespaces "shop" not found' in kubectl("-n shop create configmap c", code=1)
    assert 'no matches for kind "Frob"' in kubectl(
        "create -f -", "{apiVersion: v1, kind: Frob, metadata: {name: x}}", 1
    )
    assert "v1.33.0+kmn" in kubectl("version")


def test_get_watch(kubectl: Kubectl) -> None:
    kubectl("create configmap a")
    with pytest.raises(AssertionError, match="timed out"):  # kubectl's own way to end: an error
        kubectl("wait --for=jsonpath={.data.x}=y cm/a --timeout=1s")
    assert kubectl("get cm -w --request-timeout=1s").splitlines()[1].split()[:2] == ["a", "0"]
