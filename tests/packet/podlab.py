"""A kubelet and a container runtime on one hand-made node: namespaces, veths and a Linux bridge, no Open vSwitch.

The API is real; what the scheduler, IPAM and the controller would write is written here by :meth:`PodLab.bind` and
:meth:`PodLab.in_force`.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from kmn.apiserver.admission_api import NullAdmission
from kmn.apiserver.local import LocalClient
from kmn.apiserver.store import Store
from kmn.cluster_spec import ClusterSpec, NodeSpec
from kmn.emulator import netns
from kmn.emulator.kubelet import Kubelet
from kmn.emulator.model import PodPort
from kmn.k8s.dataplane import MAC, NETNS, OBSERVED_RESOURCES, OFPORT, mac_of
from kmn.k8s.errors import NotFound
from kmn.k8s.objects import Object, condition
from kmn.k8s.resources import DATAPLANES, EVENTS, PODS
from kmn.naming import CLUSTER_VARIABLE, Paths
from kmn.naming import netns as netns_name

__all__ = ["NODE_ADDRESS", "PodLab", "connect", "datagram", "exchange", "lab", "run_in"]

NODE = "n1"
NODE_ADDRESS = "10.99.0.1"
_PATIENCE = 15.0


def _ip(lines: Sequence[str]) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)


class BridgePlumber:
    """Does for the kubelet what the underlay does, with a Linux bridge."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.attached: dict[str, PodPort] = {}
        self.batches: list[int] = []
        self.refuse: dict[str, str] = {}  # message by pod name

    def attach_pods(self, pods: Sequence[PodPort]) -> dict[str, str]:
        errors = {pod.uid: self.refuse[pod.name] for pod in pods if pod.name in self.refuse}
        todo = [pod for pod in pods if pod.uid not in errors]
        self.batches.append(len(todo))
        with netns.restored():
            for pod in todo:
                netns.create(pod.netns)
        lines = []
        for pod in todo:
            port = f"v{pod.ofport}"
            lines += [
                f"link add {port} netns {self.node} type veth peer name eth0 address {pod.mac} netns {pod.netns}",
            ]
        _ip(lines)
        for name, here in [(pod.netns, pod) for pod in todo]:
            subprocess.run(
                ["ip", "-n", name, "-batch", "-"],
                input=f"link set lo up\nlink set eth0 up\naddr add {here.address} dev eth0\n"
                f"route add default via {here.gateway}\n",
                text=True,
                check=True,
            )
        ports = "".join(f"link set v{pod.ofport} master br0 up\n" for pod in todo)
        subprocess.run(["ip", "-n", self.node, "-batch", "-"], input=ports, text=True, check=True)
        self.attached.update((pod.uid, pod) for pod in todo)
        return errors

    def detach_pods(self, pods: Sequence[PodPort]) -> None:
        for pod in pods:
            if self.attached.pop(pod.uid, None):
                # The namespace lives on for a while; its device must not.
                subprocess.run(["ip", "-n", self.node, "link", "del", f"v{pod.ofport}"], check=True)
                netns.delete(pod.netns)


class PodLab:
    """What a test talks to."""

    def __init__(self, cluster: str) -> None:
        self.spec = ClusterSpec(cluster, (NodeSpec(NODE, IPv4Address(NODE_ADDRESS)),))
        self.paths = Paths(cluster)
        self.node_netns = netns_name(cluster, "node", NODE)
        self.client = LocalClient(Store(), NullAdmission())
        self.plumber = BridgePlumber(self.node_netns)
        self.executor = ThreadPoolExecutor(1)
        self.kubelet = Kubelet(self.client, self.spec, self.paths, self.plumber, self.executor)
        self.runtime: subprocess.Popen[bytes] | None = None
        self._number = 1

    # Set-up.

    def start_runtime(self) -> None:
        """As the daemon does, after a crash as well."""
        argv = [sys.executable, "-m", "kmn.emulator.runtime", "--socket", str(self.paths.runtime_socket)]
        argv += ["--cluster", self.spec.name]
        self.runtime = subprocess.Popen(argv, env={**os.environ, CLUSTER_VARIABLE: self.spec.name})

    def end_runtime(self, number: int = signal.SIGKILL) -> None:
        if self.runtime is not None:
            self.runtime.send_signal(number)
            self.runtime.wait()

    # Objects.

    def bind(self, name: str, spec: dict[str, Any] | None = None, **metadata: Any) -> Object:
        """Create a pod that is scheduled and has an address."""
        self._number += 1
        ip = (
            NODE_ADDRESS
            if spec and spec.get("hostNetwork")
            else f"10.99.{self._number // 250}.{self._number % 250 + 2}"
        )
        host = bool(spec and spec.get("hostNetwork"))
        namespace = metadata.pop("namespace", "default")
        notes = {
            NETNS: self.node_netns if host else netns_name(self.spec.name, "pod", namespace, name),
            MAC: mac_of(ip),
            **({} if host else {OFPORT: str(self._number + 8)}),
            **metadata.pop("annotations", {}),
        }
        body = {
            "restartPolicy": "Always",
            "containers": [{"name": "c", "ports": [{"containerPort": 80}]}],
            **(spec or {}),
        }
        pod = self.client.create(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": namespace, "annotations": notes, **metadata},
                "spec": {**body, "nodeName": NODE},
            }
        )
        status = {"phase": "Pending", "podIP": ip, "podIPs": [{"ip": ip}], "hostIP": NODE_ADDRESS}
        return self.client.update({**pod, "status": status}, subresource="status")

    def in_force(self, version: int = 1 << 60) -> None:
        """Say, as the controller does, that the flows of all pods are there."""
        dataplane = self.client.get(DATAPLANES, "", "default")
        status = {
            "observed": dict.fromkeys(OBSERVED_RESOURCES, str(version)),
            "nodes": [{"name": NODE, "connected": True}],
        }
        self.client.update({**dataplane, "status": status}, subresource="status")

    def pod(self, name: str, namespace: str = "default") -> Object:
        return self.client.get(PODS, namespace, name)

    def is_ready(self, name: str) -> bool:
        found = condition(self.pod(name), "Ready")
        return found is not None and found["status"] == "True"

    def container(self, name: str, container: str = "c") -> dict[str, Any]:
        """An entry of containerStatuses or initContainerStatuses; {} before there is one."""
        status = self.pod(name).get("status") or {}
        both = (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ()))
        return next((c for c in both if c["name"] == container), {})

    def gone(self, name: str, uid: str) -> bool:
        try:
            return bool(self.pod(name)["metadata"]["uid"] != uid)
        except NotFound:
            return True

    def events(self, name: str) -> dict[str, str]:
        """Messages of a pod's events by reason."""
        events = self.client.list(EVENTS).items
        return {e["reason"]: e["message"] for e in events if e["involvedObject"]["name"] == name}

    def annotate(self, name: str, **notes: str | None) -> None:
        patch = {f"kmn.io/{key}": value for key, value in notes.items()}
        self.client.patch(PODS, "default", name, {"metadata": {"annotations": patch}})

    async def until(self, condition: Callable[[], Any], what: str, patience: float = _PATIENCE) -> None:
        """Wait until something is so; what there is instead is in the failure."""
        try:
            async with asyncio.timeout(patience):
                while True:
                    if await _value(condition()):
                        return
                    await asyncio.sleep(0.01)
        except TimeoutError:
            pods = {p["metadata"]["name"]: p.get("status") for p in self.client.list(PODS).items}
            raise AssertionError(f"not in {patience} s: {what}; pods: {pods}") from None

    async def ready(self, *names: str) -> None:
        await self.until(lambda: all(self.is_ready(name) for name in names), f"{names} ready")


async def _value(found: Any) -> Any:
    return await found if inspect.isawaitable(found) else found


async def run_in(name: str, *argv: str, stdin: bytes = b"") -> str:
    """Output of a program in a namespace; AssertionError if it fails."""
    process = await asyncio.create_subprocess_exec(
        "ip", "netns", "exec", name, *argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate(stdin)
    assert process.returncode == 0, f"{argv} in {name}: exit code {process.returncode}: {out!r}"
    return out.decode()


def _clean(cluster: str) -> None:
    for name in netns.names(f"kmn.{cluster}."):
        netns.delete(name)


@asynccontextmanager
async def lab(cluster: str, *, runtime: bool = True) -> AsyncIterator[PodLab]:
    """A node with a kubelet; everything is gone afterwards."""
    _clean(cluster)
    it = PodLab(cluster)
    it.paths.root.mkdir(parents=True, exist_ok=True)
    try:
        await asyncio.get_running_loop().run_in_executor(it.executor, _make_node, it.node_netns)
        for name in ("default",):
            it.client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": NODE},
            "spec": {"podCIDR": "10.99.0.0/16"},
        }
        it.client.create(node)
        it.client.create({"apiVersion": "kmn.io/v1", "kind": "DataPlane", "metadata": {"name": "default"}})
        if runtime:
            it.start_runtime()
        it.kubelet.start()
        yield it
    finally:
        await it.kubelet.stop()
        it.end_runtime(signal.SIGTERM)
        it.executor.shutdown()
        _clean(cluster)
        _remove(it.paths.root)


def _make_node(name: str) -> None:
    with netns.restored():
        netns.create(name)
    lines = "link set lo up\nlink add br0 type bridge\nlink set br0 up\n" + f"addr add {NODE_ADDRESS}/16 dev br0\n"
    subprocess.run(["ip", "-n", name, "-batch", "-"], input=lines, text=True, check=True)


def _remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    folder.rmdir()


async def connect(name: str, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A TCP connection from a namespace."""
    with netns.entered(name):
        sock = socket.socket()
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, (host, port))
    except OSError:
        sock.close()
        raise
    return await asyncio.open_connection(sock=sock)


async def exchange(name: str, host: str, port: int, data: bytes) -> bytes:
    """Send all, say that this was all, and read until the end."""
    reader, writer = await connect(name, host, port)
    writer.write(data)
    writer.write_eof()
    answer = await asyncio.wait_for(reader.read(), _PATIENCE)
    writer.close()
    await writer.wait_closed()
    return answer


async def datagram(name: str, host: str, port: int, data: bytes) -> tuple[bytes, str]:
    """The answer to a datagram from a namespace, and the address and port that we sent from."""
    with netns.entered(name):
        sock = socket.socket(type=socket.SOCK_DGRAM)
    with sock:
        sock.connect((host, port))
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, data)
        answer = await asyncio.wait_for(loop.sock_recv(sock, 65536), _PATIENCE)
        return answer, ":".join(map(str, sock.getsockname()))
