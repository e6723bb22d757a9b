"""Counting connections: what switches say of them, and how often they are asked."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from controller import census
from controller.census import Census, Entry, Pace, Tally
from controller.service_views import Endpoint

# As Open vSwitch 3.1 prints them. Only what was translated for a Service counts (bit 1 of the mark).
LINES = """\
tcp,orig=(src=10.244.1.2,dst=10.96.1.1,sport=4,dport=80),reply=(src=10.244.2.2,dst=10.244.1.2,sport=8081,dport=4)\
,zone=1,mark=3,labels=0x1,protoinfo=(state=ESTABLISHED)
tcp,orig=(src=10.244.1.2,dst=10.96.1.1,sport=5,dport=80),reply=(src=10.244.2.2,dst=10.244.1.2,sport=8081,dport=5)\
,zone=1,mark=3,protoinfo=(state=ESTABLISHED)
tcp,orig=(src=10.244.1.2,dst=10.96.1.1,sport=6,dport=80),reply=(src=10.244.2.2,dst=10.244.1.2,sport=8081,dport=6)\
,zone=1,mark=7,protoinfo=(state=TIME_WAIT)
tcp,orig=(src=10.244.1.2,dst=10.244.2.2,sport=7,dport=8081),reply=(src=10.244.2.2,dst=10.244.1.2,sport=8081,dport=7)\
,zone=1,mark=1,protoinfo=(state=ESTABLISHED)
udp,orig=(src=10.244.1.2,dst=10.96.1.1,sport=8,dport=53),reply=(src=10.244.2.3,dst=10.244.1.2,sport=53,dport=8)\
,zone=1,mark=3
tcp,orig=(src=fd00::2,dst=fd01::1,sport=9,dport=80),reply=(src=fd00::3,dst=fd00::2,sport=80,dport=9)\
,zone=1,mark=2,protoinfo=(state=SYN_SENT)
icmp,orig=(src=10.244.1.2,dst=10.244.2.2,id=1,type=8,code=0),reply=(src=10.244.2.2,dst=10.244.1.2,id=1,type=0,code=0)\
,zone=1,mark=1
"""
TALLY: Tally = {
    Entry("TCP", ip_address("10.96.1.1"), 80, Endpoint(ip_address("10.244.2.2"), 8081)): 2 * 256 + 1,
    Entry("UDP", ip_address("10.96.1.1"), 53, Endpoint(ip_address("10.244.2.3"), 53)): 256,
    Entry("TCP", ip_address("fd01::1"), 80, Endpoint(ip_address("fd00::3"), 80)): 1,
}


class Switch:
    """A control socket that answers each question with ``answer``, in pieces; without one it hangs."""

    def __init__(self, run: Path, answer: str) -> None:
        run.mkdir()
        (run / "ovs-vswitchd.pid").write_text("7\n")
        self.questions: list[object] = []
        self._answer = answer
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(run / "ovs-vswitchd.7.ctl"))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with self._listener, contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection:
                    self.questions.append(json.loads(connection.recv(4096)))
                    for at in range(0, len(self._answer), 100):
                        connection.sendall(self._answer[at : at + 100].encode())
                    connection.recv(1)  # until the other end closes

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RD)
        self._thread.join()


def told(result: str | None, error: str | None = None) -> str:
    return json.dumps({"id": 0, "result": result, "error": error}, separators=(",", ":"))


@pytest.fixture
def switches(tmp_path: Path) -> Iterator[dict[str, Switch]]:
    answers = {
        "full": told(LINES),
        "turned": json.dumps({"error": None, "result": LINES, "id": 0}, separators=(",", ":")),
        "empty": told(""),
        "failing": told(None, "no such datapath\nat all"),
        "hung": "",
    }
    made = {name: Switch(tmp_path / name, answer) for name, answer in answers.items()}
    yield made
    for switch in made.values():
        switch.close()


@pytest.fixture
def count(tmp_path: Path) -> Iterator[Census]:
    made = Census(tmp_path.joinpath)
    yield made
    made.close()


def counted(count: Census, *bridges: str) -> dict[str, Tally]:
    """What is told of switches, when that is all."""
    found: dict[str, Tally] = {}
    done: queue.SimpleQueue[float] = queue.SimpleQueue()
    count.count(bridges, found.__setitem__, done.put)
    assert 0 <= done.get(timeout=20) < census._TIMEOUT
    return found


def test_connections_are_counted_by_endpoint(switches: dict[str, Switch], count: Census) -> None:
    for _ in range(2):
        assert counted(count, "full", "turned", "empty") == {"full": TALLY, "turned": TALLY, "empty": {}}
    question = {"id": 0, "method": "dpctl/dump-conntrack", "params": ["zone=1"]}
    assert switches["full"].questions == [question] * 2


def test_who_does_not_answer_is_left_out(
    switches: dict[str, Switch], count: Census, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(census, "_TIMEOUT", 0.5)
    for _ in range(2):
        assert counted(count, "hung", "gone", "failing", "full") == {"full": TALLY}
    assert len(switches["hung"].questions) == 1, "it is not asked again at once"
    assert len(switches["failing"].questions) == 2


def test_nothing_is_there_until_something_is_counted(count: Census) -> None:
    assert "census" not in {thread.name for thread in threading.enumerate()}


def test_pace() -> None:
    pace = Pace()
    assert pace.next == pytest.approx(0.1)
    pace.began()
    assert pace.next is None
    pace.ended(100.0, 0.001, changed=True)
    assert pace.next == pytest.approx(100.1)
    gaps = []
    for _ in range(6):
        pace.ended(100.0, 0.001, changed=False)
        gaps.append(pace.gap)
    assert gaps == pytest.approx([0.2, 0.4, 0.8, 1.0, 1.0, 1.0]), "seldom where nothing happens"
    pace.hurry()
    assert pace.next == pytest.approx(100.1)
    pace.ended(100.0, 0.5, changed=True)
    assert pace.next == pytest.approx(100.1), "one slow count says nothing"
    pace.ended(100.0, 0.4, changed=True)
    pace.ended(100.0, 0.6, changed=True)
    assert pace.next == pytest.approx(120.0), "a fiftieth of the time at most"
    pace.hurry()
    assert pace.gap == pytest.approx(20.0)
