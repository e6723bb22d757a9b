"""The real kubectl and Gateway API: names, versions, columns."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Kubectl, LiveServer

from kmn.apiserver.admission import ClusterAdmission
from kmn.cluster_spec import ClusterSpec

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")

OBJECTS = """\
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: own}
spec: {controllerName: shop.example/gateways, description: for the shop}
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: Gateway
metadata: {name: front}
spec: {gatewayClassName: own, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: HTTPRoute
metadata: {name: shop}
spec: {parentRefs: [{name: front}], hostnames: [shop.example, "*.shop.example"]}
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: open}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: apps}]
  to: [{group: "", kind: Service}]
---
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: shop}
spec: {hosts: [shop.example], gateways: [front], http: [{route: [{destination: {host: shop}}]}]}
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    live = LiveServer(tmp_path, admission=lambda store: ClusterAdmission(ClusterSpec.default("ha"), store))
    yield live
    live.close()


def cells(text: str) -> list[list[str]]:
    """Without the age."""
    return [line.split()[:-1] for line in text.splitlines() if line]


def test_they_are_printed_as_their_users_know_them(kubectl: Kubectl) -> None:
    assert len(kubectl("apply -f -", OBJECTS).splitlines()) == 5
    assert cells(kubectl("get gc")) == [["NAME", "CONTROLLER", "ACCEPTED"], ["own", "shop.example/gateways", "Unknown"]]
    assert "for the shop" in kubectl("get gatewayclass -o wide")
    columns = ["NAME", "CLASS", "ADDRESS", "PROGRAMMED"]
    assert cells(kubectl("get gtw")) == [columns, ["front", "own", "Unknown"]]
    assert cells(kubectl("get httproutes"))[1] == ["shop", '["shop.example","*.shop.example"]']
    assert cells(kubectl("get refgrant"))[1] == ["open"]
    columns = ["NAME", "GATEWAYS", "HOSTS"]
    assert cells(kubectl("get vs")) == [columns, ["shop", '["front"]', '["shop.example"]']]


def test_an_object_is_one_in_all_versions(kubectl: Kubectl) -> None:
    kubectl("apply -f -", OBJECTS)
    for version in ("v1", "v1beta1"):
        found = kubectl(f"get httproutes.{version}.gateway.networking.k8s.io shop -o jsonpath={{.apiVersion}}")
        assert found == f"gateway.networking.k8s.io/{version}"
        listed = kubectl(f"get httproutes.{version}.gateway.networking.k8s.io -o jsonpath={{.items[*].apiVersion}}")
        assert listed == found
    before = kubectl("get gtw,httproutes,gc,vs -o jsonpath={.items[*].metadata.resourceVersion}")
    kubectl("apply -f -", OBJECTS)
    assert kubectl("get gtw,httproutes,gc,vs -o jsonpath={.items[*].metadata.resourceVersion}") == before
    changed = OBJECTS.replace("gateway.networking.k8s.io/v1beta1", "gateway.networking.k8s.io/v1").replace("80", "81")
    assert "gateway.gateway.networking.k8s.io/front configured" in kubectl("apply -f -", changed)
    assert kubectl("get gtw front -o jsonpath={.spec.listeners[0].port}/{.metadata.generation}") == "81/2"
    kubectl("delete httproutes.v1beta1.gateway.networking.k8s.io shop")
    assert "No resources found" in kubectl("get httproutes")


def test_versions_are_listed_the_preferred_one_first(kubectl: Kubectl) -> None:
    versions = kubectl("api-versions").split()
    ours = [v for v in versions if v.startswith("gateway.networking.k8s.io/")]
    assert sorted(ours) == [f"gateway.networking.k8s.io/{v}" for v in ("v1", "v1alpha2", "v1alpha3", "v1beta1")]
    lines = kubectl("api-resources --api-group=gateway.networking.k8s.io --no-headers").splitlines()
    assert ["gateways", "gtw", "gateway.networking.k8s.io/v1", "true", "Gateway"] in [line.split() for line in lines]
