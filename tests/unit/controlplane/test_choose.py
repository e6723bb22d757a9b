"""The choice of a node, on a state without a store."""

from __future__ import annotations

from typing import Any

import pytest

from kmn.controlplane.scheduling.choose import Unschedulable, candidates, choose
from kmn.controlplane.scheduling.state import SchedulingState

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


class Cluster:
    """Nodes and placed pods; ``put`` schedules a pod and places it."""

    def __init__(self, **nodes: dict[str, Any]) -> None:
        self.state = SchedulingState()
        self.made = 0
        for name, fields in nodes.items():
            labels = {"kubernetes.io/hostname": name, **fields.get("labels", {})}
            spec = {"podCIDR": fields.get("cidr", "10.244.0.0/24"), **fields.get("spec", {})}
            ready = [{"type": "Ready", "status": "True" if fields.get("ready", True) else "False"}]
            self.state.set_node(
                {"metadata": {"name": name, "labels": labels}, "spec": spec, "status": {"conditions": ready}}
            )

    def pod(self, app: str = "web", node: str = "", **spec: Any) -> dict[str, Any]:
        self.made += 1
        ports = spec.pop("ports", [])
        meta = {"name": f"p{self.made}", "namespace": "default", "uid": f"u{self.made}", "labels": {"app": app}}
        full = {"containers": [{"name": "c", "ports": ports}], **spec, **({"nodeName": node} if node else {})}
        return {"metadata": meta, "spec": full, "status": {"phase": "Running"}}

    def put(self, app: str = "web", node: str = "", **spec: Any) -> str:
        pod = self.pod(app, node, **spec)
        if not node:
            wants = self.state.wants(pod)[1]
            pod["spec"]["nodeName"] = choose(self.state, wants, "", candidates(self.state, wants)).name
        self.state.place(pod)
        return str(pod["spec"]["nodeName"])


def term(app: str, key: str = "kubernetes.io/hostname") -> dict[str, Any]:
    return {"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key}


def apart(app: str, key: str = "kubernetes.io/hostname") -> dict[str, Any]:
    return {"podAntiAffinity": {_REQUIRED: [term(app, key)]}}


def together(app: str, key: str = "kubernetes.io/hostname") -> dict[str, Any]:
    return {"podAffinity": {_REQUIRED: [term(app, key)]}}


def spread(skew: int, key: str, when: str = "DoNotSchedule", **more: Any) -> list[dict[str, Any]]:
    return [{"maxSkew": skew, "whenUnsatisfiable": when, **term("web", key), **more}]


ZONES = {
    "n1": {"labels": {"zone": "a"}},
    "n2": {"labels": {"zone": "a"}},
    "n3": {"labels": {"zone": "b"}},
}


def test_least_pods_then_order_of_appearance() -> None:
    cluster = Cluster(n1={}, n2={}, n3={})
    assert [cluster.put() for _ in range(7)] == ["n1", "n2", "n3", "n1", "n2", "n3", "n1"]


def test_a_node_is_full_when_its_addresses_are_used() -> None:
    cluster = Cluster(n1={"cidr": "10.0.0.0/29"})
    assert [cluster.put() for _ in range(5)] == ["n1"] * 5
    with pytest.raises(
        Unschedulable, match=r"^0/1 nodes are available: 1 Too many pods \(a node's podCIDR has addresses for 5\)\.$"
    ):
        cluster.put()
    assert cluster.put(hostNetwork=True) == "n1", "needs no address"
    with pytest.raises(Unschedulable, match=r"1 node\(s\) had no pod network \(spec\.podCIDR\)"):
        Cluster(n1={"cidr": ""}).put()


def test_the_sentence_counts_nodes_by_reason() -> None:
    taint = [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]
    cluster = Cluster(
        n1={"spec": {"taints": taint}}, n2={"spec": {"taints": taint}}, n3={}, n4={"spec": {"unschedulable": True}}
    )
    with pytest.raises(Unschedulable) as refused:
        cluster.put(nodeSelector={"disk": "ssd"})
    assert str(refused.value) == (
        "0/4 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) were unschedulable, "
        "2 node(s) had untolerated taint {gpu: yes}."
    )


def test_no_nodes_at_all() -> None:
    with pytest.raises(Unschedulable, match="no nodes available to schedule pods"):
        Cluster().put()


def test_required_anti_affinity_and_its_reverse() -> None:
    cluster = Cluster(n1={}, n2={})
    assert cluster.put("db", affinity=apart("db")) == "n1"
    assert cluster.put("db", affinity=apart("db")) == "n2"
    with pytest.raises(Unschedulable, match=r"2 node\(s\) didn't match pod anti-affinity rules"):
        cluster.put("db", affinity=apart("db"))
    # The pod itself wants nothing, but those there do not want it.
    with pytest.raises(Unschedulable, match=r"2 node\(s\) didn't satisfy existing pods anti-affinity rules"):
        cluster.put("db")
    assert cluster.put("web") == "n1"


def test_anti_affinity_by_zone() -> None:
    cluster = Cluster(**ZONES)
    assert cluster.put("db", affinity=apart("db", "zone")) == "n1"
    assert cluster.put("db", affinity=apart("db", "zone")) == "n3"
    with pytest.raises(Unschedulable):
        cluster.put("db", affinity=apart("db", "zone"))


def test_required_affinity_follows_and_the_first_of_a_group_may_start() -> None:
    cluster = Cluster(**ZONES)
    with pytest.raises(Unschedulable, match=r"3 node\(s\) didn't match pod affinity rules"):
        cluster.put("web", affinity=together("db"))
    cluster.put("db", "n3")
    assert [cluster.put("web", affinity=together("db")) for _ in range(3)] == ["n3"] * 3
    assert cluster.put("group", affinity=together("group")) == "n1"
    assert cluster.put("group", affinity=together("group")) == "n1"


def test_preferred_affinity_weighs_more_than_load() -> None:
    cluster = Cluster(**ZONES)
    for _ in range(5):
        cluster.put("db", "n2")
    preferred = {"podAffinity": {_PREFERRED: [{"weight": 10, "podAffinityTerm": term("db")}]}}
    assert cluster.put(affinity=preferred) == "n2"
    against = {"podAntiAffinity": {_PREFERRED: [{"weight": 10, "podAffinityTerm": term("db", "zone")}]}}
    assert cluster.put(affinity=against) == "n3"
    expression = {"key": "zone", "operator": "In", "values": ["b"]}
    nodes = {"nodeAffinity": {_PREFERRED: [{"weight": 1, "preference": {"matchExpressions": [expression]}}]}}
    assert [cluster.put(affinity=nodes) for _ in range(3)] == ["n3"] * 3


def test_soft_taints_are_avoided() -> None:
    soft = {"spec": {"taints": [{"key": "slow", "effect": "PreferNoSchedule"}]}}
    cluster = Cluster(n1=soft, n2={})
    assert [cluster.put() for _ in range(3)] == ["n2"] * 3
    assert cluster.put(tolerations=[{"key": "slow", "operator": "Exists"}]) == "n1"


def test_hard_topology_spread() -> None:
    cluster = Cluster(**ZONES)
    zones = [cluster.put(topologySpreadConstraints=spread(1, "zone")) for _ in range(6)]
    assert [z == "n3" for z in zones].count(True) == 3, "as many in zone b as in zone a"
    cluster = Cluster(n1={"labels": {"zone": "a"}}, n2={})
    cluster.put(topologySpreadConstraints=spread(1, "zone"))
    with pytest.raises(Unschedulable, match=r"2 node\(s\)|missing required label"):
        cluster.put(topologySpreadConstraints=spread(1, "zone", minDomains=2))


def test_soft_topology_spread_prefers_the_emptier_domain() -> None:
    cluster = Cluster(**ZONES)
    for _ in range(3):
        cluster.put("web", "n3")
    assert cluster.put("other", "n1")
    assert cluster.put(topologySpreadConstraints=spread(1, "zone", "ScheduleAnyway")) == "n2"


def test_pods_that_are_being_deleted_do_not_count_for_spread() -> None:
    cluster = Cluster(n1={}, n2={})
    going = cluster.pod("web", "n1")
    going["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    cluster.state.place(going)
    wanted = spread(1, "kubernetes.io/hostname")
    assert sorted(cluster.put(topologySpreadConstraints=wanted) for _ in range(2)) == ["n1", "n2"]


def test_host_ports() -> None:
    cluster = Cluster(n1={}, n2={})
    port = {"containerPort": 80, "hostPort": 8080}
    assert [cluster.put(ports=[port]) for _ in range(2)] == ["n1", "n2"]
    with pytest.raises(Unschedulable, match=r"2 node\(s\) didn't have free ports for the requested pod ports"):
        cluster.put(ports=[port])
    assert cluster.put(ports=[{**port, "protocol": "UDP"}]) == "n1", "another protocol"
    with pytest.raises(Unschedulable):
        cluster.put(ports=[{**port, "hostIP": "172.18.0.2"}])


def test_host_ports_of_sidecars() -> None:
    cluster = Cluster(n1={})
    port = {"containerPort": 80, "hostPort": 8080}
    init = {"name": "i", "ports": [port]}
    assert [cluster.put(initContainers=[init]) for _ in range(2)] == ["n1", "n1"], "gone before the pod serves"
    sidecar = [{**init, "restartPolicy": "Always"}]
    assert cluster.put(initContainers=sidecar) == "n1"
    with pytest.raises(Unschedulable, match="hostPort TCP 8080"):
        cluster.put(initContainers=sidecar)


def test_counts_follow_pods_that_go() -> None:
    cluster = Cluster(n1={})
    pod = cluster.pod("db", "n1", affinity=apart("db"))
    cluster.state.place(pod)
    with pytest.raises(Unschedulable):
        cluster.put("db")
    cluster.state.remove("u1")
    assert cluster.put("db") == "n1"
