"""What the data plane loses is told on the object that it is of, once each time it begins."""

from __future__ import annotations

from kmn.k8s.objects import Object
from kmn.k8s.resources import DATAPLANES

from .world import World, in_loop, running

DROP = {"kind": "Edge", "name": "default", "reason": "NATPortsExhausted", "message": "all ports are in use"}


def say(world: World, *drops: dict[str, str]) -> None:
    obj: Object = {"apiVersion": "kmn.io/v1", "kind": "DataPlane", "metadata": {"name": "default"}}
    world.client.update({**obj, "status": {"drops": list(drops)}}, subresource="status")


@in_loop
async def test_an_event_when_it_begins() -> None:
    async with running() as world:
        world.client.create({"apiVersion": "kmn.io/v1", "kind": "Edge", "metadata": {"name": "default"}, "spec": {}})
        world.client.create({"apiVersion": "kmn.io/v1", "kind": "DataPlane", "metadata": {"name": "default"}})
        say(world, DROP)
        assert await world.until(lambda: world.events("NATPortsExhausted")) == ["Edge default: all ports are in use"]
        assert world.get(DATAPLANES, "default")["status"]["drops"] == [DROP]
        world.client.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}})
        say(world, {**DROP, "kind": "Node", "name": "n1"})
        assert await world.until(lambda: len(told := world.events("NATPortsExhausted")) > 1 and told) == [
            "Edge default: all ports are in use",
            "Node n1: all ports are in use",
        ]
