"""The database client against a server that this test plays."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kmn.emulator.ovsdb import Ovsdb, OvsdbError


def serve(directory: Path, answers: Callable[[dict[str, Any]], bytes], count: int = 1) -> threading.Thread:
    """A server for one connection that answers ``count`` requests as told."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(directory / "db.sock"))
    listener.listen()

    def run() -> None:
        with listener:
            connection, _ = listener.accept()
            decoder = json.JSONDecoder()
            with connection:
                text = ""
                for _ in range(count):
                    while True:
                        try:
                            request, end = decoder.raw_decode(text)
                            break
                        except json.JSONDecodeError:
                            text += connection.recv(1 << 16).decode()
                    text = text[end:]
                    connection.sendall(answers(request))

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def reply(request: dict[str, Any], result: Any) -> bytes:
    return json.dumps({"id": request["id"], "result": result, "error": None}).encode()


def test_answers_come_in_order_though_they_arrive_together(tmp_path: Path) -> None:
    held: list[bytes] = []

    def answers(request: dict[str, Any]) -> bytes:
        held.append(reply(request, [{"uuid": ["uuid", f'a "}}{{" {request["id"]}']}]))
        return b"" if len(held) < 2 else b"".join(held)

    server = serve(tmp_path, answers, 2)
    client = Ovsdb(tmp_path)
    for _ in range(2):
        client.send([{"op": "comment"}])
    assert [client.receive()[0]["uuid"][1] for _ in range(2)] == ['a "}{" 1', 'a "}{" 2']
    client.close()
    server.join()


def test_an_echo_between_is_answered_and_passed_over(tmp_path: Path) -> None:
    got: list[dict[str, Any]] = []

    def answers(request: dict[str, Any]) -> bytes:
        got.append(request)
        if "method" not in request:
            return b""
        return json.dumps({"id": "echo", "method": "echo", "params": [7]}).encode() + reply(request, [{}])

    server = serve(tmp_path, answers, 2)
    client = Ovsdb(tmp_path)
    assert client.transact([{"op": "comment"}]) == [{}]
    server.join()
    client.close()
    assert got[1] == {"id": "echo", "result": [7], "error": None}


def test_a_refusal_has_the_servers_words(tmp_path: Path) -> None:
    server = serve(tmp_path, lambda request: reply(request, [{}, {"error": "constraint violation", "details": "why"}]))
    client = Ovsdb(tmp_path)
    with pytest.raises(OvsdbError, match="constraint violation: why"):
        client.transact([{"op": "comment"}])
    client.close()
    server.join()


def test_a_server_that_goes_is_told(tmp_path: Path) -> None:
    server = serve(tmp_path, lambda request: b'{"id": 1, "resu')
    client = Ovsdb(tmp_path)
    with pytest.raises(OvsdbError, match=r"closed the connection"):
        client.transact([{"op": "comment"}])
    server.join()
