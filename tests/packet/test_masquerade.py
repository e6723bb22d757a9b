"""Nodes that masquerade, on real packets: what hosts outside see of pods, with and without the NAT gateway behind."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from controller_lab import Lab, lab
from lab_commands import wait_for
from lab_objects import endpoint_slice
from lab_places import Place, Pod

from kmn.k8s.objects import Object

pytestmark = [pytest.mark.packet, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

NAT, EGRESS, VIP = "198.51.100.1", "198.51.100.77", "192.0.2.1"
EXEMPT = "203.0.113.11"  # e2
N1, N2 = "172.18.0.2", "172.18.0.3"
WEB, CLOSED = 8080, 9
BALANCER: Object = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"namespace": "default", "name": "web", "annotations": {"kmn.io/lb-target": "ip"}},
    "spec": {
        "type": "LoadBalancer",
        "clusterIP": "10.96.0.9",
        "ports": [{"name": "web", "protocol": "TCP", "port": 80}, {"name": "dns", "protocol": "UDP", "port": 80}],
    },
    "status": {"loadBalancer": {"ingress": [{"ip": VIP}]}},
}


def cluster_object(masquerade: Any) -> Object:
    networks = {"podCIDR": "10.244.0.0/16", "nodeCIDR": "172.18.0.0/16", "serviceCIDR": "10.96.0.0/12"}
    return {
        "apiVersion": "kmn.io/v1",
        "kind": "Cluster",
        "metadata": {"name": "t"},
        "spec": {**networks, "masquerade": masquerade},
    }


@pytest.fixture(scope="module")
def net() -> Iterator[Lab]:
    """Pods a, b (n1) and c (n2), nodes that masquerade, no NAT at the edge: hosts outside see what the edge sees."""
    with lab() as made:
        exempt = cluster_object({"nonMasqueradeCIDRs": [f"{EXEMPT}/32"]})
        made.remember_machines(edge={"natOutgoing": False, "loadBalancerCIDR": "192.0.2.0/24"}, **exempt["spec"])
        pods = [made.pod("a", made.n1, 2), made.pod("b", made.n1, 3), made.pod("c", made.n2, 2)]
        for pod in pods:
            made.remember("pods", pod.object)
        made.remember("services", BALANCER)
        targets = (("web", "TCP", WEB), ("dns", "UDP", WEB))
        made.remember("endpointslices", endpoint_slice("web", [pods[0].address, pods[2].address], *targets))
        made.controlled()
        for place in made.places.values():
            made.servers += place.serve(WEB, made.stop_servers)
        yield made


def pod(net: Lab, name: str) -> Pod:
    place = net.places[name]
    assert isinstance(place, Pod)
    return place


@pytest.mark.parametrize(("name", "seen"), [("a", N1), ("b", N1), ("c", N2), ("n1", N1), ("n2", N2)])
def test_hosts_outside_see_nodes(net: Lab, name: str, seen: str) -> None:
    place, e1 = net.places[name], net.places["e1"]
    assert place.tcp(e1.address, WEB) == ("e1", seen)
    assert place.udp(e1.address, WEB) == ("e1", seen)
    assert place.ping(e1.address)


def test_two_pods_share_the_nodes_ports(net: Lab) -> None:
    """The same port of two pods and of the node itself: three connections, each answered to who asked."""
    e1 = net.places["e1"]
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(e1.socket())
        listener.bind(("0.0.0.0", 7000))
        listener.listen()
        accepted = []
        for name in ("a", "b", "n1"):
            client = stack.enter_context(net.places[name].socket())
            client.bind(("0.0.0.0", 5555))
            client.connect((e1.address, 7000))
            server, peer = listener.accept()
            accepted.append((client, stack.enter_context(server), peer))
        assert {peer[0] for _, _, peer in accepted} == {N1}
        assert len({peer[1] for _, _, peer in accepted}) == 3
        for number, (client, server, _) in enumerate(accepted):
            client.sendall(b"up %d" % number)
            assert server.recv(16) == b"up %d" % number
            server.sendall(b"down %d" % number)
            assert client.recv(16) == b"down %d" % number


def test_inside_the_cluster_pods_are_themselves(net: Lab) -> None:
    a = net.places["a"]
    for target in ("b", "c", "n1", "n2"):
        assert a.tcp(net.places[target].address, WEB) == (target, a.address)
    assert a.ping(net.places["c"].address)
    assert {net.places["b"].tcp("10.96.0.9", 80)[1] for _ in range(8)} == {net.places["b"].address}


def test_exempt_destinations_see_pods(net: Lab) -> None:
    a = net.places["a"]
    assert a.tcp(EXEMPT, WEB) == ("e2", a.address)
    assert a.udp(EXEMPT, WEB) == ("e2", a.address)


def test_answers_to_clients_of_a_load_balancer_are_its_own(net: Lab) -> None:
    e1 = net.places["e1"]
    for ask in (e1.tcp, e1.udp):
        answers = {ask(VIP, 80) for _ in range(20)}
        assert answers == {("a", e1.address), ("c", e1.address)}


def refused(sender: socket.socket, send: Callable[[], object]) -> bool:
    """Does the sender learn that nobody is there?"""
    send()
    try:
        sender.recv(16)
    except ConnectionRefusedError:
        return True
    return False


def test_icmp_errors_find_their_pod(net: Lab) -> None:
    """From outside to the pod: port unreachable. From the pod to the outside: the same for an answer that is late."""
    a, e1 = net.places["a"], net.places["e1"]
    with a.socket(socket.SOCK_DGRAM) as client:
        client.connect((e1.address, CLOSED))
        assert refused(client, lambda: client.send(b"?"))
    with e1.socket(socket.SOCK_DGRAM) as server:
        server.bind(("0.0.0.0", 7001))
        with a.socket(socket.SOCK_DGRAM) as client:
            client.sendto(b"?", (e1.address, 7001))
            _, peer = server.recvfrom(16)
        assert peer[0] == N1
        server.connect(peer)
        assert refused(server, lambda: server.send(b"late"))


def test_nothing_comes_in_unasked(net: Lab) -> None:
    assert not _reaches(net.places["e1"], net.places["a"].address, WEB)
    assert not _reaches(net.places["e1"], N1, WEB)


def _reaches(place: Place, address: str, port: int) -> bool:
    with place.socket() as client:
        client.settimeout(0.5)
        try:
            client.connect((address, port))
        except OSError:
            return False
    return True


def test_with_the_gateway_and_with_an_egress_address(net: Lab) -> None:
    """Two translations one after the other; an egress address wins over the first, of a pod and of a namespace."""
    a, b, e1 = pod(net, "a"), pod(net, "b"), net.places["e1"]
    edge = {**net.edge_object, "spec": {**net.edge_object["spec"], "natOutgoing": True}}
    net.apply("edges", edge)
    assert a.tcp(e1.address, WEB) == ("e1", NAT)
    assert a.udp(EXEMPT, WEB) == ("e2", NAT)
    marked = a.object
    marked["metadata"]["annotations"]["kmn.io/egress-address"] = EGRESS
    net.apply("pods", marked)
    assert a.tcp(e1.address, WEB) == ("e1", EGRESS)
    assert a.udp(e1.address, WEB) == ("e1", EGRESS)
    assert a.ping(e1.address)
    assert b.tcp(e1.address, WEB) == ("e1", NAT)
    net.apply("edges", net.edge_object)
    assert a.tcp(e1.address, WEB) == ("e1", EGRESS), "without the gateway, too"
    assert b.tcp(e1.address, WEB) == ("e1", N1)
    net.apply("pods", a.object)
    assert a.tcp(e1.address, WEB) == ("e1", N1)


def test_exhaustion_at_the_node(net: Lab) -> None:
    """Two ports are two connections of all pods of the node to one destination: the third is dropped, and told of."""
    net.apply("clusters", cluster_object({"ports": "2000-2001"}))
    a, b, c, e1 = (net.places[name] for name in ("a", "b", "c", "e1"))
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(e1.socket())
        listener.bind(("0.0.0.0", 9000))
        listener.listen(16)
        pairs = []
        for place in (a, b):
            client = stack.enter_context(place.socket())
            client.connect((e1.address, 9000))
            server, peer = listener.accept()
            pairs.append((client, stack.enter_context(server)))
            assert peer[0] == N1
            assert peer[1] in (2000, 2001)
        assert not _reaches(a, e1.address, 9000)
        assert _reaches(c, e1.address, 9000), "another node has ports of its own"
        for client, server in pairs:
            client.sendall(b"still")
            assert server.recv(10) == b"still"

    def told() -> list[tuple[str, str, str]]:
        assert net.controller
        return [(problem.kind, problem.name, problem.reason) for problem in net.controller.reports[-1].drops]

    assert wait_for(told, "the problem is not named") == [("Node", "n1", "NATPortsExhausted")]
    (flow,) = (f for f in net.bridges["n1"].ofctl("dump-flows", "table=88") if f.endswith("actions=drop"))
    assert "n_packets=0," not in flow


def test_switched_off_pods_are_seen(net: Lab) -> None:
    net.apply("clusters", cluster_object(False))
    for name in ("a", "c"):
        place = net.places[name]
        assert place.tcp(net.places["e1"].address, WEB) == ("e1", place.address)
