"""Names of everything that a cluster owns on the machine. A name leads back to its cluster, always.

Namespaces: ``kmn.CLUSTER.fabric`` (routers: ``kmn.CLUSTER.fabric.ROUTER``), ``kmn.CLUSTER.edge``,
``kmn.CLUSTER.node.NODE``, ``kmn.CLUSTER.pod.NAMESPACE.POD``, ``kmn.CLUSTER.host.HOST``. Cluster names are DNS labels,
so they hold no dot and ``kmn.CLUSTER.`` is a prefix free of ambiguity.
Files: ``/run/kmn/CLUSTER/``. Processes carry ``KMN_CLUSTER=NAME`` in their environment.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CLUSTER_VARIABLE", "NETNS_DIR", "RUN_ROOT", "Paths", "device", "netns", "netns_prefix"]

CLUSTER_VARIABLE = "KMN_CLUSTER"
NETNS_DIR = Path("/run/netns")
RUN_ROOT = Path(os.environ.get("KMN_RUN_ROOT", "/run/kmn"))

_MAX_FILE_NAME = 255


def netns_prefix(cluster: str) -> str:
    """What the names of all namespaces of a cluster begin with."""
    return f"kmn.{cluster}."


def netns(cluster: str, *parts: str) -> str:
    """Name of a network namespace: ``netns("demo", "pod", "default", "web-1")``.

    A name too long for a file is cut and ends in a hash of the whole.
    """
    name = netns_prefix(cluster) + ".".join(parts)
    if len(name) <= _MAX_FILE_NAME:
        return name
    return f"{name[: _MAX_FILE_NAME - 13]}-{_digest(name)}"


def device(cluster: str, *parts: str) -> str:
    """Name of a network device, at most 15 characters: ``k`` and a hash of cluster and parts."""
    return "k" + _digest("/".join((cluster, *parts)))


def _digest(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Paths:
    """The files of one cluster, all below ``/run/kmn/NAME`` (mode 0700)."""

    cluster: str

    @property
    def root(self) -> Path:
        return RUN_ROOT / self.cluster

    @property
    def kubeconfig(self) -> Path:
        """Written with mode 0600 by the API server."""
        return self.root / "kubeconfig"

    @property
    def pki(self) -> Path:
        return self.root / "pki"

    @property
    def log(self) -> Path:
        """One file a process: cluster.log, controller.log, runtime.log, NODE-ovs.log."""
        return self.root / "log"

    @property
    def state(self) -> Path:
        """JSON: pid of the cluster's process, start time, source file. Its lock says whether the cluster runs."""
        return self.root / "cluster.json"

    @property
    def lock(self) -> Path:
        """Beside the other files: it is there before them, and the last to go."""
        return RUN_ROOT / f"{self.cluster}.lock"

    @property
    def runtime_socket(self) -> Path:
        """Unix socket on which the container runtime serves the kubelet (the CRI's place)."""
        return self.root / "runtime.sock"

    def ovs(self, node: str) -> Path:
        """Run directory of a node's Open vSwitch (``db.sock``, ``br0.mgmt``, pid files, ``conf.db``)."""
        return self.switches / node

    @property
    def switches(self) -> Path:
        """Run directories of all Open vSwitches, those of nodes and the edge's."""
        return self.root / "nodes"

    def environment(self, namespace: str, pod: str) -> Path:
        """JSON: the environment variables of a pod's containers (``kmn.environment``), Secrets among them."""
        return self.root / "env" / f"{netns(self.cluster, 'pod', namespace, pod)}.json"

    def etc(self, netns_name: str) -> Path:
        """``resolv.conf`` and ``hosts`` of a namespace; ``/etc/netns/NAME`` is a symbolic link to it."""
        return self.root / "etc" / netns_name
