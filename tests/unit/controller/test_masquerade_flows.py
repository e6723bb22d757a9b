"""The flows of nodes that masquerade, as ``ovs-ofctl`` prints them, and what is told when ports run out."""

from __future__ import annotations

from typing import Any

import controller_objects as make

from controller.cluster import Cluster
from controller.pipeline import Table
from controller.problems import NatWatch
from controller.views import edge_view, node_view
from kmn.k8s.objects import Object

NODE = {"nonMasqueradeCIDRs": ["192.168.0.0/16"], "ports": "2000-2999"}
EGRESS = {"kmn.io/egress-address": "198.51.100.7"}


def cluster_object(masquerade: Any) -> Object:
    networks = {"podCIDR": "10.244.0.0/16", "nodeCIDR": "172.18.0.0/16"}
    return {"kind": "Cluster", "metadata": {"name": "t"}, "spec": {**networks, "masquerade": masquerade}}


def given(masquerade: Any, pods: tuple[Object, ...] = ()) -> Cluster:
    cluster = Cluster()
    for resource, objects in {
        "nodes": [make.node(), make.node("n2", 2)],
        "pods": pods,
        "clusters": [cluster_object(masquerade)],
    }.items():
        for obj in objects:
            cluster.apply(resource, "ADDED", obj)
    cluster.compute()
    return cluster


def translating(cluster: Cluster, node: str) -> list[str]:
    """The flows of table SNAT that are of masquerade, which all ask for the uplink."""
    flows = [flow for scope in cluster.scopes(node) for flow in scope.flows.values()]
    return sorted(str(flow.rule) for flow in flows if flow.table == Table.SNAT and "reg2=0x1" in flow.rule)


def test_pods_leave_as_their_node() -> None:
    cluster = given(True)
    exempt = [
        "priority=103,ip,reg2=0x1,nw_dst=10.244.0.0/16 actions=goto_table:92",
        "priority=103,ip,reg2=0x1,nw_dst=172.18.0.0/16 actions=goto_table:92",
    ]
    natted = "priority=102,ip,reg2=0x1,nw_src=10.244.{}.0/24 actions=ct(commit,table=88,zone=2,nat(src={}:1024-65535))"
    assert translating(cluster, "n1") == [natted.format(1, "172.18.0.2"), *exempt]
    assert translating(cluster, "n2") == [natted.format(2, "172.18.0.3"), *exempt]


def test_networks_and_ports_of_ones_own() -> None:
    first, *rest = translating(given(NODE), "n1")
    assert first.endswith("nat(src=172.18.0.2:2000-2999))")
    assert rest[-1] == "priority=103,ip,reg2=0x1,nw_dst=192.168.0.0/16 actions=goto_table:92"


def test_it_is_switched_on_and_off() -> None:
    cluster = given(False)
    assert translating(cluster, "n1") == []
    cluster.apply("clusters", "MODIFIED", cluster_object({}))
    cluster.compute()
    assert len(translating(cluster, "n1")) == 3
    cluster.apply("clusters", "DELETED", cluster_object(True))
    cluster.compute()
    assert translating(cluster, "n1") == []


def test_an_egress_address_wins() -> None:
    """On the pod's own node, wherever that is, and no longer than it has one."""
    pod = make.pod("a", "10.244.1.2", 10)
    pod["metadata"]["annotations"] |= EGRESS
    cluster = given(True, (pod,))
    exempt = "priority=103,ip,reg2=0x1,nw_src=10.244.1.2 actions=goto_table:92"
    assert exempt in translating(cluster, "n1")
    assert exempt not in translating(cluster, "n2")
    flow = next(f for scope in cluster.scopes("n1") for f in scope.flows.values() if str(f.rule) == exempt)
    assert cluster.owner_of(flow.cookie) == ("EGRESS", ["Pod/default/a"])
    cluster.apply("pods", "MODIFIED", make.pod("a", "10.244.1.2", 10))
    cluster.compute()
    assert exempt not in translating(cluster, "n1")
    assert translating(given(False, (pod,)), "n1") == [], "nothing to be exempt from"


def test_what_is_told_when_ports_run_out() -> None:
    node, edge = node_view(make.node()), edge_view(make.edge())
    assert node
    assert edge
    watch, wanted = NatWatch(), given(NODE).masquerade
    assert watch.question(node, None, 5.0, 1) is None, "a node that does not masquerade is not asked"
    assert watch.question(node, wanted, 5.0, 1)
    assert watch.question(node, wanted, 5.5, 1) is None, "not so soon"
    assert watch.question(edge, wanted, 5.0, 1)
    watch.answer("n1", 0, 5.1)
    assert watch.problems(5.2) == ()
    watch.answer("n1", 3, 6.0)
    (problem,) = watch.problems(6.1)
    assert problem[:3] == ("Node", "n1", "NATPortsExhausted")
    assert problem.message.startswith(
        "packets of new connections are dropped, as all ports 2000-2999 of the node's address are in use"
    )
    assert watch.problems(60.0) == ()
