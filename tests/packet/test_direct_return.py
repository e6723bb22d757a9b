"""Direct server return on real packets: the edge remembers nothing, nodes answer as the load balancer."""

from __future__ import annotations

import contextlib
import os
import socket
from collections import Counter
from collections.abc import Iterator

import pytest
from controller_lab import Lab, lab
from lab_commands import wait_for
from lab_objects import endpoint_slice

from kmn.k8s.objects import Object

pytestmark = [pytest.mark.packet, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

VIPS = {"direct": "192.0.2.1", "tracked": "192.0.2.2", "sticky": "192.0.2.3"}
NODE_PORTS = {"direct": 30080, "tracked": 30081, "sticky": 30082}
WEB = 8080


def balancer(name: str, **spec: object) -> Object:
    ports = [
        {"name": "web", "protocol": "TCP", "port": 80, "nodePort": NODE_PORTS[name]},
        {"name": "dns", "protocol": "UDP", "port": 53, "nodePort": NODE_PORTS[name]},
    ]
    number = 20 + NODE_PORTS[name] - 30080
    note = {} if name == "tracked" else {"kmn.io/lb-forwarding": "dsr"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "default", "name": name, "annotations": note},
        "spec": {"type": "LoadBalancer", "clusterIP": f"10.96.0.{number}", "ports": ports, **spec},
        "status": {"loadBalancer": {"ingress": [{"ip": VIPS[name]}]}},
    }


def behind(name: str, net: Lab, *pods: str) -> Object:
    places = [net.places[pod] for pod in pods]
    made = endpoint_slice(name, [place.address for place in places], ("web", "TCP", WEB), ("dns", "UDP", WEB))
    for endpoint, place in zip(made["endpoints"], places, strict=True):
        endpoint["nodeName"] = place.node  # type: ignore[attr-defined]
    return made


@pytest.fixture(scope="module")
def net() -> Iterator[Lab]:
    """Pods a (n1) and c (n2) behind load balancers with and without direct return, both of traffic policy Cluster."""
    with lab() as made:
        networks = {"podCIDR": "10.244.0.0/16", "nodeCIDR": "172.18.0.0/16", "serviceCIDR": "10.96.0.0/12"}
        made.remember_machines(edge={"loadBalancerCIDR": "192.0.2.0/24", "nodeCIDR": "172.18.0.0/16"}, **networks)
        for pod in (made.pod("a", made.n1, 2), made.pod("b", made.n1, 3), made.pod("c", made.n2, 2)):
            made.remember("pods", pod.object)
        for name in VIPS:
            made.remember("services", balancer(name, **({"sessionAffinity": "ClientIP"} if name == "sticky" else {})))
            made.remember("endpointslices", behind(name, made, "a", "c"))
        made.controlled()
        for place in made.places.values():
            made.servers += place.serve(WEB, made.stop_servers)
        yield made


def tracked(net: Lab, bridge: str, address: str) -> list[str]:
    """Connections that a switch remembers with an address in them."""
    return [line for line in net.bridges[bridge].appctl("dpctl/dump-conntrack").splitlines() if f"={address}," in line]


def counted(net: Lab, flow: str) -> int:
    """Packets that a flow of the edge's has seen."""
    (line,) = net.bridges["edge"].ofctl("dump-flows", flow)
    return int(line.split("n_packets=")[1].partition(",")[0])


def test_switches_have_the_flows_as_the_controller_prints_them(net: Lab) -> None:
    assert net.controller
    for name in ("edge", "n1"):
        scopes = net.controller.synchronizer.cluster.scopes(name)
        assert net.bridges[name].flows() == sorted(str(flow) for scope in scopes for flow in scope.flows.values())
        groups = [line for line in net.bridges[name].ofctl("dump-groups") if line.strip()]
        assert sorted(groups) == sorted(str(group) for scope in scopes for group in scope.groups.values())


@pytest.mark.parametrize(("protocol", "port"), [("tcp", 80), ("udp", 53)])
def test_pods_of_all_nodes_see_the_client(net: Lab, protocol: str, port: int) -> None:
    e1 = net.places["e1"]
    ask = e1.tcp if protocol == "tcp" else e1.udp
    answers = Counter(ask(VIPS["direct"], port) for _ in range(40))
    assert set(answers) == {("a", e1.address), ("c", e1.address)}


def test_the_edge_has_no_part_in_answers(net: Lab) -> None:
    """Not a connection of it in the edge's memory, and answers pass it by a flow that does not ask for any."""
    e1, vip = net.places["e1"], VIPS["direct"]
    asked, answers = f"table=12,ip,nw_dst={vip}", f"table=0,ip,in_port=1,nw_src={vip}"
    before = counted(net, asked), counted(net, answers)
    net.bridges["edge"].appctl("dpctl/flush-conntrack")
    for _ in range(5):
        e1.tcp(vip, 80)
        e1.tcp(VIPS["tracked"], 80)
    assert not tracked(net, "edge", vip)
    assert len(tracked(net, "edge", VIPS["tracked"])) == 5, "for comparison"
    assert any(tracked(net, node, vip) for node in ("n1", "n2"))
    wait_for(lambda: counted(net, asked) >= before[0] + 25, "packets of clients are not counted")
    wait_for(lambda: counted(net, answers) >= before[1] + 20, "answers are not counted")


@pytest.mark.parametrize(("name", "lives"), [("direct", True), ("tracked", False)])
def test_a_connection_outlives_the_edges_memory(net: Lab, name: str, lives: bool) -> None:
    """The server speaks after the edge has forgotten everything: where that translates back the client is lost."""
    c = net.places["c"]
    slice_ = behind(name, net, "c")
    slice_["ports"] = [{"name": "web", "protocol": "TCP", "port": 9000}]
    net.apply("endpointslices", slice_)
    with c.socket() as listener, net.places["e1"].socket() as client:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("0.0.0.0", 9000))
        listener.listen()
        client.connect((VIPS[name], 80))
        server, peer = listener.accept()
        with server:
            client.sendall(b"before")
            assert server.recv(10) == b"before"
            net.bridges["edge"].appctl("dpctl/flush-conntrack")
            client.settimeout(5 if lives else 0.5)
            lost = contextlib.nullcontext() if lives else pytest.raises(OSError)  # reset, or never heard of again
            with lost:
                server.sendall(b"after")
                assert (client.recv(10), peer[0]) == (b"after", net.places["e1"].address)
    net.apply("endpointslices", behind(name, net, "a", "c"))


def test_a_client_stays_with_its_node_and_pod(net: Lab) -> None:
    for name in ("e1", "e2"):
        assert len({net.places[name].tcp(VIPS["sticky"], 80) for _ in range(20)}) == 1


def test_a_node_that_comes_or_goes_moves_only_its_own(net: Lab) -> None:
    """The node is chosen by a hash: the same for the same client and port, whatever happened in between."""
    e1 = net.places["e1"]
    ports = range(41000, 41020)
    first = {port: e1.udp(VIPS["direct"], 53, port)[0] for port in ports}
    assert set(first.values()) == {"a", "c"}
    net.apply("endpointslices", behind("direct", net, "c"))
    assert {e1.udp(VIPS["direct"], 53, port)[0] for port in ports} == {"c"}
    net.apply("endpointslices", behind("direct", net, "a", "c"))
    assert {port: e1.udp(VIPS["direct"], 53, port)[0] for port in ports} == first


def test_only_nodes_with_endpoints_are_asked(net: Lab) -> None:
    """Two of one node, of which the node chooses; the other node's pod is none of them."""
    net.apply("endpointslices", behind("direct", net, "a", "b"))
    e1 = net.places["e1"]
    assert {e1.tcp(VIPS["direct"], 80) for _ in range(30)} == {("a", e1.address), ("b", e1.address)}
    net.apply("endpointslices", behind("direct", net, "a", "c"))


def test_node_ports_and_clients_inside_are_as_before(net: Lab) -> None:
    """A client of the node port gets its answers from there; pods reach the load balancer by their own node."""
    e1, b = net.places["e1"], net.places["b"]
    for node in (net.n1, net.n2):
        assert e1.tcp(node.address, NODE_PORTS["direct"])[0] in ("a", "c")
    assert {b.tcp(VIPS["direct"], 80)[0] for _ in range(20)} == {"a", "c"}
    assert not tracked(net, "edge", b.address)


def test_what_does_not_come_in(net: Lab) -> None:
    """Other ports of the address; the address that the edge writes, asked for by a client or a pod of another node."""
    e1, c = net.places["e1"], net.places["c"]
    for asker, address, port in (
        (e1, VIPS["direct"], 81),
        (e1, "10.244.1.1", NODE_PORTS["direct"]),
        (c, "10.244.1.1", NODE_PORTS["direct"]),
    ):
        with asker.socket() as client:
            client.settimeout(0.5)
            with pytest.raises(OSError):
                client.connect((address, port))
    assert not tracked(net, "n1", f"{c.address},dst={VIPS['direct']}")


def test_nobody_there_and_somebody_again(net: Lab) -> None:
    e1 = net.places["e1"]
    net.apply("endpointslices", behind("direct", net))
    with e1.socket() as client:
        client.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.connect((VIPS["direct"], 80))
    net.apply("endpointslices", behind("direct", net, "a", "c"))
    assert e1.tcp(VIPS["direct"], 80)[0] in ("a", "c")


def test_back_to_the_edges_own_translation_and_again(net: Lab) -> None:
    """The annotation is taken away and given back: both work, with groups that choose in different ways."""
    e1 = net.places["e1"]
    plain = balancer("direct")
    plain["metadata"]["annotations"] = {}
    net.apply("services", plain)
    assert {e1.tcp(VIPS["direct"], 80)[0] for _ in range(20)} == {"a", "c"}
    assert tracked(net, "edge", VIPS["direct"])
    net.apply("services", balancer("direct"))
    net.bridges["edge"].appctl("dpctl/flush-conntrack")
    assert {e1.tcp(VIPS["direct"], 80)[0] for _ in range(20)} == {"a", "c"}
    assert not tracked(net, "edge", VIPS["direct"])
