"""The real kubectl and policies of all kinds, with everything that the server asks of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Kubectl, LiveServer

from kmn.apiserver.admission import ClusterAdmission
from kmn.cluster_spec import ClusterSpec

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")

POD = """\
apiVersion: v1
kind: Pod
metadata: {name: web-1, labels: {app: web}}
spec: {containers: [{name: a, image: b, ports: [{name: http, containerPort: 80}]}]}
"""
CLUSTERWIDE = """\
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: gate}
spec:
  priority: 30
  subject: {namespaces: {matchLabels: {kubernetes.io/metadata.name: default}}}
  ingress:
  - {name: web for all, action: Allow, from: [{namespaces: {}}], ports: [{portNumber: {port: 80}}]}
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: BaselineAdminNetworkPolicy
metadata: {name: default}
spec:
  subject: {namespaces: {}}
  ingress: [{action: Deny, from: [{namespaces: {}}]}]
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: floor}
spec:
  tier: Baseline
  priority: 500
  subject: {namespaces: {}}
  egress: [{action: Accept, to: [{networks: [203.0.113.0/24]}]}]
"""
POLICY = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p}
spec: {podSelector: {matchLabels: {app: APP}}, ingress: [{ports: [{port: PORT}]}]}
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    live = LiveServer(tmp_path, admission=lambda store: ClusterAdmission(ClusterSpec.default("ha"), store))
    yield live
    live.close()


def test_cluster_wide_policies_live_as_other_objects(kubectl: Kubectl) -> None:
    kubectl("apply -f -", POD)
    assert kubectl("apply -f -", CLUSTERWIDE).splitlines() == [
        "adminnetworkpolicy.policy.networking.k8s.io/gate created",
        "baselineadminnetworkpolicy.policy.networking.k8s.io/default created",
        "clusternetworkpolicy.policy.networking.k8s.io/floor created",
    ]
    shown = [line.split() for line in kubectl("get anp,banp,cnp").splitlines() if line]
    assert [[cell for cell in line if not cell.endswith("s")] for line in shown[1::2]] == [
        ["adminnetworkpolicy.policy.networking.k8s.io/gate", "30"],
        ["baselineadminnetworkpolicy.policy.networking.k8s.io/default"],
        ["clusternetworkpolicy.policy.networking.k8s.io/floor", "Baseline", "500"],
    ]
    assert shown[::2] == [["NAME", "PRIORITY", "AGE"], ["NAME", "AGE"], ["NAME", "TIER", "PRIORITY", "AGE"]]
    kubectl("apply -f -", CLUSTERWIDE.replace("priority: 500", "priority: 7"))
    assert kubectl("get cnp floor -o jsonpath={.spec.priority}/{.metadata.generation}") == "7/2"
    assert kubectl("get anp gate -o jsonpath={.spec.ingress[0].ports[0].portNumber.protocol}") == "TCP"
    told = kubectl("describe clusternetworkpolicies floor")
    assert "API Version:  policy.networking.k8s.io/v1alpha2" in told
    assert "203.0.113.0/24" in told
    kubectl('patch anp gate --type merge -p {"spec":{"priority":31}}')
    assert kubectl("get anp -o name --all-namespaces") == "adminnetworkpolicy.policy.networking.k8s.io/gate\n"
    assert 'adminnetworkpolicy.policy.networking.k8s.io "gate" deleted' in kubectl("delete anp gate")
    assert "No resources found" in kubectl("get anp")


def test_they_are_listed_with_their_short_names(kubectl: Kubectl) -> None:
    lines = kubectl("api-resources --api-group=policy.networking.k8s.io --no-headers").splitlines()
    assert sorted(line.split() for line in lines) == [
        ["adminnetworkpolicies", "anp", "policy.networking.k8s.io/v1alpha1", "false", "AdminNetworkPolicy"],
        ["baselineadminnetworkpolicies", "banp", "policy.networking.k8s.io/v1alpha1", "false",
         "BaselineAdminNetworkPolicy"],
        ["clusternetworkpolicies", "cnp", "policy.networking.k8s.io/v1alpha2", "false", "ClusterNetworkPolicy"],
    ]  # fmt: skip


def test_what_is_wrong_is_refused(kubectl: Kubectl) -> None:
    wrong = CLUSTERWIDE.replace("priority: 30", "priority: 3000").replace("name: default}\n", "name: own}\n")
    told = kubectl("apply -f -", wrong, code=1)
    assert "AdminNetworkPolicy gate: spec.priority: must be between 0 and 1000, is 3000" in told
    assert 'metadata.name: must be "default": there is one baseline for the cluster, is "own"' in told
    assert "clusternetworkpolicy.policy.networking.k8s.io/floor created" in told
    staged = POLICY.replace("name: p", "name: p, annotations: {kmn.io/policy-staged: 'yes'}")
    assert 'must be one of true, false; is "yes"' in kubectl("apply -f -", staged, code=1)


def test_likely_mistakes_are_warned_of_until_there_are_none(kubectl: Kubectl) -> None:
    policy = POLICY.replace("APP", "wbe").replace("PORT", "http")
    nobody = (
        "Warning: NetworkPolicy default/p: spec.podSelector: selects no pod now (pods app=wbe of namespace default)"
    )
    assert kubectl("apply -f -", policy).splitlines() == ["networkpolicy.networking.k8s.io/p created", nobody]
    kubectl("apply -f -", POD)
    policy = POLICY.replace("APP", "web").replace("PORT", "htp")
    no_port = 'spec.ingress[0]: no selected pod has a port htp/TCP now, did you mean "http/TCP"?'
    assert kubectl("apply -f -", policy).splitlines() == [
        "networkpolicy.networking.k8s.io/p configured",
        f"Warning: NetworkPolicy default/p: {no_port}",
    ]
    good = POLICY.replace("APP", "web").replace("PORT", "http")
    assert kubectl("apply -f -", good) == "networkpolicy.networking.k8s.io/p configured\n"
