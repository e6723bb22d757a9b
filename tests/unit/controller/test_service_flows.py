"""Flows of Services by type and policy, as ``ovs-ofctl dump-flows`` prints them, without cookies."""

from __future__ import annotations

from typing import Any

import controller_objects as make
from test_controller_flows import dnat, given, text

from controller.cluster import Cluster
from controller.pipeline import Feature
from kmn.k8s.objects import Object

VIP, BALANCER, EXTERNAL = "10.96.0.20", "192.0.2.100", "192.0.2.200"


def service(protocol: str = "TCP", **spec: Any) -> Object:
    made = make.service("web", VIP, ("", protocol, 80))
    made["spec"].update(spec)
    if spec.get("type") in ("NodePort", "LoadBalancer"):
        made["spec"]["ports"][0]["nodePort"] = 30080
    if spec.get("type") == "LoadBalancer":
        made["status"] = {"loadBalancer": {"ingress": [{"ip": BALANCER}]}}
    return made


def endpoints(protocol: str = "TCP", hints: dict[str, dict[str, Any]] | None = None, **nodes: str) -> Object:
    """Endpoints on n1 and n2, by address."""
    made = make.endpoints("web", [], ("", protocol, 8080))
    for node, address in nodes.items():
        made["endpoints"].append({"addresses": [address], "nodeName": node, "hints": (hints or {}).get(node)})
    return made


BOTH = endpoints(n1="10.244.1.2", n2="10.244.2.2")


def flows(cluster: Cluster, bridge: str | None = None) -> set[str]:
    """Of Services: those of all nodes, or those that one node has beyond them."""
    cluster.compute()
    scope = cluster.common if bridge is None else cluster.scopes(bridge)[1]
    return {
        line.replace("actions=group:", "group ")
        for line in text(f for f in scope.flows.values() if f.cookie >> 56 == Feature.SERVICE)
    }


def group_of(cluster: Cluster, bridge: str | None = None) -> list[tuple[int, list[str]]]:
    """Number and endpoints of each group."""
    cluster.compute()
    scope = cluster.common if bridge is None else cluster.scopes(bridge)[1]
    return [(g.id, [b.text.split("nat(dst=")[1].split(")")[0] for b in g.buckets]) for g in scope.groups.values()]


def two_nodes(service: Object, slices: Object) -> Cluster:
    return given(nodes=[make.node(), make.node("n2", 2)], services=[service], endpointslices=[slices])


REFUSE = f"table=28, priority=190,ip,nw_dst={VIP} actions=goto_table:32"
MASQUERADE = "actions=set_field:0x2/0x2->reg0,group:602153030"


def test_every_way_in_with_policy_cluster() -> None:
    """From outside masqueraded; the same group for all ways."""
    cluster = two_nodes(service(type="LoadBalancer", externalIPs=[EXTERNAL]), BOTH)
    assert flows(cluster) == {
        REFUSE,
        f"table=28, priority=200,tcp,nw_dst={VIP},tp_dst=80 group 602153030",
        f"table=28, priority=200,tcp,nw_dst={EXTERNAL},tp_dst=80 {MASQUERADE}",
        f"table=28, priority=200,tcp,nw_dst={BALANCER},tp_dst=80 {MASQUERADE}",
        f"table=30, priority=200,tcp,tp_dst=30080 {MASQUERADE}",
    }
    assert flows(cluster, "n1") == set()
    assert group_of(cluster) == [(602153030, ["10.244.1.2:8080", "10.244.2.2:8080"])]


def test_external_policy_local() -> None:
    """By the fabric only to the node's own endpoints; from within to all, with the client's address."""
    cluster = two_nodes(service(type="NodePort", externalTrafficPolicy="Local"), endpoints(n1="10.244.1.2"))
    assert flows(cluster) == {
        REFUSE,
        f"table=28, priority=200,tcp,nw_dst={VIP},tp_dst=80 group 602153030",
        "table=30, priority=200,tcp,tp_dst=30080 group 602153030",
        "table=30, priority=204,tcp,in_port=1,tp_dst=30080 actions=drop",
    }
    [(number, local)] = group_of(cluster, "n1")
    assert local == ["10.244.1.2:8080"]
    assert flows(cluster, "n1") == {f"table=30, priority=206,tcp,in_port=1,tp_dst=30080 group {number}"}
    assert flows(cluster, "n2") == set()


def test_internal_policy_local() -> None:
    cluster = two_nodes(service(internalTrafficPolicy="Local"), endpoints(n1="10.244.1.2"))
    assert flows(cluster) == {REFUSE, f"table=28, priority=204,tcp,nw_dst={VIP},tp_dst=80 actions=drop"}
    [(number, _)] = group_of(cluster, "n1")
    assert group_of(cluster) == []
    assert flows(cluster, "n1") == {f"table=28, priority=206,tcp,nw_dst={VIP},tp_dst=80 group {number}"}


def test_a_local_endpoint_that_goes_leaves_nothing_on_its_node() -> None:
    cluster = two_nodes(service(internalTrafficPolicy="Local"), BOTH)
    assert flows(cluster, "n1")
    cluster.apply("endpointslices", "MODIFIED", endpoints(n2="10.244.2.2"))
    assert flows(cluster, "n1") == set()
    assert flows(cluster, "n2")
    cluster.apply("services", "DELETED", service())
    assert flows(cluster, "n2") == set()
    assert group_of(cluster, "n2") == []


def test_source_ranges() -> None:
    """Of the load balancer's address only."""
    ranges = {"loadBalancerSourceRanges": ["203.0.113.0/24", "198.51.100.7/32"], "type": "LoadBalancer"}
    cluster = two_nodes(service(**ranges), BOTH)
    to_balancer = {line for line in flows(cluster) if BALANCER in line}
    assert to_balancer == {
        f"table=28, priority=200,tcp,nw_src=203.0.113.0/24,nw_dst={BALANCER},tp_dst=80 {MASQUERADE}",
        f"table=28, priority=200,tcp,nw_src=198.51.100.7,nw_dst={BALANCER},tp_dst=80 {MASQUERADE}",
        f"table=28, priority=198,tcp,nw_dst={BALANCER},tp_dst=80 actions=drop",
    }
    assert f"table=30, priority=200,tcp,tp_dst=30080 {MASQUERADE}" in flows(cluster)


def test_balancer_that_keeps_its_address_to_itself() -> None:
    made = service(type="LoadBalancer")
    made["status"]["loadBalancer"]["ingress"][0]["ipMode"] = "Proxy"
    assert not {line for line in flows(two_nodes(made, BOTH)) if BALANCER in line}


def test_without_endpoints_every_way_is_refused() -> None:
    cluster = two_nodes(service(type="LoadBalancer", externalTrafficPolicy="Local"), endpoints())
    assert flows(cluster) == {
        REFUSE,
        f"table=28, priority=200,tcp,nw_dst={BALANCER},tp_dst=80 actions=goto_table:32",
        "table=30, priority=200,tcp,tp_dst=30080 actions=goto_table:32",
    }


def test_sctp() -> None:
    cluster = two_nodes(service("SCTP", type="NodePort"), endpoints("SCTP", n1="10.244.1.2"))
    [(number, targets)] = group_of(cluster)
    assert targets == ["10.244.1.2:8080"]
    assert flows(cluster) == {
        REFUSE,
        f"table=28, priority=200,sctp,nw_dst={VIP},tp_dst=80 group {number}",
        f"table=30, priority=200,sctp,tp_dst=30080 actions=set_field:0x2/0x2->reg0,group:{number}",
    }


def zoned(*zones: str) -> list[Object]:
    nodes = [make.node(f"n{n}", n) for n in range(1, len(zones) + 1)]
    for node, zone in zip(nodes, zones, strict=True):
        node["metadata"]["labels"] = {"topology.kubernetes.io/zone": zone}
    return nodes


def test_hints_are_for_nodes_of_the_zone() -> None:
    hints = {node: {"forZones": [{"name": zone}]} for node, zone in (("n1", "a"), ("n2", "b"))}
    slices = endpoints(hints=hints, n1="10.244.1.2", n2="10.244.2.2")
    cluster = given(nodes=zoned("a", "b", "c"), services=[service()], endpointslices=[slices])
    for node, address in (("n1", "10.244.1.2:8080"), ("n2", "10.244.2.2:8080")):
        [(number, targets)] = group_of(cluster, node)
        assert targets == [address]
        assert flows(cluster, node) == {f"table=28, priority=202,tcp,nw_dst={VIP},tp_dst=80 group {number}"}
    assert flows(cluster, "n3") == set(), "no endpoint is meant for it: all are used"
    cluster.apply("nodes", "MODIFIED", zoned("a", "b", "b")[2])
    assert [targets for _, targets in group_of(cluster, "n3")] == [["10.244.2.2:8080"]]
    without = endpoints(hints={"n1": hints["n1"]}, n1="10.244.1.2", n2="10.244.2.2")
    cluster.apply("endpointslices", "MODIFIED", without)
    assert flows(cluster, "n1") == set(), "one ready endpoint without a hint, and none counts"


def test_session_affinity() -> None:
    timeout = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}}
    cluster = two_nodes(service(**timeout), endpoints(n1="10.244.1.2"))
    cluster.compute()
    [group] = cluster.common.groups.values()
    registers = "set_field:0xaf40102->reg4,set_field:0x1f90->reg6"
    bucket = f"bucket=bucket_id:681195409,actions={registers},resubmit(,34)"
    assert str(group) == f" group_id=602153030,type=select,selection_method=hash,fields=ip_src,{bucket}"
    [cookie] = cluster._learned.popitem()[1]
    learn = (
        f"learn(table=24,hard_timeout=60,priority=100,cookie={cookie:#x},eth_type=0x800,reg8=0x23e42046,"
        "NXM_OF_IP_SRC[],load:0xaf40102->NXM_NX_REG4[],load:0x1f90->NXM_NX_REG6[])"
    )
    assert cookie >> 56 == Feature.AFFINITY
    assert flows(cluster) == {
        REFUSE,
        (
            f"table=28, priority=200,tcp,nw_dst={VIP},tp_dst=80 "
            "actions=set_field:0x23e42046->reg8,resubmit(,24),goto_table:34"
        ),
        "table=34, priority=100,ip,reg8=0x23e42046 group 602153030",
        (
            "table=34, priority=200,ip,reg4=0xaf40102,reg6=0x1f90,reg8=0x23e42046 "
            f"actions={learn},{dnat('10.244.1.2:8080')}"
        ),
    }


def test_what_was_learned_goes_with_its_endpoint() -> None:
    cluster = two_nodes(service(sessionAffinity="ClientIP"), BOTH)
    cluster.compute()
    cookies = set(next(iter(cluster._learned.values())))
    cluster.apply("endpointslices", "MODIFIED", endpoints(n1="10.244.1.2"))
    gone = {what.cookie for what in cluster.compute()}  # type: ignore[union-attr]
    assert gone == cookies - set(next(iter(cluster._learned.values())))
    assert len(gone) == 1


def test_host_port() -> None:
    pod = make.pod("web", "10.244.1.2", 10)
    ports = [{"containerPort": 80, "hostPort": 8080}, {"containerPort": 53, "hostPort": 53, "protocol": "UDP"}]
    ports[1]["hostIP"] = "172.18.0.2"
    pod["spec"]["containers"] = [{"name": "c", "ports": ports}]
    cluster = given(nodes=[make.node()], pods=[pod])
    cluster.compute()
    assert {line for line in text(cluster.scopes("n1")[1].flows.values()) if line.startswith("table=30")} == {
        f"table=30, priority=190,tcp,tp_dst=8080 actions={dnat('10.244.1.2:80')}",
        f"table=30, priority=190,udp,nw_dst=172.18.0.2,tp_dst=53 actions={dnat('10.244.1.2:53')}",
    }


def test_udp_of_every_way_is_forgotten() -> None:
    made = service("UDP", type="LoadBalancer", externalIPs=[EXTERNAL])
    cluster = two_nodes(made, endpoints("UDP", n1="10.244.1.2"))
    cluster.compute()
    cluster.apply("endpointslices", "MODIFIED", endpoints("UDP"))
    assert {(str(f.address), f.port, str(f.endpoint)) for f in cluster.compute()} == {  # type: ignore[union-attr]
        (VIP, 80, "10.244.1.2"),
        (EXTERNAL, 80, "10.244.1.2"),
        (BALANCER, 80, "10.244.1.2"),
        ("None", 30080, "10.244.1.2"),
    }
