"""Node objects as the emulator writes them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from kmn.cluster_spec import ClusterSpec, Ipv6Spec, NodeSpec
from kmn.emulator.nodeobjects import address_of, fill_in, free_address, node_object, plan_of
from kmn.k8s import dataplane
from kmn.k8s.objects import draft

NODE = NodeSpec("n1", IPv4Address("172.18.0.2"), {"zone": "a"}, {"note": "x"}, ({"key": "k", "effect": "NoSchedule"},))
SPEC = ClusterSpec("demo", (NODE,))


def test_a_node_of_the_cluster_file() -> None:
    node = node_object(SPEC, NODE)
    assert node["metadata"]["labels"]["zone"] == "a"
    assert node["metadata"]["labels"]["kubernetes.io/hostname"] == "n1"
    assert node["metadata"]["annotations"] == {"note": "x"}
    assert node["spec"]["taints"] == [{"key": "k", "effect": "NoSchedule"}]
    assert address_of(node) == IPv4Address("172.18.0.2")


def test_what_is_written_when_it_is_built() -> None:
    node = draft(node_object(SPEC, NODE))
    node["spec"]["podCIDR"] = "10.244.7.0/24"
    plan = plan_of(SPEC, node, IPv4Address("172.18.0.2"))
    assert plan.pod_cidr == IPv4Network("10.244.7.0/24")
    fill_in("demo", node, plan)
    assert node["metadata"]["annotations"] == {
        "note": "x",
        dataplane.NETNS: "kmn.demo.node.n1",
        dataplane.MAC: "0a:58:ac:12:00:02",
        dataplane.OFPORT: "2",
        dataplane.DATAPATH_ID: "00000a5cac120002",
        dataplane.UPLINK_MAC: "0a:59:ac:12:00:02",
        dataplane.UPLINK_NEXT_HOP_MAC: "0a:5a:ac:12:00:02",
    }
    assert node["status"]["allocatable"]["pods"] == "253"


def test_the_lowest_free_address() -> None:
    assert free_address(SPEC, [IPv4Address("172.18.0.2"), IPv4Address("172.18.0.4")]) == IPv4Address("172.18.0.3")
    tiny = ClusterSpec("demo", (), node_cidr=IPv4Network("192.0.2.0/29"))
    assert free_address(tiny, [IPv4Address(f"192.0.2.{n}") for n in range(2, 7)]) is None


def test_a_node_of_a_dual_stack_cluster() -> None:
    dual = ClusterSpec("demo", (NODE,), ipv6=Ipv6Spec())
    node = draft(node_object(dual, NODE))
    both = ["172.18.0.2", "fd00:172:18::2"]
    assert [entry["address"] for entry in node["status"]["addresses"]] == [*both, "n1"]
    node["spec"] = {"podCIDR": "10.244.7.0/24", "podCIDRs": ["10.244.7.0/24", "fd00:10:244:7::/64"]}
    plan = plan_of(dual, node, IPv4Address("172.18.0.2"))
    assert [str(address) for address in plan.addresses] == both
    assert [str(network) for network in plan.pod_cidrs] == node["spec"]["podCIDRs"]
    fill_in("demo", node, plan)
    assert [entry["address"] for entry in node["status"]["addresses"]] == [*both, "n1"]
    # A Node of a manifest that brings one network has pods of that family alone.
    node["spec"]["podCIDRs"] = ["10.244.7.0/24"]
    assert plan_of(dual, node, IPv4Address("172.18.0.2")).ipv6 is None
