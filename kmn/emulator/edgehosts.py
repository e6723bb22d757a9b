"""The programs on the hosts of the emulated internet: HTTP and echo, served by the container runtime as for pods."""

from __future__ import annotations

from typing import Any

from kmn.emulator.ownservers import OwnServers, Server
from kmn.emulator.runtime.protocol import Container
from kmn.k8s.client import WatchEvent
from kmn.k8s.families import host_ips
from kmn.k8s.objects import key_of

__all__ = ["PREFIX", "EdgeHosts"]

PREFIX = "edge/"  # of the ids of these containers; those of pods begin with a uid
_PORTS = (("TCP", 80), ("UDP", 80), ("TCP", 7), ("UDP", 7))  # http and echo


class EdgeHosts:
    """Wants one server a host."""

    def __init__(self, servers: OwnServers) -> None:
        self._servers = servers

    def observe(self, event: WatchEvent) -> None:
        """An Edge has come, changed or gone."""
        prefix = f"{PREFIX}{key_of(event.object)}/"
        hosts = (event.object.get("spec") or {}).get("hosts") or () if event.type != "DELETED" else ()
        self._servers.want(prefix, {prefix + host["name"]: Server(_container(prefix, host)) for host in hosts})


def _container(prefix: str, host: dict[str, Any]) -> Container:
    name = host["name"]
    return Container(
        id=prefix + name,
        netns=host["netns"],
        addresses=("0.0.0.0", "::") if len(host_ips(host)) > 1 else ("0.0.0.0",),
        pod=name,
        namespace="",
        node="",
        name="",
        ports=_PORTS,  # type: ignore[arg-type]
    )
