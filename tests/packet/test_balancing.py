"""Schedulers of IPVS on real packets: who gets which connection, and how evenly."""

from __future__ import annotations

import itertools
import os
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from typing import Any

import pytest
from controller_lab import Lab, lab
from lab_commands import in_namespace, wait_for
from lab_objects import service, with_spec

from kmn.k8s.objects import Object

pytestmark = [pytest.mark.packet, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

VIP, EXTERNAL, X = "10.96.1.1", "192.0.2.200", "192.0.2.10"
NODE_PORT, UDP_PORT = 30080, 30053
WEIGHTS = {"w1": 3, "w2": 1, "w3": 2}
ALL = list(WEIGHTS)


@pytest.fixture(scope="module")
def net() -> Iterator[Lab]:
    """Pods c1 and d1 (clients) and w1 on n1, w2, w3 and c2 (client) on n2; x behind the fabric."""
    with lab() as made:
        made.remember_machines(**cluster("rr")["spec"])
        for name, node, number in (
            ("c1", made.n1, 2), ("d1", made.n1, 4), ("w1", made.n1, 3), ("w2", made.n2, 2), ("w3", made.n2, 3),
            ("c2", made.n2, 4),
        ):  # fmt: skip
            pod = made.pod(name, node, number).object
            if name in WEIGHTS:
                pod["metadata"]["annotations"]["kmn.io/weight"] = str(WEIGHTS[name])
            made.remember("pods", pod)
        made.outsider("x", X)
        made.route(EXTERNAL, made.n1)
        made.controlled()
        for place in made.places.values():
            made.servers += place.serve(8080, made.stop_servers)
        yield made


def cluster(scheduler: str) -> Object:
    proxy = {"mode": "ipvs", "ipvs": {"scheduler": scheduler}} if scheduler else {"mode": "nftables"}
    return {
        "apiVersion": "kmn.io/v1",
        "kind": "Cluster",
        "metadata": {"name": "t"},
        "spec": {"serviceCIDR": "10.96.0.0/12", "kubeProxy": proxy},
    }


Serve = Callable[..., None]


@pytest.fixture
def serve(net: Lab) -> Iterator[Serve]:
    """A Service ``s`` of type NodePort, with a scheduler, before these endpoints; gone after the test."""

    def apply(scheduler: str, endpoints: list[str], **spec: Any) -> None:
        net.apply("clusters", cluster(scheduler))
        made = with_spec(service("s", VIP, ("t", "TCP", 80), ("u", "UDP", 53)), type="NodePort", **spec)
        made["spec"]["ports"][0]["nodePort"] = NODE_PORT
        made["spec"]["ports"][1]["nodePort"] = UDP_PORT
        net.apply("services", made)
        net.apply("endpointslices", slice_of(net, endpoints))
        for bridge in net.bridges.values():
            bridge.appctl("revalidator/wait")

    yield apply
    assert net.controller
    for resource, name in (("services", "s"), ("endpointslices", "s-1")):
        net.wait(resource, net.delete(resource, name, net.controller))


def slice_of(net: Lab, names: list[str]) -> Object:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"namespace": "default", "name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": [net.places[name].address],
                "conditions": {"ready": True},
                "targetRef": {"kind": "Pod", "namespace": "default", "name": name},
            }
            for name in names
        ],
        "ports": [{"name": "t", "protocol": "TCP", "port": 8080}, {"name": "u", "protocol": "UDP", "port": 8080}],
    }


_ports = itertools.count(20_000)


def sequence(net: Lab, client: str, times: int, *, udp: bool = False, address: str = VIP, port: int = 0) -> list[str]:
    """Who answered each of so many connections, made one after the other from ports that nothing else uses."""
    place = net.places[client]
    ask = place.udp if udp else place.tcp
    port = port or (53 if udp else 80)
    return [ask(address, port, source)[0] for source in itertools.islice(_ports, times)]


@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
def test_round_robin(net: Lab, serve: Serve, udp: bool) -> None:
    """One after the other, whoever asks; each node by itself; nobody is left out or comes twice."""
    serve("rr", ALL)
    seen = sequence(net, "c1", 30, udp=udp)
    assert seen == ALL * 10
    # The clients of a node share its turns.
    mixed = [sequence(net, client, 1, udp=udp)[0] for client in ("c1", "d1", "n1") * 5]
    assert mixed == ALL * 5
    assert sequence(net, "c2", 7, udp=udp) == (ALL * 3)[:7]
    node_port = UDP_PORT if udp else NODE_PORT
    assert sequence(net, "x", 6, udp=udp, address=net.n1.address, port=node_port) == ALL * 2


def test_round_robin_goes_on_when_endpoints_change(net: Lab, serve: Serve) -> None:
    serve("rr", ALL)
    assert sequence(net, "c1", 5) == [*ALL, "w1", "w2"]
    serve("rr", ["w1", "w2"])  # the third turn is there no more
    assert sequence(net, "c1", 4) == ["w1", "w2"] * 2
    serve("rr", ["w3"])
    assert sequence(net, "c1", 3) == ["w3"] * 3
    serve("rr", ALL)
    assert Counter(sequence(net, "c1", 30)) == dict.fromkeys(ALL, 10)
    serve("rr", [])
    with pytest.raises(ConnectionRefusedError):
        net.places["c1"].tcp(VIP, 80)


def test_turns_survive_a_restart_and_go_with_the_service(net: Lab, serve: Serve) -> None:
    serve("rr", ALL)
    assert sequence(net, "c1", 4) == [*ALL, "w1"]
    assert net.controller
    net.controller.stop()
    net.controlled()
    assert net.controller.synchronizer.counters.messages == 0
    assert sequence(net, "c1", 2) == ["w2", "w3"]
    serve("", ALL)
    wait_for(lambda: not [flow for flow in net.n1.bridge.flows() if " table=26," in flow], "turns are still there")
    assert set(sequence(net, "c1", 40)) == set(ALL)


def test_weighted_round_robin(net: Lab, serve: Serve) -> None:
    """IPVS' own order, by weights 3, 1 and 2."""
    serve("wrr", ALL)
    turns = ["w1", "w1", "w3", "w1", "w2", "w3"]
    assert sequence(net, "c1", 18) == turns * 3
    assert Counter(sequence(net, "c1", 600, udp=True)) == {"w1": 300, "w2": 100, "w3": 200}
    lighter = net.places["w1"].object  # type: ignore[attr-defined]
    net.apply("pods", lighter)
    assert Counter(sequence(net, "c1", 40)) == {"w1": 10, "w2": 10, "w3": 20}
    lighter["metadata"]["annotations"]["kmn.io/weight"] = str(WEIGHTS["w1"])
    net.apply("pods", lighter)


def test_fragments_take_their_turn(net: Lab, serve: Serve) -> None:
    serve("rr", ["w2"])
    with net.places["w2"].socket(socket.SOCK_DGRAM) as echo, net.places["c1"].socket(socket.SOCK_DGRAM) as out:
        echo.bind(("0.0.0.0", 9091))
        piece = slice_of(net, ["w2"])
        piece["ports"][1]["port"] = 9091
        net.apply("endpointslices", piece)
        data = os.urandom(4000)
        out.connect((VIP, 53))
        out.send(data)
        got, source = echo.recvfrom(9000)
        assert got == data
        echo.sendto(got, source)
        assert out.recv(9000) == data


@pytest.mark.parametrize("scheduler", ["rr", "wrr"])
def test_turns_are_of_clients_with_session_affinity(net: Lab, serve: Serve, scheduler: str) -> None:
    serve(scheduler, ALL, sessionAffinity="ClientIP")
    first, second = (sequence(net, client, 10) for client in ("c1", "d1"))
    assert first == ["w1"] * 10
    assert second == (["w2"] if scheduler == "rr" else ["w1"]) * 10
    assert sequence(net, "c1", 3) == ["w1"] * 3
    assert sequence(net, "n1", 5) == ["w3"] * 5


def test_source_hash(net: Lab, serve: Serve) -> None:
    """A client's endpoint is that of its address, on every node and without a time."""
    serve("sh", ALL)
    for client in ("c1", "d1", "n1", "c2"):
        assert len({*sequence(net, client, 10), *sequence(net, client, 10, udp=True)}) == 1
    [before] = set(sequence(net, "c1", 3))
    serve("sh", [before])
    serve("sh", ALL)
    assert sequence(net, "c1", 3) == [before] * 3


def datagrams(net: Lab, sources: Iterator[tuple[IPv4Address, int]], address: str, port: int) -> Counter[str]:
    """Send a UDP datagram from each source, by hand, from the host x; how many came to each endpoint."""
    serving = {name: net.places[name].socket(socket.SOCK_DGRAM) for name in ALL}
    for endpoint in serving.values():
        endpoint.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        endpoint.bind(("0.0.0.0", 9092))
        endpoint.setblocking(False)
    raw: socket.socket = in_namespace(
        net.places["x"].netns, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    )
    destination = IPv4Address(address).packed
    counted: Counter[str] = Counter()

    def count() -> int:
        for name, endpoint in serving.items():
            try:
                while endpoint.recv(100):
                    counted[name] += 1
            except BlockingIOError:
                pass
        return counted.total()

    with raw:
        sent = 0
        for source, source_port in sources:
            head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 29, 0, 0, 64, 17, 0, source.packed, destination)
            raw.sendto(head + struct.pack("!HHHH", source_port, port, 9, 0) + b"?", (address, 0))
            sent += 1
            # No faster than they are counted: nothing is lost on the way.
            wait_for(lambda sent=sent: sent - count() < 50, "datagrams are lost")
        wait_for(lambda: count() == sent, "datagrams are lost")
    for endpoint in serving.values():
        endpoint.close()
    return counted


def chi_square(counts: Counter[str], weights: dict[str, int]) -> float:
    total = counts.total() / sum(weights.values())
    return sum((counts[name] - weight * total) ** 2 / (weight * total) for name, weight in weights.items())


@pytest.mark.parametrize("scheduler", ["", "sh", "rr", "wrr"])
def test_ten_thousand_connections(net: Lab, serve: Serve, scheduler: str) -> None:
    """Spread as the scheduler says: with ``sh`` by 10,000 clients, else by 10,000 ports of 10 clients."""
    serve(scheduler, ALL, externalIPs=[EXTERNAL])
    piece = slice_of(net, ALL)
    piece["ports"][1]["port"] = 9092
    net.apply("endpointslices", piece)
    # Clients of their own: bridges remember connections, and where they went.
    first = IPv4Address({"": "198.18.0.0", "sh": "198.18.100.0", "rr": "198.18.200.0", "wrr": "198.19.0.0"}[scheduler])
    clients = 10_000 if scheduler == "sh" else 10
    sources = ((first + n % clients, 1024 + n // clients) for n in range(10_000))
    counts = datagrams(net, sources, EXTERNAL, 53)
    value = chi_square(counts, WEIGHTS if scheduler == "wrr" else dict.fromkeys(ALL, 1))
    print(f"{scheduler or 'random'}: {dict(counts)}, chi-square {value:.2f}")
    # Turns are exact; for the others p = 0.001 with two degrees of freedom.
    assert value < (0.01 if scheduler in ("rr", "wrr") else 13.8), counts


def test_flows_are_printed_as_the_switch_prints_them(net: Lab, serve: Serve) -> None:
    for scheduler in ("rr", "wrr", "sh"):
        for affinity in ("None", "ClientIP"):
            serve(scheduler, ALL, sessionAffinity=affinity)
            assert net.controller
            for name, bridge in net.bridges.items():
                scopes = net.controller.synchronizer.cluster.scopes(name)
                flows = [flow for flow in bridge.flows() if " table=24," not in flow and " table=26," not in flow]
                assert flows == sorted(str(flow) for scope in scopes for flow in scope.flows.values())
                groups = [line for line in bridge.ofctl("dump-groups") if line.strip()]
                assert sorted(groups) == sorted(str(group) for scope in scopes for group in scope.groups.values())
