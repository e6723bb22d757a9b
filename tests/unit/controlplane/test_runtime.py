"""The reconciler runtime, the recorder of Events, and what every namespace has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, cast

from kmn.controlplane.runtime import Reconciler, Runtime, WorkQueue
from kmn.k8s.client import WatchEvent
from kmn.k8s.errors import ApiError, Conflict
from kmn.k8s.events import Recorder
from kmn.k8s.objects import Key, Object, key_of
from kmn.k8s.resources import CONFIGMAPS, EVENTS, NAMESPACES, SERVICEACCOUNTS, Resource

from .world import World, in_loop, labelled, running


class Counting(Reconciler[Key]):
    """Counts reconciles of ConfigMaps; ``act`` may fail."""

    component = "counting"

    def __init__(self, world: World, act: Callable[[Key], None]) -> None:
        super().__init__(world.client)
        self.seen: list[Key] = []
        self._act = act

    def watches(self) -> Iterable[tuple[Resource, Callable[[WatchEvent], None]]]:
        return ((CONFIGMAPS, lambda event: self.queue.add(key_of(event.object))),)

    def subject(self, key: Key) -> Object | None:
        return self.client.get(CONFIGMAPS, *key)

    def reconcile(self, key: Key) -> None:
        self.seen.append(key)
        self._act(key)


def config_map(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": labelled(name)}


def start(world: World, act: Callable[[Key], None]) -> tuple[Counting, Runtime]:
    counting = Counting(world, act)
    runtime = Runtime(world.client, cast("Any", [counting]))
    runtime.start()
    return counting, runtime


@in_loop
async def test_a_key_waits_in_the_queue_once() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for key in ("a", "b", "a"):
        queue.add(key)
    assert [queue.pop(), queue.pop(), len(queue)] == ["a", "b", 0]
    woken = asyncio.Event()
    queue.wake = woken.set
    queue.add_after("late", 30)
    queue.add_after("late", 0.001)
    await asyncio.wait_for(woken.wait(), 5)
    assert queue.pop() == "late"


@in_loop
async def test_a_conflict_is_tried_again() -> None:
    async with running() as world:
        failing = {"a": 3}

        def act(key: Key) -> None:
            if failing.get(key.name, 0):
                failing[key.name] -= 1
                raise Conflict("configmaps", key.name)

        counting, runtime = start(world, act)
        world.client.create(config_map("a"))
        await world.until(lambda: counting.seen.count(Key("default", "a")) == 4)
        await runtime.stop()


@in_loop
async def test_repeated_failures_are_told_and_stop_nobody_else() -> None:
    async with running() as world:

        def act(key: Key) -> None:
            if key.name == "bad":
                raise ApiError(403, "Forbidden", "ConfigMap default/bad: not allowed")

        counting, runtime = start(world, act)
        world.client.create(config_map("bad"))
        world.client.create(config_map("good"))
        await world.until(lambda: world.events("FailedReconcile") == ["ConfigMap default/bad: not allowed"])
        assert Key("default", "good") in counting.seen
        await runtime.stop()
        after = len(counting.seen)
        world.client.create(config_map("later"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(counting.seen) == after


@in_loop
async def test_the_loop_stays_free_while_much_is_to_do() -> None:
    async with running() as world:

        def act(key: Key) -> None:
            end = asyncio.get_running_loop().time() + 0.001
            while asyncio.get_running_loop().time() < end:
                pass

        counting, runtime = start(world, act)
        for number in range(100):
            world.client.create(config_map(f"c{number}"))
        turns = 0
        while len(counting.seen) < 100:
            turns += 1
            await asyncio.sleep(0)
        assert turns > 10
        await runtime.stop()


@in_loop
async def test_the_same_event_again_is_counted() -> None:
    async with running() as world:
        obj = world.client.create(config_map("a"))
        recorder = Recorder(world.client, "tester")
        for _ in range(3):
            recorder.event(obj, "Warning", "Broken", "it broke")
        recorder.event(obj, "Warning", "Broken", "it broke otherwise")
        found = [e for e in world.client.list(EVENTS, "default").items if e["reason"] == "Broken"]
        assert sorted((e["message"], e["count"]) for e in found) == [("it broke", 3), ("it broke otherwise", 1)]
        assert found[0]["involvedObject"]["name"] == "a"
        version = world.client.list(EVENTS).resource_version
        recorder.once(obj, "Warning", "Broken", "it broke")
        assert world.client.list(EVENTS).resource_version == version
        for event in found:
            world.client.delete(EVENTS, "default", event["metadata"]["name"])
        recorder.event(obj, "Warning", "Broken", "it broke")
        assert world.events("Broken") == ["it broke"]


@in_loop
async def test_namespaces_get_their_contents_and_get_them_again() -> None:
    async with running() as world:
        world.client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})

        def there() -> bool:
            return bool(
                [o for o in world.client.list(SERVICEACCOUNTS, "shop").items if o["metadata"]["name"] == "default"]
                and [o for o in world.client.list(CONFIGMAPS, "shop").items if "ca.crt" in o["data"]]
            )

        await world.until(there)
        world.client.delete(SERVICEACCOUNTS, "shop", "default")
        await world.until(lambda: not there())
        await world.until(there)
        world.client.delete(NAMESPACES, "", "shop")
        await world.until(lambda: "shop" not in [n["metadata"]["name"] for n in world.client.list(NAMESPACES).items])
