"""Types and policies of Services on real packets: two nodes, an outside host, sources as each party sees them."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from typing import Any

import pytest
from controller_lab import Lab, lab
from lab_commands import in_namespace, run, wait_for
from lab_objects import service, with_spec
from lab_places import Place

from kmn.k8s.objects import Object

pytestmark = [pytest.mark.packet, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

VIP, BALANCER, EXTERNAL = "10.96.1.1", "192.0.2.100", "192.0.2.200"
NODE_PORT, UDP_PORT, HOST_PORT = 30080, 30053, 8888
X = "192.0.2.10"


@pytest.fixture(scope="module")
def net() -> Iterator[Lab]:
    with made_net() as made:
        yield made


@contextlib.contextmanager
def made_net() -> Iterator[Lab]:
    """Pods c1 (client) and w1 on n1, w2, w3 and c2 (client) on n2; x and y behind the fabric."""
    with lab() as made:
        made.remember_machines(serviceCIDR="10.96.0.0/12")
        for name, node, number in (
            ("c1", made.n1, 2), ("w1", made.n1, 3), ("w2", made.n2, 2), ("w3", made.n2, 3), ("c2", made.n2, 4),
        ):  # fmt: skip
            pod = made.pod(name, node, number).object
            if name == "w1":
                ports = [{"containerPort": 8080, "hostPort": HOST_PORT, "protocol": p} for p in ("TCP", "UDP")]
                pod["spec"]["containers"] = [{"name": "c", "ports": ports}]
            made.remember("pods", pod)
        made.outsider("x", X)
        made.outsider("y", "192.0.2.11")
        for address in (BALANCER, EXTERNAL):
            made.route(address, made.n1)
        made.controlled()
        for place in made.places.values():
            made.servers += place.serve(8080, made.stop_servers)
        yield made


@pytest.fixture
def serve(net: Lab) -> Iterator[Any]:
    with served(net) as apply:
        yield apply


@contextlib.contextmanager
def served(net: Lab) -> Iterator[Any]:
    """A Service ``s`` with these fields of its spec, before these endpoints; gone after the test."""

    def apply(endpoints: list[str], conditions: dict[str, dict[str, bool]] | None = None, **spec: Any) -> None:
        ingress = [{"ip": BALANCER}] if spec.get("type") == "LoadBalancer" else []
        made = with_spec(service("s", VIP, ("t", "TCP", 80), ("u", "UDP", 53)), **spec)
        if spec.get("type", "ClusterIP") != "ClusterIP":
            made["spec"]["ports"][0]["nodePort"] = NODE_PORT
            made["spec"]["ports"][1]["nodePort"] = UDP_PORT
        made["status"] = {"loadBalancer": {"ingress": ingress}}
        net.apply("services", made)
        net.apply("endpointslices", slice_of(net, endpoints, conditions or {}))

    yield apply
    controller = net.controller
    assert controller
    for resource, name in (("services", "s"), ("endpointslices", "s-1")):
        net.wait(resource, net.delete(resource, name, controller))


def settle(net: Lab) -> None:
    """A switch's megaflows follow flows that end by themselves within milliseconds: wait for that."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda bridge: bridge.appctl("revalidator/wait"), net.bridges.values()))


def slice_of(net: Lab, names: list[str], conditions: dict[str, dict[str, bool]]) -> Object:
    places = [net.places[name] for name in names]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"namespace": "default", "name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": [place.address],
                "conditions": conditions.get(place.name, {"ready": True}),
                "nodeName": getattr(place, "node", place.name),
            }
            for place in places
        ],
        "ports": [{"name": "t", "protocol": "TCP", "port": 8080}, {"name": "u", "protocol": "UDP", "port": 8080}],
    }


ALL = ["w1", "w2", "w3"]
LEAVING = {"ready": False, "serving": True, "terminating": True}


def answers(net: Lab, client: str, address: str, port: int, times: int = 30, *, udp: bool = False) -> dict[str, str]:
    """Who answered, and which client each of them saw."""
    place = net.places[client]
    ask = place.udp if udp else place.tcp
    seen = [ask(address, port) for _ in range(times)]
    sources: dict[str, set[str]] = {}
    for name, source in seen:
        sources.setdefault(name, set()).add(source)
    return {name: ",".join(sorted(found)) for name, found in sources.items()}


_ports = itertools.count(20_000)


def ports_of_their_own(count: int) -> Iterator[int]:
    """Source ports that no other test uses, and the kernel does not choose."""
    return itertools.islice(_ports, count)


def sockets(place: Place, port: int) -> str:
    """TCP sockets of a place with this source port."""
    return run("ip", "netns", "exec", place.netns, "ss", "-Htan", f"sport = :{port}")


def silent(net: Lab, client: str, address: str, port: int) -> bool:
    """Nobody answers, nor refuses."""
    with net.places[client].socket() as connection:
        connection.settimeout(0.7)
        try:
            connection.connect((address, port))
        except TimeoutError:
            return True
    return False


@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
@pytest.mark.parametrize("client", ["c1", "n1", "x", "w1", "n2", "c2"])
@pytest.mark.parametrize("node", ["n1", "n2"])
def test_node_port(net: Lab, serve: Any, node: str, client: str, udp: bool) -> None:
    """On every node's address, for everybody; the endpoint sees the node that was asked."""
    serve(ALL, type="NodePort")
    place = net.places[node]
    seen = answers(net, client, place.address, UDP_PORT if udp else NODE_PORT, 40, udp=udp)
    assert seen == dict.fromkeys(ALL, place.address)


@pytest.mark.parametrize("client", ["c1", "n1", "x"])
@pytest.mark.parametrize("address", [BALANCER, EXTERNAL])
def test_addresses_from_outside(net: Lab, serve: Any, address: str, client: str) -> None:
    serve(ALL, type="LoadBalancer", externalIPs=[EXTERNAL])
    assert answers(net, client, address, 80, 40) == dict.fromkeys(ALL, net.n1.address)


def test_endpoint_that_is_the_node_itself(net: Lab, serve: Any) -> None:
    """A pod with hostNetwork: its kernel sees the client on the node, the node from elsewhere."""
    serve(["n1"], type="NodePort")
    assert answers(net, "x", net.n1.address, NODE_PORT, 3) == {"n1": X}
    assert answers(net, "x", net.n2.address, NODE_PORT, 3) == {"n1": net.n2.address}
    assert answers(net, "c1", net.n1.address, NODE_PORT, 3) == {"n1": net.places["c1"].address}


def test_external_policy_local(net: Lab, serve: Any) -> None:
    """From outside only to the node's own endpoints, with the client's address; inside to all."""
    serve(ALL, type="LoadBalancer", externalTrafficPolicy="Local", externalIPs=[EXTERNAL])
    for address, port in ((net.n1.address, NODE_PORT), (BALANCER, 80), (EXTERNAL, 80)):
        assert answers(net, "x", address, port, 10) == {"w1": X}
        assert answers(net, "c1", address, port, 40) == dict.fromkeys(ALL, net.places["c1"].address)
        assert answers(net, "n1", address, port, 40).keys() == set(ALL)
    assert answers(net, "x", net.n2.address, NODE_PORT) == dict.fromkeys(["w2", "w3"], X)
    # From another node it is outside traffic.
    assert answers(net, "c2", net.n1.address, NODE_PORT, 10) == {"w1": net.places["c2"].address}
    serve(["w2"], type="LoadBalancer", externalTrafficPolicy="Local")
    assert silent(net, "x", net.n1.address, NODE_PORT)
    assert silent(net, "x", BALANCER, 80)
    assert answers(net, "c1", net.n1.address, NODE_PORT, 3) == {"w2": net.places["c1"].address}
    serve(["w2"], type="LoadBalancer", externalTrafficPolicy="Cluster")
    assert answers(net, "x", net.n1.address, NODE_PORT, 3) == {"w2": net.n1.address}


def test_internal_policy_local(net: Lab, serve: Any) -> None:
    serve(ALL, internalTrafficPolicy="Local")
    for client in ("c1", "n1"):
        source = net.places[client].address
        assert answers(net, client, VIP, 80, 10) == {"w1": source}
    assert answers(net, "c2", VIP, 80).keys() == {"w2", "w3"}
    serve(["w2"], internalTrafficPolicy="Local")
    assert silent(net, "c1", VIP, 80)
    assert silent(net, "n1", VIP, 80)
    assert answers(net, "c2", VIP, 80, 3).keys() == {"w2"}
    serve([], internalTrafficPolicy="Local")
    with pytest.raises(ConnectionRefusedError):
        net.places["c1"].tcp(VIP, 80)


def test_terminating_endpoints_for_want_of_better(net: Lab, serve: Any) -> None:
    """Per node with policy Local, in the whole cluster otherwise."""
    serve(ALL, {"w1": LEAVING}, type="NodePort", externalTrafficPolicy="Local", internalTrafficPolicy="Local")
    assert answers(net, "x", net.n1.address, NODE_PORT, 5) == {"w1": X}
    assert answers(net, "c1", VIP, 80, 5).keys() == {"w1"}
    serve(ALL, {"w1": LEAVING, "w2": LEAVING}, type="NodePort")
    assert answers(net, "x", net.n1.address, NODE_PORT).keys() == {"w3"}
    serve(ALL, dict.fromkeys(ALL, LEAVING), type="NodePort")
    assert answers(net, "x", net.n1.address, NODE_PORT).keys() == set(ALL)


@pytest.mark.parametrize("client", ["c1", "n1", "x"])
def test_without_endpoints_all_ways_refuse(net: Lab, serve: Any, client: str) -> None:
    serve([], type="LoadBalancer", externalIPs=[EXTERNAL], externalTrafficPolicy="Local")
    place = net.places[client]
    for address, port in ((net.n1.address, NODE_PORT), (BALANCER, 80), (EXTERNAL, 80)):
        with pytest.raises(ConnectionRefusedError):
            place.tcp(address, port)
    with pytest.raises(ConnectionRefusedError):
        place.udp(net.n1.address, UDP_PORT)


def test_source_ranges(net: Lab, serve: Any) -> None:
    serve(ALL, type="LoadBalancer", loadBalancerSourceRanges=[f"{X}/32", "10.244.1.0/24"])
    assert answers(net, "x", BALANCER, 80).keys() == set(ALL)
    assert answers(net, "c1", BALANCER, 80).keys() == set(ALL)
    assert silent(net, "y", BALANCER, 80)
    assert answers(net, "y", net.n1.address, NODE_PORT).keys() == set(ALL)
    serve(ALL, type="LoadBalancer")
    assert answers(net, "y", BALANCER, 80).keys() == set(ALL)


@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
def test_host_port(net: Lab, udp: bool) -> None:
    for client in ("x", "c1", "c2", "n2"):
        seen = answers(net, client, net.n1.address, HOST_PORT, 3, udp=udp)
        assert seen == {"w1": net.places[client].address}
    with pytest.raises(ConnectionRefusedError):
        net.places["x"].tcp(net.n2.address, HOST_PORT)


@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
@pytest.mark.parametrize("way", ["cluster", "node", "balancer"])
def test_session_affinity(net: Lab, serve: Any, way: str, udp: bool) -> None:
    """A client stays with its endpoint, also when others come; until the endpoint goes."""
    affinity = {"type": "LoadBalancer", "sessionAffinity": "ClientIP"}
    address, port = {
        "cluster": (VIP, 53 if udp else 80),
        "node": (net.n1.address, UDP_PORT if udp else NODE_PORT),
        "balancer": (BALANCER, 53 if udp else 80),
    }[way]
    client = {"cluster": "c1", "node": "x", "balancer": "y"}[way]
    serve(["w1"], **affinity)
    assert answers(net, client, address, port, 3, udp=udp).keys() == {"w1"}
    wait_for(lambda: client_learned(net, client, "w1"), "not learned")
    serve(ALL, **affinity)
    assert answers(net, client, address, port, 20, udp=udp).keys() == {"w1"}
    serve(["w2", "w3"], **affinity)
    (second,) = answers(net, client, address, port, 20, udp=udp)
    wait_for(lambda: client_learned(net, client, second), "not learned anew")
    serve(ALL, **affinity)
    assert answers(net, client, address, port, 20, udp=udp).keys() == {second}


def learned(net: Lab) -> list[str]:
    return [flow for flow in net.n1.bridge.flows() if " table=24," in flow]


def client_learned(net: Lab, client: str, endpoint: str) -> bool:
    """A switch learns with the first packet, or within half a second where an older megaflow served that."""
    source = f"nw_src={net.places[client].address} "
    address = f"{int(IPv4Address(net.places[endpoint].address)):#x}->reg4"
    return any(source in flow and address in flow for flow in learned(net))


def test_session_affinity_ends_with_its_time(net: Lab, serve: Any) -> None:
    """And is refreshed by new connections."""
    timeout = {"clientIP": {"timeoutSeconds": 2}}
    serve(["w1"], sessionAffinity="ClientIP", sessionAffinityConfig=timeout)
    assert answers(net, "c1", VIP, 80, 1).keys() == {"w1"}
    wait_for(lambda: client_learned(net, "c1", "w1"), "not learned")
    wait_for(lambda: not learned(net), "the client is still remembered", 10)


def test_a_client_is_given_another_endpoint_when_its_time_is_over(net: Lab, serve: Any) -> None:
    """Not always the same one, as a hash of its address would."""
    timeout = {"clientIP": {"timeoutSeconds": 1}}
    serve(ALL, sessionAffinity="ClientIP", sessionAffinityConfig=timeout)
    seen: set[str] = set()
    for _ in range(20):
        seen |= answers(net, "c1", VIP, 80, 1).keys()
        if len(seen) > 1:
            break
        wait_for(lambda: not learned(net), "the client is still remembered", 10)
        settle(net)
    assert len(seen) > 1


@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
def test_first_connections_of_a_client_go_to_one_endpoint(net: Lab, serve: Any, udp: bool) -> None:
    """Also those that begin together, and while the switch remembers how it served clients without affinity."""
    place = net.places["c1"]
    ask, port = (place.udp, 53) if udp else (place.tcp, 80)
    for _ in range(3):
        serve(ALL)
        assert len({ask(VIP, port, source)[0] for source in ports_of_their_own(40)}) > 1
        serve(ALL, sessionAffinity="ClientIP")
        with ThreadPoolExecutor(10) as pool:
            found = list(pool.map(lambda source: ask(VIP, port, source)[0], ports_of_their_own(30)))
        assert len(set(found)) == 1, found


def test_learned_flows_survive_a_restart_and_go_with_the_service(net: Lab, serve: Any) -> None:
    serve(ALL, sessionAffinity="ClientIP")
    (endpoint,) = answers(net, "c1", VIP, 80, 3)
    wait_for(lambda: client_learned(net, "c1", endpoint), "not learned")
    before = learned(net)
    assert net.controller
    net.controller.stop()
    net.controlled()
    assert net.controller.synchronizer.counters.messages == 0
    assert learned(net) == before
    serve(ALL)
    wait_for(lambda: not learned(net), "what was learned is still there")


def test_a_switch_forgets_what_it_learned_of_services_that_went_meanwhile(net: Lab, serve: Any) -> None:
    serve(["w1"], sessionAffinity="ClientIP")
    answers(net, "c1", VIP, 80, 1)
    wait_for(lambda: client_learned(net, "c1", "w1"), "not learned")
    assert net.controller
    net.controller.stop()
    net.remember("endpointslices", slice_of(net, ["w2"], {}))
    net.controlled()
    wait_for(lambda: not client_learned(net, "c1", "w1"), "still remembered")


@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
@pytest.mark.parametrize("endpoint", ["w1", "w2"])
@pytest.mark.parametrize("first", ["service", "pod"])
def test_one_source_port_to_a_service_and_to_its_pod(
    net: Lab, serve: Any, first: str, endpoint: str, udp: bool
) -> None:
    """One connection after the other; to the pod, and to a switch on the way back, both look alike."""
    serve([endpoint])
    pod, client = net.places[endpoint], net.places["c1"]
    ways = [(VIP, 53 if udp else 80), (pod.address, 8080)]
    for port in ports_of_their_own(10):
        for address, number in ways if first == "service" else reversed(ways):
            ask = client.udp if udp else client.tcp
            assert ask(address, number, port) == (endpoint, client.address)
            wait_for(lambda port=port: not sockets(client, port), "the connection is not closed")  # type: ignore[misc]


def test_a_masqueraded_connection_gets_the_port_of_one_that_its_server_remembers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The switch has forgotten that one already: its server must not take the new one for it."""
    monkeypatch.setattr("controller.features.node.MASQUERADE_PORTS", (40_000, 40_000))
    with made_net() as net, served(net) as serve:
        serve(["w2"], type="LoadBalancer")
        for port in ports_of_their_own(5):
            for client in (net.places["x"], net.places["y"]):
                begin = time.monotonic()
                assert client.tcp(BALANCER, 80, port) == ("w2", net.n1.address)
                assert time.monotonic() - begin < 0.9, "a packet had to be sent again"
                wait_for(lambda c=client, p=port: not sockets(c, p), "the connection is not closed")  # type: ignore[misc]
                net.n1.bridge.appctl("dpctl/flush-conntrack")


def test_udp_follows_the_endpoints_on_every_way(net: Lab, serve: Any) -> None:
    """From one source port, through each way in."""
    kind = {"type": "LoadBalancer", "externalIPs": [EXTERNAL]}
    ways = ((VIP, 53, "c1"), (net.n1.address, UDP_PORT, "x"), (BALANCER, 53, "x"), (EXTERNAL, 53, "x"))

    def seen() -> set[str | None]:
        found: set[str | None] = set()
        for n, (address, port, client) in enumerate(ways):
            try:
                found.add(net.places[client].udp(address, port, 41000 + n)[0])
            except ConnectionRefusedError:
                found.add(None)
        return found

    serve([], **kind)
    assert seen() == {None}
    for endpoint in ("w1", "w2"):
        serve([endpoint], **kind)
        wait_for(lambda endpoint=endpoint: seen() == {endpoint}, f"{endpoint} does not have all")
    serve([], **kind)
    wait_for(lambda: seen() == {None}, "not refused again")


def test_tcp_lives_on_without_its_endpoint(net: Lab, serve: Any) -> None:
    serve(["w2"], type="NodePort")
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(net.places["w2"].socket())
        listener.bind(("0.0.0.0", 9090))
        listener.listen()
        piece = slice_of(net, ["w2"], {})
        piece["ports"][0]["port"] = 9090
        net.apply("endpointslices", piece)
        client = stack.enter_context(net.places["x"].socket())
        client.connect((net.n1.address, NODE_PORT))
        server, _ = listener.accept()
        stack.enter_context(server)
        serve(["w1"], type="NodePort")
        client.sendall(b"1")
        assert server.recv(1) == b"1"
        server.sendall(b"2")
        assert client.recv(1) == b"2"


def test_fragments_of_a_large_datagram(net: Lab, serve: Any) -> None:
    """The first packet of a connection is a fragment: the ports are in it alone."""
    serve(["w2"], type="LoadBalancer")
    for client, address, port in (("c1", VIP, 53), ("x", BALANCER, 53)):
        with net.places["w2"].socket(socket.SOCK_DGRAM) as echo, net.places[client].socket(socket.SOCK_DGRAM) as out:
            echo.bind(("0.0.0.0", 9091))
            piece = slice_of(net, ["w2"], {})
            piece["ports"][1]["port"] = 9091
            net.apply("endpointslices", piece)
            data = os.urandom(4000)
            out.connect((address, port))
            out.send(data)
            got, source = echo.recvfrom(9000)
            assert got == data
            echo.sendto(got, source)
            assert out.recv(9000) == data


def sctp_packet(source: int, destination: int, chunk: bytes) -> bytes:
    """An SCTP packet with one chunk: INIT (1) or INIT ACK (2)."""
    head = struct.pack("!HHI", source, destination, 0 if chunk[0] == 1 else 7)
    packet = head + bytes(4) + chunk
    return head + struct.pack("<I", crc32c(packet)) + chunk


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_sctp_by_raw_packets(net: Lab, serve: Any) -> None:
    """The kernel may have no SCTP: an association's first packet and its answer, made by hand.

    The userspace datapath translates addresses of SCTP, and leaves ports as they are.
    """
    made = with_spec(service("s", VIP, ("s", "SCTP", 80)))
    piece = {**slice_of(net, ["w2"], {}), "ports": [{"name": "s", "protocol": "SCTP", "port": 80}]}
    serve([])
    net.apply("services", made)
    net.apply("endpointslices", piece)

    def raw(name: str) -> socket.socket:
        opened: socket.socket = in_namespace(
            net.places[name].netns, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 132)
        )
        opened.settimeout(5)
        return opened

    init = struct.pack("!BBHIIHHI", 1, 0, 20, 7, 1500, 1, 1, 1)
    ack = struct.pack("!BBHIIHHI", 2, 0, 20, 8, 1500, 1, 1, 1)
    with raw("c1") as client, raw("w2") as server:
        client.sendto(sctp_packet(4000, 80, init), (VIP, 0))
        received, (source, _) = server.recvfrom(2000)
        assert (source, received[20:24]) == (net.places["c1"].address, struct.pack("!HH", 4000, 80))
        server.sendto(sctp_packet(80, 4000, ack), (source, 0))
        answered, (source, _) = client.recvfrom(2000)
        assert (source, answered[20:24]) == (VIP, struct.pack("!HH", 80, 4000))


def test_connections_are_spread_evenly(net: Lab, serve: Any) -> None:
    """Chi-square of many connections over three endpoints, by the answers of the switch's own hash."""
    serve(ALL)
    counts = Counter(net.places["c1"].udp(VIP, 53)[0] for _ in range(10_000))
    expected = sum(counts.values()) / 3
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_square < 13.8, counts  # p = 0.001 with two degrees of freedom


def test_labels_that_keep_the_proxy_off(net: Lab, serve: Any) -> None:
    serve(["w1"])
    assert answers(net, "c1", VIP, 80, 1).keys() == {"w1"}
    for label in ("service.kubernetes.io/headless", "service.kubernetes.io/service-proxy-name"):
        labelled = service("s", VIP, ("t", "TCP", 80))
        labelled["metadata"]["labels"] = {label: "x"}
        net.apply("services", labelled)
        assert silent(net, "c1", VIP, 80)


def test_flows_are_printed_as_the_switch_prints_them(net: Lab, serve: Any) -> None:
    kind = {"type": "LoadBalancer", "externalIPs": [EXTERNAL], "loadBalancerSourceRanges": ["192.0.2.0/24"]}
    serve(ALL, **kind, externalTrafficPolicy="Local", internalTrafficPolicy="Local", sessionAffinity="ClientIP")
    assert net.controller
    cluster = net.controller.synchronizer.cluster
    for name, bridge in net.bridges.items():
        scopes = cluster.scopes(name)
        flows = [flow for flow in bridge.flows() if " table=24," not in flow]
        assert flows == sorted(str(flow) for scope in scopes for flow in scope.flows.values())
        groups = [line for line in bridge.ofctl("dump-groups") if line.strip()]
        assert sorted(groups) == sorted(str(group) for scope in scopes for group in scope.groups.values())
