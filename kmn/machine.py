"""A pod, a node or an outside host as a place where real programs run: a named network namespace of a cluster.

Programs see the place's network devices, addresses, routes, host name, ``/etc/resolv.conf``, ``/etc/hosts`` and, in a
pod, its container's environment variables; files and processes are those of the machine. A manifest alone must not be
able to steer a program that runs as root: variables that could are left out (``kmn.environment``).
"""

from __future__ import annotations

import difflib
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from kmn import environment as env_files
from kmn.errors import UserError
from kmn.k8s.client import Client
from kmn.k8s.dataplane import MAC, NETNS
from kmn.k8s.errors import ApiError, NotFound
from kmn.k8s.objects import Object, annotation, labels, name_of, namespace_of
from kmn.k8s.resources import EDGES, NODES, PODS, by_word
from kmn.naming import CLUSTER_VARIABLE, NETNS_DIR, Paths

__all__ = [
    "Machine",
    "entry",
    "environment",
    "find",
    "find_host",
    "find_node",
    "find_pod",
    "machine_of_node",
    "outside_hosts",
]

# Runs in the namespace: a host name of its own (in a UTS namespace of its own), then the program, by exec.
_WITH_HOSTNAME = 'hostname "$0"; exec "$@"'


def entry(netns_name: str, hostname: str) -> list[str]:
    """What to put in front of a command line so that it runs in a namespace. Each step replaces itself by the next:
    the process that is started is the program in the end, and signals and exit codes are its own."""
    return ["ip", "netns", "exec", netns_name, "unshare", "--uts", "--", "sh", "-c", _WITH_HOSTNAME, hostname]


def environment(cluster: str, hostname: str) -> dict[str, str]:
    """The environment of programs in a cluster: that of the caller, marked with the cluster's name."""
    return {**os.environ, **_own(cluster, hostname)}


def _own(cluster: str, hostname: str) -> dict[str, str]:
    return {CLUSTER_VARIABLE: cluster, "HOSTNAME": hostname}


@dataclass(frozen=True, slots=True)
class Machine:
    """One pod, node or outside host. ``name`` is as in ``kubectl``: ``default/web-1`` for a pod, ``n1`` for a node."""

    cluster: str
    kind: str  # pod | node | host
    name: str
    netns: str
    ip: str
    mac: str

    @property
    def hostname(self) -> str:
        return self.name.rpartition("/")[2]

    def argv(self, args: Sequence[str]) -> list[str]:
        """The command line that runs ``args`` here."""
        return [*entry(self.netns, self.hostname), *args]

    def variables(self, container: str | None = None) -> dict[str, str]:
        """All environment variables of a pod's container (None: its default one), as the kubelet made them."""
        if self.kind != "pod":
            return {}
        namespace, _, name = self.name.partition("/")
        return env_files.read(Paths(self.cluster).environment(namespace, name), container)

    def env(self, container: str | None = None) -> dict[str, str]:
        """The environment of programs here: the caller's, and the container's but for what steers programs."""
        given = {name: value for name, value in self.variables(container).items() if not env_files.steers(name)}
        return {**os.environ, **given, **_own(self.cluster, self.hostname)}

    def run(
        self,
        args: Sequence[str],
        *,
        input: str | None = None,
        timeout: float | None = None,
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program without a shell and capture its output::

        c.pod("client").run(["curl", "-s", "web"], check=True).stdout
        """
        return subprocess.run(
            self.argv(args), input=input, stdin=None if input is not None else subprocess.DEVNULL,
            capture_output=True, text=True, errors="replace", timeout=timeout, check=check, env=self.env(),
        )  # fmt: skip

    def cmd(self, command: str, *, timeout: float | None = None) -> str:
        """Run a shell command; what it printed on both outputs, whatever its exit code (:meth:`run` tells that)."""
        return subprocess.run(
            self.argv(["bash", "-c", command]), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", timeout=timeout, check=False, env=self.env(),
        ).stdout  # fmt: skip

    def popen(
        self,
        args: Sequence[str],
        *,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = subprocess.PIPE,
        stderr: int | IO[Any] | None = subprocess.STDOUT,
    ) -> subprocess.Popen[str]:
        """Start a program here and go on. Ending it is the caller's part; ``kmn down`` ends what is left."""
        return subprocess.Popen(
            self.argv(args), stdin=stdin, stdout=stdout, stderr=stderr, text=True, errors="replace", env=self.env()
        )

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def find(client: Client, cluster: str, target: str, namespace: str = "default") -> Machine:
    """The machine that a user names: ``POD``, ``NAMESPACE/POD``, ``node/NAME``, ``host/NAME``, or ``TYPE/NAME`` of a
    workload or Service (its first running pod, as ``kubectl exec`` picks it). Raises UserError with near misses."""
    word, slash, name = target.partition("/")
    if not slash:
        return find_pod(client, cluster, target, namespace)
    if word == "host":
        return find_host(client, cluster, name)
    resource = next(by_word(word), None)
    if resource is NODES:
        return find_node(client, cluster, name)
    if resource is PODS:
        return find_pod(client, cluster, name, namespace)
    if resource is None or not resource.namespaced:
        return find_pod(client, cluster, name, word)
    owner = _get(client, resource.plural, client.get, resource, namespace, name)
    return _machine_of_pod(cluster, _first_pod_of(client, owner))


def find_pod(client: Client, cluster: str, name: str, namespace: str = "default") -> Machine:
    """A pod by name or ``NAMESPACE/NAME``."""
    before, slash, after = name.partition("/")
    if slash:
        namespace, name = before, after
    try:
        pod = client.get(PODS, namespace, name)
    except NotFound:
        raise _no_such_pod(client, name, namespace) from None
    return _machine_of_pod(cluster, pod)


def find_node(client: Client, cluster: str, name: str) -> Machine:
    """A node of the cluster."""
    try:
        node = client.get(NODES, "", name)
    except NotFound:
        raise UserError(f"node {name}: not found", _near(name, map(name_of, client.list(NODES).items))) from None
    if annotation(node, NETNS) is None:
        raise UserError(f"node {name}: has no network namespace yet", "it is being built, or kmn did not make it")
    return machine_of_node(cluster, node)


def machine_of_node(cluster: str, node: Object) -> Machine:
    """A node that has its annotations."""
    addresses = (node.get("status") or {}).get("addresses") or ()
    ip = next((a["address"] for a in addresses if a["type"] == "InternalIP"), "")
    return Machine(cluster, "node", name_of(node), annotation(node, NETNS) or "", ip, annotation(node, MAC) or "")


def find_host(client: Client, cluster: str, name: str) -> Machine:
    """A host of the emulated internet."""
    hosts = [host for edge in client.list(EDGES).items for host in outside_hosts(cluster, edge)]
    for host in hosts:
        if host.name == name:
            return host
    raise UserError(f"host {name}: not found", _near(name, (host.name for host in hosts)))


def outside_hosts(cluster: str, edge: Object) -> list[Machine]:
    """The hosts of the emulated internet behind an Edge."""
    return [Machine(cluster, "host", h["name"], h["netns"], h["ip"], h["mac"]) for h in edge["spec"]["hosts"]]


def _machine_of_pod(cluster: str, pod: Object) -> Machine:
    name = f"{namespace_of(pod)}/{name_of(pod)}"
    netns_name = annotation(pod, NETNS)
    if netns_name is None or not (NETNS_DIR / netns_name).exists():
        status = pod.get("status") or {}
        raise UserError(f"pod {name}: has no network namespace (phase {status.get('phase', 'Pending')})",
                        "kmn get pods -o wide shows where it stands")  # fmt: skip
    return Machine(cluster, "pod", name, netns_name, pod["status"].get("podIP", ""), annotation(pod, MAC) or "")


def _first_pod_of(client: Client, owner: Object) -> Object:
    """The first running pod that a workload's or Service's selector picks."""
    selector = (owner.get("spec") or {}).get("selector") or {}
    wanted: Mapping[str, str] = selector.get("matchLabels", selector)
    what = f"{owner['kind']} {namespace_of(owner)}/{name_of(owner)}"
    if not wanted or not all(isinstance(value, str) for value in wanted.values()):
        raise UserError(f"{what}: selects no pods by labels", "name a pod")
    query = ",".join(f"{key}={value}" for key, value in wanted.items())
    pods = client.list(PODS, namespace_of(owner), label_selector=query).items
    for pod in sorted(pods, key=name_of):
        if (pod.get("status") or {}).get("phase") == "Running" and wanted.items() <= labels(pod).items():
            return pod
    raise UserError(f"{what}: has no running pod", "kmn get pods shows where they stand")


def _get(client: Client, plural: str, get: Any, *args: Any) -> Object:
    try:
        return get(*args)  # type: ignore[no-any-return]
    except NotFound:
        names = (name_of(obj) for obj in client.list(args[0], args[1]).items)
        raise UserError(f"{plural} {args[1]}/{args[2]}: not found", _near(args[2], names)) from None
    except ApiError as error:
        raise UserError(error.message) from error


def _no_such_pod(client: Client, name: str, namespace: str) -> UserError:
    pods = client.list(PODS).items
    elsewhere = sorted(namespace_of(pod) for pod in pods if name_of(pod) == name)
    if elsewhere:
        return UserError(f"pod {namespace}/{name}: not found", f"there is one in namespace {', '.join(elsewhere)}")
    return UserError(
        f"pod {namespace}/{name}: not found",
        _near(name, (name_of(pod) for pod in pods if namespace_of(pod) == namespace)),
    )


def _near(name: str, known: Iterable[str]) -> str:
    """A hint: what the user may have meant. Names that begin with what was typed count as near."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    near += [other for other in names if other.startswith(name) and other not in near][: 3 - len(near)]
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"there are: {', '.join(names[:8])}{', …' if len(names) > 8 else ''}" if names else "there are none"
