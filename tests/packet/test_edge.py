"""The edge on real packets: the NAT gateway, egress addresses, load balancers in both modes, and nothing unasked."""

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
from lab_places import Place

from kmn.k8s.objects import Object

pytestmark = [pytest.mark.packet, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

PORTS, FIRST = 4, 2000
NAT, EGRESS = "198.51.100.1", "198.51.100.77"
_BALANCERS = ("ip", "instance", "ranges", "internal", "sticky", "proxied", "empty")
VIP = {name: f"192.0.2.{number}" for number, name in enumerate(_BALANCERS, 1)}
NODE_PORT = 8080  # where the lab's nodes listen: their kernels stand for node ports here
AWS = "service.beta.kubernetes.io/aws-load-balancer-"


def balancer(name: str, annotations: dict[str, str] | None = None, **spec: object) -> Object:
    port = {"name": "web", "protocol": "TCP", "port": 80, "nodePort": NODE_PORT}
    dns = {"name": "dns", "protocol": "UDP", "port": 53, "nodePort": NODE_PORT}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "default", "name": name, "annotations": annotations or {}},
        "spec": {"type": "LoadBalancer", "clusterIP": "None", "ports": [port, dns], **spec},
        "status": {"loadBalancer": {"ingress": [{"ip": VIP[name]}]}},
    }


@pytest.fixture(scope="module")
def net() -> Iterator[Lab]:
    """Pods a (n1) and c (n2) behind load balancers; pod d in a namespace with an egress address."""
    with lab() as made:
        networks = {"loadBalancerCIDR": "192.0.2.0/24", "nodeCIDR": "172.18.0.0/16"}
        made.remember_machines(edge={"natPorts": f"{FIRST}-{FIRST + PORTS - 1}", **networks})
        pods = [made.pod("a", made.n1, 2), made.pod("c", made.n2, 2), made.pod("d", made.n2, 3)]
        for pod in pods:
            made.remember("pods", pod.object)
        made.remember("namespaces", {"kind": "Namespace", "metadata": {"name": "default"}})
        ip = {"kmn.io/lb-target": "ip"}
        targets = (("web", "TCP", 8080), ("dns", "UDP", 8080))
        for service in (
            balancer("ip", ip),
            balancer("instance"),
            balancer("ranges", ip, loadBalancerSourceRanges=["203.0.113.10/32"]),
            balancer("internal", ip | {AWS + "scheme": "internal"}),
            balancer("sticky", ip, sessionAffinity="ClientIP"),
            balancer("proxied", ip | {AWS + "target-group-attributes": "preserve_client_ip.enabled=false"}),
            balancer("empty", ip),
        ):
            name = service["metadata"]["name"]
            made.remember("services", service)
            addresses = [] if name == "empty" else [pods[0].address, pods[1].address]
            made.remember("endpointslices", endpoint_slice(name, addresses, *targets))
        made.controlled()
        for place in made.places.values():
            for port in (8080, 9090):
                made.servers += place.serve(port, made.stop_servers)
        yield made


def opened(place: Place, address: str, port: int, timeout: float = 5) -> socket.socket:
    made = place.socket()
    made.settimeout(timeout)
    try:
        made.connect((address, port))
    except OSError:
        made.close()
        raise
    return made


def reaches(place: Place, address: str, port: int) -> bool:
    try:
        opened(place, address, port, 0.5).close()
    except OSError:
        return False
    return True


def test_switch_has_the_flows_as_the_controller_prints_them(net: Lab) -> None:
    assert net.controller
    [scope] = net.controller.synchronizer.cluster.scopes("edge")
    bridge = net.bridges["edge"]
    assert bridge.flows() == sorted(str(flow) for flow in scope.flows.values())
    groups = [line for line in bridge.ofctl("dump-groups") if line.strip()]
    assert sorted(groups) == sorted(str(group) for group in scope.groups.values())
    assert len(groups) == 10


def test_ip_mode(net: Lab) -> None:
    """Straight to pods of both nodes, which see the client itself; TCP and UDP."""
    e1 = net.places["e1"]
    for ask, port in ((e1.tcp, 80), (e1.udp, 53)):
        answers = Counter(ask(VIP["ip"], port) for _ in range(30))
        assert set(answers) == {("a", e1.address), ("c", e1.address)}


def test_instance_mode(net: Lab) -> None:
    e1 = net.places["e1"]
    answers = Counter(e1.tcp(VIP["instance"], 80) for _ in range(30))
    assert set(answers) == {("n1", e1.address), ("n2", e1.address)}


def test_instance_mode_with_local_endpoints_and_node_health(net: Lab) -> None:
    e1 = net.places["e1"]
    service = balancer("instance", externalTrafficPolicy="Local")
    local = endpoint_slice("instance", ["10.244.2.2"], ("web", "TCP", 8080))
    local["endpoints"][0]["nodeName"] = "n2"
    net.apply("endpointslices", local)
    net.apply("services", service)
    assert {e1.tcp(VIP["instance"], 80)[0] for _ in range(20)} == {"n2"}
    net.apply("services", balancer("instance"))
    sick = net.n2.object
    sick["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
    net.apply("nodes", sick)
    assert {e1.tcp(VIP["instance"], 80)[0] for _ in range(20)} == {"n1"}
    net.apply("nodes", net.n2.object)


def test_a_client_stays_with_its_target(net: Lab) -> None:
    for name in ("e1", "e2"):
        assert len({net.places[name].tcp(VIP["sticky"], 80) for _ in range(20)}) == 1


def test_source_ranges(net: Lab) -> None:
    assert net.places["e1"].tcp(VIP["ranges"], 80)[1] == "203.0.113.10"
    assert not reaches(net.places["e2"], VIP["ranges"], 80)


def test_the_edge_stands_for_the_client(net: Lab) -> None:
    """preserve_client_ip.enabled=false: pods see the edge."""
    for name in ("e1", "e2"):
        assert {net.places[name].tcp(VIP["proxied"], 80)[1] for _ in range(4)} == {"203.0.113.1"}


def test_what_does_not_come_in(net: Lab) -> None:
    e1 = net.places["e1"]
    assert not reaches(e1, VIP["internal"], 80)
    assert not reaches(e1, VIP["empty"], 80)
    assert not reaches(e1, VIP["ip"], 81)
    assert not reaches(e1, "192.0.2.99", 80)
    assert not reaches(e1, net.places["a"].address, 8080)
    assert not reaches(e1, net.places["a"].address, NODE_PORT)
    assert not reaches(e1, net.n1.address, 9090)
    assert not reaches(e1, NAT, 8080)
    assert not e1.ping(net.places["a"].address)


def test_node_ports_are_open(net: Lab) -> None:
    e1 = net.places["e1"]
    assert e1.tcp(net.n1.address, NODE_PORT) == ("n1", e1.address)
    assert e1.udp(net.n2.address, NODE_PORT) == ("n2", e1.address)


def test_pings(net: Lab) -> None:
    """Through the gateway, and of the edge itself."""
    a = net.places["a"]
    assert a.ping("203.0.113.10")
    assert a.ping("203.0.113.1")
    assert net.n1.ping("203.0.113.1")
    assert net.places["e1"].ping("203.0.113.1")


def test_egress_address_of_a_namespace_and_of_a_pod(net: Lab) -> None:
    d, e1 = net.places["d"], net.places["e1"]
    assert d.udp(e1.address, 8080)[1] == NAT
    note = {"kmn.io/egress-address": EGRESS}
    net.apply("namespaces", {"kind": "Namespace", "metadata": {"name": "default", "annotations": note}})
    assert d.tcp(e1.address, 8080) == ("e1", EGRESS)
    pod = net.places["d"].object  # type: ignore[attr-defined]
    pod["metadata"]["annotations"]["kmn.io/egress-address"] = "198.51.100.78"
    net.apply("pods", pod)
    assert d.tcp(e1.address, 8080) == ("e1", "198.51.100.78")
    net.apply("pods", net.places["d"].object)  # type: ignore[attr-defined]
    net.apply("namespaces", {"kind": "Namespace", "metadata": {"name": "default"}})
    assert d.tcp(net.places["e2"].address, 8080) == ("e2", NAT)


def test_exhaustion(net: Lab) -> None:
    """Four ports are four connections to one destination: the fifth is dropped and counted, the four live."""
    a, e2 = net.places["a"], net.places["e2"]
    listener = e2.socket()
    listener.bind(("0.0.0.0", 9000))
    listener.listen(16)
    with contextlib.ExitStack() as stack:
        stack.enter_context(listener)
        clients, ports = [], set()
        for _ in range(PORTS):
            clients.append(stack.enter_context(opened(a, e2.address, 9000)))
            accepted, (address, port) = listener.accept()
            stack.enter_context(accepted)
            clients.append(accepted)
            assert address == NAT
            ports.add(port)
        assert ports == set(range(FIRST, FIRST + PORTS))
        assert not reaches(a, e2.address, 9000)
        assert reaches(a, net.places["e1"].address, 8080), "another destination has ports of its own"
        for client, server in zip(clients[::2], clients[1::2], strict=True):
            client.sendall(b"still")
            assert server.recv(10) == b"still"
        assert net.controller

        def counted() -> bool:
            flows = net.bridges["edge"].ofctl("dump-flows", "table=88,ip,nw_src=10.244.0.0/16")
            return any("n_packets=" in flow and "n_packets=0," not in flow for flow in flows)

        wait_for(counted, "the drops are not counted")
        problems = wait_for(lambda: net.controller and net.controller.reports[-1].drops, "the problem is not named")
        assert [(problem.kind, problem.name, problem.reason) for problem in problems] == [
            ("Edge", "edge", "NATPortsExhausted")
        ]
