"""Ports of a node that pods take for themselves: ``hostPort``, and all ports of pods in the node's own network."""

from __future__ import annotations

from typing import NamedTuple

from kmn.k8s.objects import Object

__all__ = ["HostPort", "host_ports"]

_EVERYWHERE = "0.0.0.0"


class HostPort(NamedTuple):
    """``ip`` is 0.0.0.0 for all addresses of the node."""

    ip: str
    protocol: str
    number: int

    def conflicts(self, other: HostPort) -> bool:
        """Whether one node cannot have both. As upstream's ``HostPortInfo.CheckConflict``."""
        everywhere = _EVERYWHERE in (self.ip, other.ip)
        return self[1:] == other[1:] and (everywhere or self.ip == other.ip)


def host_ports(pod: Object) -> tuple[HostPort, ...]:
    """Of containers and sidecars, as upstream's ``GetHostPorts``: other init containers are gone when a pod serves."""
    spec = pod["spec"]
    sidecars = [c for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always"]
    found = []
    for container in (*sidecars, *(spec.get("containers") or ())):
        for port in container.get("ports") or ():
            number = port.get("hostPort") or (port["containerPort"] if spec.get("hostNetwork") else 0)
            if number:
                found.append(HostPort(port.get("hostIP") or _EVERYWHERE, port.get("protocol") or "TCP", number))
    return tuple(found)
