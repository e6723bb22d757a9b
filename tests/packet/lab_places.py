"""Where traffic begins and ends: nodes, pods and hosts. Their sockets are made in their namespaces and used from here.

Nodes and pods know what the API would say of them; objects of no place are in ``lab_objects``.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from dataclasses import dataclass

from lab_commands import in_namespace
from lab_switch import Bridge

from kmn.k8s import dataplane
from kmn.k8s.objects import Object

__all__ = ["Node", "Place", "Pod"]


@dataclass
class Place:
    """Something with an address: a pod, a node, a host outside."""

    name: str
    netns: str
    address: str

    def socket(self, kind: int = socket.SOCK_STREAM) -> socket.socket:
        def make() -> socket.socket:
            made = socket.socket(socket.AF_INET, kind)
            made.settimeout(5)
            return made

        return in_namespace(self.netns, make)

    def ping(self, address: str) -> bool:
        done = subprocess.run(
            ["ip", "netns", "exec", self.netns, "ping", "-c1", "-W2", address], capture_output=True, timeout=10
        )
        return done.returncode == 0

    def serve(self, port: int, stop: threading.Event) -> list[threading.Thread]:
        """Answer on TCP and UDP with ``name client-address``, until ``stop``."""
        tcp, udp = self.socket(), self.socket(socket.SOCK_DGRAM)
        for listener in (tcp, udp):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.settimeout(0.2)
            listener.bind(("0.0.0.0", port))
        tcp.listen(256)

        def loop_tcp() -> None:
            while not stop.is_set():
                with contextlib.suppress(TimeoutError, ConnectionError):
                    connection, (client, _) = tcp.accept()
                    with connection:
                        connection.sendall(f"{self.name} {client}\n".encode())
            tcp.close()

        def loop_udp() -> None:
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    _, client = udp.recvfrom(2048)
                    udp.sendto(f"{self.name} {client[0]}\n".encode(), client)
            udp.close()

        threads = [threading.Thread(target=loop) for loop in (loop_tcp, loop_udp)]
        for thread in threads:
            thread.start()
        return threads

    def tcp(self, address: str, port: int, source: int = 0) -> tuple[str, str]:
        """Who answered, and which client address it saw."""
        with self.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            connection.bind(("0.0.0.0", source))
            connection.connect((address, port))
            answer = connection.makefile().read()  # to the end: the server closes first
        name, client = answer.split()
        return name, client

    def udp(self, address: str, port: int, source: int = 0) -> tuple[str, str]:
        with self.socket(socket.SOCK_DGRAM) as connection:
            connection.bind(("0.0.0.0", source))
            connection.connect((address, port))
            connection.send(b"?")
            name, client = connection.recv(2048).decode().split()
        return name, client


@dataclass
class Node(Place):
    """A node, and what its objects say."""

    bridge: Bridge = None  # type: ignore[assignment]
    number: int = 0
    mac: str = ""
    uplink_mac: str = ""
    next_hop_mac: str = ""

    @property
    def object(self) -> Object:
        notes = {
            dataplane.NETNS: self.netns,
            dataplane.MAC: self.mac,
            dataplane.OFPORT: str(dataplane.HOST_OFPORT),
            dataplane.DATAPATH_ID: f"{self.bridge.datapath_id:016x}",
            dataplane.UPLINK_MAC: self.uplink_mac,
            dataplane.UPLINK_NEXT_HOP_MAC: self.next_hop_mac,
        }
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name, "annotations": notes},
            "spec": {"podCIDR": f"10.244.{self.number}.0/24"},
            "status": {"addresses": [{"type": "InternalIP", "address": self.address}]},
        }


@dataclass
class Pod(Place):
    node: str = ""
    ofport: int = 0

    @property
    def object(self) -> Object:
        notes = {
            dataplane.NETNS: self.netns,
            dataplane.MAC: dataplane.mac_of(self.address),
            dataplane.OFPORT: str(self.ofport),
        }
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"namespace": "default", "name": self.name, "annotations": notes},
            "spec": {"nodeName": self.node},
            "status": {"phase": "Running", "podIP": self.address},
        }
