"""Pods' devices: asks the underlay for them in batches, and never for two pods in one namespace at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface
from typing import Protocol

from kmn.cluster_spec import ClusterSpec, Link
from kmn.emulator import podfiles
from kmn.emulator.model import PodPort
from kmn.k8s import objects
from kmn.k8s.dataplane import MAC, NETNS, OFPORT
from kmn.k8s.families import ipv6_pod_network, pod_ips
from kmn.k8s.objects import Object, key_of, uid_of

__all__ = ["Plumber", "PodPorts", "pod_port"]

log = logging.getLogger(__name__)

_RETRY = 1.0  # seconds


class Plumber(Protocol):
    """The blocking half: ``kmn.emulator.underlay.Underlay``."""

    def attach_pods(self, pods: Sequence[PodPort]) -> dict[str, str]:
        """What went wrong, by uid."""
        ...

    def detach_pods(self, pods: Sequence[PodPort]) -> None:
        """What is gone already is no error."""
        ...


def pod_port(pod: Object, node: Object, spec: ClusterSpec, link: Link, node_resolv_conf: str) -> PodPort:
    """All about a pod's device, from the objects."""
    notes = objects.annotations(pod)
    network = IPv4Network(node["spec"]["podCIDR"])
    ipv6, second = ipv6_pod_network(node), next((ip for ip in pod_ips(pod) if ":" in ip), None)
    return PodPort(
        uid=uid_of(pod),
        name=str(key_of(pod)),
        node=pod["spec"]["nodeName"],
        netns=notes[NETNS],
        address=IPv4Interface(f"{pod['status']['podIP']}/{network.prefixlen}"),
        gateway=network[1],
        mac=notes[MAC],
        ofport=int(notes[OFPORT]),
        resolv_conf=podfiles.resolv_conf(pod, spec, node_resolv_conf),
        hosts=podfiles.hosts(pod, spec),
        link=link,
        ipv6=IPv6Interface(f"{second}/{ipv6.prefixlen}") if ipv6 and second else None,
    )


class PodPorts:
    """Attaches and detaches all that has queued up while the batch before was under way.

    A namespace has the name of its pod. A pod that replaces another one of its name waits until that one's is gone.
    """

    def __init__(self, plumber: Plumber, executor: Executor, attached: Callable[[str, str], None]) -> None:
        """``attached`` is called with a pod's uid and what went wrong ("" if nothing did; it will be tried again)."""
        self._plumber = plumber
        self._executor = executor
        self._attached = attached
        self._attach: dict[str, PodPort] = {}
        self._detach: dict[str, tuple[PodPort, asyncio.Future[None]]] = {}
        self._holders: dict[str, str] = {}  # uid by namespace
        self._waiting: dict[str, PodPort] = {}  # by namespace
        self._work = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="pod-ports")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def attach(self, port: PodPort) -> None:
        """Make a pod's device; ``attached`` tells when it is there."""
        if self._holders.setdefault(port.netns, port.uid) != port.uid:
            self._waiting[port.netns] = port
            return
        self._attach[port.uid] = port
        self._work.set()

    async def detach(self, port: PodPort) -> None:
        """Remove a pod's device, and return when it is gone."""
        if self._waiting.get(port.netns) == port:
            del self._waiting[port.netns]
        if self._holders.get(port.netns) != port.uid:
            return
        if port.uid not in self._detach:
            self._detach[port.uid] = (port, asyncio.get_running_loop().create_future())
        self._work.set()
        await self._detach[port.uid][1]

    async def _run(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            detach = dict(self._detach)
            attach, self._attach = self._attach, {}
            for uid in detach:
                attach.pop(uid, None)
            if detach:
                await self._detach_batch(detach)
            if attach:
                await self._attach_batch(attach)

    async def _detach_batch(self, batch: dict[str, tuple[PodPort, asyncio.Future[None]]]) -> None:
        loop = asyncio.get_running_loop()
        ports = [port for port, _ in batch.values()]
        try:
            await loop.run_in_executor(self._executor, self._plumber.detach_pods, ports)
        except Exception:  # whatever it is, these devices are still there, and other pods must not wait for them
            log.exception("pods could not be detached; trying again")
            loop.call_later(_RETRY, self._work.set)
            return
        for uid, (port, done) in batch.items():
            del self._detach[uid]
            del self._holders[port.netns]
            if not done.done():
                done.set_result(None)
            if successor := self._waiting.pop(port.netns, None):
                self.attach(successor)

    async def _attach_batch(self, batch: dict[str, PodPort]) -> None:
        loop = asyncio.get_running_loop()
        try:
            errors = await loop.run_in_executor(self._executor, self._plumber.attach_pods, list(batch.values()))
        except Exception as error:
            log.exception("pods could not be attached; trying again")
            errors = dict.fromkeys(batch, str(error) or repr(error))
        for uid, port in batch.items():
            error_text = errors.get(uid, "")
            if error_text:
                loop.call_later(_RETRY, self._again, port)
            self._attached(uid, error_text)

    def _again(self, port: PodPort) -> None:
        if self._holders.get(port.netns) == port.uid and port.uid not in self._detach:
            self.attach(port)
