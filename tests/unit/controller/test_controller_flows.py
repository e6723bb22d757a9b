"""The flows of each feature, as ``ovs-ofctl dump-flows`` prints them, without cookies."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import controller_objects as make

from controller.cluster import Cluster
from controller.openflow.flow import Flow
from controller.pipeline import Feature, Table

GATEWAY = "0a:58:a9:fe:01:01"


def arp_answer(mac: str) -> str:
    return (
        f"move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],set_field:{mac}->eth_src,set_field:2->arp_op,"
        f"move:NXM_NX_ARP_SHA[]->NXM_NX_ARP_THA[],set_field:{mac}->arp_sha,move:NXM_OF_ARP_TPA[]->NXM_NX_REG15[],"
        "move:NXM_OF_ARP_SPA[]->NXM_OF_ARP_TPA[],move:NXM_NX_REG15[]->NXM_OF_ARP_SPA[],IN_PORT"
    )


def dnat(endpoint: str) -> str:
    marks = "set_field:0x2/0x2->ct_mark,move:NXM_NX_REG0[1]->NXM_NX_CT_MARK[2]"
    return f"ct(commit,table=36,zone=1,nat(dst={endpoint}),exec({marks}))"


RECALL = "move:NXM_NX_CT_MARK[2]->NXM_NX_REG0[1]"
RECALL_RULES = "move:NXM_NX_CT_LABEL[0..31]->NXM_NX_REG9[],move:NXM_NX_CT_LABEL[32..63]->NXM_NX_REG11[]"


def text(flows: Iterable[Flow]) -> set[str]:
    return {f"table={int(flow.table)}, {flow.rule}" for flow in flows}


def of_feature(cluster: Cluster, feature: Feature, bridge: str = "n1") -> set[str]:
    cluster.compute()
    scopes = cluster.scopes(bridge)
    return text(f for scope in scopes for f in scope.flows.values() if f.cookie >> 56 == feature)


def given(**resources: list[object]) -> Cluster:
    cluster = Cluster()
    for resource, objects in resources.items():
        for obj in objects:
            cluster.apply(resource, "ADDED", obj)  # type: ignore[arg-type]
    return cluster


def test_every_bridge() -> None:
    assert of_feature(given(nodes=[make.node()]), Feature.CONNECTIVITY) == {
        "table=4, priority=150,arp,in_port=1 actions=drop",
        f"table=4, priority=100,arp,arp_op=1 actions={arp_answer(GATEWAY)}",
        "table=8, priority=100,ip,nw_dst=169.254.169.252 actions=ct(table=12,zone=2,nat)",
        "table=8, priority=0 actions=goto_table:12",
        "table=10, priority=0 actions=goto_table:12",
        "table=12, priority=100,ip actions=ct(table=16,zone=1,nat)",
        "table=16, priority=200,ct_state=+inv+trk,ip actions=drop",
        f"table=16, priority=190,ct_mark=0x1/0x1,ip actions={RECALL},{RECALL_RULES},goto_table:52",
        "table=16, priority=180,ct_state=+rel+trk,ip actions=drop",
        f"table=16, priority=170,ct_mark=0x2/0x2,ip actions={RECALL},goto_table:36",
        "table=16, priority=0 actions=goto_table:28",
        "table=28, priority=0 actions=goto_table:36",
        "table=30, priority=0 actions=goto_table:36",
        f"table=32, priority=100,tcp actions={dnat('169.254.169.253:1')}",
        f"table=32, priority=100,sctp actions={dnat('169.254.169.253:1')}",
        f"table=32, priority=100,udp actions={dnat('169.254.169.253:1')}",
        *(
            f"table={table}, priority=0 actions=goto_table:{following}"
            for stage in ((36, 37, 38, 40, 42, 44, 52), (56, 57, 58, 64, 66, 68, 76, None))
            for table, following in pairwise(stage)
            if following
        ),
        "table=56, priority=65010,ct_mark=0x1/0x1,ip actions=goto_table:76",
        "table=56, priority=65000,in_port=2 actions=goto_table:76",
        "table=56, priority=65000,reg0=0x2/0x2 actions=goto_table:76",
        "table=52, priority=235,ip,nw_dst=127.0.0.0/8 actions=drop",
        "table=52, priority=235,ip,nw_dst=169.254.0.0/16 actions=drop",
        "table=52, priority=235,ip,nw_dst=224.0.0.0/3 actions=drop",
        "table=52, priority=50,ip,in_port=1 actions=drop",
        "table=76, priority=200,ct_mark=0x1/0x1,ip actions=goto_table:78",
        (
            "table=76, priority=100,ip actions=ct(commit,zone=1,exec(set_field:0x1/0x1->ct_mark,"
            "move:NXM_NX_REG9[]->NXM_NX_CT_LABEL[0..31],move:NXM_NX_REG11[]->NXM_NX_CT_LABEL[32..63])),goto_table:78"
        ),
        "table=78, priority=0 actions=goto_table:80",
        "table=80, priority=0 actions=goto_table:84",
        "table=84, priority=120,ct_state=+rpl+trk,ip actions=goto_table:92",
        "table=84, priority=110,ip,reg0=0x1/0x1,in_port=2 actions=ct(commit,table=92,zone=2,nat(src=169.254.169.252))",
        "table=84, priority=0 actions=goto_table:92",
        "table=92, priority=110,ip,reg0=0x1/0x1 actions=IN_PORT",
        "table=92, priority=100,ip actions=output:NXM_NX_REG2[]",
    }


def test_node_without_pods() -> None:
    host = f"set_field:{GATEWAY}->eth_src,set_field:0a:00:00:00:01:01->eth_dst"
    from_host = f"ip,in_port=2,dl_src=0a:00:00:00:01:01,dl_dst={GATEWAY}"
    own = ("172.18.0.2", "10.244.1.1", "169.254.169.253")
    assert of_feature(given(nodes=[make.node()]), Feature.NODE) == {
        "table=0, priority=110,ip,in_port=1,nw_src=10.244.1.0/24 actions=drop",
        "table=0, priority=100,ip,in_port=1 actions=goto_table:8",
        "table=0, priority=100,arp,in_port=1 actions=goto_table:4",
        "table=0, priority=100,arp,in_port=2,dl_src=0a:00:00:00:01:01 actions=goto_table:4",
        f"table=4, priority=200,arp,in_port=1,arp_tpa=172.18.0.2,arp_op=1 actions={arp_answer('0a:00:00:00:01:02')}",
        "table=8, priority=100,ip,nw_dst=10.244.1.1 actions=ct(table=12,zone=2,nat)",
        "table=8, priority=105,ip,in_port=1,nw_dst=10.244.1.1 actions=goto_table:10",
        "table=8, priority=110,ip,in_port=2,nw_dst=172.18.0.2 actions=goto_table:12",
        "table=8, priority=100,ip,nw_dst=172.18.0.2 actions=ct(table=12,zone=2,nat)",
        "table=28, priority=195,ip,nw_dst=172.18.0.2 actions=goto_table:30",
        "table=52, priority=100,ip,nw_dst=10.244.1.0/24 actions=drop",
        f"table=52, priority=230,ip,nw_ttl=1 actions={host},set_field:0/0x2->reg0,set_field:0x2->reg2,goto_table:76",
        (
            "table=52, priority=40,ip actions=set_field:0a:00:00:00:01:02->eth_src,"
            "set_field:0a:00:00:00:01:03->eth_dst,dec_ttl,set_field:0x1->reg2,goto_table:76"
        ),
        (
            "table=52, priority=55,ip,reg0=0x2/0x2,in_port=1 actions=set_field:0a:00:00:00:01:02->eth_src,"
            "set_field:0a:00:00:00:01:03->eth_dst,dec_ttl,set_field:0x1/0x1->reg0,goto_table:76"
        ),
        ("table=84, priority=105,ip,reg0=0x2/0x2 actions=ct(commit,table=88,zone=2,nat(src=172.18.0.2:1024-65535))"),
        (
            "table=84, priority=104,ip,in_port=2,nw_src=172.18.0.2 "
            "actions=ct(commit,table=88,zone=2,nat(src=172.18.0.2:1024-65535))"
        ),
        "table=88, priority=100,ip,nw_src=172.18.0.2 actions=goto_table:92",
        "table=88, priority=0,ip actions=drop",
        "table=84, priority=100,ip,reg0=0x1/0x1 actions=ct(commit,table=92,zone=2,nat(src=10.244.1.1))",
        *(f"table=0, priority=100,{from_host},nw_src={address} actions=goto_table:8" for address in own),
        *(f"table=4, priority=200,arp,in_port=2,arp_tpa={address} actions=drop" for address in own),
        *(
            f"table=52, priority=240,ip,nw_dst={address} actions={host},set_field:0/0x2->reg0,"
            "set_field:0x2->reg2,goto_table:76"
            for address in own
        ),
        *(
            f"table=52, priority=250,ip,in_port=2,nw_dst={address} actions={host},set_field:0x1/0x1->reg0,goto_table:76"
            for address in own
        ),
    }


def test_pod() -> None:
    cluster = given(nodes=[make.node()], pods=[make.pod("web", "10.244.1.2", 10)])
    port, mac = "in_port=10", "0a:58:0a:f4:01:02"
    to_pod = f"set_field:{GATEWAY}->eth_src,set_field:{mac}->eth_dst,dec_ttl"
    assert of_feature(cluster, Feature.POD) == {
        f"table=0, priority=100,ip,{port},dl_src={mac},dl_dst={GATEWAY},nw_src=10.244.1.2 actions=goto_table:8",
        f"table=0, priority=100,arp,{port},dl_src={mac},arp_spa=10.244.1.2,arp_sha={mac} actions=goto_table:4",
        f"table=4, priority=200,arp,{port},arp_tpa=10.244.1.2 actions=drop",
        f"table=52, priority=200,ip,nw_dst=10.244.1.2 actions={to_pod},set_field:0xa->reg2,goto_table:56",
        f"table=52, priority=210,ip,{port},nw_dst=10.244.1.2 actions={to_pod},set_field:0x1/0x1->reg0,goto_table:76",
    }
    assert of_feature(cluster, Feature.POD, "n2") == set()


def test_pods_without_flows() -> None:
    on_host, unbound, done = (make.pod(name, "10.244.1.2", 10) for name in ("host", "unbound", "done"))
    on_host["spec"]["hostNetwork"] = True
    del unbound["metadata"]["annotations"]["kmn.io/ofport"]
    done["status"]["phase"] = "Succeeded"
    assert of_feature(given(nodes=[make.node()], pods=[on_host, unbound, done]), Feature.POD) == set()


def test_terminating_pod_keeps_its_flows_until_deleted() -> None:
    cluster = given(nodes=[make.node()], pods=[make.pod("web", "10.244.1.2", 10)])
    before = of_feature(cluster, Feature.POD)
    terminating = make.pod("web", "10.244.1.2", 10)
    terminating["metadata"]["deletionTimestamp"] = "2024-01-01T00:00:00Z"
    cluster.apply("pods", "MODIFIED", terminating)
    assert of_feature(cluster, Feature.POD) == before
    cluster.apply("pods", "DELETED", terminating)
    assert of_feature(cluster, Feature.POD) == set()


def test_service_with_endpoints_on_two_nodes() -> None:
    cluster = given(
        nodes=[make.node()],
        clusters=[{"kind": "Cluster", "metadata": {"name": "t"}, "spec": {"serviceCIDR": "10.96.0.0/12"}}],
        services=[make.service("web", "10.96.0.20", ("", "TCP", 80))],
        endpointslices=[make.endpoints("web", ["10.244.2.7", "10.244.1.2"], ("", "TCP", 8080))],
    )
    assert of_feature(cluster, Feature.SERVICE) == {
        "table=28, priority=200,tcp,nw_dst=10.96.0.20,tp_dst=80 actions=group:602153030",
        "table=28, priority=190,ip,nw_dst=10.96.0.20 actions=goto_table:32",
        "table=28, priority=100,ip,nw_dst=10.96.0.0/12 actions=drop",
    }
    assert [str(group) for group in cluster.common.groups.values()] == [
        (
            " group_id=602153030,type=select,selection_method=dp_hash,"
            f"bucket=bucket_id:681195409,weight:100,actions={dnat('10.244.1.2:8080')},"
            f"bucket=bucket_id:1237302463,weight:100,actions={dnat('10.244.2.7:8080')}"
        )
    ]


def test_service_without_endpoints_is_refused_by_its_address() -> None:
    cluster = given(nodes=[make.node()], services=[make.service("web", "10.96.0.20", ("", "TCP", 80))])
    assert of_feature(cluster, Feature.SERVICE) == {"table=28, priority=190,ip,nw_dst=10.96.0.20 actions=goto_table:32"}
    assert cluster.common.groups == {}


def test_udp_and_named_ports() -> None:
    """The slices' port names match, not their numbers: two slices may have different numbers for one name."""
    cluster = given(
        nodes=[make.node()],
        services=[make.service("dns", "10.96.0.10", ("dns", "UDP", 53), ("dns-tcp", "TCP", 53), ("gone", "TCP", 9))],
        endpointslices=[
            make.endpoints("dns", ["10.244.1.2"], ("dns", "UDP", 5353), ("dns-tcp", "TCP", 5354)),
            make.endpoints("dns", ["10.244.2.2"], ("dns", "UDP", 1053), suffix="2"),
        ],
    )
    groups = {g.id: [b.text.split("nat(dst=")[1].split(")")[0] for b in g.buckets] for g in _computed(cluster)}
    flows = {f.rule.split(" actions=group:")[0]: f for f in cluster.common.flows.values() if "group:" in f.rule}
    assert {rule: groups[int(str(f.actions).split(":")[1])] for rule, f in flows.items()} == {
        "priority=200,udp,nw_dst=10.96.0.10,tp_dst=53": ["10.244.1.2:5353", "10.244.2.2:1053"],
        "priority=199,udp,nw_dst=10.96.0.10,nw_frag=yes": ["10.244.1.2:5353", "10.244.2.2:1053"],
        "priority=200,tcp,nw_dst=10.96.0.10,tp_dst=53": ["10.244.1.2:5354"],
    }  # fmt: skip


def _computed(cluster: Cluster) -> list:  # type: ignore[type-arg]
    cluster.compute()
    return list(cluster.common.groups.values())


def test_endpoints_not_ready_are_used_for_want_of_better() -> None:
    ready = make.endpoints("web", ["10.244.1.2"], ("", "TCP", 80))
    leaving = make.endpoints(
        "web", ["10.244.1.3"], ("", "TCP", 80), suffix="2", ready=False, serving=True, terminating=True
    )
    broken = make.endpoints("web", ["10.244.1.4"], ("", "TCP", 80), suffix="3", ready=False, serving=False)
    cluster = given(
        services=[make.service("web", "10.96.0.20", ("", "TCP", 80))], endpointslices=[ready, leaving, broken]
    )

    def used() -> list[str]:
        return [b.text.split("nat(dst=")[1].split(")")[0] for g in _computed(cluster) for b in g.buckets]

    assert used() == ["10.244.1.2:80"]
    cluster.apply("endpointslices", "DELETED", ready)
    assert used() == ["10.244.1.3:80"]
    cluster.apply("endpointslices", "DELETED", leaving)
    assert used() == []


def test_headless_and_external_services_have_no_flows() -> None:
    headless, external = make.service("a", "None", ("", "TCP", 80)), make.service("b", "10.96.0.9", ("", "TCP", 80))
    external["spec"]["type"] = "ExternalName"
    assert of_feature(given(nodes=[make.node()], services=[headless, external]), Feature.SERVICE) == set()


def echo(mac: str) -> str:
    return (
        f"move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],set_field:{mac}->eth_src,move:NXM_OF_IP_SRC[]->NXM_NX_REG15[],"
        "move:NXM_OF_IP_DST[]->NXM_OF_IP_SRC[],move:NXM_NX_REG15[]->NXM_OF_IP_DST[],set_field:0->icmp_type,"
        "set_field:64->nw_ttl,IN_PORT"
    )


def test_edge() -> None:
    to_host = f"set_field:{GATEWAY}->eth_src,set_field:0a:58:cb:00:71:0a->eth_dst,dec_ttl,set_field:0xb->reg2"
    host = "in_port=11,dl_src=0a:58:cb:00:71:0a"
    assert of_feature(given(edges=[make.edge()]), Feature.EDGE, "edge") == {
        "table=0, priority=100,arp,in_port=1 actions=goto_table:4",
        "table=0, priority=100,ip,in_port=1,nw_src=10.244.0.0/16 actions=goto_table:12",
        f"table=0, priority=100,ip,{host},dl_dst={GATEWAY},nw_src=203.0.113.10 actions=goto_table:12",
        f"table=0, priority=100,arp,{host},arp_spa=203.0.113.10,arp_sha=0a:58:cb:00:71:0a actions=goto_table:4",
        "table=4, priority=200,arp,in_port=11,arp_tpa=203.0.113.10 actions=drop",
        f"table=4, priority=150,arp,in_port=1,arp_op=1 actions={arp_answer('0a:00:00:00:0e:02')}",
        f"table=4, priority=100,arp,arp_op=1 actions={arp_answer(GATEWAY)}",
        "table=12, priority=100,ip actions=ct(table=16,zone=1,nat)",
        "table=16, priority=200,ct_state=+inv+trk,ip actions=drop",
        "table=16, priority=190,ct_mark=0x1/0x1,ip actions=goto_table:52",
        "table=16, priority=180,ct_state=+rel+trk,ip actions=drop",
        "table=16, priority=100,ip,in_port=1 actions=goto_table:52",
        "table=16, priority=90,ip,nw_dst=203.0.113.0/24 actions=goto_table:52",
        f"table=52, priority=200,ip,nw_dst=203.0.113.10 actions={to_host},goto_table:84",
        "table=16, priority=80,ip,nw_dst=192.0.2.0/24 actions=goto_table:28",
        f"table=52, priority=220,icmp,in_port=1,nw_dst=203.0.113.1,icmp_type=8 actions={echo('0a:00:00:00:0e:02')}",
        f"table=52, priority=210,icmp,nw_dst=203.0.113.1,icmp_type=8 actions={echo(GATEWAY)}",
        "table=52, priority=110,ip,in_port=1,nw_dst=10.244.0.0/16 actions=drop",
        (
            "table=52, priority=100,ip,nw_dst=10.244.0.0/16 actions=set_field:0a:00:00:00:0e:02->eth_src,"
            "set_field:0a:00:00:00:0e:03->eth_dst,dec_ttl,set_field:0x1->reg2,goto_table:84"
        ),
        "table=0, priority=110,ip,in_port=1,nw_dst=203.0.113.1 actions=ct(table=12,zone=2,nat)",
        "table=84, priority=230,ip,reg0=0x4/0x4 actions=goto_table:92",
        "table=84, priority=220,ct_state=+rpl+trk,ct_mark=0x4/0x4,ip actions=goto_table:92",
        "table=84, priority=210,ct_mark=0x4/0x4,ip actions=ct(commit,table=92,zone=2,nat(src=203.0.113.1:1024-65535))",
        "table=84, priority=200,ct_mark=0x1/0x1,ip actions=goto_table:92",
        (
            "table=84, priority=100,ip,in_port=1,nw_src=10.244.0.0/16 "
            "actions=ct(commit,table=88,zone=1,nat(src=198.51.100.1:1024-65535),exec(set_field:0x1/0x1->ct_mark))"
        ),
        "table=88, priority=100,ip,nw_src=10.244.0.0/16 actions=drop",
        "table=88, priority=0,ip actions=goto_table:92",
        "table=84, priority=0,ip actions=ct(commit,zone=1,exec(set_field:0x1/0x1->ct_mark)),goto_table:92",
        "table=92, priority=100,ip actions=output:NXM_NX_REG2[]",
    }


def test_gotos_lead_down() -> None:
    """A goto to a table of lower number is refused by every switch."""
    cluster = given(nodes=[make.node()], pods=[make.pod("web", "10.244.1.2", 10)])
    cluster.compute()
    tables = {int(table) for table in Table}
    for flow in [f for scope in cluster.scopes("n1") for f in scope.flows.values()]:
        assert flow.table in tables
        if "goto_table:" in str(flow.actions):
            target = int(str(flow.actions).rsplit("goto_table:", 1)[1])
            assert target in tables
            assert target > flow.table
