"""``kmn exec`` and ``kmn ovs``: this process becomes the program, so exit code, signals and terminal are its own."""

from __future__ import annotations

import os
import pty
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from kmn.cluster import Cluster
from kmn.environment import steers
from kmn.errors import UserError
from kmn.k8s.client import Client
from kmn.k8s.objects import name_of
from kmn.k8s.resources import EDGES, NODES, PODS
from kmn.machine import Machine
from kmn.ovstools import argv as ovs_argv

__all__ = ["Request", "execute", "ovs"]

_EDGE = "edge"  # what users call its switch
_NOT_EXECUTABLE, _NOT_FOUND = 126, 127


@dataclass(frozen=True, slots=True)
class Request:
    """What ``kmn exec`` was asked for."""

    target: str
    command: list[str]
    namespace: str | None = None
    container: str | None = None
    stdin: bool = False
    tty: bool = False


def execute(request: Request, cluster_name: str | None) -> int:
    """Run the command; returns only where a terminal had to be made for it."""
    with Cluster.attach(cluster_name) as cluster:
        machine = cluster.find(request.target, request.namespace or "default")
        if request.container is not None:
            _check_container(cluster.client, machine, request.container)
    problem = _problem(request.command[0])
    if problem is not None:
        code, text = problem
        print(f"kmn: {request.command[0]}: {text} in {machine} (pods run the machine's programs)", file=sys.stderr)
        return code
    withheld = sorted(filter(steers, machine.variables(request.container)))
    if withheld:
        names = ", ".join(withheld)
        print(f"kmn: not set, as they would steer programs of this machine: {names}", file=sys.stderr)
    if request.tty and not sys.stdin.isatty():
        return _on_terminal(machine, request)
    if not request.stdin and not request.tty:
        os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())
    return _become(machine.argv(request.command), machine.env(request.container))


def ovs(node: str, command: Sequence[str], cluster_name: str | None) -> int:
    """Run an Open vSwitch tool on the switch of a node, or of the edge."""
    with Cluster.attach(cluster_name) as cluster:
        directories = {name_of(obj): cluster.paths.ovs(name_of(obj)) for obj in cluster.client.list(NODES).items}
        for edge in cluster.client.list(EDGES).items:
            directories[_EDGE] = cluster.paths.ovs(name_of(edge))
    if node not in directories:
        raise UserError(f"node {node}: not found", f"there are: {', '.join(directories)}")
    tool, *args = command
    return _become(ovs_argv(directories[node], tool, args), dict(os.environ))


def _problem(program: str) -> tuple[int, str] | None:
    """Why a program cannot be run, with the exit code that a shell has for it."""
    if shutil.which(program) is not None:
        return None
    if shutil.which(program, os.F_OK) is not None or os.path.isdir(program):
        return _NOT_EXECUTABLE, "not executable"
    return _NOT_FOUND, "not found"


def _become(argv: list[str], env: dict[str, str]) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os.execvpe(argv[0], argv, env)


def _on_terminal(machine: Machine, request: Request) -> int:
    """``-t`` without a terminal on our side (a script, CI): the program gets a new one."""
    os.environ.update(machine.env(request.container))
    status = pty.spawn(machine.argv(request.command))
    return os.waitstatus_to_exitcode(status)


def _check_container(client: Client, machine: Machine, container: str) -> None:
    """All containers of a pod share its network, files are the machine's: environment variables are its own."""
    if machine.kind != "pod":
        raise UserError(f"{machine}: has no containers", "leave out -c")
    namespace, _, name = machine.name.partition("/")
    spec = client.get(PODS, namespace, name)["spec"]
    names = [c["name"] for part in ("containers", "initContainers") for c in spec.get(part) or ()]
    if container not in names:
        raise UserError(f"{machine}: has no container {container}", f"there are: {', '.join(names)}")
