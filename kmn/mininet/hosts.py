"""Pods, nodes, outside hosts and bridges as Mininet's ``Host``, ``Switch``, ``Intf`` and ``Link``.

They describe what exists: none of them creates, configures or deletes a device. A shell is started when the first
command is sent.
"""

# ruff: noqa: N802, N803, N815 (the names are Mininet's)

from __future__ import annotations

import codecs
import errno
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from mininet.link import Intf, Link
from mininet.node import Host, Node, Switch

from kmn.errors import UserError
from kmn.k8s.dataplane import BRIDGE
from kmn.machine import Machine
from kmn.naming import NETNS_DIR, Paths

__all__ = ["BridgeSwitch", "MachineHost", "NodeHost", "OutsideHost", "PodHost", "RouterHost", "ViewIntf", "ViewLink"]

_SHELL = ("bash", "--norc", "--noediting", "-is")  # as Mininet starts it: its protocol needs the prompt and no echo
_PROMPT = "\x7f"  # what Mininet takes for the end of a command
_MARK = "\x7fkmn\x7f"  # what our shells really print there: programs print a lone 0x7f now and then
_REPLACEMENT = "\ufffd"
_TERMINATE_PATIENCE = 1.0


class ViewIntf(Intf):  # type: ignore[misc]
    """An interface that exists. Its addresses are those of the API, so nobody has to ask the kernel.

    ``name`` is what it is called in Mininet, ``device`` what the kernel calls it in the node's namespace.
    """

    def __init__(
        self, name: str, node: Any, ip: str | None, mac: str | None, port: int | None = None, device: str = ""
    ) -> None:
        # Not Intf.__init__: that brings the device up and sets addresses.
        self.node, self.name, self.device = node, name, device or name
        self.link: ViewLink | None = None
        self.params: dict[str, Any] = {}
        self.ip, self.mac, self.prefixLen = ip or None, mac or None, None
        node.addIntf(self, port=port, moveIntfFn=lambda *_: None)

    def updateIP(self) -> str | None:
        """The IP address, without a look at the device."""
        return self.ip

    def updateMAC(self) -> str | None:
        """The MAC address, without a look at the device."""
        return self.mac

    def updateAddr(self) -> tuple[str | None, str | None]:
        """Both addresses, without a look at the device."""
        return self.ip, self.mac

    def ifconfig(self, *args: str) -> str:
        """``link a b up|down`` and ``isUp`` work on the device; kmn sets the addresses."""
        if args == ("down",):
            return self._down()
        if args == ("up",):
            return self._up()
        if args:
            raise TypeError(f"{self.node.name} {self.name}: addresses are set by kmn, from the objects of the API")
        return self.cmd(f"ip addr show {self.device}")  # type: ignore[no-any-return]

    def status(self) -> str:
        """``OK`` when packets can pass, ``DOWN`` when not, here or at the other end; ``MISSING`` without a device."""
        out, _err, code = self.node.pexec(["ip", "-br", "link", "show", "dev", self.device])
        return "MISSING" if code else "DOWN" if "DOWN" in out.split()[1] else "OK"

    def _down(self) -> str:
        """With a device that goes down Linux forgets neighbours and routes: they are written down for :meth:`_up`."""
        if self._ip("-br", "link", "show", "dev", self.device, "up"):
            known = self._ip("neigh", "show", "dev", self.device, "nud", "permanent").splitlines()
            lines = [f"neigh replace {ip} lladdr {mac} nud permanent dev {self.device}"
                     for ip, _, mac, *_ in map(str.split, known)]  # fmt: skip
            for route in self._ip("-oneline", "route", "show").replace("\\", " ").splitlines():
                # What is down already is marked, with words that are not taken back.
                words = [word for word in route.split() if word not in ("dead", "linkdown")]
                if self.device in words:
                    lines.append(f"route replace {' '.join(words)}")
            self._saved.parent.mkdir(exist_ok=True)
            self._saved.write_text("".join(f"{line}\n" for line in lines))
        return self._ip("link", "set", self.device, "down")

    def _up(self) -> str:
        problem = self._ip("link", "set", self.device, "up")
        if not problem and self._saved.exists():
            up = {line.split()[0].partition("@")[0] for line in self._ip("-br", "link", "show", "up").splitlines()}
            lines = [_over(line, up) for line in self._saved.read_text().splitlines()]
            problem = self._ip("-force", "-batch", "-", input="\n".join(lines))
            self._saved.unlink()
        return problem

    def _ip(self, *args: str, input: str | None = None) -> str:
        done = self.node.machine.run(["ip", *args], input=input)
        return done.stdout + done.stderr  # type: ignore[no-any-return]

    @property
    def _saved(self) -> Path:
        """A file of the cluster: another view of it may be the one to bring the device up again."""
        return Paths(self.node.machine.cluster).root / "down" / f"{self.node.machine.netns}.{self.device}"

    def delete(self) -> None:
        """Leave the view. The device is the cluster's."""
        self.node.delIntf(self)
        self.link = None


def _over(route: str, devices: set[str]) -> str:
    """A route (``ip``'s words for it) without the next hops whose devices are down: the last to come up brings all."""
    head, *hops = route.split(" nexthop ")
    return " nexthop ".join([head, *(hop for hop in hops if devices & set(hop.split()))])


class ViewLink(Link):  # type: ignore[misc]
    """A veth pair that exists: between a host and its node's bridge, between bridge and router, or two routers."""

    def __init__(self, intf1: ViewIntf, intf2: ViewIntf) -> None:
        self.intf1, self.intf2 = intf1, intf2
        intf1.link = intf2.link = self

    def configure(self, status: str) -> str:
        """``up`` or ``down``; what went wrong. As if the cable was pulled: at a bridge its end goes down, and the other
        one, which has addresses and routes, sees no carrier. Between routers both ends go down, so both choose other
        ways."""
        ends = (self.intf1, self.intf2)
        ports = [end for end in ends if isinstance(end.node, BridgeSwitch)]
        return "".join(end.ifconfig(status) for end in ports or ends)

    def __str__(self) -> str:
        first = "" if self.intf1.name.startswith(f"{self.intf1.node.name}-") else f"{self.intf1.node.name}-"
        return f"{first}{self.intf1}<->{self.intf2}"

    def delete(self) -> None:
        """Leave the view."""
        for intf in (self.intf1, self.intf2):
            if intf.link is self:
                intf.delete()


class _Lazy(Node):  # type: ignore[misc]
    """A Mininet node in a namespace that exists, whose shell starts with the first command."""

    machine: Machine
    shell: subprocess.Popen[bytes] | None
    _unread = ""  # what may be the first half of a prompt
    _announces = False  # the command's output begins with a process number
    isSetup = True  # nothing to check: mnexec and ifconfig are not what makes these hosts

    def startShell(self, mnopts: str | None = None) -> None:
        """Mininet's constructor calls this: not yet."""

    def _start(self) -> None:
        if self.shell is None:
            if not (NETNS_DIR / self.machine.netns).exists():
                raise UserError(f"{self.name}: its network namespace {self.machine.netns} is gone")
            self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
            self._unread = ""
            # Mininet's own startShell does the rest (terminal, prompt, polling) with our command line.
            super().startShell()
            os.close(self.slave)  # the shell's end is its own: when it closes, so does ours

    def read(self, size: int = 1024) -> str:
        """What the shell printed, with Mininet's prompt for ours: a program may print any byte. A shell that ended
        (``web-1 exit``) is a command that ended; the next starts anew."""
        shown = ""
        while not shown:
            try:
                data = os.read(self.stdout.fileno(), size)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                self._forget_shell()
                return self._unread + _PROMPT
            shown, self._unread = _split(self._unread + self.decoder.decode(data))
            if self.waiting:
                break  # half a prompt, perhaps: there is time to wait for keys as well
        return shown

    def monitor(self, timeoutms: int | None = None, findPid: bool = True) -> str:
        """Output of the running command. Only a command that announces a process is searched for its number."""
        return super().monitor(timeoutms, findPid and self._announces)  # type: ignore[no-any-return]

    def has_ended(self) -> bool:
        """Whether the shell of a running command is no more; then the command counts as ended."""
        if self.shell is not None and self.shell.poll() is not None:
            self._forget_shell()
        return not self.waiting

    def _popen(self, cmd: list[str], **params: Any) -> subprocess.Popen[bytes]:
        """Everything that Mininet starts for a node comes through here; the shell is known by its first words."""
        if cmd[0] == "mnexec" and cmd[-1] == f"mininet:{self.name}":
            # -c close descriptors, -d new session: the shell's terminal is its own and Ctrl-C reaches its child.
            prefix = ["mnexec", "-cd", *self.machine.argv(["env", f"PS1={_MARK}"])]
            cmd = [*prefix, *_SHELL, f"mininet:{self.name}"]
        params.setdefault("env", self.machine.env())
        return subprocess.Popen(cmd, **params)

    def sendCmd(self, *args: Any, **kwargs: Any) -> Any:
        self._start()
        words = args[0] if len(args) == 1 and isinstance(args[0], list) else args
        self._announces = bool(kwargs.get("printPid")) or " ".join(map(str, words)).endswith("&")
        return super().sendCmd(*args, **kwargs)

    def cmd(self, *args: Any, **kwargs: Any) -> Any:
        self._start()
        return super().cmd(*args, **kwargs)

    def popen(self, *args: Any, **kwargs: Any) -> Any:
        kwargs.setdefault("mncmd", ["mnexec", "-d", *self.machine.argv([])])
        return super().popen(*args, **kwargs)

    @property
    def netns(self) -> str:
        """Name of the network namespace: ``ip netns exec NAME ...`` works on it."""
        return self.machine.netns

    def config(self, **_params: Any) -> dict[str, Any]:
        """Nothing to configure: the cluster has done it."""
        return {}

    def terminate(self) -> None:
        """End the shell, and with it what was started from it and listens to the hangup."""
        if self.shell is None:
            return
        if self.shell.poll() is None:
            os.killpg(self.shell.pid, signal.SIGHUP)
        self._forget_shell()

    def _forget_shell(self) -> None:
        assert self.shell is not None
        for known in (self.outToNode, self.inToNode):
            known.pop(self.master, None)
        self.stdin.close()
        try:
            self.shell.wait(_TERMINATE_PATIENCE)
        except subprocess.TimeoutExpired:
            self.shell.kill()
            self.shell.wait()
        self.shell, self.waiting = None, False

    def stop(self, deleteIntfs: bool = False) -> NoReturn:
        """Refused: this is a view."""
        raise UserError(
            f"stop {self.name}: this network is a view of cluster {self.machine.cluster}",
            "terminate() ends its shell; `link` takes its link down; objects go with `kmn delete`",
        )

    def forget_ports(self) -> None:
        """Before a new look at which ports there are."""
        for known in (self.intfs, self.ports, self.nameToIntf):
            known.clear()


class _Place(_Lazy, Host):  # type: ignore[misc]
    """A Mininet host in a namespace of the cluster."""

    def __init__(self, name: str, machine: Machine) -> None:
        self.machine = machine
        Host.__init__(self, name)


class MachineHost(_Place):
    """A place with one interface, ``eth0``."""

    def __init__(self, name: str, machine: Machine) -> None:
        super().__init__(name, machine)
        ViewIntf("eth0", self, machine.ip, machine.mac)


class PodHost(MachineHost):
    """A pod."""


class NodeHost(MachineHost):
    """A node of the cluster: its kernel, not its bridge."""


class OutsideHost(MachineHost):
    """A host of the emulated internet."""


class RouterHost(_Place):
    """A router of the fabric. It has one address, whatever the interface."""


class BridgeSwitch(_Lazy, Switch):  # type: ignore[misc]
    """A node's (or the edge's) Open vSwitch bridge. Commands run in its namespace, with its own Open vSwitch."""

    def __init__(
        self, name: str, machine: Machine, dpid: str | None, run_dir: Path, is_connected: Callable[[], bool]
    ) -> None:
        self.machine = machine
        self.run_dir = run_dir
        self._is_connected = is_connected
        self.controlIntf = None
        Switch.__init__(self, name, dpid=dpid or "0")

    def start(self, controllers: Any = ()) -> NoReturn:
        """Refused: this is a view."""
        raise UserError(f"start {self.name}: the cluster runs its bridges itself")

    def stop(self, deleteIntfs: bool = False) -> NoReturn:
        """Refused: this is a view."""
        raise UserError(f"stop {self.name}: the cluster runs its bridges itself",
                        "`link` takes its links down; to lose it, end its ovs-vswitchd")  # fmt: skip

    def ovs_argv(self, tool: str, *args: str) -> list[str]:
        """The command line of ``ofctl``, ``vsctl``, ``appctl`` or ``dpctl`` for this bridge's Open vSwitch."""
        from kmn.ovstools import argv

        return argv(self.run_dir, tool, args)

    def dpctl(self, *args: str) -> str:
        """``ovs-ofctl``, with the bridge put where it belongs: ``dpctl("dump-flows")``."""
        command, *rest = args
        return self._run("ofctl", command, BRIDGE, *rest)

    def vsctl(self, *args: str, **_kwargs: Any) -> str:
        """``ovs-vsctl`` on this bridge's database."""
        return self._run("vsctl", *args)

    def connected(self) -> bool:
        """Whether the bridge is connected to the controller, as the controller says."""
        return self._is_connected()

    def _run(self, tool: str, *args: str) -> str:
        return subprocess.run(
            self.ovs_argv(tool, *args), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        ).stdout


def _split(text: str) -> tuple[str, str]:
    """A shell's output as Mininet wants it, and what has to wait: the end, if it may be the first half of a prompt."""
    *before, last = text.split(_MARK)
    held = next((n for n in range(len(_MARK) - 1, 0, -1) if last.endswith(_MARK[:n])), 0)
    shown = (*before, last[: len(last) - held])
    return _PROMPT.join(part.replace(_PROMPT, _REPLACEMENT) for part in shown), last[len(last) - held :]
