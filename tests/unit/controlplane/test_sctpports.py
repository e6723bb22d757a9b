"""SCTP ports that are other numbers at the endpoints: told on the Service, on the userspace datapath only."""

from __future__ import annotations

from typing import Any

import pytest

from kmn.controlplane.sctpports import untranslated
from kmn.k8s.objects import Object
from kmn.k8s.resources import ENDPOINTSLICES

from .world import World, in_loop, running

WHY = "Open vSwitch's userspace datapath translates addresses of SCTP, not ports"


def service(port: dict[str, Any], **spec: Any) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "sig", "namespace": "default"},
        "spec": {"ports": [{"protocol": "SCTP", **port}], **spec},
    }


def piece(number: int, name: str = "") -> Object:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "sig-1",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "sig"},
        },
        "addressType": "IPv4",
        "endpoints": [],
        "ports": [{"name": name, "protocol": "SCTP", "port": number}],
    }


SELECTED = {"clusterIP": "10.96.0.7", "selector": {"app": "sig"}}


@pytest.mark.parametrize(
    ("port", "spec", "slices", "fields"),
    [
        ({"port": 80, "targetPort": 80}, SELECTED, [], []),
        ({"port": 80}, SELECTED, [], []),
        ({"port": 80, "targetPort": 8080}, SELECTED, [], ["port"]),
        ({"port": 80, "targetPort": 8080, "protocol": "TCP"}, SELECTED, [], []),
        ({"port": 80, "targetPort": "web"}, SELECTED, [], []),
        ({"port": 80, "targetPort": "web"}, SELECTED, [piece(8080)], ["port"]),
        ({"port": 80, "targetPort": "web", "name": "a"}, SELECTED, [piece(8080, "b")], []),
        ({"port": 80, "targetPort": 8080}, {"clusterIP": "10.96.0.7"}, [], []),
        ({"port": 80, "targetPort": 80}, {"clusterIP": "10.96.0.7"}, [piece(8080)], ["port"]),
        ({"port": 80, "targetPort": 8080}, {**SELECTED, "clusterIP": "None"}, [], []),
        ({"port": 80, "nodePort": 30080}, {**SELECTED, "type": "NodePort"}, [], ["nodePort"]),
        ({"port": 30080, "nodePort": 30080}, {**SELECTED, "type": "NodePort"}, [], []),
    ],
)
def test_ports_that_differ(port: Any, spec: Any, slices: list[Object], fields: list[str]) -> None:
    texts = list(untranslated(service(port, **spec), slices))
    assert [text.partition(":")[0] for text in texts] == [f"spec.ports[0].{field}" for field in fields]


async def made(world: World) -> None:
    world.client.create(service({"port": 80, "targetPort": "web"}))
    world.client.create(piece(8080))


@in_loop
async def test_told_on_the_service() -> None:
    async with running() as world:
        await made(world)
        wrong = "Service default/sig: spec.ports[0].port: SCTP 80 does not reach port 8080 of the endpoints"
        told = [f"{wrong}: {WHY}; let the endpoints listen on 80"]
        assert await world.until(lambda: world.events("NotEmulated")) == told
        world.change(ENDPOINTSLICES, "sig-1", lambda s: s["ports"][0].update(port=9090))
        await world.until(lambda: len(world.events("NotEmulated")) == 2)


@in_loop
async def test_the_kernels_datapath_translates_ports() -> None:
    asked = []

    def kernel() -> str:
        asked.append(True)
        return "system"

    async with running(datapath_type=kernel) as world:
        await made(world)
        await world.until(lambda: asked)
        assert world.events("NotEmulated") == []
