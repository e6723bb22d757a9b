"""Addresses of LoadBalancer Services: given, wished for, given back; what is not emulated is named."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network, IPv6Address, IPv6Network
from typing import Any

import pytest

from kmn.cluster_spec import ClusterSpec, Ipv6Spec
from kmn.k8s.loadbalancers import read_load_balancer
from kmn.k8s.objects import Object
from kmn.k8s.resources import SERVICES

from .world import World, in_loop, running

AWS = "service.beta.kubernetes.io/aws-load-balancer-"
K8S = "service.beta.kubernetes.io/"
PROXY = {AWS + "proxy-protocol": "*"}
DIRECT = {"kmn.io/lb-forwarding": "dsr"}
PRIVATE = IPv4Network("10.0.0.0/8")
DUAL = ClusterSpec("hn-lb", (), ipv6=Ipv6Spec())
TINY = ClusterSpec("hn-lb", (), load_balancer_cidr=IPv4Network("192.0.2.0/30"))


def service(name: str, annotations: dict[str, str] | None = None, **spec: Any) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default", "annotations": annotations or {}},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80}], **spec},
    }


def ingress(world: World, name: str) -> list[dict[str, str]]:
    return world.get(SERVICES, name)["status"].get("loadBalancer", {}).get("ingress") or []


def address(world: World, name: str) -> str:
    return ingress(world, name)[0]["ip"] if ingress(world, name) else ""


@in_loop
async def test_an_address_from_the_pool_until_the_type_changes() -> None:
    async with running() as world:
        world.client.create(service("web"))
        await world.until(lambda: ingress(world, "web") == [{"ip": "192.0.2.1", "ipMode": "VIP"}])
        assert world.events("EnsuringLoadBalancer") == ["Ensuring load balancer"]
        assert world.events("EnsuredLoadBalancer") == ["Ensured load balancer"]
        world.change(SERVICES, "web", lambda s: s["spec"].update(type="ClusterIP"))
        await world.until(lambda: not ingress(world, "web"))
        assert world.get(SERVICES, "web")["status"]["loadBalancer"] == {}
        assert await world.until(lambda: world.events("DeletedLoadBalancer")) == ["Deleted load balancer"]
        # A freed address is used again as late as possible.
        world.client.create(service("other"))
        await world.until(lambda: address(world, "other") == "192.0.2.2")


@in_loop
async def test_an_empty_pool_is_told_and_waited_for() -> None:
    async with running(spec=TINY) as world:
        for name in ("a", "b", "c"):
            world.client.create(service(name))
        [message] = await world.until(lambda: world.events("SyncLoadBalancerFailed"))
        assert message == (
            "Error syncing load balancer: Service default/c: all 2 addresses of 192.0.2.0/30 are in use; "
            "a larger spec.internet.loadBalancers of the cluster file makes room"
        )
        freed = address(world, "a")
        world.client.delete(SERVICES, "default", "a")
        await world.until(lambda: address(world, "c") == freed)


@in_loop
async def test_wished_addresses() -> None:
    async with running() as world:
        world.client.create(service("a", loadBalancerIP="192.0.2.77"))
        world.client.create(service("b", {"metallb.io/loadBalancerIPs": "192.0.2.77"}))
        world.client.create(service("c", {"kmn.io/lb-address": "10.0.0.1"}))
        await world.until(lambda: address(world, "a") == "192.0.2.77")
        messages = await world.until(lambda: (m := world.events("SyncLoadBalancerFailed")) and len(m) == 2 and m)
        assert any(m.endswith("192.0.2.77 is the address of Service default/a already") for m in messages)
        assert any("10.0.0.1 is not between 192.0.2.1 and 192.0.2.254" in m for m in messages)
        assert not ingress(world, "c")
        # Another wish gives the address back to whoever waits for it.
        world.change(SERVICES, "a", lambda s: s["spec"].update(loadBalancerIP="192.0.2.78"))
        await world.until(lambda: (address(world, "a"), address(world, "b")) == ("192.0.2.78", "192.0.2.77"))


def ips(world: World, name: str) -> list[str]:
    return [entry["ip"] for entry in ingress(world, name)]


@in_loop
async def test_an_address_of_each_family_that_the_service_has() -> None:
    async with running(spec=DUAL) as world:
        world.client.create(service("both", ipFamilyPolicy="RequireDualStack"))
        world.client.create(service("six", ipFamilies=["IPv6"]))
        world.client.create(service("first", ipFamilyPolicy="RequireDualStack", ipFamilies=["IPv6", "IPv4"]))
        await world.until(lambda: ips(world, "both") == ["192.0.2.1", "2001:db8:192::1"])
        await world.until(lambda: ips(world, "six") == ["2001:db8:192::2"])
        await world.until(lambda: ips(world, "first") == ["2001:db8:192::3", "192.0.2.2"])
        assert not world.events("NotEmulated")
        # A family that goes gives its address back, as late as possible to somebody else.
        world.change(SERVICES, "both", lambda s: s["spec"].update(ipFamilyPolicy="SingleStack"))
        await world.until(lambda: ips(world, "both") == ["192.0.2.1"])
        world.client.create(service("wished", {"kmn.io/lb-address": "2001:db8:192::1"}, ipFamilies=["IPv6"]))
        await world.until(lambda: ips(world, "wished") == ["2001:db8:192::1"])


@in_loop
async def test_a_pool_that_is_empty_leaves_the_other_familys_address() -> None:
    tiny = replace(DUAL, load_balancer_cidr=TINY.load_balancer_cidr)
    async with running(spec=tiny) as world:
        for name in ("a", "b", "c"):
            world.client.create(service(name, ipFamilyPolicy="RequireDualStack"))
        [message] = await world.until(lambda: world.events("SyncLoadBalancerFailed"))
        assert "all 2 addresses of 192.0.2.0/30 are in use" in message
        assert ips(world, "c") == ["2001:db8:192::3"]
        assert len(world.events("EnsuredLoadBalancer")) == 2
        world.client.delete(SERVICES, "default", "a")
        await world.until(lambda: ips(world, "c") == ["192.0.2.1", "2001:db8:192::3"])


@in_loop
async def test_wished_addresses_of_either_family() -> None:
    pair = {"kmn.io/lb-address": "192.0.2.9, 2001:db8:192::9"}
    async with running(spec=DUAL) as world:
        world.client.create(service("pair", pair, ipFamilyPolicy="RequireDualStack"))
        await world.until(lambda: ips(world, "pair") == ["192.0.2.9", "2001:db8:192::9"])
        world.client.create(service("one", {AWS + "ipv6-addresses": "2001:db8::5"}, ipFamilyPolicy="RequireDualStack"))
        [message] = await world.until(lambda: world.events("SyncLoadBalancerFailed"))
        assert message.endswith(
            "2001:db8::5 is not between 2001:db8:192::1 and 2001:db8:192::fffe (spec.internet.loadBalancers)"
        )
        assert ips(world, "one") == ["192.0.2.10"]
        world.client.create(service("other", {"kmn.io/lb-address": "2001:db8:192::7"}))
        await world.until(lambda: len(world.events("SyncLoadBalancerFailed")) == 2)
        assert world.events("SyncLoadBalancerFailed")[1] == (
            "Service default/other: 2001:db8:192::7: the Service has no such family (spec.ipFamilies: IPv4); any "
            "address is given"
        )
        await world.until(lambda: ips(world, "other") == ["192.0.2.11"])


@in_loop
async def test_a_foreign_class_is_left_alone() -> None:
    async with running() as world:
        world.client.create(service("foreign", loadBalancerClass="example.com/other"))
        world.client.create(service("ours", loadBalancerClass="kmn.io/ip"))
        await world.until(lambda: address(world, "ours") == "192.0.2.1")
        assert not ingress(world, "foreign")


@in_loop
async def test_what_is_not_emulated_is_named() -> None:
    async with running() as world:
        world.client.create(
            service("a", {AWS + "eip-allocations": "x", AWS + "scheme": "internal", AWS + "type": "nlb"})
        )
        assert await world.until(lambda: world.events("NotEmulated")) == [
            f"Service default/a: annotation {AWS}eip-allocations: not emulated"
        ]


@pytest.mark.parametrize(
    ("annotations", "field", "value"),
    [
        ({}, "target", "instance"),
        ({"kmn.io/lb-target": "ip"}, "target", "ip"),
        ({AWS + "nlb-target-type": "ip"}, "target", "ip"),
        ({AWS + "type": "nlb-ip"}, "target", "ip"),
        ({"cloud.google.com/neg": '{"exposed_ports": {"80":{}}}'}, "target", "ip"),
        ({"cloud.google.com/neg": '{"ingress": true}'}, "target", "ip"),
        ({AWS + "scheme": "internal"}, "internal", True),
        ({AWS + "scheme": "internet-facing"}, "internal", False),
        ({"networking.gke.io/load-balancer-type": "Internal"}, "internal", True),
        ({K8S + "azure-load-balancer-internal": "true"}, "internal", True),
        ({AWS + "target-group-attributes": "preserve_client_ip.enabled=false"}, "preserve_client", False),
        ({K8S + "load-balancer-source-ranges": "10.0.0.0/8"}, "source_ranges", (PRIVATE,)),
        ({K8S + "azure-allowed-ip-ranges": "10.0.0.0/8"}, "source_ranges", (PRIVATE,)),
        ({K8S + "azure-allowed-ip-ranges": "10.0.0.0/8,fd00::/8"}, "source_ranges", (PRIVATE, IPv6Network("fd00::/8"))),
        ({K8S + "azure-allowed-ip-ranges": "all"}, "source_ranges", ()),
        ({}, "source_ranges", None),
        ({K8S + "azure-load-balancer-ipv6": "fd00::1"}, "wanted", (IPv6Address("fd00::1"),)),
        ({"kmn.io/lb-address": "x"}, "problems", ["kmn.io/lb-address: 'x' should be an IP address"]),
        ({AWS + "cross-zone-load-balancing-enabled": "true"}, "not_emulated", []),
        (
            {AWS + "cross-zone-load-balancing-enabled": "false"},
            "not_emulated",
            [
                AWS + "cross-zone-load-balancing-enabled: false: "
                "the edge is in no zone, and uses targets of all zones alike"
            ],
        ),
        ({}, "direct_return", False),
        ({"kmn.io/lb-forwarding": "dsr"}, "direct_return", True),
        ({"kmn.io/lb-forwarding": "nat"}, "direct_return", False),
        ({"service.cilium.io/forwarding-mode": "dsr"}, "direct_return", True),
        ({"service.cilium.io/forwarding-mode": "snat"}, "preserve_client", False),
        ({"kmn.io/lb-forwarding": "l2"}, "problems", ["kmn.io/lb-forwarding: 'l2' should be nat or dsr"]),
        ({}, "proxy_protocol", None),
        (PROXY, "proxy_protocol", 1),  # a Classic Load Balancer's
        (PROXY | {AWS + "type": "external"}, "proxy_protocol", 2),
        (PROXY | {AWS + "nlb-target-type": "ip"}, "proxy_protocol", 2),
        ({AWS + "target-group-attributes": "proxy_protocol_v2.enabled=true"}, "proxy_protocol", 2),
        ({AWS + "target-group-attributes": "proxy_protocol_v2.enabled=false"}, "proxy_protocol", None),
        ({AWS + "proxy-protocol": "80"}, "problems", [AWS + "proxy-protocol: '80' should be *"]),
        (PROXY | DIRECT, "direct_return", False),
        ({"kmn.io/lb-target": "node"}, "problems", ["kmn.io/lb-target: 'node' should be ip or instance"]),
    ],
)  # fmt: skip
def test_annotations(annotations: dict[str, str], field: str, value: object) -> None:
    wish = read_load_balancer(service("a", annotations, ports=[{"port": 80, "nodePort": 30080}]))
    assert getattr(wish, field) == value


def test_without_node_ports_packets_go_to_pods() -> None:
    assert read_load_balancer(service("a", allocateLoadBalancerNodePorts=False)).target == "ip"


def test_direct_return_is_of_nodes_and_keeps_the_client() -> None:
    ports = [{"port": 80, "nodePort": 30080}]
    for unfit in (
        read_load_balancer(service("a", DIRECT, allocateLoadBalancerNodePorts=False)),
        read_load_balancer(service("a", DIRECT | {"kmn.io/lb-target": "ip"}, ports=ports)),
    ):
        assert (unfit.target, unfit.direct_return) == ("ip", False)
        assert unfit.problems[0].startswith("direct server return needs node ports and targets of type instance")
    proxied = {AWS + "target-group-attributes": "preserve_client_ip.enabled=false"}
    wish = read_load_balancer(service("a", DIRECT | proxied, ports=ports))
    assert (wish.direct_return, wish.preserve_client) == (True, True)
    assert "its address is kept" in wish.problems[0]
