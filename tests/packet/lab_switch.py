"""An Open vSwitch in a namespace, as the emulator starts it: processes, settings, and what a test asks of it."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

from lab_commands import run

__all__ = ["Bridge"]


@dataclass
class Bridge:
    """A namespace with an Open vSwitch of its own."""

    name: str
    netns: str
    run: Path
    datapath_id: int
    processes: list[int] = field(default_factory=list)

    def start(self, *ports: tuple[str, int], controller: bool = False) -> None:
        self.run.mkdir(parents=True)
        env = {"OVS_RUNDIR": str(self.run), "OVS_LOGDIR": str(self.run)}
        database = self.run / "conf.db"
        run("ovsdb-tool", "create", str(database), "/usr/share/openvswitch/vswitch.ovsschema")
        common = ("--detach", "--no-chdir", "--log-file", "-vconsole:off")
        inside = ("ip", "netns", "exec", self.netns)
        remote = f"unix:{self.run}/db.sock"
        run(*inside, "ovsdb-server", str(database), f"--remote=p{remote}", "--pidfile", *common, env=env)
        self.processes.append(int((self.run / "ovsdb-server.pid").read_text()))
        options = ("userspace-tso-enable=true", "stats-update-interval=3600000")
        settings = [f"other_config:{option}" for option in options]
        run("ovs-vsctl", f"--db={remote}", "--no-wait", "init", "--", "set", "Open_vSwitch", ".", *settings)
        run(*inside, "ovs-vswitchd", remote, "--pidfile", *common, env=env)
        self.processes.append(int((self.run / "ovs-vswitchd.pid").read_text()))
        words = ["--", "add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev", "fail_mode=secure"]
        words += ["protocols=OpenFlow15", f"other-config:datapath-id={self.datapath_id:016x}"]
        for device, number in ports:
            words += ["--", "add-port", "br0", device, "--", "set", "interface", device, f"ofport_request={number}"]
        if controller:
            words += ["--", "set-controller", "br0", "tcp:127.0.0.1:6653"]
            words += ["--", "set", "controller", "br0", "max_backoff=1000", "inactivity_probe=0"]
        run("ovs-vsctl", f"--db={remote}", *words)

    @property
    def management(self) -> Path:
        return self.run / "br0.mgmt"

    def ofctl(self, command: str, *words: str) -> list[str]:
        lines = run("ovs-ofctl", "-O", "OpenFlow15", command, f"unix:{self.management}", *words).splitlines()
        return [line for line in lines if not line.startswith(("OFPST", "NXST"))]

    def flows(self) -> list[str]:
        text = run("ovs-ofctl", "-O", "OpenFlow15", "dump-flows", "--no-stats", f"unix:{self.management}")
        return sorted(text.splitlines())

    def appctl(self, *words: str) -> str:
        pid = (self.run / "ovs-vswitchd.pid").read_text().strip()
        return run("ovs-appctl", "-t", f"{self.run}/ovs-vswitchd.{pid}.ctl", *words)

    def megaflows(self) -> list[str]:
        return [line for line in self.appctl("dpctl/dump-flows").splitlines() if "packets:" in line]

    def stop(self) -> None:
        for pid in reversed(self.processes):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
