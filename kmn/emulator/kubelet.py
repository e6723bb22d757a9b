"""The kubelet of every node: brings up the pods that are bound to nodes and have addresses, and writes their status.

What it does about one pod is in ``podworker``. This is what brings workers together with the rest: watches, the
runtime's socket, the devices, and the controller's word that a pod's flows are in force before its containers start.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from kmn import environment
from kmn.apiserver.local import LocalClient
from kmn.cluster_spec import ClusterSpec, Link
from kmn.emulator import edgehosts, healthchecks, podfiles
from kmn.emulator.containerports import ServiceIndex
from kmn.emulator.edgehosts import EdgeHosts
from kmn.emulator.environments import Environments
from kmn.emulator.healthchecks import HealthChecks
from kmn.emulator.ownservers import OwnServers
from kmn.emulator.podadmission import refusal, refused_status
from kmn.emulator.podenv import Environment
from kmn.emulator.podports import Plumber, PodPorts, pod_port
from kmn.emulator.podstatus import compute_status, over
from kmn.emulator.podworker import PodWorker
from kmn.emulator.runtime.protocol import Hello
from kmn.emulator.runtimeclient import RuntimeClient
from kmn.k8s.client import WatchEvent
from kmn.k8s.dataplane import NETNS
from kmn.k8s.errors import ApiError, Conflict, NotFound
from kmn.k8s.events import EventType, Recorder
from kmn.k8s.objects import (
    Key,
    Object,
    annotation,
    condition,
    key_of,
    name_of,
    namespace_of,
    now,
    resource_of,
    uid_of,
)
from kmn.k8s.resources import (
    CONFIGMAPS,
    DATAPLANES,
    EDGES,
    ENDPOINTSLICES,
    NAMESPACES,
    NODES,
    PODS,
    POLICIES,
    SECRETS,
    SERVICES,
)
from kmn.naming import Paths, netns

__all__ = ["Kubelet"]

log = logging.getLogger(__name__)

# ContainerCreating is worth writing after so many seconds: a write wakes everybody who watches pods.
_CREATING = 1.0
_DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"


class Kubelet:
    """All pods of a cluster, on all of its nodes. Runs in the loop of the API server's store."""

    def __init__(
        self, client: LocalClient, spec: ClusterSpec, paths: Paths, plumber: Plumber, executor: Executor
    ) -> None:
        self.initial_delay = spec.initial_delay
        self._client = client
        self._spec = spec
        self._paths = paths
        self._executor = executor
        self._recorder = Recorder(client, "kubelet")
        self._runtime = RuntimeClient(
            paths.runtime_socket, connected=self._runtime_connected, lost=self._runtime_lost, event=self._runtime_event
        )
        self._ports = PodPorts(plumber, executor, self._attached)
        self._own_servers = OwnServers(self._runtime.send)
        self._edge_hosts = EdgeHosts(self._own_servers)
        self._health_checks = HealthChecks(self._own_servers)
        self._services = ServiceIndex()
        self._environments = Environments(client)
        self._links: dict[str, Link] = {node.name: node.pod_link for node in spec.nodes}
        self._workers: dict[str, PodWorker] = {}  # by uid
        self._nodes: dict[str, Object] = {}
        # Versions of pods, policies and namespaces: of the last change, and up to which the connected bridges have been
        # programmed. A pod's containers start when all of its time is in force: policy before packets.
        self._latest: dict[str, int] = {}
        self._observed: Mapping[str, str] = {}
        self._bridges: frozenset[str] = frozenset()  # nodes whose bridge is connected
        self._gated: deque[tuple[dict[str, int], str]] = deque()  # versions to be in force, uid; in order of time
        self._unconnected: list[str] = []  # uids of pods whose version is in force, though not on their own node
        self._dirty: dict[str, PodWorker] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._unsubscribe: list[Callable[[], None]] = []
        self._sctp = False
        self._is_connected = False

    def start(self) -> None:
        """Begin. The runtime may come later."""
        self._ports.start()
        self._runtime.start()
        for resource, observe in (
            (NODES, self._node_event),
            (SERVICES, self._service_event),
            (SERVICES, self._environments.observe_service),
            (CONFIGMAPS, self._config_event),
            (SECRETS, self._config_event),
            (DATAPLANES, self._dataplane_event),
            (EDGES, self._edge_hosts.observe),
            (NODES, self._health_checks.observe_node),
            (SERVICES, self._health_checks.observe_service),
            (ENDPOINTSLICES, self._health_checks.observe_slice),
            *((resource, self._gate_event) for resource in POLICIES),
            (NAMESPACES, self._gate_event),
            (PODS, self._pod_event),
        ):
            self._unsubscribe.append(self._client.subscribe(resource, observe))

    async def stop(self) -> None:
        """Let go of everything. Devices are left to whoever takes the cluster down."""
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self._own_servers.stop()
        for worker in self._workers.values():
            worker.abandon()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._runtime.stop()
        await self._ports.stop()

    # What the API says.

    def _pod_event(self, event: WatchEvent) -> None:
        pod = event.object
        uid = uid_of(pod)
        worker = self._workers.get(uid)
        if event.type == "DELETED":
            if worker is not None:
                self._forget(worker)
        elif worker is not None:
            worker.observe(pod)
            if self._services.put_pod(uid, pod):
                worker.update_ports()
            if pod["spec"].get("readinessGates"):
                self.changed(worker)
        elif over(pod) or not (annotation(pod, NETNS) and (pod.get("status") or {}).get("podIP")):
            if pod["spec"].get("nodeName") and pod["metadata"].get("deletionTimestamp"):
                self._delete(pod)  # it never got as far as having anything
        elif why := refusal(pod, self._pods_on(pod["spec"]["nodeName"])):
            self._recorder.event(pod, "Warning", *why)
            self._write_status(key_of(pod), uid, lambda current: refused_status(current, why, now()))
        else:
            self._admit(pod)

    def _pods_on(self, node: str) -> Iterator[Object]:
        return (worker.pod for worker in self._workers.values() if worker.node == node and not worker.ended)

    def _admit(self, pod: Object) -> None:
        """A pod that has just got its address."""
        worker = self._workers[uid_of(pod)] = PodWorker(pod, self)
        self._services.put_pod(worker.uid, pod)
        worker.facts.node_ready = self._node_ready(worker.node)
        if worker.host_network:
            worker.facts.attached = True
            self._write_files(worker)
        elif worker.node in self._nodes:
            self._attach(worker)
        self._gate_event(WatchEvent("MODIFIED", pod))
        if not self._in_force(self._latest):
            self._gated.append((dict(self._latest), worker.uid))
        elif worker.host_network or worker.node in self._bridges:
            worker.in_force = True
        else:
            self._unconnected.append(worker.uid)
        if pod["metadata"].get("deletionTimestamp"):
            worker.observe(pod)
        worker.advance()
        asyncio.get_running_loop().call_later(_CREATING, self.changed, worker)

    def _attach(self, worker: PodWorker) -> None:
        node = self._nodes[worker.node]
        link = self._links.get(worker.node, Link())
        worker.port = pod_port(worker.pod, node, self._spec, link, self._node_resolv_conf(worker.node))
        self._ports.attach(worker.port)

    def _node_resolv_conf(self, node: str) -> str:
        """What dnsPolicy Default means there."""
        try:
            return (self._paths.etc(self.node_netns(node)) / "resolv.conf").read_text()
        except FileNotFoundError:
            return ""

    def _write_files(self, worker: PodWorker) -> None:
        """A hostNetwork pod has no namespace of its own to find its files by; they lie where others have theirs."""
        folder = self._files(worker)
        node = self._node_resolv_conf(worker.node)
        texts = {
            "resolv.conf": podfiles.resolv_conf(worker.pod, self._spec, node),
            "hosts": podfiles.hosts(worker.pod, self._spec),
        }

        def write() -> None:
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in texts.items():
                (folder / name).write_text(text)

        self._executor.submit(write)

    def _files(self, worker: PodWorker) -> Path:
        return self._paths.etc(netns(self._spec.name, "pod", *worker.key))

    def _node_event(self, event: WatchEvent) -> None:
        name = name_of(event.object)
        before = self._node_ready(name)
        if event.type == "DELETED":
            self._nodes.pop(name, None)
        else:
            self._nodes[name] = event.object
        ready = self._node_ready(name)
        for worker in self._workers.values():
            if worker.node != name:
                continue
            if worker.port is None and not worker.host_network and name in self._nodes:
                self._attach(worker)
            if ready != before:
                worker.facts.node_ready = ready
                self.changed(worker)

    def _node_ready(self, name: str) -> bool:
        node = self._nodes.get(name)
        found = condition(node, "Ready") if node is not None else None
        return found is None or found["status"] == "True"

    def _service_event(self, event: WatchEvent) -> None:
        service = event.object
        if event.type == "DELETED":
            affected = self._services.drop_service(key_of(service))
        else:
            affected = self._services.put_service(service)
        for uid in affected:
            self._workers[uid].update_ports()

    def _gate_event(self, event: WatchEvent) -> None:
        plural = resource_of(event.object).plural
        self._latest[plural] = int(event.object["metadata"]["resourceVersion"])

    def _in_force(self, versions: Mapping[str, int]) -> bool:
        """Whether the connected bridges are programmed up to these versions."""
        return all(int(self._observed.get(plural, "0")) >= version for plural, version in versions.items())

    def _config_event(self, event: WatchEvent) -> None:
        """Containers may have waited for it."""
        for worker in self._workers.values():
            if worker.key.namespace == namespace_of(event.object) and worker.needs_config:
                worker.advance()

    def _dataplane_event(self, event: WatchEvent) -> None:
        status = (event.object.get("status") or {}) if event.type != "DELETED" else {}
        self._observed = status.get("observed") or {}
        self._bridges = frozenset(bridge["name"] for bridge in status.get("nodes") or () if bridge.get("connected"))
        waiting, self._unconnected = self._unconnected, []
        while self._gated and self._in_force(self._gated[0][0]):
            waiting.append(self._gated.popleft()[1])
        for worker in (self._workers[uid] for uid in waiting if uid in self._workers):
            if worker.host_network or worker.node in self._bridges:
                worker.in_force = True
                worker.advance()
            else:
                # A version counts as in force when all bridges that are connected have it. This one is not.
                self._unconnected.append(worker.uid)

    # What the devices and the runtime say.

    def _attached(self, uid: str, error: str) -> None:
        worker = self._workers.get(uid)
        if worker is None or worker.ended:
            return
        if error:
            self.event(worker, "Warning", "FailedCreatePodSandBox", f"Failed to create pod sandbox: {error}")
            return
        worker.facts.attached = True
        worker.advance()

    def _runtime_connected(self, hello: Hello) -> None:
        self._sctp = hello.sctp
        self._is_connected = True
        self._own_servers.connected()
        for worker in self._workers.values():
            worker.advance()

    def _runtime_lost(self) -> None:
        log.warning("the container runtime is gone; its containers start again when it is back")
        self._is_connected = False
        for worker in self._workers.values():
            worker.runtime_lost()

    def _runtime_event(self, event: str, items: list[Any]) -> None:
        for item in items:
            key: str = item if event == "started" else item["id"]
            if key.startswith((edgehosts.PREFIX, healthchecks.PREFIX)):
                if event == "exited":
                    self._own_servers.exited(key, item["message"])
                continue
            worker = self._workers.get(key.partition("/")[0])
            if worker is None:
                continue
            match event:
                case "started":
                    worker.container_started(key)
                case "exited":
                    worker.container_exited(key, item["exit_code"], item["reason"], item["message"])
                case "ports":
                    worker.ports_failed(key, item["message"])
                case "probe":
                    run, _, kind = key.rpartition("/")
                    worker.probed(run, kind, item["success"], item["verdict"], item["message"])

    # What workers ask for.

    def send(self, op: str, item: Any) -> None:
        self._runtime.send(op, item)

    @property
    def runtime_connected(self) -> bool:
        """Whether there is a runtime to start containers."""
        return self._is_connected

    def event(self, worker: PodWorker, type: EventType, reason: str, message: str) -> None:
        self._recorder.event(worker.pod, type, reason, message)

    def services_of(self, pod: Object) -> list[Object]:
        return self._services.services_of(pod)

    def environment(self, pod: Object, container: Object) -> Environment:
        return self._environments.of(pod, container)

    def leave_environment(self, worker: PodWorker) -> None:
        file = self._paths.environment(*worker.key)
        default = annotation(worker.pod, _DEFAULT_CONTAINER) or worker.pod["spec"]["containers"][0]["name"]
        environment.write(file, default, worker.environment)

    def node_netns(self, node: str) -> str:
        return netns(self._spec.name, "node", node)

    def has_sctp(self) -> bool:
        return self._sctp

    def tear_down(self, worker: PodWorker) -> None:
        task = asyncio.create_task(self._tear_down(worker))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(functools.partial(_log_failure, f"pod {worker.key}"))

    async def _tear_down(self, worker: PodWorker) -> None:
        """Remove the device when the sockets are closed, and the pod, if that is wanted, when the device is gone."""
        await self._runtime.sync()
        if worker.port is not None:
            await self._ports.detach(worker.port)
            worker.facts.attached = False
        else:
            self._executor.submit(shutil.rmtree, self._files(worker), ignore_errors=True)
        if not worker.ending:
            self.changed(worker)
            return
        if worker.pod["metadata"].get("finalizers"):  # it will still be seen when its containers are gone
            self._write(worker)
        self._delete(worker.pod)

    def _delete(self, pod: Object) -> None:
        """The last word about a pod that is being deleted."""
        try:
            self._client.delete(PODS, *key_of(pod), grace_seconds=0, uid=uid_of(pod))
        except (NotFound, Conflict):
            pass  # somebody was faster; another pod may have the name already

    def _forget(self, worker: PodWorker) -> None:
        """The pod is gone from the API, whether it was asked to end or not."""
        self._services.drop_pod(worker.uid)
        self._paths.environment(*worker.key).unlink(missing_ok=True)
        worker.ending = True
        worker.finish()
        del self._workers[worker.uid]
        self._dirty.pop(worker.uid, None)

    # Status.

    def changed(self, worker: PodWorker) -> None:
        if self._workers.get(worker.uid) is not worker:
            return
        if not self._dirty:
            asyncio.get_running_loop().call_soon(self._flush)
        self._dirty[worker.uid] = worker

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, {}
        loop = asyncio.get_running_loop()
        for worker in dirty.values():
            if worker.ending and worker.ended:
                continue  # it is about to go, and says so itself if that takes longer
            if worker.expects_result and loop.time() < worker.quiet_until:
                loop.call_at(worker.quiet_until, self.changed, worker)
            else:
                self._write(worker)

    def _write(self, worker: PodWorker) -> None:
        self._write_status(worker.key, worker.uid, lambda pod: compute_status(pod, worker.facts, now()))

    def _write_status(self, key: Key, uid: str, compute: Callable[[Object], dict[str, Any]]) -> None:
        """Bring a pod's status up to date, on top of what others have written there."""
        try:
            current = self._client.get(PODS, *key)
            if uid_of(current) != uid:
                return
            status = compute(current)
            if status != current.get("status"):
                self._client.update({**current, "status": status}, subresource="status")
        except NotFound:
            pass
        except ApiError as error:
            log.error("status of pod %s: %s", key, error)


def _log_failure(what: str, task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("%s could not be removed", what, exc_info=error)
