"""Purges of megaflows, asked of sockets that speak as ovs-vswitchd does."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller import megaflows
from controller.megaflows import Purger

_ANSWER = json.dumps({"id": 0, "result": "", "error": None}).encode()


class Switch:
    """A control socket; ``received`` counts questions, and only a listening one answers."""

    def __init__(self, run: Path, *, answers: bool) -> None:
        run.mkdir()
        (run / "ovs-vswitchd.pid").write_text("7\n")
        self._answers = answers
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(run / "ovs-vswitchd.7.ctl"))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with self._listener, contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            with connection:
                while question := connection.recv(4096):
                    for _ in range(question.count(b"revalidator/purge") if self._answers else 0):
                        connection.sendall(_ANSWER[:9])
                        connection.sendall(_ANSWER[9:])

    def close(self) -> None:
        with contextlib.suppress(OSError):  # nobody called: do so, that it need not wait any more
            self._listener.shutdown(socket.SHUT_RD)
        self._thread.join()


@pytest.fixture
def purger(tmp_path: Path) -> Iterator[Purger]:
    switches = [Switch(tmp_path / name, answers=name == "good") for name in ("good", "hung")]
    made = Purger(lambda bridge: tmp_path / bridge)
    yield made
    made.close()
    for switch in switches:
        switch.close()


def purge(purger: Purger, bridge: str) -> threading.Event:
    done = threading.Event()
    purger.purge(bridge, done.set)
    return done


def test_every_question_is_answered_in_pieces_and_more_than_once(purger: Purger) -> None:
    waiting = [purge(purger, "good") for _ in range(3)]
    assert all(done.wait(10) for done in waiting)


def test_a_switch_that_is_gone_has_no_megaflows(purger: Purger) -> None:
    assert purge(purger, "gone").wait(10)


def test_a_switch_that_hangs_keeps_no_other_waiting(purger: Purger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(megaflows, "_TIMEOUT", 0.5)
    hung = purge(purger, "hung")
    assert purge(purger, "good").wait(10)
    assert hung.wait(10), "given up after the time limit"
