"""The edge's flows of NAT, egress addresses and load balancers, as ``ovs-ofctl`` prints them."""

from __future__ import annotations

from typing import Any

import controller_objects as make

from controller.cluster import Cluster
from controller.openflow.wire import CtFlush
from controller.pipeline import EdgeTable, Feature
from kmn.k8s.dataplane import GATEWAY_MAC, mac_of
from kmn.k8s.objects import Object

VIP = "192.0.2.1"


def balancer(annotations: dict[str, str] | None = None, **spec: Any) -> Object:
    ports = [
        {"name": "web", "port": 80, "nodePort": 30080},
        {"name": "dns", "protocol": "UDP", "port": 53, "nodePort": 30053},
    ]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "default", "name": "web", "annotations": annotations or {}},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.9", "ports": ports, **spec},
        "status": {"loadBalancer": {"ingress": [{"ip": VIP}]}},
    }  # fmt: skip


IP_MODE = {"kmn.io/lb-target": "ip"}
SLICE = make.endpoints("web", ["10.244.1.2", "10.244.2.2"], ("web", "TCP", 8080), ("dns", "UDP", 5353))


def given(**resources: list[Object]) -> Cluster:
    cluster = Cluster()
    for resource, objects in ({"edges": [make.edge()]} | resources).items():
        for obj in objects:
            cluster.apply(resource, "ADDED", obj)
    cluster.compute()
    return cluster


def flows(cluster: Cluster, feature: Feature, table: int | None = None) -> list[str]:
    """In the order of their text; groups by number are told apart by what is in them."""
    [scope] = cluster.scopes("edge")
    names = {f"group:{number}": f"group:{targets(str(group))}" for number, group in scope.groups.items()}
    found = []
    for flow in scope.flows.values():
        if flow.cookie >> 56 == feature and table in (None, flow.table):
            text = f"table={int(flow.table)}, {flow.rule}"
            found.append(next((text.replace(name, said) for name, said in names.items() if name in text), text))
    return sorted(found)


def targets(group: str) -> str:
    return "|".join(sorted(part.partition(")")[0] for part in group.split("nat(dst=")[1:]))


def test_instance_mode_goes_to_node_ports_of_all_nodes() -> None:
    cluster = given(nodes=[make.node(), make.node("n2", 2)], services=[balancer()], endpointslices=[SLICE])
    assert flows(cluster, Feature.LOAD_BALANCER) == [
        "table=28, priority=190,ip,nw_dst=192.0.2.1 actions=drop",
        "table=28, priority=200,tcp,nw_dst=192.0.2.1,tp_dst=80 actions=group:172.18.0.2:30080|172.18.0.3:30080",
        "table=28, priority=200,udp,nw_dst=192.0.2.1,tp_dst=53 actions=group:172.18.0.2:30053|172.18.0.3:30053",
    ]


def test_node_ports_are_open_to_the_outside() -> None:
    edge = make.edge()
    edge["spec"]["nodeCIDR"] = "172.18.0.0/16"
    service = balancer(type="NodePort")
    del service["status"]
    cluster = given(edges=[edge], services=[service])
    assert flows(cluster, Feature.LOAD_BALANCER) == [
        "table=28, priority=100,tcp,nw_dst=172.18.0.0/16,tp_dst=30080 actions=goto_table:52",
        "table=28, priority=100,udp,nw_dst=172.18.0.0/16,tp_dst=30053 actions=goto_table:52",
    ]
    assert "table=16, priority=80,ip,nw_dst=172.18.0.0/16 actions=goto_table:28" in flows(cluster, Feature.EDGE)


def test_ip_mode_goes_to_pods() -> None:
    cluster = given(nodes=[make.node()], services=[balancer(IP_MODE)], endpointslices=[SLICE])
    assert flows(cluster, Feature.LOAD_BALANCER)[1:] == [
        "table=28, priority=200,tcp,nw_dst=192.0.2.1,tp_dst=80 actions=group:10.244.1.2:8080|10.244.2.2:8080",
        "table=28, priority=200,udp,nw_dst=192.0.2.1,tp_dst=53 actions=group:10.244.1.2:5353|10.244.2.2:5353",
    ]
    [scope] = cluster.scopes("edge")
    assert any(
        "actions=ct(commit,table=52,zone=1,nat(dst=10.244.1.2:8080),exec(set_field:0x1/0x1->ct_mark))" in str(group)
        for group in scope.groups.values()
    )
    assert cluster.owner_of(next(f.cookie for f in scope.flows.values() if f.table == EdgeTable.SERVICE)) == (
        "LOAD_BALANCER",
        ["Service/default/web"],
    )


def test_source_ranges_and_internal() -> None:
    ranges = ["10.0.0.0/8", "203.0.113.10/32"]
    cluster = given(services=[balancer(IP_MODE, loadBalancerSourceRanges=ranges)], endpointslices=[SLICE])
    group = "group:10.244.1.2:8080|10.244.2.2:8080"
    assert [flow for flow in flows(cluster, Feature.LOAD_BALANCER) if ",tcp," in flow] == [
        f"table=28, priority=200,tcp,nw_src=10.0.0.0/8,nw_dst=192.0.2.1,tp_dst=80 actions={group}",
        f"table=28, priority=200,tcp,nw_src=203.0.113.10,nw_dst=192.0.2.1,tp_dst=80 actions={group}",
    ]
    note = {"service.beta.kubernetes.io/aws-load-balancer-scheme": "internal"}
    cluster = given(services=[balancer(IP_MODE | note)], endpointslices=[SLICE])
    assert flows(cluster, Feature.LOAD_BALANCER) == ["table=28, priority=190,ip,nw_dst=192.0.2.1 actions=drop"]


def test_a_target_that_goes_is_forgotten() -> None:
    cluster = given(services=[balancer(IP_MODE)], endpointslices=[SLICE])
    fewer = make.endpoints("web", ["10.244.2.2"], ("web", "TCP", 8080), ("dns", "UDP", 5353))
    cluster.apply("endpointslices", "MODIFIED", fewer)
    cluster.compute()
    [flush] = cluster.stale_outside
    assert isinstance(flush, CtFlush)
    assert [str(part) for part in flush] == ["17", VIP, "53", "10.244.1.2", "5353"]
    cluster.apply("services", "DELETED", balancer(IP_MODE))
    cluster.compute()
    [scope] = cluster.scopes("edge")
    assert flows(cluster, Feature.LOAD_BALANCER) == []
    assert not scope.groups


def test_local_targets_are_nodes_with_an_endpoint_and_unhealthy_nodes_are_none() -> None:
    on_n2 = make.endpoints("web", ["10.244.2.2"], ("web", "TCP", 8080))
    on_n2["endpoints"][0]["nodeName"] = "n2"
    cluster = given(
        nodes=[make.node(), make.node("n2", 2)],
        services=[balancer(externalTrafficPolicy="Local")],
        endpointslices=[on_n2],
    )
    assert flows(cluster, Feature.LOAD_BALANCER)[1].endswith("actions=group:172.18.0.3:30080")
    sick = make.node("n2", 2)
    sick["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
    cluster.apply("nodes", "MODIFIED", sick)
    cluster.compute()
    assert len(flows(cluster, Feature.LOAD_BALANCER)) == 1


def test_nat_with_several_addresses_and_without() -> None:
    edge = make.edge()
    edge["spec"] |= {"natAddresses": ["198.51.100.1", "198.51.100.2"], "natPorts": "5000-5003"}
    assert (
        "table=84, priority=100,ip,in_port=1,nw_src=10.244.0.0/16 actions=ct(commit,table=88,zone=1,"
        "nat(src=198.51.100.1-198.51.100.2:5000-5003),exec(set_field:0x1/0x1->ct_mark))"
    ) in flows(given(edges=[edge]), Feature.EDGE, EdgeTable.SNAT)
    edge["spec"]["natOutgoing"] = False
    assert not [flow for flow in flows(given(edges=[edge]), Feature.EDGE) if "198.51.100" in flow]


DSR = {"kmn.io/lb-forwarding": "dsr"}


def test_direct_return_goes_to_nodes_with_endpoints_and_is_not_tracked() -> None:
    """Both ways past connection tracking; the node is chosen by the packet alone."""
    local = make.endpoints("web", ["10.244.1.2", "10.244.2.2"], ("web", "TCP", 8080), ("dns", "UDP", 5353))
    for number, endpoint in enumerate(local["endpoints"], 1):
        endpoint["nodeName"] = f"n{number}"
    nodes = [make.node(), make.node("n2", 2), make.node("n3", 3)]
    cluster = given(nodes=nodes, services=[balancer(DSR)], endpointslices=[local])
    [scope] = cluster.scopes("edge")
    assert [text.partition("group:")[0] for text in flows(cluster, Feature.LOAD_BALANCER)] == [
        "table=0, priority=105,ip,in_port=1,nw_src=192.0.2.1 actions=set_field:0x4/0x4->reg0,goto_table:52",
        "table=12, priority=110,ip,nw_dst=192.0.2.1 actions=goto_table:28",
        "table=28, priority=190,ip,nw_dst=192.0.2.1 actions=drop",
        "table=28, priority=200,tcp,nw_dst=192.0.2.1,tp_dst=80 actions=",
        "table=28, priority=200,udp,nw_dst=192.0.2.1,tp_dst=53 actions=",
    ]
    assert "table=84, priority=230,ip,reg0=0x4/0x4 actions=goto_table:92" in flows(cluster, Feature.EDGE)
    groups = sorted(str(group).split("type=select,")[1] for group in scope.groups.values())
    assert [group.partition(",bucket")[0] for group in groups] == [
        "selection_method=hash,fields(ip_src,tcp_src,udp_src,sctp_src)",
        "selection_method=hash,fields(ip_src,tcp_src,udp_src,sctp_src)",
    ]
    to_node = "set_field:10.244.{}.1->ip_dst,set_field:30080->tcp_dst,set_field:0x4/0x4->reg0,resubmit(,52)"
    (tcp,) = (group for group in groups if "tcp_dst" in group)
    assert sorted(bucket.split("actions=")[1] for bucket in tcp.split(",bucket=")[1:]) == [
        to_node.format(1),
        to_node.format(2),
    ]
    note = {"service.beta.kubernetes.io/aws-load-balancer-scheme": "internal"}
    cluster = given(nodes=nodes, services=[balancer(DSR | note)], endpointslices=[local])
    assert flows(cluster, Feature.LOAD_BALANCER) == ["table=28, priority=190,ip,nw_dst=192.0.2.1 actions=drop"]


def test_a_node_puts_the_load_balancers_address_back() -> None:
    """And keeps the client, whatever the traffic policy is; what comes from inside is not put back."""
    local = make.endpoints("web", ["10.244.1.2"], ("web", "TCP", 8080))
    local["endpoints"][0]["nodeName"] = "n1"
    networks = {"podCIDR": "10.244.0.0/16", "nodeCIDR": "172.18.0.0/16"}
    cluster = given(
        nodes=[make.node()],
        services=[balancer(DSR)],
        endpointslices=[local],
        clusters=[{"kind": "Cluster", "metadata": {"name": "t"}, "spec": networks}],
    )
    found = {f"table={int(f.table)}, {f.rule}" for scope in cluster.scopes("n1") for f in scope.flows.values()}
    assert {
        "table=8, priority=105,ip,in_port=1,nw_dst=10.244.1.1 actions=goto_table:10",
        "table=10, priority=110,ip,nw_src=10.244.0.0/16 actions=goto_table:12",
        "table=10, priority=110,ip,nw_src=172.18.0.0/16 actions=goto_table:12",
        (
            "table=10, priority=100,tcp,tp_dst=30080 "
            "actions=set_field:192.0.2.1->ip_dst,set_field:80->tcp_dst,goto_table:12"
        ),
        (
            "table=10, priority=100,udp,tp_dst=30053 "
            "actions=set_field:192.0.2.1->ip_dst,set_field:53->udp_dst,goto_table:12"
        ),
        "table=28, priority=204,tcp,in_port=1,nw_dst=192.0.2.1,tp_dst=80 actions=drop",
    } <= found
    (to_endpoint,) = (text for text in found if "priority=206,tcp,in_port=1,nw_dst=192.0.2.1,tp_dst=80" in text)
    assert "set_field:0x2/0x2->reg0" not in to_endpoint
    (to_node_port,) = (text for text in found if text.startswith("table=30, priority=200,tcp,tp_dst=30080"))
    assert "set_field:0x2/0x2->reg0" in to_node_port, "the node port itself goes by externalTrafficPolicy: Cluster"


def test_egress_addresses() -> None:
    """A pod's own wish goes before its namespace's."""
    note = {"kmn.io/egress-address": "198.51.100.7"}
    namespace: Object = {"kind": "Namespace", "metadata": {"name": "default", "annotations": note}}
    own = make.pod("b", "10.244.1.3", 11)
    own["metadata"]["annotations"]["kmn.io/egress-address"] = "198.51.100.8"
    cluster = given(namespaces=[namespace], pods=[make.pod("a", "10.244.1.2", 10), own])
    expected = "actions=ct(commit,table=88,zone=1,nat(src=198.51.100.{}:1024-65535),exec(set_field:0x1/0x1->ct_mark))"
    assert flows(cluster, Feature.EGRESS) == [
        "table=84, priority=110,ip,in_port=1,nw_src=10.244.1.2 " + expected.format(7),
        "table=84, priority=110,ip,in_port=1,nw_src=10.244.1.3 " + expected.format(8),
    ]
    cluster.apply("namespaces", "DELETED", namespace)
    cluster.compute()
    assert len(flows(cluster, Feature.EGRESS)) == 1


def proxy(scheme: str = "internet-facing", *sources: str) -> Object:
    """An application load balancer with a listener on port 80."""
    return {
        "apiVersion": "kmn.io/v1",
        "kind": "ApplicationLoadBalancer",
        "metadata": {"name": "k8s-web"},
        "spec": {"scheme": scheme, "listeners": [{"port": 80, "sources": list(sources or ("0.0.0.0/0",))}]},
        "status": {"address": VIP, "mac": mac_of(VIP), "ofport": 1000, "netns": "x"},
    }


MAC = "0a:58:c0:00:02:01"
PLACE = [
    f"table=0, priority=100,arp,in_port=1000,dl_src={MAC},arp_spa=192.0.2.1,arp_sha={MAC} actions=goto_table:4",
    f"table=0, priority=100,ip,in_port=1000,dl_src={MAC},dl_dst={GATEWAY_MAC},nw_src=192.0.2.1 actions=goto_table:12",
    "table=16, priority=110,ip,in_port=1,nw_dst=192.0.2.1 actions=goto_table:28",
    "table=16, priority=110,ip,in_port=1000,nw_dst=10.244.0.0/16 actions=goto_table:52",
]


def test_an_application_load_balancer_is_reached_at_its_listeners() -> None:
    cluster = given(applicationloadbalancers=[proxy()])
    found = flows(cluster, Feature.LOAD_BALANCER)
    assert [line for line in found if line in PLACE] == PLACE
    assert flows(cluster, Feature.LOAD_BALANCER, EdgeTable.SERVICE) == [
        "table=28, priority=190,ip,nw_dst=192.0.2.1 actions=drop",
        "table=28, priority=200,tcp,nw_dst=192.0.2.1,tp_dst=80 actions=goto_table:52",
        "table=28, priority=210,tcp,in_port=1,nw_dst=192.0.2.1,tp_dst=80 actions=goto_table:52",
    ]
    cluster.apply("applicationloadbalancers", "DELETED", proxy())
    cluster.compute()
    assert flows(cluster, Feature.LOAD_BALANCER) == []


def test_an_application_load_balancer_sees_the_cluster_under_the_gateways_address() -> None:
    cluster = given(applicationloadbalancers=[proxy("internet-facing", "203.0.113.0/24", "10.0.0.0/8")])
    assert flows(cluster, Feature.LOAD_BALANCER, EdgeTable.SERVICE) == [
        "table=28, priority=190,ip,nw_dst=192.0.2.1 actions=drop",
        "table=28, priority=200,tcp,nw_src=10.0.0.0/8,nw_dst=192.0.2.1,tp_dst=80 actions=goto_table:52",
        "table=28, priority=200,tcp,nw_src=203.0.113.0/24,nw_dst=192.0.2.1,tp_dst=80 actions=goto_table:52",
        "table=28, priority=210,tcp,in_port=1,nw_dst=192.0.2.1,tp_dst=80 actions=drop",
    ]


def test_an_internal_application_load_balancer_is_for_the_cluster_whose_addresses_it_sees() -> None:
    cluster = given(applicationloadbalancers=[proxy("internal", "10.244.1.0/24")])
    assert flows(cluster, Feature.LOAD_BALANCER, EdgeTable.SERVICE) == [
        "table=28, priority=190,ip,nw_dst=192.0.2.1 actions=drop",
        "table=28, priority=200,tcp,in_port=1,nw_src=10.244.1.0/24,nw_dst=192.0.2.1,tp_dst=80 actions=goto_table:52",
    ]
    [kept] = flows(cluster, Feature.LOAD_BALANCER, EdgeTable.SNAT)
    assert kept.startswith("table=84, priority=150,ip,in_port=1,nw_dst=192.0.2.1 actions=ct(commit,zone=1")


def test_an_application_load_balancer_that_makes_no_sense_is_told_of() -> None:
    wrong = proxy("internal", "somewhere")
    cluster = given(applicationloadbalancers=[wrong])
    assert flows(cluster, Feature.LOAD_BALANCER) == []
    [problem] = cluster.malformed.values()
    assert problem.startswith("ApplicationLoadBalancer k8s-web: spec.listeners or status cannot be used")
