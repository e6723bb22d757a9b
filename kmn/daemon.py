"""The process of one cluster: API server, store, control plane and kubelets in one asyncio loop.

It is started by ``kmn.front`` and only from there. It tells how far it is on the report descriptor (JSON lines: see
:class:`Report`), lives until SIGTERM or until its lifeline closes, and takes everything that the cluster owns with it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from kmn import garbage
from kmn.apiserver.admission import ClusterAdmission
from kmn.apiserver.local import LocalClient
from kmn.apiserver.pki import Pki, write_kubeconfig
from kmn.apiserver.server import ApiServer
from kmn.apiserver.store import Store
from kmn.bootstrap import bootstrap_objects, kubernetes_endpoints
from kmn.cluster_spec import ClusterSpec
from kmn.controlplane import ControlPlane
from kmn.dns.manifests import dns_objects
from kmn.emulator.balancers import BalancerPlaces
from kmn.emulator.kubelet import Kubelet
from kmn.emulator.nodes import NodeManager
from kmn.emulator.purge import purge
from kmn.emulator.underlay import Underlay
from kmn.naming import Paths
from kmn.supervise import Child

__all__ = ["main"]

log = logging.getLogger("kmn.daemon")


class Report:
    """What the front is told, one JSON object a line. A front that went away is no error."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    def send(self, event: str, **fields: Any) -> None:
        """``api`` | ``nodes`` | ``progress`` (what, done, total) | ``error`` (message)."""
        if self._fd is None:
            return
        try:
            os.write(self._fd, (json.dumps({"event": event, **fields}) + "\n").encode())
        except BrokenPipeError:
            self._fd = None


class Daemon:
    """The parts of a cluster and the order in which they start and stop."""

    def __init__(self, spec: ClusterSpec, report: Report) -> None:
        self.spec = spec
        self.paths = Paths(spec.name)
        self.report = report
        # One thread does all blocking kernel work: namespaces are a property of the thread.
        self.kernel = ThreadPoolExecutor(1, thread_name_prefix="kernel")
        self.store = Store()
        self.admission = ClusterAdmission(spec, self.store)
        self.client = LocalClient(self.store, self.admission)
        self.underlay = Underlay(spec, self.paths)
        self.control_plane = ControlPlane(self.client, spec, lambda: self.underlay.datapath_type, self._serve_ingress)
        self.nodes = NodeManager(self.client, spec, self.paths, self.underlay, self.kernel)
        self.kubelet = Kubelet(self.client, spec, self.paths, self.underlay, self.kernel)
        self.balancers = BalancerPlaces(self.client, self.underlay, self.kernel)
        self.api: ApiServer | None = None
        self._children: list[Child] = []
        self._stops: list[Callable[[], Any]] = []
        self._starting: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Bring everything up. Returns when all nodes are there; pods come by themselves."""
        loop = asyncio.get_running_loop()
        for folder in (self.paths.log, self.paths.pki):
            folder.mkdir(parents=True, exist_ok=True)
        await loop.run_in_executor(self.kernel, self.underlay.check)
        await self._serve_api()
        for obj in (*bootstrap_objects(self.spec), *dns_objects(self.spec)):
            self.client.create(obj)
        options = ("--kubeconfig", str(self.paths.kubeconfig), "--switches", str(self.paths.switches))
        controller = self._child("controller", "controller.main", *options)
        runtime = self._child(
            "runtime", "kmn.emulator.runtime", "--socket", str(self.paths.runtime_socket), "--cluster", self.spec.name
        )
        dns = self._child("dns", "kmn.dns", "--kubeconfig", str(self.paths.kubeconfig))
        await asyncio.gather(controller.start(), runtime.start(), dns.start())
        self.report.send("api")

        await loop.run_in_executor(self.kernel, self.underlay.build_fabric)
        assert self.api is not None
        await self.api.add_socket(self.underlay.api_socket())
        for obj in kubernetes_endpoints(self.spec):
            self.client.create(obj)
        self.control_plane.start()
        self._stops.append(self.control_plane.stop)
        self.kubelet.start()
        self._stops.append(self.kubelet.stop)
        self.balancers.start()
        self._stops.append(self.balancers.stop)
        self.nodes.start()
        self._stops.append(self.nodes.stop)
        await self.nodes.wait_built(
            lambda done, total: self.report.send("progress", what="nodes", done=done, total=total)
        )
        self.report.send("nodes")

    async def stop(self) -> None:
        """Stop the parts in reverse order, then the child processes; errors are logged, the rest is stopped all the
        same."""
        await asyncio.gather(*self._starting, return_exceptions=True)
        for child in self._children:
            child.release()  # the runtime, for one, ends by itself when the kubelet is gone
        for stop in reversed(self._stops):
            try:
                await stop()
            except Exception:
                log.exception("while stopping")
        await asyncio.gather(*(child.stop() for child in self._children))
        if self.api is not None:
            await self.api.stop()
        # Open descriptors would keep the namespaces alive until this process is gone.
        await asyncio.get_running_loop().run_in_executor(self.kernel, self.underlay.close)
        self.kernel.shutdown(wait=True, cancel_futures=True)

    async def _serve_api(self) -> None:
        pki = Pki.create(
            self.paths.pki,
            extra_ips=[str(self.spec.fabric_address), str(self.spec.service_cidr[1])],
            cluster_domain=self.spec.cluster_domain,
        )
        self.api = ApiServer(self.client, pki)
        listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        await self.api.start([listener])
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        write_kubeconfig(self.paths.kubeconfig, self.spec.name, url, pki)

    def _serve_ingress(self) -> None:
        options = ("--kubeconfig", str(self.paths.kubeconfig), "--run", str(self.paths.root))
        ingress = self._child("ingress", "kmn.ingress", *options)
        self._starting.append(asyncio.create_task(ingress.start(), name="start-ingress"))

    def _child(self, name: str, module: str, *args: str) -> Child:
        child = Child(
            name,
            [sys.executable, "-P", "-m", module, *args],
            log_file=self.paths.log / f"{name}.log",
            env=dict(os.environ),
        )
        self._children.append(child)
        return child


async def _until_told(lifeline: int | None) -> str:
    """Wait for SIGTERM, SIGINT, or the lifeline's end; which of them it was."""
    loop = asyncio.get_running_loop()
    told: asyncio.Future[str] = loop.create_future()

    def tell(why: str) -> None:
        if not told.done():
            told.set_result(why)

    def ended() -> None:
        assert lifeline is not None
        loop.remove_reader(lifeline)
        tell("lifeline")

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, tell, number.name)
    if lifeline is not None:
        # Nobody writes to it: readable means that the other end is gone.
        loop.add_reader(lifeline, ended)
    return await told


async def _run(spec: ClusterSpec, report: Report, lifeline: int | None) -> int:
    daemon = Daemon(spec, report)
    told = asyncio.create_task(_until_told(lifeline))
    started = asyncio.create_task(daemon.start())
    code = 0
    await asyncio.wait({told, started}, return_when=asyncio.FIRST_COMPLETED)
    if started.done() and started.exception() is None:
        log.info("cluster %s ends: %s", spec.name, await told)
    elif started.done():
        error = started.exception()
        log.error("cluster %s could not start", spec.name, exc_info=error)
        report.send("error", message=str(error) or repr(error))
        code = 1
    else:
        started.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await started
    await daemon.stop()
    return code


def main(argv: list[str] | None = None) -> int:
    """``python -m kmn.daemon --spec FILE [--report FD] [--lifeline FD]``."""
    parser = argparse.ArgumentParser(prog="kmn.daemon", description="The process of one cluster; started by kmn up.")
    parser.add_argument("--spec", type=Path, required=True, help="JSON of the Cluster object")
    parser.add_argument("--report", type=int, help="descriptor for JSON lines about progress")
    parser.add_argument("--lifeline", type=int, help="descriptor whose end of file ends the cluster")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    garbage.spread()
    spec = ClusterSpec.from_object(json.loads(args.spec.read_text()))
    code = 1
    try:
        code = asyncio.run(_run(spec, Report(args.report), args.lifeline))
    finally:
        purge(spec.name)
        # Held until this process is gone; a lock on a file that is unlinked counts as free.
        Paths(spec.name).lock.unlink(missing_ok=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
