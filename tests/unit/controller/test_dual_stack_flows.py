"""Flows of dual-stack clusters, as ``ovs-ofctl dump-flows`` prints them, without cookies."""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from typing import Any

import controller_objects as make
import pytest
from test_controller_flows import GATEWAY, given, of_feature, text

from controller.cluster import Cluster
from controller.features.stale import forget_installed
from controller.openflow.wire import CtFlush, ct_flush
from controller.pipeline import Feature, Table
from kmn.k8s.objects import Object

CLUSTER = {"kind": "Cluster", "metadata": {"name": "t"}, "spec": {"serviceCIDR": "10.96.0.0/12,fd00:10:96::/112"}}
POD, POD6 = "10.244.1.2", "fd00:10:244:1::2"
VIP, VIP6 = "10.96.0.20", "fd00:10:96::20"
IPV6_WORDS = ("ipv6", "tcp6", "udp6", "sctp6", "icmp6")


def node() -> Object:
    made = make.node()
    made["spec"]["podCIDRs"] = ["10.244.1.0/24", "fd00:10:244:1::/64"]
    made["status"]["addresses"].append({"type": "InternalIP", "address": "fd00:172:18::2"})
    return made


def pod() -> Object:
    made = make.pod("a", POD, 10)
    made["status"]["podIPs"] = [{"ip": POD}, {"ip": POD6}]
    made["spec"]["containers"] = [{"ports": [{"containerPort": 80, "hostPort": 8000}]}]
    return made


def service(*addresses: str, **spec: Any) -> Object:
    made = make.service("web", addresses[0], ("", "TCP", 80))
    made["spec"] |= {"clusterIPs": list(addresses), **spec}
    if spec.get("type") == "NodePort":
        made["spec"]["ports"][0]["nodePort"] = 30080
    return made


def endpoints(*addresses: str, protocol: str = "TCP") -> Object:
    made = make.endpoints("web", list(addresses), ("", protocol, 8080), suffix="6" if ":" in addresses[0] else "4")
    made["addressType"] = "IPv6" if ":" in addresses[0] else "IPv4"
    return made


def dual(**resources: list[object]) -> Cluster:
    return given(clusters=[CLUSTER], nodes=[node()], **resources)


def ipv6(flows: set[str]) -> set[str]:
    """Those of the flows that match on IPv6."""
    return {flow for flow in flows if any(f",{word}" in flow.split(" actions")[0] for word in IPV6_WORDS)}


def as_ipv6(flows: set[str], *addresses: tuple[str, str]) -> set[str]:
    """The same flows in the words of IPv6."""
    words = [("nw_src=", "ipv6_src="), ("nw_dst=", "ipv6_dst="), *addresses]
    words += [(f",{word}{end}", f",{word}{'v6' if word == 'ip' else '6'}{end}")
              for word in ("ip", "tcp", "udp", "sctp") for end in ", "]  # fmt: skip
    found = set()
    for flow in flows:
        for here, there in words:
            flow = flow.replace(here, there)
        found.add(flow)
    return found


def without(flows: set[str], *words: str) -> set[str]:
    return {flow for flow in flows if not any(word in flow for word in words)}


def dnat(address: str, port: int) -> str:
    marks = "set_field:0x2/0x2->ct_mark,move:NXM_NX_REG0[1]->NXM_NX_CT_MARK[2]"
    return f"ct(commit,table=36,zone=1,nat(dst=[{address}]:{port}),exec({marks}))"


def advertise(mac: str) -> str:
    return (
        f"move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],set_field:{mac}->eth_src,move:NXM_NX_IPV6_SRC[]->NXM_NX_IPV6_DST[],"
        "move:NXM_NX_ND_TARGET[]->NXM_NX_IPV6_SRC[],set_field:136->icmpv6_type,set_field:2->nd_options_type,"
        "set_field:1610612736->nd_reserved,goto_table:5"
    )


@pytest.mark.parametrize("feature", [Feature.CONNECTIVITY, Feature.NODE, Feature.POD, Feature.SERVICE])
def test_a_cluster_of_ipv4_has_no_flow_of_ipv6(feature: Feature) -> None:
    single = given(nodes=[make.node()], pods=[make.pod("a", POD, 10)], services=[service(VIP)])
    assert not ipv6(of_feature(single, feature))


def test_the_way_of_a_packet_is_the_same() -> None:
    flows = of_feature(dual(), Feature.CONNECTIVITY)
    reserved = ("127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/127", "fe80::/10", "ff00::/8")
    of_both = {
        flow for flow in flows if not re.search(r",(ip|tcp|udp|sctp|icmp|arp)v?6?[, ]", flow.split("actions")[0])
    }
    translated = as_ipv6(
        without(flows - ipv6(flows) - of_both, "arp", *reserved),
        ("169.254.169.252", "fd6b:6d6e::fc"),
        ("169.254.169.253:1", "[fd6b:6d6e::fd]:1"),
    )
    assert without(ipv6(flows), "icmp6", *reserved) == translated
    assert {flow for flow in ipv6(flows) if "icmp6" in flow or any(word in flow for word in reserved)} == {
        "table=4, priority=150,icmp6,in_port=1,icmp_type=135 actions=drop",
        f"table=4, priority=100,icmp6,icmp_type=135 actions={advertise(GATEWAY)}",
        "table=5, priority=100,icmp6,icmp_type=136 actions=move:NXM_OF_ETH_SRC[]->NXM_NX_ND_TLL[],IN_PORT",
        *(f"table=52, priority=235,ipv6,ipv6_dst={network} actions=drop" for network in reserved[3:]),
    }


def test_a_node_in_both_families() -> None:
    flows = of_feature(dual(), Feature.NODE)
    translated = as_ipv6(
        without(flows - ipv6(flows), "arp"),
        ("172.18.0.2:1024", "[fd00:172:18::2]:1024"),
        ("172.18.0.2", "fd00:172:18::2"),
        ("10.244.1.0/24", "fd00:10:244:1::/64"),
        ("10.244.1.1", "fd00:10:244:1::1"),
        ("169.254.169.253", "fd6b:6d6e::fd"),
    )
    assert without(ipv6(flows), "icmp6") == translated
    to_uplink = advertise("0a:00:00:00:01:02")
    assert {flow for flow in flows if "icmp6" in flow} == {
        "table=0, priority=105,icmp6,in_port=1,icmp_type=135 actions=goto_table:4",
        "table=0, priority=105,icmp6,in_port=2,dl_src=0a:00:00:00:01:01,icmp_type=135 actions=goto_table:4",
        f"table=4, priority=200,icmp6,in_port=1,icmp_type=135,nd_target=fd00:172:18::2 actions={to_uplink}",
        *(
            f"table=4, priority=200,icmp6,in_port=2,icmp_type=135,nd_target={own} actions=drop"
            for own in ("fd00:172:18::2", "fd00:10:244:1::1", "fd6b:6d6e::fd")
        ),
    }


def test_a_pod_in_both_families() -> None:
    mac = "0a:58:0a:f4:01:02"
    to_pod = f"set_field:{GATEWAY}->eth_src,set_field:{mac}->eth_dst,dec_ttl"
    own = f"dl_src={mac},ipv6_src={POD6}"
    give_back = f"{to_pod},set_field:0x1/0x1->reg0"
    assert ipv6(of_feature(dual(pods=[pod()]), Feature.POD)) == {
        f"table=0, priority=100,ipv6,in_port=10,dl_src={mac},dl_dst={GATEWAY},ipv6_src={POD6} actions=goto_table:8",
        f"table=0, priority=105,icmp6,in_port=10,{own},icmp_type=135,nd_sll={mac} actions=goto_table:4",
        f"table=4, priority=200,icmp6,in_port=10,icmp_type=135,nd_target={POD6} actions=drop",
        f"table=30, priority=190,tcp6,tp_dst=8000 actions={dnat(POD6, 80)}",
        f"table=52, priority=200,ipv6,ipv6_dst={POD6} actions={to_pod},set_field:0xa->reg2,goto_table:56",
        f"table=52, priority=210,ipv6,in_port=10,ipv6_dst={POD6} actions={give_back},goto_table:76",
    }


def test_endpoints_of_one_family_serve_its_addresses() -> None:
    cluster = dual(services=[service(VIP, VIP6, type="NodePort")], endpointslices=[endpoints(POD), endpoints(POD6)])
    flows = of_feature(cluster, Feature.SERVICE)
    groups = {group.buckets[0].text.split("nat(dst=")[1].split(")")[0]: group.id
              for group in cluster.common.groups.values()}  # fmt: skip
    assert groups.keys() == {f"{POD}:8080", f"[{POD6}]:8080"}
    first, second = groups.values()
    masquerade = "set_field:0x2/0x2->reg0"
    assert flows == {
        "table=28, priority=100,ip,nw_dst=10.96.0.0/12 actions=drop",
        "table=28, priority=100,ipv6,ipv6_dst=fd00:10:96::/112 actions=drop",
        f"table=28, priority=190,ip,nw_dst={VIP} actions=goto_table:32",
        f"table=28, priority=190,ipv6,ipv6_dst={VIP6} actions=goto_table:32",
        f"table=28, priority=200,tcp,nw_dst={VIP},tp_dst=80 actions=group:{first}",
        f"table=28, priority=200,tcp6,ipv6_dst={VIP6},tp_dst=80 actions=group:{second}",
        f"table=30, priority=200,tcp,tp_dst=30080 actions={masquerade},group:{first}",
        f"table=30, priority=200,tcp6,tp_dst=30080 actions={masquerade},group:{second}",
    }


def test_a_family_without_endpoints_is_refused() -> None:
    cluster = dual(services=[service(VIP6, VIP)], endpointslices=[endpoints(POD)])
    assert ipv6(of_feature(cluster, Feature.SERVICE)) == {
        "table=28, priority=100,ipv6,ipv6_dst=fd00:10:96::/112 actions=drop",
        f"table=28, priority=190,ipv6,ipv6_dst={VIP6} actions=goto_table:32",
    }


def test_session_affinity_remembers_whole_addresses() -> None:
    sticky = service(VIP6, sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": 60}})
    cluster = dual(services=[sticky], endpointslices=[endpoints(POD6)])
    cluster.compute()
    (group,) = cluster.common.groups.values()
    there = "set_field:0xfd000010024400010000000000000002->xxreg3,set_field:0x1f90->reg6,resubmit(,34)"
    assert (
        f"selection_method=hash,fields(ipv6_src,tcp_src,udp_src,sctp_src),bucket=bucket_id:{group.buckets[0].id},"
        in str(group)
    )
    assert group.buckets[0].text.endswith(f"actions={there}")
    (flow,) = (f for f in text(cluster.common.flows.values()) if f.startswith("table=34, priority=200"))
    assert flow.startswith(
        f"table=34, priority=200,ipv6,reg6=0x1f90,reg8={group.id:#x},"
        "reg12=0xfd000010,reg13=0x2440001,reg14=0,reg15=0x2 actions=learn(table=24,hard_timeout=60,priority=100,cookie="
    )
    assert flow.endswith(
        f",eth_type=0x86dd,reg8={group.id:#x},NXM_NX_IPV6_SRC[],"
        "load:0xfd000010024400010000000000000002->NXM_NX_XXREG3[],load:0x1f90->NXM_NX_REG6[])," + dnat(POD6, 8080)
    )


def udp(**spec: Any) -> Object:
    made = service(VIP, VIP6, **spec)
    made["spec"]["ports"][0]["protocol"] = "UDP"
    return made


def test_udp_of_the_family_that_changed_is_forgotten() -> None:
    both = [endpoints(POD, protocol="UDP"), endpoints(POD6, protocol="UDP")]
    cluster = dual(services=[udp()], endpointslices=both)
    cluster.compute()
    cluster.apply("endpointslices", "DELETED", both[1])
    assert cluster.compute() == [CtFlush(17, IPv6Address(VIP6), 80, IPv6Address(POD6), 8080)]


@pytest.mark.parametrize("affinity", ["None", "ClientIP"])
def test_endpoints_are_read_from_the_groups_of_a_switch(affinity: str) -> None:
    cluster = dual(services=[udp(sessionAffinity=affinity)], endpointslices=[endpoints(POD6, protocol="UDP")])
    cluster.compute()
    installed = {number: group.content for number, group in cluster.common.groups.items()}
    assert CtFlush(17, None, None, IPv6Address(POD6), 8080) in forget_installed(installed, {})


def test_connections_of_ipv6_to_forget() -> None:
    """Addresses are written whole."""
    message = ct_flush(1, CtFlush(17, IPv6Address(VIP6), 80, IPv6Address(POD6), 8080), 5)
    assert message.count(IPv6Address(VIP6).packed) == message.count(IPv6Address(POD6).packed) == 1
    assert len(message) == int.from_bytes(message[2:4], "big")


def test_neighbour_discovery_comes_before_packets() -> None:
    """Both match who asks: the one of higher priority counts."""
    cluster = dual(pods=[pod()])
    cluster.compute()
    asking = {
        flow.priority: "icmp6" in str(flow)
        for scope in cluster.scopes("n1")
        for flow in scope.flows.values()
        if flow.table == Table.CLASSIFIER and "ipv6_src=" + POD6 in str(flow)
    }
    assert asking == {105: True, 100: False}
