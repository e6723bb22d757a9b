"""A control plane on a real store, and a kubelet that makes pods ready without any container."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from ipaddress import IPv4Network
from typing import Any

from kmn.apiserver.admission import ClusterAdmission
from kmn.apiserver.local import LocalClient
from kmn.apiserver.store import Store
from kmn.cluster_spec import ClusterSpec
from kmn.controlplane import ControlPlane
from kmn.k8s.client import WatchEvent
from kmn.k8s.objects import Key, Object, draft, key_of, now, set_condition
from kmn.k8s.resources import EVENTS, NODES, PODS, Resource

__all__ = ["Kubelet", "World", "in_loop", "labelled", "running", "small", "template"]

SPEC = ClusterSpec("hc-test", ())
TIMEOUT = 10.0


class World:
    """What the tests talk to."""

    def __init__(self, spec: ClusterSpec, datapath_type: Callable[[], str] = lambda: "netdev") -> None:
        self.spec = spec
        self.client = LocalClient(Store(), ClusterAdmission(spec))
        self.control_plane = ControlPlane(self.client, spec, datapath_type)
        self.kubelet: Kubelet | None = None

    def node(self, name: str, *, ready: bool = True, labels: dict[str, str] | None = None, **spec: Any) -> Object:
        """Register a node as the emulator does."""
        number = len(self.client.list(NODES).items) + 2
        status: dict[str, Any] = {"addresses": [{"type": "InternalIP", "address": f"172.18.0.{number}"}]}
        status["conditions"] = [{"type": "Ready", "status": str(ready), "lastTransitionTime": now()}]
        meta = {"name": name, "labels": {"kubernetes.io/hostname": name, **(labels or {})}}
        return self.client.create(
            {"apiVersion": "v1", "kind": "Node", "metadata": meta, "spec": spec, "status": status}
        )

    def pods(self, selector: str = "", namespace: str = "default") -> list[Object]:
        return self.client.list(PODS, namespace, label_selector=selector or None).items

    def get(self, resource: Resource, name: str, namespace: str = "default") -> Object:
        return self.client.get(resource, namespace if resource.namespaced else "", name)

    def events(self, reason: str) -> list[str]:
        """Messages of the Events with this reason."""
        return [event["message"] for event in self.client.list(EVENTS).items if event["reason"] == reason]

    def change(self, resource: Resource, name: str, edit: Callable[[Object], Any]) -> Object:
        """Update an object by a function that changes it."""
        changed = draft(self.get(resource, name))
        edit(changed)
        return self.client.update(changed)

    def set_status(self, pod: Object, phase: str, *, ready: bool = False) -> None:
        changed = draft(self.get(PODS, pod["metadata"]["name"], pod["metadata"]["namespace"]))
        changed["status"]["phase"] = phase
        set_condition(changed, "Ready", ready)
        self.client.update(changed, subresource="status")

    async def until(self, condition: Callable[[], Any], what: str = "") -> Any:
        """Wait until a condition holds; its value."""
        deadline = asyncio.get_running_loop().time() + TIMEOUT
        while not (value := condition()):
            assert asyncio.get_running_loop().time() < deadline, f"not within {TIMEOUT} s: {what or condition}"
            await asyncio.sleep(0.002)
        return value


class Kubelet:
    """Runs pods that have an address, and lets pods go that are being deleted."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.hold: Callable[[Object], bool] = lambda pod: False  # pods that it does not start
        world.client.subscribe(PODS, self._on_pod)

    def _on_pod(self, event: WatchEvent) -> None:
        if event.type in ("ADDED", "MODIFIED"):
            self.look(key_of(event.object))

    def look(self, key: Key) -> None:
        found = [p for p in self._world.pods(namespace=key.namespace) if key_of(p) == key]
        for pod in found:
            if pod["metadata"].get("deletionTimestamp"):
                self._world.client.delete(PODS, key.namespace, key.name, grace_seconds=0)
            elif pod["status"].get("podIP") and pod["status"]["phase"] == "Pending" and not self.hold(pod):
                self._world.set_status(pod, "Running", ready=True)


@asynccontextmanager
async def running(
    *nodes: str,
    spec: ClusterSpec = SPEC,
    kubelet: bool = False,
    datapath_type: Callable[[], str] = lambda: "netdev",
) -> AsyncIterator[World]:
    """A running control plane, with nodes of these names."""
    world = World(spec, datapath_type)
    for name in ("default", "kube-system"):
        world.client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    for name in nodes:
        world.node(name)
    world.control_plane.start()
    if kubelet:
        world.kubelet = Kubelet(world)
    try:
        yield world
    finally:
        await world.control_plane.stop()


def in_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Make a test of a coroutine function without arguments."""

    @functools.wraps(test)
    def run() -> None:
        asyncio.run(test())

    del run.__dict__["__wrapped__"]  # pytest shall see a plain function
    return run


def labelled(name: str, **labels: str) -> dict[str, Any]:
    """Metadata in the namespace default."""
    return {"name": name, "namespace": "default", "labels": labels}


def template(app: str = "web", **spec: Any) -> dict[str, Any]:
    """A pod template with one container that has a named port."""
    container = {"name": "main", "image": "web:1", "ports": [{"name": "http", "containerPort": 8080}]}
    return {"metadata": {"labels": {"app": app}}, "spec": {"containers": [container], **spec}}


def small(pod_cidr: str, prefix: int) -> ClusterSpec:
    return ClusterSpec("hc-test", (), pod_cidr=IPv4Network(pod_cidr), node_pod_prefix=prefix)
