"""Pods that start under a default deny get not one packet that it forbids, however fast somebody sends.

Senders that no policy holds back send to the addresses that pods are about to get, all the time that pods start, run
and end. What arrives is counted by the kernel of the pod's own namespace, which is open here from before the pod has a
device until after the pod is gone: every datagram that IP or UDP there took in or refused is in its counters.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from clusterlab import eventually, make_namespace, running

from kmn import Cluster
from kmn.emulator import netns
from kmn.k8s.client import WatchEvent
from kmn.k8s.dataplane import NETNS
from kmn.k8s.objects import Object, annotation, name_of
from kmn.k8s.resources import DEPLOYMENTS, NODES, PODS

pytestmark = pytest.mark.packet

WAVE = 20  # pods at a time, all on one node
_AHEAD = 3 * WAVE  # addresses that are sent to
_RATE = 4000  # datagrams a second and sender
DENY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "deny", "namespace": "guarded"},
    "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
}


def receivers(replicas: int) -> Object:
    template = {
        "metadata": {"labels": {"app": "receiver"}},
        "spec": {"nodeName": "n1", "terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "c"}]},
    }
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": "receiver"}}, "template": template}
    metadata = {"name": "receiver", "namespace": "guarded"}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


class Counters:
    """Of one pod's namespace, which lives as long as this has it open."""

    # UDP: taken in, nobody there, or not to be had. IP: for an address that is not there (yet), or without a way.
    _WHAT = (
        ("Udp", ("InDatagrams", "NoPorts", "InErrors")),
        ("Ip", ("InHdrErrors", "InAddrErrors", "InUnknownProtos", "InDiscards", "ForwDatagrams")),
    )

    def __init__(self, name: str) -> None:
        """Raises OSError where there is no such namespace (yet)."""
        self._file = netns.open_netns(name)
        try:
            self.packets()
        except OSError:  # its file is there, and nothing is mounted on it
            self.close()
            raise

    def packets(self) -> int:
        with netns.entered(self._file):
            text = Path("/proc/thread-self/net/snmp").read_text()
        lines = [line.split() for line in text.splitlines()]
        values: dict[str, dict[str, int]] = {}
        for names, numbers in zip(lines[::2], lines[1::2], strict=True):
            values[names[0].rstrip(":")] = dict(zip(names[1:], map(int, numbers[1:]), strict=True))
        return sum(values[kind][each] for kind, wanted in self._WHAT for each in wanted)

    def close(self) -> None:
        os.close(self._file)


class Guard:
    """Watches pods of a namespace, and opens the network namespace of each as soon as it is there."""

    def __init__(self, cluster: Cluster) -> None:
        self.addresses: dict[str, str] = {}  # by pod
        self.opened: dict[str, Counters] = {}
        self.missed: set[str] = set()
        listing = cluster.client.list(PODS, "guarded")
        assert not listing.items
        self._watch = cluster.client.watch(PODS, listing.resource_version, namespace="guarded")
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        for event in self._watch:
            self._see(event)

    def _see(self, event: WatchEvent) -> None:
        name, netns_name = name_of(event.object), annotation(event.object, NETNS)
        if event.type == "DELETED":
            if name not in self.opened:
                self.missed.add(name)
        elif event.type != "BOOKMARK" and netns_name and name not in self.opened:
            self.addresses[name] = event.object["status"]["podIP"]
            # Its name is in the API before it exists.
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                with contextlib.suppress(OSError):
                    self.opened[name] = Counters(netns_name)
                    return
            self.missed.add(name)

    def close(self) -> None:
        self._watch.close()
        self._thread.join()
        for counters in self.opened.values():
            counters.close()


class Sender:
    """Sends from a pod to addresses in turn, those that are told last."""

    def __init__(self, netns_name: str) -> None:
        self.targets: list[str] = []
        self.sent: dict[str, int] = {}
        with netns.entered(netns_name):
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        began, count = time.monotonic(), 0
        while not self._stopping.wait(max(0.0, began + count / _RATE - time.monotonic())):
            for address in self.targets:
                with contextlib.suppress(BlockingIOError, ConnectionError):
                    self._socket.sendto(b"leak?", (address, 9))
                    self.sent[address] = self.sent.get(address, 0) + 1
                count += 1

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._socket.close()


def place(name: str, node: str) -> Object:
    container = {"name": "c", "image": "c"}
    spec = {"nodeName": node, "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running("leak", nodes=[{"count": 2}]) as cluster:
        make_namespace(cluster, "guarded")
        cluster.apply(place("near", "n1"), place("far", "n2"))
        cluster.wait_ready()
        yield cluster


def _next_addresses(cluster: Cluster, after: str) -> list[str]:
    """Those that pods of n1 get next: in order, and after the last one the first again."""
    hosts = list(map(str, ip_network(cluster.client.get(NODES, "", "n1")["spec"]["podCIDR"]).hosts()))[1:]
    at = hosts.index(after) + 1
    return (hosts[at:] + hosts[:at])[:_AHEAD]


def _scaled(cluster: Cluster, replicas: int) -> None:
    cluster.client.patch(DEPLOYMENTS, "guarded", "receiver", {"spec": {"replicas": replicas}})


def _starts(cluster: Cluster, waves: int) -> None:
    """Waves of pods, each of which is sent to from before it starts until after it is gone."""
    cluster.apply(DENY, receivers(0))
    cluster.wait_ready()
    guard = Guard(cluster)
    senders = [Sender(cluster.pod(name).netns) for name in ("near", "far")]
    last = cluster.pod("near").ip
    aimed: dict[str, int] = {}  # datagrams sent to a pod's address before it was ready, or rather from the wave's begin
    try:
        for wave in range(1, waves + 1):
            for sender in senders:
                sender.targets = _next_addresses(cluster, last)
                sender.sent.clear()
            _scaled(cluster, WAVE)
            eventually(lambda n=wave * WAVE: len(guard.addresses) == n, "the wave's pods have addresses", 60)
            cluster.wait_ready(120)
            started = list(guard.addresses.items())[-WAVE:]
            for name, address in started:
                aimed[name] = min(sender.sent.get(address, 0) for sender in senders)
            last = max((address for _, address in started), key=lambda each: ip_address(each))
            _scaled(cluster, 0)
            eventually(lambda: not cluster.client.list(PODS, "guarded").items, "the wave's pods are gone", 60)
        for sender in senders:
            sender.close()
        assert guard.missed == set()
        assert len(guard.opened) == waves * WAVE
        assert {name: count for name, count in aimed.items() if count < 5} == {}, "pods that hardly anybody sent to"
        found = {name: counters.packets() for name, counters in guard.opened.items()}
        assert {name: count for name, count in found.items() if count} == {}
    finally:
        for sender in senders:
            sender.close()
        guard.close()


def test_no_packet_in_sixty_starts(cluster: Cluster) -> None:
    _starts(cluster, 3)


@pytest.mark.slow
def test_no_packet_in_a_thousand_starts(cluster: Cluster) -> None:
    _starts(cluster, 50)


def test_what_is_counted_is_what_arrives(cluster: Cluster) -> None:
    """Without the policy the same senders are counted: the counters miss nothing."""
    cluster.delete(DENY, receivers(0), ignore_missing=True)
    eventually(lambda: not cluster.client.list(PODS, "guarded").items, "no pods are left")
    cluster.apply(receivers(1))
    cluster.wait_ready()
    (pod,) = cluster.client.list(PODS, "guarded").items
    counters, sender = Counters(annotation(pod, NETNS) or ""), Sender(cluster.pod("far").netns)
    try:
        sender.targets = [pod["status"]["podIP"]]
        eventually(lambda: sender.sent.get(pod["status"]["podIP"], 0) > 100, "datagrams are sent")
        sender.close()
        eventually(lambda: counters.packets() == sender.sent[pod["status"]["podIP"]], "all of them are counted")
    finally:
        sender.close()
        counters.close()
