"""What tests of faults look at: connections that must go on, processes to kill, every trace that a cluster leaves."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kmn import Cluster
from kmn.emulator import netns
from kmn.k8s.objects import condition, name_of
from kmn.k8s.resources import NODES
from kmn.machine import Machine
from kmn.naming import CLUSTER_VARIABLE, NETNS_DIR, RUN_ROOT, netns_prefix
from kmn.ovstools import argv as ovs_argv

ROOT = Path(__file__).resolve().parents[2]
TOPOLOGIES = ROOT / "topologies"

_MODULES = {  # what the processes of a cluster run
    "kmn.daemon": "daemon",
    "controller.main": "controller",
    "kmn.emulator.runtime": "runtime",
    "kmn.dns": "dns",
    "kmn.cli": "front",
}


def kmn(
    *args: str, env: Mapping[str, str] | None = None, before: Iterable[str] = (), cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """The ``kmn`` command; ``before`` is put in front of it."""
    return subprocess.run(
        [*before, sys.executable, "-m", "kmn.cli", *args], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=90, check=False, env={**(os.environ if env is None else env), "PYTHONPATH": str(ROOT)}, cwd=cwd,
    )  # fmt: skip


def wait_for(check: Callable[[], Any], what: str, timeout: float = 20) -> Any:
    """Wait until something is true; what it was."""
    deadline = time.monotonic() + timeout
    while not (found := check()):
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.005)
    return found


# --- connections ------------------------------------------------------------------------------------------------------


class Talk:
    """An established TCP connection to an emulated container, on which a thread never stops asking for echoes."""

    def __init__(self, client: Machine, address: str, port: int) -> None:
        self.name = f"{client} -> {address}:{port}"
        self.echoes = 0
        self.longest = 0.0  # seconds that an echo took
        self.error: Exception | None = None
        with netns.entered(client.netns):
            self._socket = socket.create_connection((address, port), timeout=10)
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=self.name)
        self._thread.start()

    def _run(self) -> None:
        while not self._closed:
            # The first byte says that this is no HTTP.
            text = struct.pack("!BI", 0xFF, self.echoes) * 20
            begin = time.monotonic()
            try:
                self._socket.sendall(text)
                got = b""
                while len(got) < len(text):
                    piece = self._socket.recv(4096)
                    if not piece:
                        raise ConnectionError("closed by the other side")
                    got += piece
                assert got == text, f"{got!r} is no echo of {text!r}"
            except Exception as error:
                self.error = None if self._closed else error
                return
            self.longest = max(self.longest, time.monotonic() - begin)
            self.echoes += 1
            time.sleep(0.002)

    def check(self) -> None:
        """The same connection carries more echoes, from now on."""
        seen = self.echoes
        wait_for(lambda: self.error or self.echoes > seen + 5, f"echoes on {self.name}")
        assert self.error is None, f"{self.name} broke after {self.echoes} echoes: {self.error!r}"

    def close(self) -> None:
        self._closed = True
        self._socket.close()
        self._thread.join()


@contextmanager
def talking(*ways: tuple[Machine, str, int]) -> Iterator[list[Talk]]:
    """Connections that carry echoes, for as long as the block takes; none of them may break."""
    talks: list[Talk] = []
    try:
        talks += [Talk(*way) for way in ways]
        for talk in talks:
            talk.check()
        yield talks
        for talk in talks:
            talk.check()
    finally:
        for talk in talks:
            talk.close()


def ask(client: Machine, address: str, port: int, timeout: float = 2) -> dict[str, Any]:
    """Who answers there. Raises OSError."""
    with netns.entered(client.netns):
        sock = socket.create_connection((address, port), timeout=timeout)
    with sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        data = b""
        while piece := sock.recv(65536):
            data += piece
    return json.loads(data.partition(b"\r\n\r\n")[2])  # type: ignore[no-any-return]


def answers(client: Machine, address: str, port: int, timeout: float = 2) -> bool:
    try:
        return bool(ask(client, address, port, timeout)["pod"])
    except OSError:
        return False


# --- processes --------------------------------------------------------------------------------------------------------


def pids(cluster: str) -> dict[int, str]:
    """The processes of a cluster that live, with what they are: ``controller``, ``ovs-vswitchd``, …"""
    found: dict[int, str] = {}
    mark = f"{CLUSTER_VARIABLE}={cluster}".encode()
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            if mark not in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                continue
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if words[0]:  # an ended one that nobody has waited for has none
            module = words[words.index("-m") + 1] if "-m" in words else ""
            found[pid] = _MODULES.get(module, Path(words[0]).name)
    return found


def pid_of(cluster: str, what: str) -> int:
    """The one process of a kind; 0 while there is none."""
    return next((pid for pid, kind in pids(cluster).items() if kind == what), 0)


def switch_pid(cluster: Cluster, bridge: str, program: str) -> int:
    """The process of a node's Open vSwitch; 0 while there is none."""
    try:
        return int((cluster.paths.ovs(bridge) / f"{program}.pid").read_text())
    except (FileNotFoundError, ValueError):
        return 0


# --- the state of a cluster -------------------------------------------------------------------------------------------


def flows(cluster: Cluster, bridge: str) -> list[str]:
    """Flows and groups of a bridge, without counters, and without what it learned by itself (session affinity)."""
    lines: list[str] = []
    for command in (["dump-flows", "--no-stats", "br0"], ["dump-groups", "br0"]):
        argv = ovs_argv(cluster.paths.ovs(bridge), "ofctl", command)
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        lines += sorted(line.strip() for line in done.stdout.splitlines() if _is_entry(line))
    return lines


def _is_entry(line: str) -> bool:
    return "=" in line and "xid=" not in line and "_timeout=" not in line


def ready_nodes(cluster: Cluster) -> set[str]:
    """Names of nodes that are Ready."""
    nodes = cluster.client.list(NODES).items
    return {name_of(node) for node in nodes if (condition(node, "Ready") or {}).get("status") == "True"}


# --- what is left -----------------------------------------------------------------------------------------------------


def traces(cluster: str) -> list[str]:
    """Everything on the machine that carries a cluster's name."""
    prefix = netns_prefix(cluster)
    found = [f"process {pid} {what}" for pid, what in pids(cluster).items() if pid != os.getpid()]
    for folder in (NETNS_DIR, Path("/etc/netns")):
        found += [str(path) for path in folder.glob(f"{prefix}*")]
    found += [str(path) for path in RUN_ROOT.glob(f"{cluster}*")]
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    return found + [f"mount {line}" for line in mounts if prefix in line or f"{RUN_ROOT}/{cluster}" in line]


_SYSCTLS = ("net/ipv4/ip_forward", "net/ipv4/conf/all/rp_filter", "net/ipv4/conf/all/arp_ignore",
            "net/ipv4/conf/all/accept_local", "net/ipv6/conf/all/disable_ipv6", "net/ipv4/icmp_ratelimit",
            "kernel/pid_max", "net/core/somaxconn", "fs/file-max", "fs/inotify/max_user_instances")  # fmt: skip


def machine_state() -> dict[str, Any]:
    """The network of the machine's own namespace, as far as nothing but a change of it changes it."""
    state: dict[str, Any] = {}
    for what in ("link", "addr", "route", "rule"):
        state[f"ip {what}"] = json.loads(_output("ip", "-j", what) or "[]")
    # Those that come and go by themselves are of no interest.
    neighbours = json.loads(_output("ip", "-j", "neigh", "show", "nud", "permanent") or "[]")
    state["ip neigh"] = neighbours
    state["nft"] = _output("nft", "list", "ruleset")
    for tool in ("iptables-save", "ip6tables-save"):
        state[tool] = [line for line in _output(tool).splitlines() if not line.startswith("#")]
    devices = Path("/proc/net/dev").read_text().splitlines()[2:]
    state["devices"] = sorted(line.partition(":")[0].strip() for line in devices)
    for name in _SYSCTLS:
        file = Path("/proc/sys") / name
        state[name] = file.read_text() if file.exists() else None
    for folder in (Path("/var/run/openvswitch"), Path("/etc/openvswitch"), Path("/var/log/openvswitch")):
        state[str(folder)] = sorted((str(p), p.lstat().st_mtime_ns) for p in folder.rglob("*"))
    return state


def _output(*argv: str) -> str:
    """What a program prints; "" where the machine has no such program."""
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return ""
