"""A pod gets the address that another one had, while somebody still talks to that one."""

from __future__ import annotations

import copy
import os
import socket
from collections.abc import Iterator

import pytest
from controller_lab import Lab, lab

from kmn.k8s.objects import Object

pytestmark = [pytest.mark.packet, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

PORT, SOURCE = 5353, 40000
GUARD = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "guard", "namespace": "default"},
    "spec": {"podSelector": {"matchLabels": {"app": "guarded"}}, "policyTypes": ["Ingress"]},
}
SPACE: Object = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default", "labels": {}}}


@pytest.fixture
def net() -> Iterator[Lab]:
    """Pods a (n1) and b (n2)."""
    with lab() as made:
        made.remember_machines()
        for pod in (made.pod("a", made.n1, 2), made.pod("b", made.n2, 2)):
            pod.object["metadata"].setdefault("labels", {})
            made.remember("pods", pod.object)
        made.remember("namespaces", SPACE)
        made.remember("networkpolicies", GUARD)
        made.controlled()
        yield made


def test_a_guarded_pod_gets_nothing_of_its_predecessors_connections(net: Lab) -> None:
    a, b = net.places["a"], net.places["b"]
    controller = net.controller
    assert controller is not None
    with a.socket(socket.SOCK_DGRAM) as server, b.socket(socket.SOCK_DGRAM) as client:
        server.bind(("0.0.0.0", PORT))
        server.settimeout(5)
        client.bind(("0.0.0.0", SOURCE))
        client.sendto(b"to a", (str(a.address), PORT))
        assert server.recv(100) == b"to a"
        successor = copy.deepcopy(a.object)
        successor["metadata"] |= {"name": "heir", "labels": {"app": "guarded"}}
        net.delete("pods", "a", controller)
        net.apply("pods", successor)
        server.settimeout(1)
        client.sendto(b"to a still", (str(a.address), PORT))
        with pytest.raises(TimeoutError):
            server.recv(100)
        net.wait("networkpolicies", net.delete("networkpolicies", "guard", controller))
        client.sendto(b"to the heir", (str(a.address), PORT))
        server.settimeout(5)
        assert server.recv(100) == b"to the heir"
