"""Gateways get pods and a load balancer, and lose them; one that nobody serves is told so. Istio's gateway likewise."""

from __future__ import annotations

from typing import Any

from kmn.k8s.objects import Object, condition, draft
from kmn.k8s.resources import (
    DEPLOYMENTS,
    GATEWAYCLASSES,
    GATEWAYS,
    HTTPROUTES,
    ISTIO_GATEWAYS,
    NAMESPACES,
    SERVICES,
)

from .world import World, in_loop, running

V1 = "gateway.networking.k8s.io/v1"
HTTP = {"name": "http", "port": 80, "protocol": "HTTP"}


def gateway(*listeners: dict[str, Any], name: str = "front", of: str = "kmn", **spec: Any) -> Object:
    found = {"gatewayClassName": of, "listeners": list(listeners or (HTTP,)), **spec}
    return {"apiVersion": V1, "kind": "Gateway", "metadata": {"name": name, "namespace": "default"}, "spec": found}


def gateway_class(name: str, controller: str, **spec: Any) -> Object:
    meta = {"name": name}
    return {"apiVersion": V1, "kind": "GatewayClass", "metadata": meta, "spec": {"controllerName": controller, **spec}}


def ports(world: World, name: str, namespace: str = "default") -> list[int]:
    return [port["port"] for port in world.get(SERVICES, name, namespace)["spec"]["ports"]]


def services(world: World) -> list[str]:
    return [service["metadata"]["name"] for service in world.client.list(SERVICES, "default").items]


@in_loop
async def test_a_gateway_of_a_known_class_gets_what_it_needs() -> None:
    labels = {"team": "shop"}
    async with running() as world:
        world.client.create(gateway(of="eg", infrastructure={"labels": labels}, addresses=[{"value": "192.0.2.9"}]))
        await world.until(lambda: "front-eg" in services(world))
        deployment, service = (world.get(kind, "front-eg", "default") for kind in (DEPLOYMENTS, SERVICES))
        notes = deployment["spec"]["template"]["metadata"]["annotations"]
        assert notes["kmn.io/program"] == "ingress"
        assert notes["kmn.io/gateway"] == "front"
        assert notes["kmn.io/ingress-controller"] == "Gateway default/front"
        for obj in (deployment, service, deployment["spec"]["template"]):
            assert labels.items() <= obj["metadata"]["labels"].items()
            assert obj["metadata"]["labels"]["gateway.networking.k8s.io/gateway-name"] == "front"
        assert service["metadata"]["annotations"]["kmn.io/lb-address"] == "192.0.2.9"
        assert service["spec"]["selector"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
        made = world.get(GATEWAYCLASSES, "eg")
        await world.until(lambda: condition(world.get(GATEWAYCLASSES, "eg"), "Accepted"))
        assert made["spec"]["controllerName"] == "gateway.envoyproxy.io/gatewayclass-controller"


@in_loop
async def test_ports_follow_the_listeners_and_keep_their_node_ports() -> None:
    async with running() as world:
        world.client.create(gateway())
        await world.until(lambda: "front-kmn" in services(world))
        before = world.get(SERVICES, "front-kmn", "default")["spec"]["ports"][0]["nodePort"]
        changed = draft(world.get(GATEWAYS, "front", "default"))
        changed["spec"]["listeners"] = [
            HTTP,
            {"name": "b", "port": 443, "protocol": "HTTPS"},
            {"name": "c", "port": 443, "protocol": "TLS"},
            {"name": "d", "port": 53, "protocol": "UDP"},
        ]
        world.client.update(changed)
        await world.until(lambda: ports(world, "front-kmn") == [80, 443])
        assert world.get(SERVICES, "front-kmn", "default")["spec"]["ports"][0]["nodePort"] == before


@in_loop
async def test_what_is_deleted_comes_back_and_what_is_of_another_class_goes() -> None:
    async with running() as world:
        world.client.create(gateway())
        await world.until(lambda: "front-kmn" in services(world))
        world.client.delete(SERVICES, "default", "front-kmn")
        await world.until(lambda: "front-kmn" in services(world))
        changed = draft(world.get(GATEWAYS, "front", "default"))
        changed["spec"]["gatewayClassName"] = "eg"
        world.client.update(changed)
        await world.until(lambda: services(world) == ["front-eg"])
        world.client.delete(GATEWAYS, "default", "front")
        await world.until(lambda: not services(world) and not world.client.list(DEPLOYMENTS).items)


@in_loop
async def test_long_names_and_names_with_dots() -> None:
    async with running() as world:
        world.client.create(gateway(name="a" * 200))
        world.client.create(gateway(name="1.b"))
        await world.until(lambda: len(services(world)) == 2)
        long, dotted = services(world)
        assert len(dotted) < 63 and "." not in dotted and dotted[0].isalpha()  # noqa: PT018
        assert len(long) == 63


@in_loop
async def test_a_gateway_that_nobody_serves_is_told_why() -> None:
    async with running() as world:
        world.client.create(gateway_class("own", "example.com/gateways"))
        world.client.create(
            gateway_class("set", "kmn.io/gateway-controller", parametersRef={"group": "", "kind": "A", "name": "b"})
        )
        for name, words in (
            ("nowhere", "there is no GatewayClass nowhere; kmn has kmn, cilium"),
            ("own", "GatewayClass own is for controller example.com/gateways; kmn takes"),
            ("set", "GatewayClass set: spec.parametersRef: A b: no parameters are known to kmn: remove it"),
        ):
            world.client.create(gateway(name=f"g-{name}", of=name))
            await world.until(lambda words=words: any(words in told for told in world.events("NoController")))
        assert not world.client.list(DEPLOYMENTS).items
        refused = condition(world.get(GATEWAYCLASSES, "set"), "Accepted")
        assert refused is not None
        assert (refused["status"], refused["reason"]) == ("False", "InvalidParameters")
        others = condition(world.get(GATEWAYCLASSES, "own"), "Accepted")
        assert others is not None
        assert others["status"] == "Unknown"


@in_loop
async def test_a_class_that_comes_later_is_enough() -> None:
    async with running() as world:
        world.client.create(gateway(of="own"))
        world.client.create(gateway_class("own", "kmn.io/gateway-controller"))
        await world.until(lambda: "front-own" in services(world))


@in_loop
async def test_a_name_that_somebody_else_has() -> None:
    async with running() as world:
        taken = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "front-kmn", "namespace": "default"}}
        world.client.create({**taken, "spec": {"ports": [{"port": 1}]}})
        world.client.create(gateway())
        (told,) = await world.until(lambda: world.events("NameTaken"))
        assert "Service default/front-kmn is there already, and is not its own" in told


@in_loop
async def test_parents_of_routes_that_have_no_effect_are_told() -> None:
    async with running() as world:
        parent = {"group": "", "kind": "Service", "name": "web"}
        meta = {"name": "mesh", "namespace": "default"}
        world.client.create(
            {"apiVersion": V1, "kind": HTTPROUTES.kind, "metadata": meta, "spec": {"parentRefs": [parent]}}
        )
        (told,) = await world.until(lambda: world.events("NotEmulated"))
        assert told == "HTTPRoute default/mesh: spec.parentRefs[0]: Service web: routes have an effect at Gateways only"


@in_loop
async def test_istios_gateway_comes_with_the_first_and_opens_ports() -> None:
    def istio(name: str, *numbers: int, **selector: str) -> Object:
        servers = [{"port": {"number": n, "name": "p", "protocol": "HTTP"}, "hosts": ["*"]} for n in numbers]
        meta = {"name": name, "namespace": "default"}
        spec = {"selector": selector, "servers": servers}
        return {"apiVersion": ISTIO_GATEWAYS.api_version, "kind": "Gateway", "metadata": meta, "spec": spec}

    async with running() as world:
        world.client.create(istio("other", 80, app="own-gateway"))
        world.client.create(istio("front", 80, 9000, istio="ingressgateway"))
        await world.until(lambda: world.client.list(SERVICES, "istio-system").items)
        assert world.get(NAMESPACES, "istio-system")
        assert ports(world, "istio-ingressgateway", "istio-system") == [80, 443, 9000]
        world.client.create(istio("more", 8080, 9001, app="istio-ingressgateway"))
        await world.until(lambda: ports(world, "istio-ingressgateway", "istio-system") == [80, 443, 9000, 9001])
