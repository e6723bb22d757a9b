"""The controller is killed in the middle of policy changes: pods see what was before or what comes after.

One object swaps who may send: first one client, then the other. Both send datagrams all the time, each from a port of
its own, so that each is a new connection; the server's node decides. Whatever moment the controller dies in, one of
them gets through and the other does not, and there is one moment at which that changes.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest
from clusterlab import make_namespace, running
from faultlab import pid_of, wait_for

from kmn import Cluster
from kmn.emulator import netns
from kmn.k8s.objects import Object
from kmn.machine import Machine

pytestmark = pytest.mark.packet

FIRST_PORT, LAST_PORT = 7000, 7999  # of the server, another one for each change: an old connection would go on
CLIENTS = ("one", "other")
_PAUSE = 0.001  # between two datagrams of a client
# A change is one in the switch's flows, but each megaflow follows by itself. The controller has them purged; where it
# was killed before that, Open vSwitch goes through them when it gets to it: at least every 500 ms (max-revalidator).
# So long, in seconds, both clients may see the old state or the new one.
_MOMENT = 0.5
_LATEST = 0.025  # seconds from the change's request to the kill
_SEED = 7


class Sender:
    """Datagrams from one client to the server, numbered, each from another port."""

    def __init__(self, client: Machine, number: int, server: Machine, port: int) -> None:
        self.sent: list[float] = []
        self._client, self._number, self._server = client, number, (server.ip, port)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        netns.enter(self._client.netns)  # for good: the thread ends with it
        while not self._stopping.wait(_PAUSE):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind(("0.0.0.0", 1024 + len(self.sent)))
                self.sent.append(time.monotonic())
                sock.sendto(struct.pack("!II", self._number, len(self.sent) - 1), self._server)

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()


class Server:
    """Notes which datagrams of which client arrive."""

    def __init__(self, server: Machine, port: int) -> None:
        self.arrived: tuple[set[int], set[int]] = (set(), set())
        with netns.entered(server.netns):
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.bind(("0.0.0.0", port))
        self._socket.settimeout(0.1)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                number, index = struct.unpack("!II", self._socket.recv(64))
            except TimeoutError:
                continue
            self.arrived[number].add(index)

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._socket.close()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """The clients are on the server's node and on another one."""
    with running("polcrash", nodes=[{"count": 2}]) as cluster:
        make_namespace(cluster, "swap")
        cluster.apply(_pod("server", "n1"), _pod("one", "n1"), _pod("other", "n2"), swap(0))
        cluster.wait_ready()
        yield cluster


def _pod(name: str, node: str) -> Object:
    spec = {"nodeName": node, "containers": [{"name": "c", "image": "c"}]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "swap", "labels": {"app": name}},
        "spec": spec,
    }


def swap(which: int) -> Object:
    """One of the clients may send, and with it come and go some hundred networks: a change of some size."""
    client = {"podSelector": {"matchLabels": {"app": CLIENTS[which]}}}
    networks = [{"ipBlock": {"cidr": f"198.18.{number}.{100 * which}/32"}} for number in range(200)]
    port = {"port": FIRST_PORT, "endPort": LAST_PORT, "protocol": "UDP"}
    rules = [{"from": [client, *networks], "ports": [port]}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "swap", "namespace": "swap"},
        "spec": {"podSelector": {"matchLabels": {"app": "server"}}, "ingress": rules},
    }


class Swap:
    """One change and the controller's death, with what was sent and what arrived meanwhile."""

    def __init__(self, cluster: Cluster, now: int, delay: float, port: int) -> None:
        self.new, self.old = now, 1 - now
        server = cluster.pod("swap/server")
        receiver = Server(server, port)
        senders = [Sender(cluster.pod(f"swap/{name}"), number, server, port) for number, name in enumerate(CLIENTS)]
        try:
            wait_for(lambda: len(receiver.arrived[self.old]) > 20, "the client of before gets through")
            controller = pid_of(cluster.name, "controller")
            killer = threading.Timer(delay, os.kill, (controller, signal.SIGKILL))
            killer.start()
            cluster.client.update(swap(now))
            killer.join()
            wait_for(lambda: pid_of(cluster.name, "controller") not in (0, controller), "a new controller")
            cluster.wait_ready(30)  # bridges are connected again, and have it
            self.in_force = time.monotonic()
            count = len(senders[now].sent)
            wait_for(lambda: len(senders[now].sent) > count + 20, "more datagrams")
        finally:
            for sender in senders:
                sender.stop()
            # What was sent is there in a moment: the last one that may arrive, or nothing more.
            last = len(senders[now].sent) - 1
            wait_for(lambda: last in receiver.arrived[now], "the last datagram")
            receiver.stop()
        self.sent = [sender.sent for sender in senders]
        self.arrived = receiver.arrived

    def faults(self) -> list[str]:
        """What was seen besides one change at one moment."""
        old_sent, new_sent = self.sent[self.old], self.sent[self.new]
        old, new = self.arrived[self.old], self.arrived[self.new]
        last_old, first_new = old_sent[max(old)], new_sent[min(new)]
        faults = []
        if abs(first_new - last_old) > _MOMENT:
            what = "both clients got through" if last_old > first_new else "neither client got through"
            faults.append(f"{what} for {abs(first_new - last_old) * 1e3:.0f} ms")
        begin, end = min(last_old, first_new), max(last_old, first_new)
        lost = [index for index, sent in enumerate(old_sent) if sent < begin and index not in old]
        lost += [index for index, sent in enumerate(new_sent) if sent > end and index not in new]
        if lost:
            faults.append(f"{len(lost)} datagrams that were allowed were lost")
        late = [index for index in old if old_sent[index] > self.in_force]
        if late:
            faults.append(f"{len(late)} datagrams got through that were denied by what was in force")
        return faults


def _swaps(cluster: Cluster, count: int) -> None:
    delays = random.Random(_SEED)
    before = 0
    cluster.client.update(swap(before))
    cluster.wait_ready()
    found = {}
    for number in range(count):
        before = 1 - before
        delay = delays.uniform(0, _LATEST)
        faults = Swap(cluster, before, delay, FIRST_PORT + number).faults()
        if faults:
            found[f"change {number}, killed {delay * 1e3:.1f} ms after it was asked for"] = faults
    assert found == {}, json.dumps(found, indent=1)


def test_pods_see_one_change(cluster: Cluster) -> None:
    _swaps(cluster, 4)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_pods_see_one_change_each_time(cluster: Cluster) -> None:
    _swaps(cluster, 60)
