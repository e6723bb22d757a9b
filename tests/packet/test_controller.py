"""The controller's flows on real packets: two nodes and an edge, each with an Open vSwitch of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from controller_lab import Lab, lab
from lab_commands import run, wait_for
from lab_objects import endpoint_slice, service
from lab_places import Pod

from kmn.k8s.dataplane import HAIRPIN_IP, mac_of

pytestmark = [pytest.mark.packet, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

ROOT = Path(__file__).resolve().parents[2]
WEB, NONE, SELF, ON_NODE = "10.96.0.20", "10.96.0.21", "10.96.0.22", "10.96.0.23"
PORTS = (("web", "TCP", 80), ("dns", "UDP", 53))
TARGETS = (("web", "TCP", 8080), ("dns", "UDP", 8080))
NAT = "198.51.100.1"


@pytest.fixture(scope="module")
def net() -> Iterator[Lab]:
    """Pods a and b on n1, c on n2; all, nodes and outside hosts answer on port 8080."""
    with lab() as made:
        made.remember_machines(serviceCIDR="10.96.0.0/12")
        pods = [made.pod("a", made.n1, 2), made.pod("b", made.n1, 3), made.pod("c", made.n2, 2)]
        for pod in pods:
            made.remember("pods", pod.object)
        for name, address, endpoints in (
            ("web", WEB, [pods[1].address, pods[2].address]),
            ("none", NONE, []),
            ("self", SELF, [pods[0].address]),
            ("on-node", ON_NODE, [made.n1.address]),
        ):
            made.remember("services", service(name, address, *PORTS))
            made.remember("endpointslices", endpoint_slice(name, endpoints, *TARGETS))
        made.controlled()
        for place in made.places.values():
            made.servers += place.serve(8080, made.stop_servers)
        yield made


@pytest.fixture
def a(net: Lab) -> Pod:
    return net.places["a"]  # type: ignore[return-value]


def test_switch_has_the_flows_as_the_controller_prints_them(net: Lab) -> None:
    """So the golden flows of the unit tests are what is on a switch, and what is read back is what was sent."""
    assert net.controller
    cluster = net.controller.synchronizer.cluster
    for name, bridge in net.bridges.items():
        scopes = cluster.scopes(name)
        assert bridge.flows() == sorted(str(flow) for scope in scopes for flow in scope.flows.values())
        groups = [line for line in bridge.ofctl("dump-groups") if line.strip()]
        assert sorted(groups) == sorted(str(group) for scope in scopes for group in scope.groups.values())


@pytest.mark.parametrize("target", ["b", "c"])
def test_pod_to_pod(net: Lab, a: Pod, target: str) -> None:
    """On one node and across, with true source addresses."""
    other = net.places[target]
    assert a.ping(other.address)
    assert a.tcp(other.address, 8080) == (target, a.address)
    assert other.udp(a.address, 8080) == ("a", other.address)


def test_nodes_and_pods(net: Lab, a: Pod) -> None:
    n1, n2 = net.n1, net.n2
    assert n1.tcp(a.address, 8080) == ("a", "10.244.1.1")
    assert n2.tcp(a.address, 8080) == ("a", n2.address)
    assert a.tcp(n1.address, 8080) == ("n1", a.address)
    assert a.tcp(n2.address, 8080) == ("n2", a.address)
    assert n1.tcp(n2.address, 8080) == ("n2", n1.address)
    assert a.ping("10.244.1.1")


@pytest.mark.parametrize("client", ["a", "n1"])
def test_cluster_ip(net: Lab, client: str) -> None:
    """TCP and UDP, from a pod and from a node, over both endpoints, sources unchanged."""
    place = net.places[client]
    for ask, port in ((place.tcp, 80), (place.udp, 53)):
        answers = Counter(ask(WEB, port) for _ in range(40))
        assert {name for name, _ in answers} == {"b", "c"}
        assert {source for _, source in answers} == {place.address}


def test_hairpin_of_a_pod(a: Pod) -> None:
    """A pod that is its own Service's endpoint sees the node's gateway as client."""
    assert a.tcp(SELF, 80) == ("a", "10.244.1.1")
    assert a.udp(SELF, 53) == ("a", "10.244.1.1")


def test_hairpin_of_a_node(net: Lab, a: Pod) -> None:
    assert net.n1.tcp(ON_NODE, 80) == ("n1", HAIRPIN_IP)
    assert a.tcp(ON_NODE, 80) == ("n1", a.address)
    assert net.n2.tcp(ON_NODE, 80) == ("n1", net.n2.address)


@pytest.mark.parametrize("client", ["a", "n1"])
@pytest.mark.parametrize(("address", "tcp", "udp"), [(NONE, 80, 53), (WEB, 81, 54)], ids=["no endpoints", "no port"])
def test_refused(net: Lab, client: str, address: str, tcp: int, udp: int) -> None:
    """TCP RST and ICMP port unreachable, as if from the virtual address."""
    place = net.places[client]
    with pytest.raises(ConnectionRefusedError):
        place.tcp(address, tcp)
    with pytest.raises(ConnectionRefusedError):
        place.udp(address, udp)


def test_address_that_no_service_has_is_dropped(net: Lab, a: Pod) -> None:
    flow = "priority=100,ip,nw_dst=10.96.0.0/12"

    def dropped() -> int:
        text = run("ovs-ofctl", "-O", "OpenFlow15", "dump-flows", f"unix:{net.n1.bridge.management}", "table=28")
        line = next(line for line in text.splitlines() if flow in line)
        return int(line.split("n_packets=")[1].split(",")[0])

    before = dropped()
    assert not a.ping("10.96.7.7")
    wait_for(lambda: dropped() > before, "the packet was not counted")


def test_outside(net: Lab, a: Pod) -> None:
    """Pods and nodes go out under the public address; hosts outside reach each other, and nothing inside."""
    e1, e2 = net.places["e1"], net.places["e2"]
    assert a.tcp(e1.address, 8080) == ("e1", NAT)
    assert a.udp(e2.address, 8080) == ("e2", NAT)
    assert net.n2.tcp(e1.address, 8080) == ("e1", NAT)
    assert e1.tcp(e2.address, 8080) == ("e2", e1.address)
    for address in (a.address, net.n1.address, NAT):
        assert not e1.ping(address)


def test_spoofed_packets_are_dropped(net: Lab, a: Pod) -> None:
    """Another pod's address, or another MAC, on a pod's port."""
    net.ip(a.netns, "addr add 10.244.1.77/32 dev eth0")
    with net.places["a"].socket(socket.SOCK_DGRAM) as out:
        out.bind(("10.244.1.77", 0))
        out.settimeout(0.5)
        out.sendto(b"?", (net.places["b"].address, 8080))
        with pytest.raises(TimeoutError):
            out.recv(100)
    try:
        net.ip(a.netns, "link set eth0 address 0a:58:0a:f4:01:77")
        assert not a.ping(net.places["b"].address)
    finally:
        net.ip(a.netns, f"link set eth0 address {mac_of(a.address)}", "addr del 10.244.1.77/32 dev eth0",
               "route replace default via 10.244.1.1")  # fmt: skip
    assert wait_for(lambda: a.ping(net.places["b"].address), "the pod did not come back")


def test_connections_share_megaflows(net: Lab, a: Pod) -> None:
    """A thousand connections through a Service, from as many ports, in a few dozen megaflows."""
    bridge = net.n1.bridge
    for _ in range(1000):
        a.tcp(WEB, 80)
    assert len(bridge.megaflows()) < 100
    with contextlib.ExitStack() as stack:
        out = [stack.enter_context(a.socket(socket.SOCK_DGRAM)) for _ in range(1000)]
        for one in out:
            one.connect((WEB, 53))
            one.send(b"?")
            one.recv(100)
        assert len(bridge.megaflows()) < 120


def test_second_datagram_before_any_answer(net: Lab, a: Pod) -> None:
    """Conntrack calls it established; it must go the same way."""
    with a.socket(socket.SOCK_DGRAM) as out:
        out.connect((SELF, 53))
        for _ in range(5):
            out.send(b"?")
        assert {out.recv(100) for _ in range(5)} == {b"a 10.244.1.1\n"}


def sent(net: Lab) -> int:
    assert net.controller
    return net.controller.synchronizer.counters.messages


def test_one_endpoint_is_one_message_a_node(net: Lab, a: Pod) -> None:
    before = sent(net)
    net.apply("endpointslices", endpoint_slice("web", [net.places["b"].address], *TARGETS))
    assert sent(net) - before == 2 * 2  # two ports, two nodes; nothing for the edge
    assert {a.tcp(WEB, 80)[0] for _ in range(10)} == {"b"}
    net.apply("endpointslices", endpoint_slice("web", [net.places[p].address for p in "bc"], *TARGETS))


def test_udp_client_follows_the_endpoints(net: Lab, a: Pod) -> None:
    """A client that keeps its port is not stuck with the refusal, nor with an endpoint that is gone."""
    source = 40001

    def answers() -> str | None:
        try:
            return a.udp(NONE, 53, source)[0]
        except ConnectionRefusedError:
            return None

    assert answers() is None
    net.apply("endpointslices", endpoint_slice("none", [net.places["b"].address], *TARGETS))
    assert wait_for(answers, "still refused") == "b"
    net.apply("endpointslices", endpoint_slice("none", [net.places["c"].address], *TARGETS))
    wait_for(lambda: answers() == "c", "still sent to the endpoint that is gone")
    net.apply("endpointslices", endpoint_slice("none", [], *TARGETS))
    wait_for(lambda: answers() is None, "not refused again")


def test_pod_comes_and_goes(net: Lab, a: Pod) -> None:
    pod = net.pod("late", net.n1, 9)
    before = sent(net)
    assert not pod.ping(a.address)
    net.apply("pods", pod.object)
    assert sent(net) - before == 5
    assert pod.ping(a.address)
    controller = net.controller
    assert controller
    net.wait("pods", net.delete("pods", "late", controller))
    assert sent(net) - before == 10
    assert not pod.ping(a.address)


def test_restart_sends_nothing_and_breaks_nothing(net: Lab, a: Pod) -> None:
    """Not a connection of before, not even while no controller is there; and what changed meanwhile is brought in."""
    listener = net.places["c"].socket()
    with listener, a.socket() as client:
        listener.bind(("0.0.0.0", 9090))
        listener.listen()
        client.connect((net.places["c"].address, 9090))
        server, _ = listener.accept()
        with server:
            assert net.controller
            net.controller.stop()
            client.sendall(b"1")
            assert server.recv(1) == b"1"
            assert a.tcp(WEB, 80)[0] in "bc"
            net.controlled()
            assert sent(net) == 0
            server.sendall(b"2")
            assert client.recv(1) == b"2"
            net.controller.stop()
            net.remember("endpointslices", endpoint_slice("web", [net.places["c"].address], *TARGETS))
            net.controlled()
            assert sent(net) == 2 * 2
            assert {a.tcp(WEB, 80)[0] for _ in range(10)} == {"c"}
            client.sendall(b"3")
            assert server.recv(1) == b"3"


def test_flows_that_someone_changed_are_put_right(net: Lab, a: Pod) -> None:
    """A bridge that connects anew gets what it lacks, and loses what it should not have."""
    bridge = net.n1.bridge
    before = bridge.flows()
    run("ovs-ofctl", "-O", "OpenFlow15", "del-flows", f"unix:{bridge.management}", "table=52")
    run("ovs-ofctl", "-O", "OpenFlow15", "add-flow", f"unix:{bridge.management}", "table=3,priority=7,actions=drop")
    assert net.controller
    net.controller.channels["n1"].close()
    net.controller.connect("n1", bridge.management)
    wait_for(lambda: bridge.flows() == before, "the flows are not what they were")
    assert wait_for(lambda: a.ping(net.places["b"].address), "the pods do not reach each other")


class Process:
    """The controller as a process, with os-ken; see controller_process."""

    def __init__(self, switches: Path) -> None:
        self.reports: list[dict[str, Any]] = []
        command = [sys.executable, str(Path(__file__).with_name("controller_process.py")), str(switches)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        with self.process.stdout as lines:
            for line in lines:
                self.reports.append(json.loads(line))

    def tell(self, resource: str, *items: dict[str, Any]) -> None:
        assert self.process.stdin
        for item in items:
            item["metadata"]["resourceVersion"] = "1"
        self.process.stdin.write(json.dumps({"list": resource, "items": items, "version": "1"}) + "\n")
        self.process.stdin.flush()

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        code = self.process.wait(timeout=5)
        self._reader.join()
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        return code


def test_osken_process_in_the_nodes_namespaces() -> None:
    """The real application: listeners inside each namespace and nowhere else, kill -9, and the same flows after it."""
    with lab(controller_tcp=True) as made:
        pods = [made.pod("a", made.n1, 2), made.pod("c", made.n2, 2)]

        def started() -> Process:
            process = Process(made.run)
            try:
                process.tell("clusters")
                process.tell("pods", *[pod.object for pod in pods])
                process.tell("services", service("web", WEB, *PORTS))
                process.tell("endpointslices", endpoint_slice("web", [pods[1].address], *TARGETS))
                process.tell("edges", made.edge_object)
                process.tell("nodes", made.n1.object, made.n2.object)
                wait_for(
                    lambda: process.reports and sum(n["connected"] for n in process.reports[-1]["nodes"]) == 3,
                    "the bridges did not connect",
                )
            except BaseException:
                process.end(signal.SIGKILL)
                raise
            return process

        first = started()
        try:
            assert all(node["listening"] for node in first.reports[-1]["nodes"])
            assert pods[0].ping(pods[1].address)
            assert ":6653" in run("ip", "netns", "exec", made.n1.netns, "ss", "-Hltn")
            sockets = run("ss", "-Hltnp")
            assert f"pid={first.process.pid}," not in sockets
            flows = made.n1.bridge.flows()
        finally:
            first.end(signal.SIGKILL)
        assert made.n1.bridge.flows() == flows
        assert pods[0].ping(pods[1].address)
        second = started()
        try:
            assert second.reports[-1]["messages"] == 0
            assert made.n1.bridge.flows() == flows
        finally:
            second.end(signal.SIGTERM)
