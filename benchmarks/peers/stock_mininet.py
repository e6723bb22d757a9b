"""Stock Mininet 2.3: hosts and OVSSwitch(datapath=user), built and torn down by Mininet itself.

Run as a program inside a network namespace with an Open vSwitch of its own (see :func:`run`), so that neither the
machine's namespace nor its Open vSwitch is touched. Prints one JSON object.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

__all__ = ["run"]

_NAMESPACE = "kmnmininet"
_SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"


def run(what: str, *args: int | str, timeout: float = 900) -> dict[str, Any]:
    """Run one of the measurements below in a namespace of its own; its figures."""
    folder = Path(tempfile.mkdtemp(prefix=_NAMESPACE))
    env = {**os.environ, "OVS_RUNDIR": str(folder), "OVS_DBDIR": str(folder), "OVS_LOGDIR": str(folder)}
    inside = ["ip", "netns", "exec", _NAMESPACE]
    switches: list[subprocess.Popen[bytes]] = []
    null = subprocess.DEVNULL
    subprocess.run(["ip", "netns", "add", _NAMESPACE], check=True)
    try:
        subprocess.run([*inside, "ip", "link", "set", "lo", "up"], check=True)
        subprocess.run(["ovsdb-tool", "create", folder / "conf.db", _SCHEMA], check=True)
        for argv, ready in (
            (["ovsdb-server", folder / "conf.db", f"--remote=punix:{folder}/db.sock"], folder / "db.sock"),
            (["ovs-vswitchd", f"unix:{folder}/db.sock", "--no-chdir", "--pidfile"], folder / "ovs-vswitchd.pid"),
        ):
            switches.append(subprocess.Popen([*inside, *argv], env=env, stdout=null, stderr=null))
            until = time.monotonic() + 10
            while not ready.exists() and time.monotonic() < until:
                time.sleep(0.01)
            if argv[0] == "ovsdb-server":
                subprocess.run(["ovs-vsctl", "--no-wait", "init"], env=env, check=True)
        argv = [*inside, sys.executable, "-m", "benchmarks.peers.stock_mininet", what, *map(str, args)]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=timeout)
        if done.returncode:
            raise RuntimeError(f"stock Mininet, {what}: {done.stderr[-2000:]}")
        figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return figures
    finally:
        for process in reversed(switches):
            process.kill()
            process.wait()
        subprocess.run(["ip", "netns", "del", _NAMESPACE], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def _build(pods: int, nodes: int) -> Any:
    from mininet.log import setLogLevel
    from mininet.net import Mininet
    from mininet.node import OVSSwitch

    setLogLevel("error")
    net = Mininet(controller=None, build=False, ipBase="10.0.0.0/8")
    switches = [net.addSwitch(f"s{i}", cls=OVSSwitch, datapath="user", failMode="standalone") for i in range(nodes)]
    for i in range(pods):
        net.addLink(net.addHost(f"h{i}"), switches[i % nodes])
    for left, right in itertools.pairwise(switches):
        net.addLink(left, right)
    net.build()
    net.start()
    return net


def bringup(pods: int, nodes: int) -> dict[str, float]:
    """Seconds to build and start, and to stop."""
    start = time.perf_counter()
    net = _build(pods, nodes)
    up = time.perf_counter()
    net.stop()
    return {"up": up - start, "down": time.perf_counter() - up}


def throughput(seconds: int) -> dict[str, float]:
    """Gbit/s of one TCP connection between two hosts at one switch, with ``tx off``, without which TCP hangs."""
    net = _build(2, 1)
    client, server = net.get("h0", "h1")
    for host in (client, server):
        host.cmd(f"ethtool -K {host.defaultIntf()} tx off")
    server.cmd("iperf3 -s -1 -D")
    until = time.monotonic() + 5
    while not server.cmd("ss -Hltn sport = 5201").strip() and time.monotonic() < until:
        time.sleep(0.05)
    output = client.cmd(f"iperf3 -c {server.IP()} -t {seconds} -J")
    net.stop()
    return {"gbps": json.loads(output)["end"]["sum_received"]["bits_per_second"] / 1e9}


if __name__ == "__main__":
    measurements = {"bringup": bringup, "throughput": throughput}
    print(json.dumps(measurements[sys.argv[1]](*map(int, sys.argv[2:]))))
