"""Open vSwitch's own programs, pointed at the Open vSwitch of one node: its sockets are in the node's run directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kmn.errors import UserError

__all__ = ["TOOLS", "argv", "control_socket"]

TOOLS = ("ofctl", "vsctl", "appctl", "dpctl", "ovsdb-client")

_OPENFLOW = "OpenFlow15"
# What users mean by ovs-dpctl is the datapath of the running switch, which may be a userspace one: ovs-appctl dpctl/...
_DPCTL_PREFIX = "dpctl/"


def argv(run_dir: Path, tool: str, args: Sequence[str]) -> list[str]:
    """``argv(dir, "ofctl", ["dump-flows", "br0"])``: the command line that does this on the switch of ``run_dir``.

    Bridge names of ``ofctl`` are looked up in OVS_RUNDIR, so the environment is part of the line.
    """
    base = ["env", f"OVS_RUNDIR={run_dir}"]
    match tool.removeprefix("ovs-"):
        case "ofctl":
            return [*base, "ovs-ofctl", "-O", _OPENFLOW, *args]
        case "vsctl":
            return [*base, "ovs-vsctl", f"--db=unix:{run_dir}/db.sock", *args]
        case "appctl":
            return [*base, "ovs-appctl", *args]
        case "dpctl" if args:
            return [*base, "ovs-appctl", _DPCTL_PREFIX + args[0], *args[1:]]
        case "ovsdb-client" | "db" if args:
            return [*base, "ovsdb-client", args[0], f"unix:{run_dir}/db.sock", *args[1:]]
    raise UserError(f"ovs {' '.join([tool, *args])}: not known", f"one of {', '.join(TOOLS)}, and a command")


def control_socket(run_dir: Path) -> str:
    """Where ``ovs-vswitchd`` takes the questions of ``ovs-appctl``. OSError or ValueError: it does not run."""
    pid = int((run_dir / "ovs-vswitchd.pid").read_text())
    return str(run_dir / f"ovs-vswitchd.{pid}.ctl")
