"""How fast an endpoint that is not ready any more is out of the data plane.

A client opens connections to a Service, one after the other. One pod's condition Ready is set to False through the API;
the figure is the time from the API's answer until the last connection reached that pod. Everything between counts:
EndpointSlice, controller, bundle, and the megaflows that Open vSwitch has yet to follow up. Connections are seen where
they arrive, with the kernel's time stamps.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import workload
from benchmarks.report import Row, show
from benchmarks.rounds import percentile
from kmn import Cluster
from kmn.dns.sockets import in_netns
from kmn.k8s.dataplane import NETNS
from kmn.k8s.errors import Conflict
from kmn.k8s.objects import Object, annotations, draft, set_condition
from kmn.k8s.resources import PODS, SERVICES

__all__ = ["main"]

_CHANGES = 60
_PORT = 80
_GATE = "benchmarks.kmn.io/ready"  # readiness gate of the endpoints
_PAUSE = 0.001  # seconds between two connections: port numbers must last
_QUIET = 0.15  # seconds without a connection after which an endpoint is taken to be out
_SO_TIMESTAMPNS = 35
_ETH_P_IP = 0x0800
_TO_US = 0  # PACKET_HOST
_SYN, _ACK = 0x02, 0x10


def main(*, quick: bool = False, json_file: Path | None = None) -> None:
    changes = 6 if quick else _CHANGES
    with Cluster(workload.cluster("bench", 2)) as cluster:
        cluster.apply(_pod("client", "n1", "client"), _pod("web-1", "n1", "web"), _pod("web-2", "n2", "web"))
        cluster.apply(workload.service("web", "web", _PORT))
        for name in ("web-1", "web-2"):
            _set_ready(cluster, name, True)
        cluster.wait_ready()
        pods = {name: cluster.client.get(PODS, "default", name) for name in ("client", "web-1", "web-2")}
        address = cluster.client.get(SERVICES, "default", "web")["spec"]["clusterIP"]
        samples = []
        with contextlib.ExitStack() as stack:
            arrivals = {
                name: stack.enter_context(_arrivals(annotations(pods[name])[NETNS])) for name in ("web-1", "web-2")
            }
            stack.enter_context(_client(annotations(pods["client"])[NETNS], address))
            for change in range(changes):
                name = f"web-{1 + change % 2}"
                arrivals[name].wait_for_one()
                _set_ready(cluster, name, False)
                answered = time.time()
                samples.append(max(0.0, arrivals[name].wait_for_silence() - answered))
                _set_ready(cluster, name, True)
            connections = sum(each.count for each in arrivals.values())
    rows = [
        Row(
            f"{changes} endpoints unready: last connection after the API's answer, p50",
            percentile(samples, 50) * 1e3,
            "ms",
        ),
        Row("the same, p99", percentile(samples, 99) * 1e3, "ms", wanted="< 50"),
        Row("the same, most", max(samples) * 1e3, "ms"),
        Row("connections while this was measured", connections, ""),
    ]
    show("An endpoint that becomes unready, out of the data plane", rows, json_file=json_file)


def _set_ready(cluster: Cluster, name: str, ready: bool) -> None:
    """Change the pod's readiness gate. That it is unready follows, and is written at once; ready, its kubelet says."""
    while True:
        pod = draft(cluster.client.get(PODS, "default", name))
        for condition in (_GATE,) if ready else (_GATE, "Ready"):
            set_condition(pod, condition, ready)
        with contextlib.suppress(Conflict):  # the kubelet was first
            cluster.client.update(pod, subresource="status")
            return


class _Arrivals:
    """When connections arrive in a namespace. A thread of its own reads them."""

    def __init__(self, netns: str) -> None:
        self.count = 0
        self._last = 0.0  # seconds, of the wall clock
        self._news = threading.Condition()
        self._socket = in_netns(
            netns, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_IP))
        )
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._socket.settimeout(0.2)
        self._ending = False
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def close(self) -> None:
        self._ending = True
        self._thread.join()
        self._socket.close()

    def _read(self) -> None:
        while not self._ending:
            with contextlib.suppress(TimeoutError):
                packet, extra, _, where = self._socket.recvmsg(64, 64)
                if where[2] == _TO_US and _begins(packet):
                    seconds, nanoseconds = struct.unpack("@qq", extra[0][2])
                    with self._news:
                        self.count += 1
                        self._last = seconds + nanoseconds / 1e9
                        self._news.notify_all()

    def wait_for_one(self) -> None:
        """The next connection that arrives."""
        with self._news:
            count = self.count
            if not self._news.wait_for(lambda: self.count > count, 10):
                raise RuntimeError("no connection reaches an endpoint that is ready")

    def wait_for_silence(self) -> float:
        """When the last connection arrived after which there is none for a while."""
        with self._news:
            end = time.monotonic() + 10
            while self._news.wait(_QUIET):
                if time.monotonic() > end:
                    raise RuntimeError("connections go on to reach an endpoint that is not ready")
            return self._last


def _begins(packet: bytes) -> bool:
    """Whether an IPv4 packet is the first of a TCP connection to the Service's endpoints."""
    head = (packet[0] & 15) * 4
    if packet[9] != socket.IPPROTO_TCP or len(packet) < head + 14:
        return False
    return packet[head + 2 : head + 4] == _PORT.to_bytes(2, "big") and packet[head + 13] & (_SYN | _ACK) == _SYN


@contextlib.contextmanager
def _arrivals(netns: str) -> Iterator[_Arrivals]:
    arrivals = _Arrivals(netns)
    try:
        yield arrivals
    finally:
        arrivals.close()


_CONNECT = """
import socket, sys, time
while True:
    with socket.socket() as s:
        s.settimeout(1)
        s.connect((sys.argv[1], int(sys.argv[2])))
    time.sleep(float(sys.argv[3]))
"""


@contextlib.contextmanager
def _client(netns: str, address: str) -> Iterator[None]:
    """A process in a namespace that opens one connection after the other."""
    argv = ["ip", "netns", "exec", netns, sys.executable, "-c", _CONNECT, address, str(_PORT), str(_PAUSE)]
    client = subprocess.Popen(argv)
    try:
        yield
        if client.poll() is not None:
            raise RuntimeError("the client has ended: a connection failed")
    finally:
        client.kill()
        client.wait()


def _pod(name: str, node: str, app: str) -> Object:
    container = {"name": "web", "image": "web", "ports": [{"containerPort": _PORT}]}
    gates = [{"conditionType": _GATE}] if app == "web" else []
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": app}},
        "spec": {"nodeName": node, "containers": [container], "readinessGates": gates},
    }
