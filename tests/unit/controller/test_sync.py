"""The synchroniser against switches made of a few lines: epochs, failures, reconnects."""

from __future__ import annotations

import struct
from collections.abc import Callable

import controller_objects as make
import pytest

from controller.openflow import wire
from controller.report import Report
from controller.sync import Synchronizer, _Listening

_NOTHING = _Listening("nobody", False)  # wakes the loop
RESOURCES = ("nodes", "pods", "services", "endpointslices")


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

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.purging: list[Callable[[], None]] | None = None  # None: done at once
        self.synchronizer = Synchronizer(RESOURCES, self.reports.append, purge=self._purge)
        self.now = 1000.0

    def _purge(self, bridge: str, done: Callable[[], None]) -> None:
        if self.purging is None:
            done()
        else:
            self.purging.append(done)

    def step(self) -> None:
        """Everything in the queue, then what follows."""
        self.synchronizer._queue.put(_NOTHING)
        self.synchronizer._take()
        self.synchronizer._advance(self.now)

    def list_all(self) -> None:
        for resource in RESOURCES:
            self.synchronizer.listed(resource, [make.node()] if resource == "nodes" else [], "1")

    @property
    def observed(self) -> dict[str, str]:
        return dict(self.reports[-1].observed)

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
    made = Bench()
    monkeypatch.setattr("controller.sync.time.monotonic", lambda: made.now)
    return made


def connected(bench: Bench) -> Switch:
    """A bench with one switch in step."""
    bench.list_all()
    bench.step()
    switch = Switch("n1", 1, bench.synchronizer)
    bench.step()
    assert switch.answer() == [18, 18]
    bench.step()
    kinds = switch.answer()
    assert (kinds[0], kinds[-1]) == (wire.BUNDLE_CONTROL, wire.BUNDLE_CONTROL)
    assert set(kinds[1:-1]) == {wire.BUNDLE_ADD}
    bench.step()
    assert [node.connected for node in bench.reports[-1].nodes] == [True]
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
