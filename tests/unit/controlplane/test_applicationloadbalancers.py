"""Load balancers of class ``alb``: one a group, with an address, a name and a place, as long as it has Ingresses."""

from __future__ import annotations

import dataclasses
import re
from ipaddress import IPv4Address, IPv4Network

from kmn.cluster_spec import ClusterSpec, OutsideHost
from kmn.k8s.objects import Object
from kmn.k8s.resources import APPLICATIONLOADBALANCERS, INGRESSES, SERVICES

from .world import World, in_loop, running

HOST = OutsideHost("e1", IPv4Address("203.0.113.10"))
SPEC = ClusterSpec("hc-alb", (), outside_hosts=(HOST,))
TINY = dataclasses.replace(SPEC, load_balancer_cidr=IPv4Network("192.0.2.0/30"))  # two addresses


def ingress(name: str, **annotations: str) -> Object:
    words = {key.replace("__", ".").replace("_", "-"): value for key, value in annotations.items()}
    notes = {f"alb.ingress.kubernetes.io/{word}": value for word, value in words.items()}
    backend = {"service": {"name": "web", "port": {"number": 80}}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": name, "namespace": "default", "annotations": notes},
        "spec": {"ingressClassName": "alb", "defaultBackend": backend},
    }


def balancers(world: World) -> list[Object]:
    return world.client.list(APPLICATIONLOADBALANCERS).items


def placed(world: World) -> dict[str, str]:
    """Addresses by group."""
    return {each["spec"]["group"]: each["status"]["address"] for each in balancers(world) if each.get("status")}


@in_loop
async def test_each_group_has_one_with_an_address_and_a_place() -> None:
    async with running(spec=SPEC) as world:
        world.node("n1", labels={"topology.kubernetes.io/region": "eu-west-1"})
        world.client.create(ingress("alone", scheme="internet-facing"))
        await world.until(lambda: placed(world))
        world.client.create(ingress("a", group__name="shop"))
        world.client.create(ingress("b", group__name="shop", listen_ports='[{"HTTP": 80}, {"HTTP": 8080}]'))
        await world.until(lambda: placed(world) == {"default/alone": "192.0.2.1", "shop": "192.0.2.2"})
        found = {each["spec"]["group"]: each for each in balancers(world)}
        alone, shop = found["default/alone"], found["shop"]
        name = alone["metadata"]["name"]
        assert re.fullmatch("k8s-default-alone-[0-9a-f]{10}", name)
        assert alone["spec"]["hostname"].startswith(f"{name}-")
        assert alone["spec"]["hostname"].endswith(".eu-west-1.elb.amazonaws.com")
        assert alone["spec"]["scheme"] == "internet-facing"
        assert alone["status"] == {
            "address": "192.0.2.1",
            "mac": "0a:58:c0:00:02:01",
            "ofport": 10000,
            "netns": f"kmn.hc-alb.alb.{name}",
        }
        assert shop["metadata"]["name"].startswith("k8s-shop-")
        assert shop["spec"]["hostname"].startswith("internal-k8s-shop-")
        everybody = ["0.0.0.0/0"]
        both = [{"port": port, "protocol": "HTTP", "sources": everybody} for port in (80, 8080)]
        name = shop["metadata"]["name"]
        await world.until(lambda: world.get(APPLICATIONLOADBALANCERS, name)["spec"]["listeners"] == both)


@in_loop
async def test_it_goes_with_its_last_ingress_and_comes_back_when_somebody_deletes_it() -> None:
    async with running(spec=SPEC) as world:
        for name in ("a", "b"):
            world.client.create(ingress(name, group__name="shop"))
        await world.until(lambda: placed(world))
        (found,) = balancers(world)
        world.client.delete(APPLICATIONLOADBALANCERS, "", found["metadata"]["name"])
        await world.until(lambda: placed(world) == {"shop": "192.0.2.1"})
        world.client.delete(INGRESSES, "default", "a")
        world.change(INGRESSES, "b", lambda each: each["spec"].update(ingressClassName="other"))
        await world.until(lambda: not balancers(world))
        world.change(INGRESSES, "b", lambda each: each["spec"].update(ingressClassName="alb"))
        # A freed address is used again as late as possible.
        await world.until(lambda: placed(world) == {"shop": "192.0.2.2"})


@in_loop
async def test_it_shares_the_pool_with_services() -> None:
    async with running(spec=TINY) as world:
        spec = {"type": "LoadBalancer", "ports": [{"port": 80}]}
        for name in ("x", "y"):
            meta = {"name": name, "namespace": "default"}
            world.client.create({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec})
        await world.until(lambda: len(world.events("EnsuredLoadBalancer")) == 2)
        world.client.create(ingress("late"))
        (told,) = await world.until(lambda: world.events("FailedDeployModel"))
        assert told.startswith("Ingress default/late: no load balancer: all 2 addresses of 192.0.2.0/30 are in use")
        assert not placed(world)
        world.client.delete(SERVICES, "default", "x")
        await world.until(lambda: placed(world) == {"default/late": "192.0.2.1"})
        world.client.delete(INGRESSES, "default", "late")
        await world.until(lambda: not balancers(world))


@in_loop
async def test_without_an_outside_there_is_none() -> None:
    async with running(spec=dataclasses.replace(SPEC, outside_hosts=())) as world:
        world.client.create(ingress("web"))
        (told,) = await world.until(lambda: world.events("NotEmulated"))
        assert "spec.internet.hosts of the cluster file is empty" in told
        assert not balancers(world)


@in_loop
async def test_two_groups_cannot_have_one_name() -> None:
    async with running(spec=SPEC) as world:
        for name in ("a", "b"):
            world.client.create(ingress(name, load_balancer_name="Mine"))
        (told,) = await world.until(lambda: world.events("Conflict"))
        assert told == "Ingress default/b: no load balancer: group default/a has the load balancer mine already"
        await world.until(lambda: placed(world) == {"default/a": "192.0.2.1"})


@in_loop
async def test_parameters_of_the_class() -> None:
    async with running(spec=SPEC) as world:
        parameters = {"apiGroup": "elbv2.k8s.aws", "kind": "IngressClassParams", "name": "all"}
        of_class = {"controller": "ingress.k8s.aws/alb", "parameters": parameters}
        meta = {"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": "alb"}}
        world.client.create({**meta, "spec": of_class})
        world.client.create(ingress("a"))
        (told,) = await world.until(lambda: world.events("FailedBuildModel"))
        assert told == "Ingress default/a: its class names IngressClassParams all, which does not exist"
        await world.until(lambda: placed(world) == {"default/a": "192.0.2.1"})
        kind = {"apiVersion": "elbv2.k8s.aws/v1beta1", "kind": "IngressClassParams", "metadata": {"name": "all"}}
        world.client.create({**kind, "spec": {"group": {"name": "shop"}, "subnets": {"ids": ["x"]}}})
        await world.until(lambda: placed(world) == {"shop": "192.0.2.2"})
        (told,) = await world.until(lambda: world.events("NotEmulated"))
        assert told == "IngressClassParams all: spec.subnets is not emulated: it has no effect"
