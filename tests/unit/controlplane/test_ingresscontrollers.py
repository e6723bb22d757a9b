"""Ingress controllers come when they are declared or asked for; an Ingress that nobody takes is told so."""

from __future__ import annotations

import dataclasses

from kmn.cluster_spec import IngressController
from kmn.k8s.objects import Object
from kmn.k8s.resources import DEPLOYMENTS, INGRESSCLASSES, SERVICES

from .world import SPEC, in_loop, running


def ingress(**spec: object) -> Object:
    backend = {"service": {"name": "web", "port": {"number": 80}}}
    meta = {"name": "web", "namespace": "default"}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": meta,
        "spec": {"defaultBackend": backend, **spec},
    }


def ingress_class(name: str, controller: str) -> Object:
    spec = {"controller": controller}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": name}, "spec": spec}


@in_loop
async def test_nobody_needs_it() -> None:
    async with running() as world:
        world.client.create(ingress())
        (told,) = await world.until(lambda: world.events("NoController"))
        assert told.startswith("Ingress default/web: nobody serves it: it names no class, and no IngressClass")
        assert not world.client.list(DEPLOYMENTS).items


@in_loop
async def test_an_ingress_of_class_nginx_brings_the_controller() -> None:
    async with running() as world:
        world.client.create(ingress(ingressClassName="nginx"))
        name = "ingress-nginx-controller"
        await world.until(lambda: world.client.list(INGRESSCLASSES).items)
        assert world.get(INGRESSCLASSES, "nginx")["spec"]["controller"] == "k8s.io/ingress-nginx"
        deployment = world.get(DEPLOYMENTS, name, "ingress-nginx")
        assert deployment["spec"]["template"]["metadata"]["annotations"] == {
            "kmn.io/program": "ingress",
            "kmn.io/ingress-controller": "k8s.io/ingress-nginx",
        }
        service = world.get(SERVICES, name, "ingress-nginx")
        assert [port["port"] for port in service["spec"]["ports"]] == [80, 443]
        await world.until(lambda: service["spec"]["selector"] and world.pods(namespace="ingress-nginx"))


@in_loop
async def test_so_does_a_class_of_its_controller() -> None:
    async with running() as world:
        world.client.create(ingress_class("web", "k8s.io/ingress-nginx"))
        await world.until(lambda: world.client.list(DEPLOYMENTS).items)


@in_loop
async def test_declared_controllers_are_there_and_no_others() -> None:
    declared = IngressController("kmn", "example.com/kmn", default=True)
    async with running(spec=dataclasses.replace(SPEC, ingress=(declared,))) as world:
        await world.until(lambda: world.client.list(DEPLOYMENTS).items)
        found = world.get(INGRESSCLASSES, "kmn")
        assert found["metadata"]["annotations"] == {"ingressclass.kubernetes.io/is-default-class": "true"}
        world.client.create(ingress_class("nginx", "k8s.io/ingress-nginx"))
        world.client.create(ingress(ingressClassName="nginx"))
        (told,) = await world.until(lambda: world.events("NoController"))
        assert "IngressClass nginx is for controller k8s.io/ingress-nginx, which spec.ingress of the cluster" in told
        assert len(world.client.list(DEPLOYMENTS).items) == 1


@in_loop
async def test_a_class_that_there_is_not() -> None:
    async with running() as world:
        world.client.create(ingress(ingressClassName="nowhere"))
        (told,) = await world.until(lambda: world.events("NoController"))
        assert told == "Ingress default/web: nobody serves it: there is no IngressClass nowhere"
