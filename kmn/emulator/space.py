"""A network namespace of ours that is worked on from outside: its open file, and an rtnetlink socket in it."""

from __future__ import annotations

import os
from collections.abc import Mapping

from kmn.emulator import netns
from kmn.emulator.netlink import Netlink, link_up

__all__ = ["Space"]


class Space:
    """A namespace that stays open: nodes, routers, the edge. Pods are too many, and need no later work."""

    def __init__(self, name: str, file: int, netlink: Netlink) -> None:
        self.name = name
        self.file = file
        self.netlink = netlink

    @classmethod
    def create(cls, name: str, sysctls: Mapping[str, str] | None = None, *, ipv6: bool = False) -> Space:
        """Make the namespace, with `lo` up. The calling thread's own namespace is restored."""
        with netns.restored():
            netns.create(name, ipv6=ipv6)
            for key, value in (sysctls or {}).items():
                netns.sysctl(key, value, optional=True)
            space = cls(name, netns.open_netns(name), Netlink(name))
        space.netlink.apply([link_up("lo")])
        return space

    def release(self) -> None:
        """Let go of the namespace, which stays."""
        self.netlink.close()
        os.close(self.file)

    def close(self) -> None:
        """Let go, and remove the name."""
        self.release()
        netns.delete(self.name)
