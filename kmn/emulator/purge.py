"""Removing whatever a cluster has on the machine, however it ended.

It needs no state and no help of the cluster: processes are found by ``KMN_CLUSTER`` in their environment or by living
in one of its namespaces, namespaces and files by name (``kmn.naming``). Everything goes by SIGKILL and detaching: what
the processes could still save or tidy up is about to be gone.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from kmn.emulator import netlink, netns
from kmn.emulator.netlink import Netlink, Veth
from kmn.naming import CLUSTER_VARIABLE, NETNS_DIR, RUN_ROOT, Paths, netns_prefix

__all__ = ["PurgeError", "Report", "clusters", "purge"]

_ETC_NETNS = Path("/etc/netns")
_PATIENCE = 30.0  # seconds for processes to die, and for the kernel to tear namespaces down
_EXEC = 0.05  # seconds that processes may take to execute their programs
_ROUNDS = 5  # a process may start others while it is being looked for


class PurgeError(Exception):
    """Something could not be removed. The message says what."""


@dataclass(slots=True)
class Report:
    """What was found and removed."""

    cluster: str
    processes: list[int] = field(default_factory=list)
    namespaces: int = 0
    files: bool = False

    def __bool__(self) -> bool:
        return bool(self.processes or self.namespaces or self.files)


def clusters() -> list[str]:
    """Names of clusters that any trace is left of: running ones, and what crashed ones left."""
    found = {name.split(".")[1] for name in netns.names("kmn.") if name.count(".") >= 2}
    found |= {path.name.split(".")[1] for path in _ETC_NETNS.glob("kmn.*.*")}
    if RUN_ROOT.is_dir():
        found |= {path.name for path in RUN_ROOT.iterdir() if path.is_dir()}
    spared = _self_and_ancestors()
    marks = {_mark_of(pid) for pid in _pids() if pid not in spared}
    found |= {mark for mark in marks if mark}
    return sorted(found)


def purge(cluster: str) -> Report:
    """Remove all that a cluster has. Nothing of it is left when this returns; PurgeError says what withstood.

    The calling process and its ancestors are spared, even inside the cluster (a shell there may run ``kmn down``), and
    so are other clusters. Idempotent.
    """
    report = Report(cluster)
    prefix = netns_prefix(cluster)
    for _ in range(_ROUNDS):
        victims = _victims(cluster, prefix)
        if not victims:
            break
        report.processes += victims
        _kill(victims)
    else:
        raise PurgeError(f"cluster {cluster}: new processes keep appearing: {_victims(cluster, prefix)}")
    names = netns.names(prefix)
    report.namespaces = len(names)
    for name in names:
        netns.delete(name)
    for link in _ETC_NETNS.glob(prefix + "*"):
        link.unlink(missing_ok=True)
        report.files = True
    root = Paths(cluster).root
    if root.exists():
        shutil.rmtree(root)
        report.files = True
    if names:
        _await_teardown(cluster)
    return report


# --- processes --------------------------------------------------------------------------------------------------------


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _environment(pid: int) -> bytes:
    """The environment of a process, empty if it has none or has ended."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read()
    except OSError:
        return b""


def _await_programs(pids: Iterable[int]) -> None:
    """A process that is executing a program has no environment for an instant: wait until it shows who it is.

    So short that it hardly matters, unless its parent has just been killed and nobody comes to look again.
    """
    deadline = time.monotonic() + _EXEC
    for pid in pids:
        while not _environment(pid) and _has_program(pid) and time.monotonic() < deadline:
            time.sleep(0.001)


def _has_program(pid: int) -> bool:
    """False for threads of the kernel, and for what has ended."""
    try:
        os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return False
    return True


def _mark_of(pid: int) -> str:
    """The cluster that a process says that it belongs to."""
    environment = _environment(pid)
    key = CLUSTER_VARIABLE.encode() + b"="
    start = 0 if environment.startswith(key) else environment.find(b"\0" + key) + 1
    if not environment.startswith(key, start):
        return ""
    return environment[start + len(key) :].split(b"\0", 1)[0].decode(errors="replace")


def _self_and_ancestors() -> set[int]:
    found: set[int] = set()
    pid = os.getpid()
    while pid > 0 and pid not in found:
        found.add(pid)
        try:
            # The program's name stands in brackets and may hold anything: the parent follows the last one.
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            break
    return found


def _victims(cluster: str, prefix: str) -> list[int]:
    inodes = set()
    for name in netns.names(prefix):
        try:
            inodes.add(os.stat(NETNS_DIR / name).st_ino)
        except OSError:
            continue
    spared = _self_and_ancestors()
    candidates = [pid for pid in _pids() if pid not in spared]
    _await_programs(candidates)
    return [pid for pid in candidates if not _zombie(pid) and (_mark_of(pid) == cluster or _netns_of(pid) in inodes)]


def _zombie(pid: int) -> bool:
    """Whether a process has ended and only waits for its parent to take notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def _netns_of(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return 0


def _kill(pids: Iterable[int]) -> None:
    """SIGKILL, and wait until the processes are dead."""
    waiting: dict[int, int] = {}
    poll = select.poll()
    for pid in pids:
        try:
            # By descriptor: the number may be another process's by now.
            file = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        waiting[file] = pid
        signal.pidfd_send_signal(file, signal.SIGKILL)
        poll.register(file, select.POLLIN)
    deadline = time.monotonic() + _PATIENCE
    try:
        while waiting and (left := deadline - time.monotonic()) > 0:
            for file, _event in poll.poll(left * 1000):
                poll.unregister(file)
                os.close(file)
                del waiting[file]
        if waiting:
            raise PurgeError(f"processes {sorted(waiting.values())} do not end")
    finally:
        for file in waiting:
            os.close(file)


# --- namespaces -------------------------------------------------------------------------------------------------------


def _await_teardown(cluster: str) -> None:
    """Wait until the kernel has torn down the namespaces that were let go of.

    It does so in the background, in batches, in the order in which they were let go of. So a namespace that is let go
    of now, after the others, goes with or after them; its end shows in the one that holds the other end of its veth.
    """
    failures: list[BaseException] = []

    def run() -> None:
        try:
            _witness(cluster)
        except BaseException as error:
            failures.append(error)

    # The thread's end takes its namespaces along.
    thread = threading.Thread(target=run, name="teardown-witness")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def _witness(cluster: str) -> None:
    netns.isolate()
    with Netlink("witness") as near:
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            netns.isolate()
            with Netlink("witness") as far:
                far.apply([netlink.veth_add(Veth("far"), Veth("near", netns=home))])
            netns.enter(home)
        finally:
            os.close(home)
        deadline = time.monotonic() + _PATIENCE
        pause = 0.001
        while "near" in near.devices():
            if time.monotonic() > deadline:
                raise PurgeError(f"cluster {cluster}: the kernel does not finish with its network namespaces")
            time.sleep(pause)
            pause = min(0.02, pause * 1.5)
