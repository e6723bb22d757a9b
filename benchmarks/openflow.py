"""How fast one Open vSwitch takes what the controller sends: a real switch, one atomic bundle, nothing between."""

from __future__ import annotations

import socket
import struct
import time

from benchmarks.peers.bare import BareNetwork
from controller.cluster import Cluster as Desired
from controller.desired import Changes
from controller.openflow import wire
from kmn.k8s.client import Client
from kmn.k8s.resources import ENDPOINTSLICES, SERVICES

__all__ = ["messages_of", "modifications_per_second"]

_HELLO, _ERROR, _BUNDLE_CONTROL = 0, 1, 33
_COMMIT_XID = 2


def messages_of(client: Client) -> list[bytes]:
    """Flows and groups of the Services that the API lists."""
    desired = Desired()
    for resource in (SERVICES, ENDPOINTSLICES):
        for obj in client.list(resource).items:
            desired.apply(resource.plural, "ADDED", obj)
    desired.compute()
    desired.common.take()
    return Changes.merge([desired.common.everything()])


def modifications_per_second(messages: list[bytes]) -> float:
    """How many a second a bare switch takes; nothing else should be running."""
    bundle = wire.in_bundle(messages, _COMMIT_XID)
    network = BareNetwork(pods=0, nodes=1, prefix="kmnofp")
    network.up()
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(network.management(0)))
            connection.sendall(struct.pack("!BBHI", wire.VERSION, _HELLO, 8, 0))
            start = time.perf_counter()
            connection.sendall(bundle)
            _await_commit(connection)
            return len(messages) / (time.perf_counter() - start)
    finally:
        network.down()


def _await_commit(connection: socket.socket) -> None:
    stream = connection.makefile("rb")
    while True:
        _, kind, length, xid = struct.unpack("!BBHI", stream.read(8))
        body = stream.read(length - 8)
        if kind == _ERROR:
            raise RuntimeError(f"the switch refused the bundle: error type and code {struct.unpack_from('!HH', body)}")
        if kind == _BUNDLE_CONTROL and xid == _COMMIT_XID:
            return
