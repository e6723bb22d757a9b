# ruff: noqa: N802, N815 (the names are Mininet's)
"""The Mininet CLI with Kubernetes' words: ``pods``, ``services``, ``kubectl`` next to ``h1 ping h2``."""

from __future__ import annotations

import os
import select
import shlex
import shutil
import string
import subprocess
import sys
import traceback
from collections.abc import Iterable
from typing import IO, Any

import mininet.cli
from mininet.log import error, output
from mininet.util import quietRun

from kmn.cli.problems import describe
from kmn.errors import UserError
from kmn.mininet.net import ClusterNet
from kmn.naming import Paths

__all__ = ["ClusterCLI"]

# What `kubectl` can do here when the machine has none.
_OWN_KUBECTL = ("get", "apply", "delete", "exec")
_LOOK = 500  # milliseconds: how often to see whether a silent shell is still there


class ClusterCLI(mininet.cli.CLI):  # type: ignore[misc]
    """Mininet's CLI on a view of a cluster. The view follows the cluster before each command."""

    # Pod names hold dashes, qualified ones a dot.
    identchars = string.ascii_letters + string.digits + "_-."
    helpStr = (
        mininet.cli.CLI.helpStr
        + "Hosts are the pods (web-1, or NAMESPACE.web-1), the nodes (n1), the outside hosts (e1) and the\n"
        "fabric's routers (fabric, leaf1);\n"
        "switches are the nodes' bridges (n1-br0). Services go by name:\n"
        "  mininet> client curl -s web\n"
    )

    def __init__(self, net: ClusterNet, stdin: IO[str] | None = None, script: str | None = None) -> None:
        self.net = net
        self.failed = False  # whether a line could not be done
        stdin = stdin or sys.stdin
        self.prompt = f"{net.cluster}> " if stdin.isatty() else ""
        super().__init__(net, stdin=stdin, script=script)

    def initReadline(self) -> None:
        """History as in Mininet; and words with dashes are completed whole."""
        super().initReadline()
        try:
            import readline
        except ImportError:
            return
        readline.set_completer_delims(" \t\n")

    def run(self) -> None:
        """Lines until the user leaves. Ctrl-C ends a command, not the CLI; where nobody is at a terminal, both."""
        if self.isatty():
            super().run()
        else:
            self.cmdloop()

    def onecmd(self, line: str) -> bool:
        """One line. Whatever goes wrong is said, and the CLI goes on; ``KMN_DEBUG=1`` shows where it came from."""
        try:
            self.net.refresh()
            return bool(super().onecmd(line))
        except Exception as problem:
            self.failed = True
            if os.environ.get("KMN_DEBUG"):
                error(traceback.format_exc())
            message, hint = describe(problem)
            error(f"*** {message}{f' ({hint})' if hint else ''}\n")
        return False

    def default(self, line: str) -> None:
        """``NAME COMMAND``: the command runs there."""
        first, _args, line = self.parseline(line)
        if first not in self.mn:
            raise UserError(f"Unknown command: {line}", "`help` lists them; `nodes` lists what can run one")
        super().default(line)

    def waitForNode(self, node: Any) -> None:
        """Show the output of a command until it ends, and give it the keys that are typed meanwhile."""
        watched = select.poll()
        watched.register(node.stdout, select.POLLIN)
        keyboard = self.stdin.fileno() if self.isatty() else None  # the lines of a script are commands, not keys
        if keyboard is not None:
            watched.register(keyboard, select.POLLIN)
            quietRun("stty -icanon min 1")  # by character, so that interactive programs work
        while node.waiting:
            try:
                ready = dict(watched.poll(_LOOK))
                if not ready and node.has_ended():
                    break
                if keyboard in ready:
                    keys = os.read(keyboard, 1024)
                    if not keys:
                        watched.unregister(keyboard)
                    node.write(keys.decode(errors="replace"))
                if set(ready) - {keyboard}:
                    output(node.monitor())
            except KeyboardInterrupt:
                node.sendInt()

    def do_source(self, line: str) -> bool:
        """Read commands from a file. Usage: source FILE"""
        names = shlex.split(line)
        if len(names) != 1:
            raise UserError("source: wants one file", "source FILE")
        with open(names[0]) as script:
            return any(self.onecmd(self.precmd(each.rstrip("\n"))) for each in script)

    def do_switch(self, line: str) -> None:
        """Refused: the cluster runs its switches. Usage: switch NAME start|stop"""
        names = line.split()
        if len(names) != 2 or names[1] not in ("start", "stop"):
            raise UserError("switch: wants a switch, and start or stop", "switch n1-br0 stop")
        if names[0] not in self.mn or self.mn[names[0]] not in self.mn.switches:
            known = ", ".join(switch.name for switch in self.mn.switches)
            raise UserError(f"switch {names[0]}: no such switch", f"there are: {known}")
        super().do_switch(line)

    def do_nodes(self, _line: str) -> None:
        """List all nodes of the network, and the cluster's nodes as Kubernetes sees them."""
        super().do_nodes("")
        self._kmn("get", "nodes", "-o", "wide")

    def do_pods(self, line: str) -> None:
        """List pods. Without options: of all namespaces. Usage: pods [-n NAMESPACE] [-l SELECTOR]"""
        self._kmn("get", "pods", "-o", "wide", *(shlex.split(line) or ["-A"]))

    def do_services(self, line: str) -> None:
        """List Services. Without options: of all namespaces. Usage: services [-n NAMESPACE] [-l SELECTOR]"""
        self._kmn("get", "services", *(shlex.split(line) or ["-A"]))

    def do_kubectl(self, line: str) -> None:
        """Run kubectl on this cluster: the real one if the machine has it, else kmn's get, apply, delete and exec."""
        words = shlex.split(line)
        program = shutil.which("kubectl")
        if program is not None:
            env = {**os.environ, "KUBECONFIG": str(Paths(self.net.cluster).kubeconfig)}
            self._call([program, *words], env)
        elif words and words[0] in _OWN_KUBECTL:
            self._kmn(*words)
        else:
            error(f"*** this machine has no kubectl; without it there are: {', '.join(_OWN_KUBECTL)}\n")

    def do_dpctl(self, line: str) -> None:
        """Run an ovs-ofctl command on all bridges. Usage: dpctl dump-flows [MATCH]"""
        super().do_dpctl(line)

    def do_exit(self, _line: str) -> str:
        """Leave the CLI."""
        return "left"

    def completenames(self, text: str, *ignored: Any) -> list[str]:
        """First word: commands, and everything that can run one."""
        return [*super().completenames(text, *ignored), *self._names(text)]

    def completedefault(self, text: str, *_ignored: Any) -> list[str]:
        """Further words: names of the network, which become addresses."""
        return self._names(text)

    def _names(self, text: str) -> list[str]:
        return sorted(name for name in self.net.nameToNode if name.startswith(text))

    def _kmn(self, command: str, *args: str) -> None:
        """A command of ``kmn`` itself, on this cluster."""
        self._call([sys.executable, "-m", "kmn.cli", command, "--name", self.net.cluster, *args], dict(os.environ))

    def _call(self, argv: Iterable[str], env: dict[str, str]) -> None:
        if self.stdout.isatty():
            subprocess.call(list(argv), env=env)
            return
        # Through this process, so that a script's output comes in order and can be captured.
        done = subprocess.run(
            list(argv), env=env, text=True, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        output(done.stdout)
