"""A network made by hand and the controller's core on it: tests tell it of objects, and see what packets do.

The parts: ``lab_network`` (of ``lab_switch`` and ``lab_places``), ``lab_controller``, ``lab_objects``.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from lab_commands import wait_for
from lab_controller import RESOURCES, Controller
from lab_network import Network

from kmn.k8s.objects import Object

__all__ = ["Lab", "lab"]


class Lab(Network):
    """The network, what has been said of it, and who serves in it."""

    def __init__(self, *, controller_tcp: bool = False) -> None:
        self._versions = dict.fromkeys(RESOURCES, 0)
        self._objects: dict[tuple[str, str], Object] = {}
        self.stop_servers = threading.Event()
        self.servers: list[threading.Thread] = []
        self.controller: Controller | None = None
        super().__init__(controller_tcp=controller_tcp)

    def close(self) -> None:
        self.stop_servers.set()
        for server in self.servers:
            server.join()
        if self.controller is not None:
            self.controller.stop()
        super().close()

    def put(self, resource: str, obj: Object, controller: Controller) -> int:
        """Tell the controller of a new or changed object; its resourceVersion."""
        self._versions[resource] += 1
        obj["metadata"]["resourceVersion"] = str(self._versions[resource])
        self._objects[resource, obj["metadata"]["name"]] = obj
        controller.synchronizer.event(resource, "MODIFIED", obj)
        return self._versions[resource]

    def delete(self, resource: str, name: str, controller: Controller) -> int:
        self._versions[resource] += 1
        obj = self._objects.pop((resource, name))
        obj["metadata"]["resourceVersion"] = str(self._versions[resource])
        controller.synchronizer.event(resource, "DELETED", obj)
        return self._versions[resource]

    def controlled(self, *, connect: bool = True) -> Controller:
        """A controller that knows all objects and is connected to all bridges, when everything is in force."""
        controller = Controller()
        self.controller = controller
        known: dict[str, list[Object]] = {resource: [] for resource in RESOURCES}
        for (resource, _), obj in self._objects.items():
            known[resource].append(obj)
        for resource, items in known.items():
            controller.synchronizer.listed(resource, items, str(self._versions[resource]))
        if connect:
            for name, bridge in self.bridges.items():
                controller.connect(name, bridge.management)
            wait_for(
                lambda: controller.in_force("nodes", self._versions["nodes"], len(self.bridges)),
                "the bridges are not in step",
            )
        return controller

    def wait(self, resource: str, version: int) -> None:
        controller = self.controller
        assert controller is not None
        wait_for(lambda: controller.in_force(resource, version, len(controller.channels)), f"{resource} not in force")

    def apply(self, resource: str, obj: Object) -> None:
        """Tell of an object, and wait until it is in force."""
        assert self.controller is not None
        self.wait(resource, self.put(resource, obj, self.controller))

    def remember_machines(self, *, edge: dict[str, Any] | None = None, **cluster: Any) -> None:
        """Nodes, the edge (with more fields of its spec), and the cluster with these fields of its."""
        self.remember("clusters", {"kind": "Cluster", "metadata": {"name": "t"}, "spec": cluster})
        for node in (self.n1, self.n2):
            self.remember("nodes", node.object)
        self.edge_object["spec"] |= edge or {}
        self.remember("edges", self.edge_object)

    def remember(self, resource: str, obj: Object) -> None:
        """An object for the next controller's list."""
        self._versions[resource] += 1
        obj["metadata"]["resourceVersion"] = str(self._versions[resource])
        self._objects[resource, obj["metadata"]["name"]] = obj


@contextlib.contextmanager
def lab(**options: bool) -> Iterator[Lab]:
    made = Lab(**options)
    try:
        yield made
    finally:
        made.close()
