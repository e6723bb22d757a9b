"""Least connections on real packets: who holds few gets the next ones, until all are level."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections import Counter
from collections.abc import Iterator

import pytest
from controller_lab import Lab, lab
from lab_commands import wait_for
from lab_objects import service, with_spec
from lab_places import Place
from test_balancing import NODE_PORT, VIP, WEIGHTS, X, cluster, slice_of

from controller.leveling import level

pytestmark = [pytest.mark.packet, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

ALL = list(WEIGHTS)
_PORT = 8081


@pytest.fixture(scope="module")
def net() -> Iterator[Lab]:
    """Pods c1 (client) and w1 on n1, w2, w3 and c2 (client) on n2; x behind the fabric."""
    with lab() as made:
        made.remember_machines(**cluster("lc")["spec"])
        for name, node, number in (
            ("c1", made.n1, 2), ("w1", made.n1, 3), ("w2", made.n2, 2), ("w3", made.n2, 3), ("c2", made.n2, 4),
        ):  # fmt: skip
            pod = made.pod(name, node, number).object
            if name in WEIGHTS:
                pod["metadata"]["annotations"]["kmn.io/weight"] = str(WEIGHTS[name])
            made.remember("pods", pod)
        made.outsider("x", X)
        made.controlled()
        yield made


class Held:
    """Connections that stay open, and who holds them. A server says its name, and waits."""

    def __init__(self, net: Lab) -> None:
        self._net = net
        self._open: dict[tuple[str, str], list[socket.socket]] = {}  # by client and server
        self._stop = threading.Event()
        self._servers = [threading.Thread(target=self._serve, args=(name, net.places[name])) for name in ALL]
        self._listening = threading.Barrier(len(ALL) + 1)
        for server in self._servers:
            server.start()
        self._listening.wait()

    def _serve(self, name: str, place: Place) -> None:
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(place.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("0.0.0.0", _PORT))
            listener.listen(256)
            self._listening.wait()
            clients: list[socket.socket] = []
            while not self._stop.is_set():
                for ready in select.select([listener, *clients], [], [], 0.1)[0]:
                    if ready is listener:
                        client = stack.enter_context(listener.accept()[0])
                        client.sendall(name.encode())
                        clients.append(client)
                    else:  # the other end was closed
                        clients.remove(ready)
                        ready.close()

    def open(self, times: int, client: str = "c1", address: str = VIP, port: int = 80) -> Counter[str]:
        """So many more, one after the other; whose they are."""
        found: Counter[str] = Counter()
        for _ in range(times):
            connection = self._net.places[client].socket()
            connection.connect((address, port))
            name = connection.recv(10).decode()
            self._open.setdefault((client, name), []).append(connection)
            found[name] += 1
        return found

    def close(self, name: str, times: int, client: str = "c1") -> None:
        for _ in range(times):
            self._open[client, name].pop().close()

    def counts(self, node: str = "n1") -> list[int]:
        """How many each endpoint holds of those that came by a node."""
        clients = {"c2"} if node == "n2" else {"c1", "x", "n1"}
        return [sum(len(self._open.get((client, name), ())) for client in clients) for name in ALL]

    def end(self) -> None:
        for connections in self._open.values():
            for connection in connections:
                connection.close()
        self._stop.set()
        for server in self._servers:
            server.join()


@pytest.fixture
def held(net: Lab) -> Iterator[Held]:
    """No connection is known before."""
    for bridge in net.bridges.values():
        bridge.appctl("dpctl/flush-conntrack")
    made = Held(net)
    yield made
    made.end()
    assert net.controller
    for resource, name in (("services", "s"), ("endpointslices", "s-1")):
        net.wait(resource, net.delete(resource, name, net.controller))


def serve(net: Lab, scheduler: str, endpoints: list[str], **spec: str) -> None:
    net.apply("clusters", cluster(scheduler))
    made = with_spec(service("s", VIP, ("t", "TCP", 80)), type="NodePort", **spec)
    made["spec"]["ports"][0]["nodePort"] = NODE_PORT
    net.apply("services", made)
    piece = slice_of(net, endpoints)
    piece["ports"] = [{"name": "t", "protocol": "TCP", "port": _PORT}]
    net.apply("endpointslices", piece)


def wait_known(net: Lab, held: Held, weights: list[int] | None = None, node: str = "n1") -> int:
    """Until a node's switch was told what follows from the connections; how many turns that are."""
    turns = len(level([256 * count for count in held.counts(node)], weights or [1] * len(ALL), 1000))
    wait_ahead(net, turns, node)
    return turns


def wait_ahead(net: Lab, turns: int, node: str = "n1") -> None:
    """Until a node's switch was told of so many turns before those of the cycle."""

    def ahead() -> int:
        return sum(",reg10=0x1000" in flow for flow in net.bridges[node].flows() if " table=33," in flow)

    wait_for(lambda: ahead() == turns, f"{node} was not told of {turns} turns")


def fill_up(net: Lab, held: Held, weights: list[int] | None = None) -> None:
    """Open as many as are missing. While they come, a switch may be told again of those that came meanwhile: then one
    is too many here or there, and the others are missing."""
    for _ in range(20):
        missing = wait_known(net, held, weights)
        if not missing:
            return
        held.open(missing)
    raise AssertionError(f"not level: {held.counts()}")


def test_who_holds_fewest_gets_the_next(net: Lab, held: Held) -> None:
    """One endpoint holds 50 connections: the next 100 go to the two others, and then each gets its share."""
    serve(net, "lc", ["w1"])
    assert held.open(50) == {"w1": 50}
    serve(net, "lc", ALL)
    assert wait_known(net, held) == 100
    assert held.open(100).keys() == {"w2", "w3"}
    fill_up(net, held)
    [before] = set(held.counts())
    held.open(30)
    fill_up(net, held)
    [after] = set(held.counts())
    assert before + 10 <= after <= before + 12
    # Some of them end: these endpoints get the next ones.
    held.close("w2", 5)
    held.close("w3", 2)
    assert wait_known(net, held) == 7
    assert held.open(7).keys() <= {"w2", "w3"}


def test_each_node_knows_its_own_connections(net: Lab, held: Held) -> None:
    serve(net, "lc", ["w1"])
    held.open(9)
    serve(net, "lc", ALL)
    assert wait_known(net, held) == 18
    assert wait_known(net, held, node="n2") == 0
    assert held.open(6, "c2").keys() == set(ALL)
    assert held.open(18).keys() == {"w2", "w3"}


def test_all_ways_to_a_port_count(net: Lab, held: Held) -> None:
    serve(net, "lc", ["w1"])
    assert held.open(8, "x", net.n1.address, NODE_PORT) == {"w1": 8}
    serve(net, "lc", ALL)
    assert wait_known(net, held) == 16
    assert held.open(16).keys() == {"w2", "w3"}
    fill_up(net, held)
    held.close("w1", 3, "x")
    assert wait_known(net, held) == 3
    assert held.open(3, "x", net.n1.address, NODE_PORT) == {"w1": 3}


def test_weights(net: Lab, held: Held) -> None:
    """Weights 3, 1 and 2: connections divided by them are level."""
    weights = list(WEIGHTS.values())
    serve(net, "wlc", ["w2"])
    assert held.open(4) == {"w2": 4}
    serve(net, "wlc", ALL)
    assert wait_known(net, held, weights) == 12 + 8
    assert held.open(20).keys() == {"w1", "w3"}
    held.open(12)
    fill_up(net, held, weights)
    w1, w2, w3 = held.counts()
    assert max(abs(w1 - 3 * w2), abs(w3 - 2 * w2)) <= 2, "less than a round of turns"
    held.close("w1", 9)
    wait_known(net, held, weights)
    assert held.open(8) == {"w1": 8}


def test_clients_with_session_affinity_count(net: Lab, held: Held) -> None:
    serve(net, "lc", ALL, sessionAffinity="ClientIP")
    [first] = held.open(5)
    assert wait_known(net, held) == 10
    [second] = held.open(4, "n1")
    assert second != first
    assert held.open(3) == {first: 3}


def test_turns_outlive_the_controller_and_go_with_the_scheduler(net: Lab, held: Held) -> None:
    serve(net, "lc", ["w1"])
    held.open(5)
    serve(net, "lc", ALL)
    assert wait_known(net, held) == 10
    assert net.controller
    net.controller.stop()
    assert held.open(4) == {"w2": 2, "w3": 2}
    net.controlled()
    assert wait_known(net, held) == 6
    assert held.open(6).keys() == {"w2", "w3"}
    fill_up(net, held)
    held.close("w1", 2)
    assert wait_known(net, held) == 2
    for name, bridge in net.bridges.items():
        scopes = net.controller.synchronizer.cluster.scopes(name)
        flows = [flow for flow in bridge.flows() if " table=26," not in flow]
        assert flows == sorted(str(flow) for scope in scopes for flow in scope.flows.values())
    serve(net, "rr", ALL)
    wait_ahead(net, 0)
    assert not net.controller.synchronizer.cluster.leveler
