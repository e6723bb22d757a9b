"""The floor: namespaces, veth pairs and Open vSwitch instances, made by the leanest script and nothing else.

No addresses, no flows, no control plane, no containers: what remains is what any tool has to do.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

__all__ = ["BareNetwork"]

_SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"


class BareNetwork:
    """``nodes`` namespaces with an Open vSwitch each, ``pods`` namespaces spread over them, a veth pair a pod."""

    def __init__(self, pods: int, nodes: int, prefix: str = "kmnfloor") -> None:
        self.nodes = [f"{prefix}-n{i}" for i in range(nodes)]
        self.pods = [f"{prefix}-p{i}" for i in range(pods)]
        self._dir = Path(tempfile.mkdtemp(prefix=prefix))
        self._processes: list[subprocess.Popen[bytes]] = []

    def node_of(self, pod: int) -> int:
        return pod % len(self.nodes)

    def up(self) -> None:
        """Namespaces and veth pairs in two ``ip -batch`` runs, then all switches two at a time."""
        _batch([f"netns add {name}" for name in (*self.nodes, *self.pods)])
        _batch(
            [
                f"link add p{i} up netns {self.nodes[self.node_of(i)]} type veth peer name eth0 netns {pod}"
                for i, pod in enumerate(self.pods)
            ]
        )
        subprocess.run(["ovsdb-tool", "create", self._dir / "conf.db", _SCHEMA], check=True)
        with ThreadPoolExecutor(2) as workers:
            list(workers.map(self._switch, range(len(self.nodes))))

    def down(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
        _batch([f"netns del {name}" for name in (*self.nodes, *self.pods)])
        shutil.rmtree(self._dir)

    def management(self, node: int) -> Path:
        """Unix socket on which a node's bridge takes OpenFlow."""
        return self._dir / str(node) / "br0.mgmt"

    def vsctl(self, node: int, *args: str) -> None:
        """``ovs-vsctl`` on one node's Open vSwitch."""
        subprocess.run(["ovs-vsctl", f"--db=unix:{self._dir}/{node}/db.sock", *args], check=True)

    def ofctl(self, node: int, command: str, bridge: str, *args: str) -> None:
        """``ovs-ofctl COMMAND BRIDGE ARGS`` on one node's Open vSwitch."""
        subprocess.run(["ovs-ofctl", command, f"unix:{self._dir}/{node}/{bridge}.mgmt", *args], check=True)

    def _switch(self, index: int) -> None:
        run = self._dir / str(index)
        run.mkdir()
        shutil.copy(self._dir / "conf.db", run / "conf.db")
        inside = ["ip", "netns", "exec", self.nodes[index]]
        socket = f"unix:{run}/db.sock"
        self._start(
            [*inside, "ovsdb-server", run / "conf.db", f"--remote=p{socket}", f"--unixctl={run}/d.ctl"], run / "db.sock"
        )
        ports = [i for i in range(len(self.pods)) if self.node_of(i) == index]
        options = ("userspace-tso-enable=true", "stats-update-interval=3600000")
        # Its socket is there a moment before it listens.
        vsctl: list[str] = [
            "ovs-vsctl",
            "--no-wait",
            "--retry",
            f"--db={socket}",
            "init",
            "--",
            "set",
            "Open_vSwitch",
            ".",
        ]
        vsctl += [f"other_config:{option}" for option in options]
        vsctl += ["--", "add-br", "br0", "--", "set", "Bridge", "br0", "datapath_type=netdev", "fail_mode=secure"]
        for i in ports:
            vsctl += ["--", "add-port", "br0", f"p{i}"]
        subprocess.run(vsctl, check=True, env={"OVS_RUNDIR": str(run), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
        self._start(
            [*inside, "ovs-vswitchd", socket, f"--unixctl={run}/v.ctl", "--no-chdir"], run / "br0.mgmt", rundir=run
        )
        subprocess.run(["ovs-vsctl", f"--db={socket}", "set", "Bridge", "br0", "external_ids:up=1"], check=True)

    def _start(self, argv: list[str | Path], ready: Path, rundir: Path | None = None) -> None:
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "OVS_RUNDIR": str(rundir or ready.parent)}
        env["OVS_LOGDIR"] = env["OVS_DBDIR"] = env["OVS_RUNDIR"]
        null = subprocess.DEVNULL
        self._processes.append(subprocess.Popen(argv, env=env, stdout=null, stderr=null))
        until = time.monotonic() + 30
        while not ready.exists():
            if time.monotonic() > until:
                raise TimeoutError(f"{argv} made no {ready} within 30 s")
            time.sleep(0.002)


def _batch(commands: list[str]) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(commands).encode(), check=True)
