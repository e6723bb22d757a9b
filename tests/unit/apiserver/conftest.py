"""A store with the default namespace, and a real API server on a free port with its own loop in a thread."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from kmn.apiserver.admission_api import Admission, NullAdmission
from kmn.apiserver.local import LocalClient
from kmn.apiserver.pki import Pki, write_kubeconfig
from kmn.apiserver.server import ApiServer
from kmn.apiserver.store import Store
from kmn.k8s.objects import Object
from kmn.k8s.rest import RestClient

T = TypeVar("T")
Kubectl = Callable[..., str]
NAMESPACE: Object = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}


@pytest.fixture
def local() -> LocalClient:
    client = LocalClient(Store(), NullAdmission())
    client.create(NAMESPACE)
    client.store.drain()
    return client


class LiveServer:
    """An API server that can be stopped and started again with an empty store, on the same port."""

    def __init__(
        self,
        folder: Path,
        log_size: int = 16384,
        admission: Callable[[Store], Admission] = lambda store: NullAdmission(),
    ) -> None:
        self.pki = Pki.create(folder / "pki")
        self.kubeconfig = folder / "kubeconfig"
        self._log_size = log_size
        self._admission = admission
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._port = 0
        self.start()

    def start(self) -> None:
        listener = socket.create_server(("127.0.0.1", self._port), backlog=64)
        self._port = listener.getsockname()[1]
        self.url = f"https://127.0.0.1:{self._port}"
        write_kubeconfig(self.kubeconfig, "ha", self.url, self.pki)

        async def start() -> None:
            store = Store(log_size=self._log_size)
            self.local = LocalClient(store, self._admission(store))
            self.local.create(NAMESPACE)
            self._server = ApiServer(self.local, self.pki)
            await self._server.start([listener])

        self._run(start())

    def stop(self) -> None:
        self._run(self._server.stop())

    def call(self, function: Callable[[LocalClient], T]) -> T:
        """Run a function on the store, in its thread."""

        async def run() -> T:
            return function(self.local)

        return self._run(run())

    def _run(self, coroutine: object) -> T:  # type: ignore[type-var]
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)  # type: ignore[arg-type]

    def close(self) -> None:
        try:
            self.stop()
            self._run(self._disconnected())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _disconnected(self) -> None:
        """Wait until the loop reads from nothing but its own wake-up pipe: connections closed by clients are gone."""
        selector = self._loop._selector  # type: ignore[attr-defined]
        while len(selector.get_map()) > 1:  # noqa: ASYNC110  nothing tells
            await asyncio.sleep(0.001)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    live = LiveServer(tmp_path)
    yield live
    live.close()


@pytest.fixture
def kubectl(server: LiveServer, tmp_path: Path) -> Kubectl:
    """The real one: what it prints, on both channels, when it ends with ``code``."""
    environment = {**os.environ, "KUBECONFIG": str(server.kubeconfig), "HOME": str(tmp_path)}

    def run(command: str, stdin: str = "", code: int = 0) -> str:
        done = subprocess.run(
            ["kubectl", *command.split()], input=stdin, env=environment, capture_output=True, text=True, timeout=30,
            check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture
def rest(server: LiveServer) -> Iterator[RestClient]:
    client = RestClient.from_kubeconfig(server.kubeconfig)
    yield client
    client.close()
