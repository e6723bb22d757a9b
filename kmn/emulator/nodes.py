"""The kubelet's part for nodes: ``Node`` objects become namespaces with bridges, and tell how these are.

It makes the Nodes of the cluster file, builds every Node that has its pod network (those of manifests too), removes
those that are deleted, and restarts a switch that dies. All work in the kernel is :class:`Underlay`'s, in its thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TypeVar

from kmn.apiserver.local import LocalClient
from kmn.cluster_spec import ClusterSpec
from kmn.emulator.edge import EDGE_NAME, edge_object
from kmn.emulator.model import NodePlan
from kmn.emulator.nodeobjects import address_of, fill_in, free_address, node_object, plan_of
from kmn.emulator.underlay import Underlay, UnderlayError
from kmn.k8s.client import WatchEvent
from kmn.k8s.dataplane import DATAPLANE_NAME
from kmn.k8s.errors import ApiError, NotFound
from kmn.k8s.objects import Object, draft, name_of, set_condition, uid_of
from kmn.k8s.resources import DATAPLANES, NODES
from kmn.naming import Paths

__all__ = ["NodeManager"]

log = logging.getLogger(__name__)
T = TypeVar("T")

_BATCH = 25  # nodes built in one go: pods of those that are there need not wait for all
_CALM = 10.0  # seconds without a death after which a switch's restarts are counted anew
_LONGEST_PAUSE = 5.0


@dataclass(slots=True)
class _Health:
    """How a switch has fared: a switch that keeps dying is restarted ever more slowly."""

    deaths: int = 0
    last: float = 0.0
    watched: set[int] = field(default_factory=set)  # pidfds

    def pause(self) -> float:
        """Seconds to wait before the restart that is due now."""
        now = time.monotonic()
        self.deaths = self.deaths + 1 if now - self.last < _CALM else 1
        self.last = now
        return 0.0 if self.deaths == 1 else min(_LONGEST_PAUSE, 0.1 * 2.0 ** (self.deaths - 1))


class NodeManager:
    """Runs on the loop. ``executor`` has one thread, shared with whoever else uses the underlay."""

    def __init__(
        self, client: LocalClient, spec: ClusterSpec, paths: Paths, underlay: Underlay, executor: Executor
    ) -> None:
        self._client = client
        self._spec = spec
        self._paths = paths
        self._underlay = underlay
        self._executor = executor
        self._nodes: dict[str, Object] = {}  # as the API has them
        self._built: dict[str, str] = {}  # name: uid of the Node that it was built for
        self._failed: dict[str, tuple[str, str]] = {}  # name: uid and pod network for which building failed
        self._controlled: set[str] = set()
        self._listening: set[str] = set()
        self._health: dict[str, _Health] = {}
        self._dirty = asyncio.Event()
        self._progress = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._unsubscribe: list[Callable[[], None]] = []
        self._trouble: dict[str, str] = {}

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Create the Nodes of the cluster file and the Edge, and begin. The fabric must be there."""
        for node in self._spec.nodes:
            self._client.create(node_object(self._spec, node))
        if self._spec.outside_hosts:
            self._client.create(edge_object(self._spec))
            self._watch_switch(EDGE_NAME)
        self._unsubscribe.append(self._client.subscribe(NODES, self._on_node))
        self._unsubscribe.append(self._client.subscribe(DATAPLANES, self._on_data_plane))
        self._spawn(self._run())

    async def stop(self) -> None:
        """Stop watching; what is built stays (``purge`` removes it)."""
        for cancel in self._unsubscribe:
            cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for name in list(self._health):
            self._unwatch(name)

    async def wait_built(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Wait until all nodes of the cluster file are there. Raises UnderlayError when one cannot be."""
        names = {node.name for node in self._spec.nodes}
        reported = -1
        async with self._progress:
            while True:
                done = len(names & self._built.keys())
                if progress is not None and done != reported:
                    progress(done, len(names))
                    reported = done
                trouble = [text for name, text in self._trouble.items() if name in names]
                if trouble:
                    raise UnderlayError("; ".join(trouble))
                if done == len(names):
                    return
                await self._progress.wait()

    # --- what the API says --------------------------------------------------------------------------------------------

    def _on_node(self, event: WatchEvent) -> None:
        name = name_of(event.object)
        if event.type == "DELETED":
            self._nodes.pop(name, None)
        else:
            self._nodes[name] = event.object
        self._dirty.set()

    def _on_data_plane(self, event: WatchEvent) -> None:
        if event.type == "DELETED" or name_of(event.object) != DATAPLANE_NAME:
            return
        nodes = (event.object.get("status") or {}).get("nodes") or ()
        self._listening = {entry["name"] for entry in nodes if entry.get("listening")}
        self._dirty.set()

    # --- making it so -------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            try:
                await self._remove()
                await self._build()
                await self._set_controllers()
            except Exception:
                log.exception("nodes: unexpected; going on")

    async def _remove(self) -> None:
        gone = [
            name for name, uid in self._built.items() if name not in self._nodes or uid_of(self._nodes[name]) != uid
        ]
        if not gone:
            return
        for name in gone:
            self._unwatch(name)
            self._health.pop(name, None)
            del self._built[name]
            self._controlled.discard(name)
        await self._in_kernel(lambda: self._underlay.remove_nodes(gone))
        log.info("removed nodes: %s", ", ".join(gone))

    async def _build(self) -> None:
        while plans := self._plans()[:_BATCH]:
            uids = {plan.name: uid_of(self._nodes[plan.name]) for plan in plans}
            errors = await self._build_each(plans)
            for plan in plans:
                name = plan.name
                if name in errors:
                    self._failed[name] = (uids[name], str(plan.pod_cidr))
                    self._trouble[name] = f"Node {name}: {errors[name]}"
                    log.error("Node %s: %s", name, errors[name])
                    self._tell(plan, False, "NodeBuildFailed", errors[name])
                else:
                    self._built[name] = uids[name]
                    self._watch_switch(name)
                    self._tell(plan, True, "KubeletReady", "the node's namespace and bridge are there")
            async with self._progress:
                self._progress.notify_all()
            await self._set_controllers()

    async def _build_each(self, plans: list[NodePlan]) -> dict[str, str]:
        """Build together; when that fails, one by one, to tell whose fault it is. Errors by name."""
        try:
            await self._in_kernel(lambda: self._underlay.build_nodes(plans))
            return {}
        except UnderlayError as error:
            if len(plans) == 1:
                return {plans[0].name: str(error)}
        errors: dict[str, str] = {}
        for plan in plans:
            errors |= await self._build_each([plan])
        return errors

    def _plans(self) -> list[NodePlan]:
        """Nodes to build: those that have a pod network and no namespace yet."""
        plans: list[NodePlan] = []
        taken = {address for node in self._nodes.values() if (address := address_of(node))}
        for name, node in self._nodes.items():
            cidr = (node.get("spec") or {}).get("podCIDR")
            if not cidr or name in self._built or self._failed.get(name) == (uid_of(node), cidr):
                continue
            if name == EDGE_NAME and self._spec.outside_hosts:
                self._refuse(node, "metadata.name: the edge's bridge has this name; another one would do")
                continue
            address = address_of(node) or free_address(self._spec, taken)
            if address is None:
                self._refuse(node, f"spec.nodeCIDR {self._spec.node_cidr} has no free address; a larger one would do")
                continue
            taken.add(address)
            plans.append(plan_of(self._spec, node, address))
        return plans

    async def _set_controllers(self) -> None:
        there = self._built.keys() | ({EDGE_NAME} if self._spec.outside_hosts else set())
        names = sorted(self._listening & there - self._controlled)
        if names:
            await self._in_kernel(lambda: self._underlay.set_controllers(names))
            self._controlled |= set(names)

    async def _in_kernel(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    # --- what the API is told -----------------------------------------------------------------------------------------

    def _tell(self, plan: NodePlan, ready: bool, reason: str, message: str) -> None:
        """Write all that is known of a node, and whether it is ready."""
        with contextlib.suppress(NotFound):
            node = draft(self._client.get(NODES, "", plan.name))
            if ready:
                fill_in(self._spec.name, node, plan)
            _set_ready(node, ready, reason, message)
            self._client.update(node, subresource="status")

    def _refuse(self, node: Object, message: str) -> None:
        self._failed[name_of(node)] = (uid_of(node), node["spec"]["podCIDR"])
        self._trouble[name_of(node)] = f"Node {name_of(node)}: {message}"
        self._set_condition(name_of(node), False, "NodeRefused", message)

    def _set_condition(self, name: str, ready: bool, reason: str, message: str) -> None:
        try:
            node = draft(self._client.get(NODES, "", name))
        except NotFound:
            return  # the edge has no Node; a deleted one needs none
        _set_ready(node, ready, reason, message)
        try:
            self._client.update(node, subresource="status")
        except ApiError as error:
            log.error("Node %s: %s", name, error)

    # --- switches that die --------------------------------------------------------------------------------------------

    def _watch_switch(self, name: str) -> None:
        """Be told when a process of the switch ends."""
        loop = asyncio.get_running_loop()
        health = self._health.setdefault(name, _Health())
        self._unwatch(name)
        for pid in self._underlay.switches()[name].processes().values():
            try:
                file = os.pidfd_open(pid)
            except ProcessLookupError:
                loop.call_soon(self._on_death, name)
                continue
            health.watched.add(file)
            loop.add_reader(file, self._on_death, name)

    def _unwatch(self, name: str) -> None:
        health = self._health.get(name)
        for file in health.watched if health else ():
            asyncio.get_running_loop().remove_reader(file)
            os.close(file)
        if health:
            health.watched.clear()

    def _on_death(self, name: str) -> None:
        self._unwatch(name)
        if name in self._health:
            self._spawn(self._revive(name))

    async def _revive(self, name: str) -> None:
        health = self._health[name]
        pause = health.pause()
        log.warning("the switch of %s died; it is restarted %s", name, f"in {pause:.1f} s" if pause else "at once")
        self._set_condition(name, False, "SwitchDied", "a process of the node's Open vSwitch ended; it is restarted")
        await asyncio.sleep(pause)
        if self._health.get(name) is not health:
            return  # the node was removed meanwhile
        try:
            restarted = await self._in_kernel(lambda: self._underlay.revive(name))
        except UnderlayError as error:
            log.error("the switch of %s: %s", name, error)
            self._set_condition(name, False, "SwitchDied", str(error))
            restarted = None
        if self._health.get(name) is not health:
            return
        self._watch_switch(name)  # one that is dead already shows at once
        if restarted is not None:
            log.info("the switch of %s is back (%s)", name, ", ".join(restarted))
            self._set_condition(name, True, "KubeletReady", "the node's namespace and bridge are there")

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _set_ready(node: Object, ready: bool, reason: str, message: str) -> None:
    set_condition(node, "Ready", ready, reason, message)
    if ready:
        set_condition(node, "NetworkUnavailable", False, "RouteCreated", "the fabric routes to the node")
