"""The edge's flows of dual-stack clusters: those of IPv4 in the words of IPv6, but for what is told here."""

from __future__ import annotations

from typing import Any

import controller_objects as make
import pytest
from test_controller_flows import GATEWAY
from test_dual_stack_flows import CLUSTER, advertise, as_ipv6, ipv6, node, pod, without

from controller.cluster import Cluster
from controller.openflow.wire import CtFlush
from controller.pipeline import Feature
from kmn.k8s.objects import Object

E1, EDGE, NAT, EGRESS = "2001:db8:203::a", "2001:db8:203::1", "2001:db8:198::1", "2001:db8:198::8"
VIP, VIP6 = "192.0.2.1", "2001:db8:192::1"
DSR, IP = {"kmn.io/lb-forwarding": "dsr"}, {"kmn.io/lb-target": "ip"}
WORDS = [
    ("nat(src=198.51.100.1:", f"nat(src=[{NAT}]:"),
    ("nat(src=198.51.100.8:", f"nat(src=[{EGRESS}]:"),
    ("nat(src=203.0.113.1:", f"nat(src=[{EDGE}]:"),
    ("203.0.113.0/24", "2001:db8:203::/64"),
    ("203.0.113.10", E1),
    ("203.0.113.1", EDGE),
    ("192.0.2.0/24", "2001:db8:192::/112"),
    (f"nw_dst={VIP},", f"ipv6_dst={VIP6},"),
    (VIP, VIP6),
    ("172.18.0.0/16", "fd00:172:18::/64"),
    ("10.244.0.0/16", "fd00:10:244::/48"),
    ("10.244.1.2", "fd00:10:244:1::2"),
    ("10.0.0.0/8", "2001:db8:9::/64"),
]


def edge(*public: str, **fields: Any) -> Object:
    """With IPv6, translated where ``public`` addresses are given."""
    made = make.edge()
    made["spec"]["hosts"][0]["ips"] = ["203.0.113.10", E1]
    made["spec"]["nodeCIDR"] = "172.18.0.0/16"
    made["spec"]["ipv6"] = {
        "address": EDGE,
        "internetCIDR": "2001:db8:203::/64",
        "natAddresses": list(public),
        "loadBalancerCIDR": "2001:db8:192::/112",
        "nodeCIDR": "fd00:172:18::/64",
        "clusterCIDRs": ["fd00:10:244::/48"],
    }
    made["spec"] |= fields
    return made


def given(**resources: list[Object]) -> Cluster:
    cluster = Cluster()
    for resource, objects in ({"edges": [edge(NAT)], "clusters": [CLUSTER]} | resources).items():
        for obj in objects:
            cluster.apply(resource, "ADDED", obj)
    cluster.compute()
    return cluster


def flows(cluster: Cluster, feature: Feature) -> set[str]:
    """The edge's; groups by number are told apart by what is in them."""
    [scope] = cluster.scopes("edge")
    names = {f"group:{number}": f"group:{targets(str(group))}" for number, group in scope.groups.items()}
    found = set()
    for flow in scope.flows.values():
        if flow.cookie >> 56 == feature:
            text = f"table={int(flow.table)}, {flow.rule}"
            found.add(next((text.replace(name, said) for name, said in names.items() if text.endswith(name)), text))
    return found


def targets(group: str) -> str:
    return "|".join(sorted(part.partition(")")[0] for part in group.split("nat(dst=")[1:]))


def test_the_edge_in_both_families() -> None:
    of_both = flows(given(), Feature.EDGE)
    own = without(of_both - ipv6(of_both), "arp", "icmp")
    assert without(ipv6(of_both), "icmp6") == as_ipv6(own, *WORDS)
    mac = "0a:58:cb:00:71:0a"
    reply = "set_field:129->icmpv6_type,set_field:64->nw_ttl,IN_PORT"
    turn = (
        "move:NXM_NX_IPV6_SRC[]->NXM_NX_XXREG3[],move:NXM_NX_IPV6_DST[]->NXM_NX_IPV6_SRC[],"
        "move:NXM_NX_XXREG3[]->NXM_NX_IPV6_DST[]"
    )
    fabric = "0a:00:00:00:0e:02"
    echo = "move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],set_field:{}->eth_src," + f"{turn},{reply}"
    assert {flow for flow in of_both if "icmp6" in flow} == {
        "table=0, priority=105,icmp6,in_port=1,icmp_type=135 actions=goto_table:4",
        (
            f"table=0, priority=105,icmp6,in_port=11,dl_src={mac},ipv6_src={E1},icmp_type=135,nd_sll={mac} "
            "actions=goto_table:4"
        ),
        f"table=4, priority=200,icmp6,in_port=11,icmp_type=135,nd_target={E1} actions=drop",
        f"table=4, priority=150,icmp6,in_port=1,icmp_type=135 actions={advertise(fabric)}",
        f"table=4, priority=100,icmp6,icmp_type=135 actions={advertise(GATEWAY)}",
        "table=5, priority=100,icmp6,icmp_type=136 actions=move:NXM_OF_ETH_SRC[]->NXM_NX_ND_TLL[],IN_PORT",
        f"table=52, priority=220,icmp6,in_port=1,ipv6_dst={EDGE},icmp_type=128 actions={echo.format(fabric)}",
        f"table=52, priority=210,icmp6,ipv6_dst={EDGE},icmp_type=128 actions={echo.format(GATEWAY)}",
    }


def test_ipv6_is_not_translated_without_addresses() -> None:
    """And with two the end of the range is named."""
    pods = "table=84, priority=100,ipv6,in_port=1,ipv6_src=fd00:10:244::/48 actions="
    assert not [flow for flow in flows(given(edges=[edge()]), Feature.EDGE) if flow.startswith(pods)]
    assert not [flow for flow in flows(given(edges=[edge(NAT, natOutgoing=False)]), Feature.EDGE) if "198" in flow]
    two = flows(given(edges=[edge(NAT, "2001:db8:198::2", natPorts="5000-5003")]), Feature.EDGE)
    assert (
        f"{pods}ct(commit,table=88,zone=1,nat(src=[{NAT}]-[2001:db8:198::2]:5000-5003),"
        "exec(set_field:0x1/0x1->ct_mark))"
    ) in two


def test_egress_addresses_of_each_family() -> None:
    """One of a family at most; what has none of a family leaves as it would otherwise."""
    wishes = {"198.51.100.8": (True, False), EGRESS: (False, True), f"198.51.100.8, {EGRESS}": (True, True)}
    for wish, families in wishes.items():
        made = pod()
        made["metadata"]["annotations"]["kmn.io/egress-address"] = wish
        found = flows(given(pods=[made]), Feature.EGRESS)
        assert (bool(found - ipv6(found)), bool(ipv6(found))) == families
        if families == (True, True):
            assert ipv6(found) == as_ipv6(found - ipv6(found), *WORDS)


def test_egress_addresses_without_effect_are_told() -> None:
    """Two of one family; one of a family that the pod has not. Both until they are corrected."""
    both, single = pod(), make.pod("b", "10.244.1.3", 11)
    note = {"kmn.io/egress-address": EGRESS}
    both["metadata"]["annotations"]["kmn.io/egress-address"] = "198.51.100.8,198.51.100.9"
    namespace = {"kind": "Namespace", "metadata": {"name": "default", "annotations": note}}
    cluster = given(pods=[both, single], namespaces=[namespace])
    field = "metadata.annotations[kmn.io/egress-address]"
    wanted = "an address, or one of each family with a comma between"
    assert cluster.outside.problems == {
        f"Pod default/a: {field}: '198.51.100.8,198.51.100.9' should be {wanted}",
        f"Namespace default: {field}: {EGRESS} has no effect, as pods have no IPv6 address here",
    }
    assert not flows(cluster, Feature.EGRESS)
    both["metadata"]["annotations"]["kmn.io/egress-address"] = EGRESS
    cluster.apply("pods", "MODIFIED", both)
    cluster.replace("pods", [both])
    cluster.compute()
    assert not cluster.outside.problems
    assert len(flows(cluster, Feature.EGRESS)) == 1


def balancer(notes: dict[str, str] | None = None, *ingress: str, **spec: Any) -> Object:
    ports = [{"name": "web", "port": 80, "nodePort": 30080}, {"name": "dns", "protocol": "UDP", "port": 53,
                                                               "nodePort": 30053}]  # fmt: skip
    addresses = {"clusterIPs": ["10.96.0.9", "fd00:10:96::9"], "ipFamilies": ["IPv4", "IPv6"]}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "default", "name": "web", "annotations": notes or {}},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.9", **addresses, "ports": ports, **spec},
        "status": {"loadBalancer": {"ingress": [{"ip": ip} for ip in ingress or (VIP, VIP6)]}},
    }


def slices() -> list[Object]:
    made = []
    for address, kind in (("10.244.1.2", "IPv4"), ("fd00:10:244:1::2", "IPv6")):
        piece = make.endpoints("web", [address], ("web", "TCP", 8080), ("dns", "UDP", 5353), suffix=kind.lower())
        piece["addressType"] = kind
        piece["endpoints"][0]["nodeName"] = "n1"
        made.append(piece)
    return made


def balanced(*args: Any, **spec: Any) -> Cluster:
    return given(nodes=[node()], services=[balancer(*args, **spec)], endpointslices=slices())


@pytest.mark.parametrize(
    ("notes", "spec", "target"),
    [
        ({}, {}, "[fd00:172:18::2]:30080"),
        ({}, {"externalTrafficPolicy": "Local"}, "[fd00:172:18::2]:30080"),
        (IP, {}, "[fd00:10:244:1::2]:8080"),
        (IP, {"loadBalancerSourceRanges": ["10.0.0.0/8", "2001:db8:9::/64"]}, "[fd00:10:244:1::2]:8080"),
    ],
)
def test_load_balancers_in_both_families(notes: dict[str, str], spec: dict[str, Any], target: str) -> None:
    found = flows(balanced(notes, **spec), Feature.LOAD_BALANCER)
    targets = [("10.244.1.2:", "[fd00:10:244:1::2]:"), ("172.18.0.2:", "[fd00:172:18::2]:")]
    assert ipv6(found) == as_ipv6(found - ipv6(found), *targets, *WORDS)
    sources = ",ipv6_src=2001:db8:9::/64" if "loadBalancerSourceRanges" in spec else ""
    assert f"table=28, priority=200,tcp6{sources},ipv6_dst={VIP6},tp_dst=80 actions=group:{target}" in found


def test_ranges_of_the_other_family_let_nobody_in() -> None:
    found = flows(balanced(IP, loadBalancerSourceRanges=["10.0.0.0/8"]), Feature.LOAD_BALANCER)
    assert {flow for flow in ipv6(found) if VIP6 in flow} == {
        f"table=28, priority=190,ipv6,ipv6_dst={VIP6} actions=drop"
    }
    assert any("nw_src=10.0.0.0/8" in flow for flow in found)


def test_direct_return_in_both_families() -> None:
    cluster = balanced(DSR)
    found = flows(cluster, Feature.LOAD_BALANCER)
    assert {text.partition("group:")[0] for text in ipv6(found)} == as_ipv6(
        {text.partition("group:")[0] for text in found - ipv6(found)}, *WORDS
    )
    [scope] = cluster.scopes("edge")
    (tcp,) = (text for text in map(str, scope.groups.values()) if "ipv6_dst" in text and "tcp_dst" in text)
    assert "selection_method=hash,fields(ipv6_src,tcp_src,udp_src,sctp_src)," in tcp
    assert tcp.endswith(
        "actions=set_field:fd00:10:244:1::1->ipv6_dst,set_field:30080->tcp_dst,set_field:0x4/0x4->reg0,resubmit(,52)"
    )
    of_node = {f"table={int(f.table)}, {f.rule}" for scope in cluster.scopes("n1") for f in scope.flows.values()}
    assert {
        "table=8, priority=105,ipv6,in_port=1,ipv6_dst=fd00:10:244:1::1 actions=goto_table:10",
        (
            f"table=10, priority=100,tcp6,tp_dst=30080 actions=set_field:{VIP6}->ipv6_dst,set_field:80->tcp_dst,"
            "goto_table:12"
        ),
        (
            f"table=10, priority=100,udp6,tp_dst=30053 actions=set_field:{VIP6}->ipv6_dst,set_field:53->udp_dst,"
            "goto_table:12"
        ),
        f"table=28, priority=204,tcp6,in_port=1,ipv6_dst={VIP6},tp_dst=80 actions=drop",
    } <= of_node


def test_a_service_of_one_family_is_open_in_that_one() -> None:
    single = balanced(IP, VIP6, ipFamilies=["IPv6"], clusterIPs=["fd00:10:96::9"])
    found = flows(single, Feature.LOAD_BALANCER)
    assert found == ipv6(found)
    assert "table=28, priority=100,tcp6,ipv6_dst=fd00:172:18::/64,tp_dst=30080 actions=goto_table:52" in found


def test_a_target_that_goes_is_forgotten_in_its_family() -> None:
    cluster = balanced(IP)
    cluster.apply("endpointslices", "DELETED", slices()[1])
    cluster.compute()
    [flush] = cluster.stale_outside
    assert isinstance(flush, CtFlush)
    assert [str(part) for part in flush] == ["17", VIP6, "53", "fd00:10:244:1::2", "5353"]


def test_masquerade_and_its_exemptions() -> None:
    networks = {"podCIDR": "10.244.0.0/16,fd00:10:244::/48", "nodeCIDR": "172.18.0.0/16,fd00:172:18::/64"}
    exempt = {"nonMasqueradeCIDRs": ["10.0.0.0/8", "2001:db8:9::/64"]}
    file = {**CLUSTER, "spec": {**CLUSTER["spec"], **networks, "masquerade": exempt}}  # type: ignore[dict-item]
    made = pod()
    made["metadata"]["annotations"]["kmn.io/egress-address"] = f"198.51.100.8,{EGRESS}"
    cluster = given(clusters=[file], nodes=[node()], pods=[made])
    found = {
        f"table={int(f.table)}, {f.rule}"
        for scope in cluster.scopes("n1")
        for f in scope.flows.values()
        if "table=84" in f"table={int(f.table)}" and ",reg2=0x1," in f.rule
    }
    addresses = [
        ("172.18.0.2:", "[fd00:172:18::2]:"),
        ("10.244.1.0/24", "fd00:10:244:1::/64"),
    ]
    assert len(ipv6(found)) == 5
    assert ipv6(found) == as_ipv6(found - ipv6(found), *addresses, *WORDS)
