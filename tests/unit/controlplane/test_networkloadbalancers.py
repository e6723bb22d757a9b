"""Services whose load balancer sends PROXY protocol: a proxy for each, at the Service's address, with a place."""

from __future__ import annotations

import dataclasses
import re
from ipaddress import IPv4Address
from typing import Any

from kmn.cluster_spec import ClusterSpec, Ipv6Spec, OutsideHost
from kmn.k8s.objects import Object
from kmn.k8s.resources import NETWORKLOADBALANCERS, SERVICES

from .world import World, in_loop, running

SPEC = ClusterSpec("hc-nlb", (), outside_hosts=(OutsideHost("e1", IPv4Address("203.0.113.10")),))
DUAL = dataclasses.replace(SPEC, ipv6=Ipv6Spec())
AWS = "service.beta.kubernetes.io/aws-load-balancer-"
PROXY = {AWS + "proxy-protocol": "*"}
LB = "Service default/web: the load balancer that sends PROXY protocol: "


def service(name: str, annotations: dict[str, str], **spec: Any) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default", "annotations": annotations},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80}], **spec},
    }


def balancers(world: World) -> list[Object]:
    """Those that have a place."""
    return [each for each in world.client.list(NETWORKLOADBALANCERS).items if each.get("status")]


def ingress(world: World, name: str) -> list[dict[str, str]]:
    return world.get(SERVICES, name)["status"].get("loadBalancer", {}).get("ingress") or []


@in_loop
async def test_it_is_there_as_long_as_the_service_asks() -> None:
    async with running(spec=SPEC) as world:
        world.client.create(service("plain", {}))
        world.client.create(service("web", PROXY, loadBalancerSourceRanges=["10.0.0.0/8"]))
        (found,) = await world.until(lambda: balancers(world))
        name = found["metadata"]["name"]
        assert re.fullmatch("k8s-default-web-[0-9a-f]{10}", name)
        listener = {"port": 80, "protocol": "TCP", "sources": ["10.0.0.0/8"]}
        assert found["spec"] == {"service": "default/web", "scheme": "internet-facing", "listeners": [listener]}
        assert found["status"] == {
            "address": "192.0.2.2",
            "mac": "0a:58:c0:00:02:02",
            "ofport": 35000,
            "netns": f"kmn.hc-nlb.nlb.{name}",
        }
        assert ingress(world, "plain") == [{"ip": "192.0.2.1", "ipMode": "VIP"}]
        assert ingress(world, "web") == [{"ip": "192.0.2.2", "ipMode": "Proxy"}]

        notes = {**PROXY, AWS + "internal": "true", "kmn.io/lb-address": "192.0.2.9"}
        world.change(SERVICES, "web", lambda each: each["metadata"].update(annotations=notes))
        await world.until(lambda: [each["status"]["address"] for each in balancers(world)] == ["192.0.2.9"])
        assert balancers(world)[0]["spec"]["scheme"] == "internal"
        world.client.delete(NETWORKLOADBALANCERS, "", name)
        await world.until(lambda: [each["status"]["address"] for each in balancers(world)] == ["192.0.2.9"])

        world.change(SERVICES, "web", lambda each: each["metadata"].update(annotations={}))
        await world.until(lambda: not world.client.list(NETWORKLOADBALANCERS).items)
        assert [each["ipMode"] for each in ingress(world, "web")] == ["VIP"]
        world.change(SERVICES, "web", lambda each: each["metadata"].update(annotations=PROXY))
        await world.until(lambda: balancers(world))
        world.client.delete(SERVICES, "default", "web")
        await world.until(lambda: not world.client.list(NETWORKLOADBALANCERS).items)


@in_loop
async def test_it_is_ipv4_and_tcp_only_and_has_a_port_of_its_own() -> None:
    ports = [{"port": 80, "name": "a"}, {"port": 53, "protocol": "UDP", "name": "b"}, {"port": 10254, "name": "c"}]
    async with running(spec=DUAL) as world:
        world.client.create(service("web", PROXY, ports=ports, ipFamilyPolicy="RequireDualStack"))
        (found,) = await world.until(lambda: balancers(world))
        assert [each["port"] for each in found["spec"]["listeners"]] == [80]
        assert ingress(world, "web") == [{"ip": "192.0.2.1", "ipMode": "Proxy"}]
        told = await world.until(lambda: len(world.events("NotEmulated")) == 3 and world.events("NotEmulated"))
        at = f"Service default/web: annotation {AWS}proxy-protocol: "
        assert set(told) == {
            f"{at}port 53/UDP gets no answer: it is for TCP only",
            f"{at}the load balancer has an IPv4 address only",
            f"{LB}port 10254 is its own: it has no listener there",
        }


@in_loop
async def test_without_an_outside_there_is_none() -> None:
    async with running(spec=dataclasses.replace(SPEC, outside_hosts=())) as world:
        world.client.create(service("web", PROXY))
        (told,) = await world.until(lambda: world.events("NotEmulated"))
        assert told.startswith(f"{LB}the cluster has no outside for it to be in")
        assert not world.client.list(NETWORKLOADBALANCERS).items
