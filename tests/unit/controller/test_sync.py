"""The synchroniser against switches made of a few lines: epochs, failures, reconnects."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from ipaddress import ip_address

import controller_objects as make
import pytest

from controller.census import Entry, Tally
from controller.openflow import wire
from controller.report import Report
from controller.service_views import Endpoint
from controller.sync import Synchronizer, _Listening
from kmn.k8s.objects import Object

_NOTHING = _Listening("nobody", False)  # wakes the loop
RESOURCES = ("nodes", "pods", "services", "endpointslices", "namespaces", "networkpolicies")


class Switch:
    """Has nothing installed; answers when told to."""

    def __init__(self, bridge: str, datapath_id: int, synchronizer: Synchronizer) -> None:
        self.bridge, self.datapath_id = bridge, datapath_id
        self.sent = b""
        self.closed = False
        self._synchronizer = synchronizer
        synchronizer.up(self)

    def send(self, messages: bytes) -> None:
        self.sent += messages

    def close(self) -> None:
        self.closed = True

    def take(self) -> list[tuple[int, int, bytes]]:
        """Messages received since the last time: type, xid, bytes."""
        messages, self.sent = self.sent, b""
        taken = []
        while messages:
            kind, length, xid = struct.unpack_from("!xBHI", messages)
            taken.append((kind, xid, messages[:length]))
            messages = messages[length:]
        return taken

    def answer(self) -> list[int]:
        """Answer requests for what is installed, and commits; the types of what came."""
        taken = self.take()
        for kind, xid, message in taken:
            if kind == wire.MULTIPART_REQUEST:
                what = struct.unpack_from("!8xH", message)[0]
                self._synchronizer.receive(self, struct.pack("!BBHIHH4x", 6, 19, 16, xid, what, 0))
            elif kind == wire.BUNDLE_CONTROL and message[13] == 4:
                self._synchronizer.receive(self, struct.pack("!BBHIIHH", 6, 33, 16, xid, 1, 5, 3))
        return [kind for kind, _, _ in taken]

    def refuse(self, quoted: bytes) -> None:
        self._synchronizer.receive(self, struct.pack("!BBHIHH", 6, 1, 12 + len(quoted), 1, 5, 1) + quoted)


class Bench:
    """A synchroniser stepped by hand."""

    def __init__(self, nodes: int = 1) -> None:
        self.reports: list[Report] = []
        self.purging: list[Callable[[], None]] | None = None  # None: done at once
        self.counting: list[tuple[Sequence[str], Callable[[str, Tally], None], Callable[[float], None]]] = []
        self.synchronizer = Synchronizer(RESOURCES, self.reports.append, purge=self._purge, count=self._count)
        self._nodes = [make.node(f"n{number}", number) for number in range(1, nodes + 1)]
        self.now = 1000.0

    def _purge(self, bridge: str, done: Callable[[], None]) -> None:
        if self.purging is None:
            done()
        else:
            self.purging.append(done)

    def _count(
        self, bridges: Sequence[str], counted: Callable[[str, Tally], None], done: Callable[[float], None]
    ) -> None:
        self.counting.append((bridges, counted, done))

    def step(self) -> None:
        """Everything in the queue, then what follows."""
        self.synchronizer._queue.put(_NOTHING)
        self.synchronizer._take()
        self.synchronizer._advance(self.now)

    def list_all(self) -> None:
        for resource in RESOURCES:
            self.synchronizer.listed(resource, self._nodes if resource == "nodes" else [], "1")

    @property
    def observed(self) -> dict[str, str]:
        return dict(self.reports[-1].observed)

    def put(self, resource: str, version: int, obj: Object, kind: str = "MODIFIED") -> None:
        """An event of one object, and what follows at once."""
        obj["metadata"]["resourceVersion"] = str(version)
        self.synchronizer.event(resource, kind, obj)
        self.step()

    def event(self, version: int, *addresses: str) -> None:
        service, slice_ = (
            make.service("web", "10.96.0.20", ("", "TCP", 80)),
            make.endpoints("web", list(addresses), ("", "TCP", 80)),
        )
        for resource, obj in (("services", service), ("endpointslices", slice_)):
            obj["metadata"]["resourceVersion"] = str(version)
            self.synchronizer.event(resource, "MODIFIED", obj)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return clocked(Bench(), monkeypatch)


def clocked(made: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr("controller.sync.time.monotonic", lambda: made.now)
    return made


def connected(bench: Bench) -> Switch:
    """A bench with one switch in step."""
    bench.list_all()
    bench.step()
    return joined(bench, 1)


def joined(bench: Bench, number: int) -> Switch:
    """A node's switch, when it is in step."""
    switch = Switch(f"n{number}", number, bench.synchronizer)
    bench.step()
    assert switch.answer() == [18, 18]
    bench.step()
    kinds = switch.answer()
    assert (kinds[0], kinds[-1]) == (wire.BUNDLE_CONTROL, wire.BUNDLE_CONTROL)
    assert set(kinds[1:-1]) == {wire.BUNDLE_ADD}
    bench.step()
    assert f"n{number}" in [node.name for node in bench.reports[-1].nodes if node.connected]
    return switch


def test_nothing_is_sent_before_every_resource_was_listed(bench: Bench) -> None:
    """Half a picture would remove flows of what is not listed yet."""
    bench.synchronizer.listed("nodes", [make.node()], "1")
    switch = Switch("n1", 1, bench.synchronizer)
    bench.step()
    assert switch.answer() == [18, 18]
    bench.step()
    assert (switch.answer(), bench.reports) == ([], [])
    bench.list_all()
    bench.step()
    assert switch.answer() == [18, 18]
    bench.step()
    assert wire.BUNDLE_ADD in switch.answer()


def test_versions_are_in_force_when_megaflows_of_before_are_gone(bench: Bench) -> None:
    """One purge at a time; it counts for what was confirmed before it began."""
    switch = connected(bench)
    bench.purging = []
    for version in (5, 6):
        bench.event(version, f"10.244.1.{version}")
        bench.step()
        switch.answer()
        bench.step()
    assert (len(bench.purging), bench.observed["services"]) == (1, "1")
    bench.purging.pop()()
    bench.step()
    assert (len(bench.purging), bench.observed["services"]) == (1, "5")
    bench.purging.pop()()
    bench.step()
    assert (bench.purging, bench.observed["services"]) == ([], "6")


def test_versions_are_in_force_when_all_bridges_confirmed(bench: Bench) -> None:
    switch = connected(bench)
    bench.event(5, "10.244.1.2")
    bench.step()
    assert bench.observed["services"] == "1"
    bench.event(6, "10.244.1.3")
    bench.step()
    assert bench.observed["services"] == "1"
    switch.answer()
    bench.step()
    assert (bench.observed["services"], bench.observed["endpointslices"]) == ("6", "6")


def test_a_burst_is_one_bundle(bench: Bench) -> None:
    switch = connected(bench)
    for version in range(2, 50):
        bench.event(version, f"10.244.1.{version}")
    bench.step()
    assert switch.answer() == [wire.BUNDLE_CONTROL, *[wire.BUNDLE_ADD] * 3, wire.BUNDLE_CONTROL]


def test_changes_are_gathered_after_a_long_computation(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until nothing came for a moment, and not for longer than half a second."""
    switch, compute = connected(bench), bench.synchronizer.cluster.compute

    def slow() -> object:
        bench.now += 0.1
        return compute()

    def sent(version: int, *, after: float) -> bool:
        bench.now += after
        bench.event(version, f"10.244.1.{version}")
        bench.step()
        return bool(switch.answer())

    monkeypatch.setattr(bench.synchronizer.cluster, "compute", slow)
    assert sent(2, after=1)
    assert sent(3, after=0.01), "one change is no burst"
    for version in range(4, 10):
        bench.event(version, f"10.244.1.{version}")
    assert not sent(10, after=0.01)
    bench.now += 0.06
    bench.step()
    assert switch.answer(), "nothing came for a moment"
    waited = 0
    for version in range(11, 17):
        bench.event(version, f"10.244.1.{version}")
    while not sent(20 + waited, after=0.04):
        waited += 1
    assert waited == 12, "half a second is enough"
    monkeypatch.setattr(bench.synchronizer.cluster, "compute", compute)
    bench.now += 1
    bench.step()
    assert [sent(200 + version, after=0.001) for version in range(3)] == [True] * 3, "what is quick is sent at once"


def test_changes_are_gathered_while_a_switch_is_slow(bench: Bench) -> None:
    switch = connected(bench)
    for version in range(2, 50):
        bench.event(version, f"10.244.1.{version}")
        bench.step()
    assert [kind for kind, _, _ in switch.take()].count(wire.BUNDLE_CONTROL) == 2 * 4


def test_what_has_no_flows_is_in_force_at_once(bench: Bench) -> None:
    switch = connected(bench)
    pod = make.pod("x", "10.244.9.9", 10, node="unknown")
    pod["metadata"]["resourceVersion"] = "7"
    bench.synchronizer.event("pods", "ADDED", pod)
    bench.step()
    assert (switch.answer(), bench.observed["pods"]) == ([], "7")


def test_refusal_is_logged_with_its_flow_and_leads_to_a_new_reading(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    switch = connected(bench)
    bench.event(5, "10.244.1.2")
    bench.step()
    flow = next(message[16:] for kind, _, message in switch.take() if kind == wire.BUNDLE_ADD and message[17] == 14)
    switch.refuse(flow[:64])
    bench.step()
    assert (switch.answer(), bench.observed["services"]) == ([], "1")
    assert [node.connected for node in bench.reports[-1].nodes] == [False]
    assert "n1: the switch refused flow of SERVICE Service/default/web: cookie=0x4" in caplog.text
    bench.now += 60
    bench.step()
    assert switch.answer() == [18, 18]
    bench.step()
    assert wire.BUNDLE_ADD in switch.answer()
    bench.step()
    assert bench.observed["services"] == "5"


def test_silent_switch_is_disconnected_and_does_not_hold_up_others(bench: Bench) -> None:
    switch = connected(bench)
    bench.event(5, "10.244.1.2")
    bench.step()
    bench.now += 61
    bench.step()
    assert (switch.closed, bench.observed["services"]) == (True, "5")


def test_wrong_datapath_is_refused(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.list_all()
    bench.step()
    switch = Switch("n1", 99, bench.synchronizer)
    bench.step()
    switch.answer()
    bench.step()
    assert switch.closed
    assert "n1: datapath 0000000000000063 connected, 0000000000000001 expected" in caplog.text


def test_removed_node_is_disconnected(bench: Bench) -> None:
    switch = connected(bench)
    node = make.node()
    node["metadata"]["resourceVersion"] = "2"
    bench.synchronizer.event("nodes", "DELETED", node)
    bench.step()
    assert (switch.closed, bench.reports[-1].nodes, bench.observed["nodes"]) == (True, (), "2")


def test_report_is_sent_only_when_it_changed(bench: Bench) -> None:
    connected(bench)
    before = len(bench.reports)
    bench.step()
    assert len(bench.reports) == before


def test_objects_that_are_ignored_are_reported_until_they_are_corrected(bench: Bench) -> None:
    connected(bench)
    service = make.service("web", "10.96.0.20", ("", "TCP", 80))
    good = service["spec"]["clusterIP"]
    for version, address in (("2", "10.96.0"), ("3", good)):
        service = {**service, "spec": {**service["spec"], "clusterIP": address}}
        service["metadata"] = {**service["metadata"], "resourceVersion": version}
        bench.synchronizer.event("services", "MODIFIED", service)
        bench.step()
        if address != good:
            (problem,) = bench.reports[-1].status()["problems"]
            assert problem.startswith("Service default/web: spec.clusterIP: '10.96.0'")
    assert "problems" not in bench.reports[-1].status()


class Fleet:
    """Three switches in step: n1 has web-1, n2 has web-2 and client, n3 has other. Pods are labelled with their app."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._bench = clocked(Bench(nodes=3), monkeypatch)
        self._bench.list_all()
        self._bench.step()
        self._switches = {f"n{number}": joined(self._bench, number) for number in (1, 2, 3)}
        self._version = 1
        self.put("namespaces", {"kind": "Namespace", "metadata": {"name": "default"}})
        for number, (name, node) in enumerate((("web-1", 1), ("web-2", 2), ("client", 2), ("other", 3)), 10):
            self.put("pods", self.pod(name, node, number, name.partition("-")[0]))

    @staticmethod
    def pod(name: str, node: int, number: int, app: str) -> Object:
        made = make.pod(name, f"10.244.{node}.{number}", number, f"n{node}")
        made["metadata"]["labels"] = {"app": app}
        return made

    def put(self, resource: str, obj: Object, kind: str = "MODIFIED") -> dict[str, int]:
        """Messages of all kinds that switches got for one event, until it was in force; of those that got any."""
        self._version += 1
        counted = self._bench.synchronizer.counters.messages
        self._bench.put(resource, self._version, obj, kind)
        got = {name: len(switch.answer()) for name, switch in self._switches.items()}
        self._bench.step()
        assert self._bench.observed[resource] == str(self._version)
        changes = self._bench.synchronizer.counters.messages - counted
        assert sum(got.values()) == changes + 2 * sum(map(bool, got.values())), "a bundle is opened and committed"
        return {name: count for name, count in got.items() if count}


def _policy(app: str, client: str, *ports: int) -> Object:
    rule = {"from": [{"podSelector": {"matchLabels": {"app": client}}}], "ports": [{"port": port} for port in ports]}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {"podSelector": {"matchLabels": {"app": app}}, "ingress": [rule]},
    }


def test_a_policy_is_told_only_to_nodes_with_pods_that_it_is_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them gets one bundle; others, among them those with peers, get no message at all."""
    fleet = Fleet(monkeypatch)
    around = 2  # a bundle is opened and committed
    # The pod, its peer, two ports, the verdict, the count of packets, and what no rule allows.
    assert fleet.put("networkpolicies", _policy("web", "client", 80, 81)) == {"n1": around + 7, "n2": around + 7}
    # One port comes and one goes; the rest of the rule stays as it is.
    assert fleet.put("networkpolicies", _policy("web", "client", 80, 82)) == {"n1": around + 2, "n2": around + 2}
    # Another peer: also on a node that has nothing of the policy itself.
    assert fleet.put("networkpolicies", _policy("web", "other", 80, 82)) == {"n1": around + 2, "n2": around + 2}
    # About others: the flows go from two nodes, and come to one.
    moved = {"n1": around + 7, "n2": around + 7, "n3": around + 7}
    assert fleet.put("networkpolicies", _policy("other", "client", 80, 82)) == moved
    assert fleet.put("networkpolicies", _policy("other", "client", 80, 82), "DELETED") == {"n3": around + 7}


def test_a_pods_labels_are_told_only_to_nodes_with_rules_of_which_it_is_a_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(monkeypatch)
    fleet.put("networkpolicies", _policy("web", "client", 80))
    around, peer = 2, 1
    assert fleet.put("pods", fleet.pod("other", 3, 13, "client")) == {"n1": around + peer, "n2": around + peer}
    assert fleet.put("pods", fleet.pod("other", 3, 13, "nobody")) == {"n1": around + peer, "n2": around + peer}
    assert fleet.put("pods", fleet.pod("other", 3, 13, "somebody")) == {}
    # One that the policy is about: its node gets all of the rule.
    assert fleet.put("pods", fleet.pod("other", 3, 13, "web")) == {"n3": around + 6}


def least_connections(bench: Bench) -> Switch:
    """A bench with one switch in step, and a Service of two endpoints that is to be level."""
    proxy = {"mode": "ipvs", "ipvs": {"scheduler": "lc"}}
    obj = {"kind": "Cluster", "metadata": {"name": "t", "resourceVersion": "2"}, "spec": {"kubeProxy": proxy}}
    switch = connected(bench)
    bench.synchronizer.event("clusters", "ADDED", obj)
    bench.event(2, "10.244.1.2", "10.244.1.3")
    bench.step()
    switch.answer()
    return switch


def tally(count: int) -> Tally:
    endpoint = Endpoint(ip_address("10.244.1.2"), 80)
    return {Entry("TCP", ip_address("10.96.0.20"), 80, endpoint): 256 * count}


def test_connections_are_counted_and_turns_follow(bench: Bench) -> None:
    switch = least_connections(bench)
    bench.step()
    [(bridges, counted, done)] = bench.counting
    assert bridges == ["n1"]
    bench.step()
    assert len(bench.counting) == 1, "one count at a time"
    purges: list[Callable[[], None]] = []
    bench.purging = purges
    told = len(bench.reports)
    counted("n1", tally(2))
    bench.step()
    kinds = [kind for kind, _, _ in switch.take()]
    # Two turns and where to begin, and what was learned is forgotten: in one bundle.
    assert kinds == [wire.BUNDLE_CONTROL, *[wire.BUNDLE_ADD] * 4, wire.BUNDLE_CONTROL]
    assert not purges, "no megaflow is concerned"
    done(0.001)
    counted("n1", tally(2))
    bench.step()
    assert switch.take() == [], "nothing came, nothing went"
    assert len(bench.reports) == told, "turns are no news"
    bench.now += 1
    bench.step()
    assert len(bench.counting) == 2


def test_a_long_count_has_a_long_rest(bench: Bench) -> None:
    least_connections(bench)
    bench.step()
    bench.counting.pop()[2](1.0)
    bench.step()
    bench.now += 49
    bench.step()
    assert not bench.counting
    bench.now += 2
    bench.step()
    assert len(bench.counting) == 1


def test_where_nothing_is_to_be_level_nothing_is_counted(bench: Bench) -> None:
    switch = connected(bench)
    bench.event(2, "10.244.1.2", "10.244.1.3")
    for _ in range(3):
        bench.now += 10
        bench.step()
        switch.answer()
    bench.step()
    assert not bench.counting
    assert bench.synchronizer._patience() is None


def test_a_switch_that_is_away_is_not_counted(bench: Bench) -> None:
    switch = least_connections(bench)
    bench.step()
    [(_, counted, done)] = bench.counting
    bench.synchronizer.down(switch)
    counted("n1", tally(2))
    done(0.001)
    bench.now += 10
    bench.step()
    assert switch.take() == []
    assert len(bench.counting) == 1
    joined(bench, 1)
    bench.now += 10
    bench.step()
    assert len(bench.counting) == 2
