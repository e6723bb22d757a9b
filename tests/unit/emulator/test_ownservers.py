"""Servers of the emulator's own: what the runtime is told when other ones are wanted, and when it comes anew."""

from __future__ import annotations

import asyncio
from typing import Any

from kmn.emulator.ownservers import OwnServers, Server
from kmn.emulator.runtime.protocol import Answer, Container


def server(key: str, netns: str = "n", code: int = 0) -> Server:
    container = Container(
        id=key, netns=netns, addresses=("0.0.0.0",), pod="", namespace="", node="", name="", ports=(("TCP", 80),)
    )
    return Server(container, Answer(key, code, "", ()) if code else None)


class Told:
    """What was sent, in short, since the last look."""

    def __init__(self) -> None:
        self._sent: list[str] = []
        self.something = asyncio.Event()

    def send(self, op: str, item: Any) -> None:
        self._sent.append(f"{op} {item if isinstance(item, str) else item.id}")
        self.something.set()

    def look(self) -> list[str]:
        sent, self._sent = self._sent, []
        self.something.clear()
        return sent


def test_only_what_changes_is_told() -> None:
    told = Told()
    servers = OwnServers(told.send)
    servers.want("edge/", {"edge/a": server("edge/a"), "edge/b": server("edge/b")})
    servers.want("health/", {"health/n1": server("health/n1", code=503)})
    assert told.look() == ["start edge/a", "start edge/b", "start health/n1", "answer health/n1"]
    servers.want("health/", {"health/n1": server("health/n1", code=503)})
    assert told.look() == []
    servers.want("health/", {"health/n1": server("health/n1", code=200)})
    assert told.look() == ["answer health/n1"]
    servers.want("edge/", {"edge/a": server("edge/a", netns="other")})
    assert told.look() == ["stop edge/a", "stop edge/b", "start edge/a"]
    servers.connected()
    assert told.look() == ["start health/n1", "answer health/n1", "start edge/a"]


def test_what_could_not_start_is_tried_again_while_it_is_wanted() -> None:
    told = Told()

    async def run() -> None:
        servers = OwnServers(told.send)
        servers.want("health/", {name: server(name, code=200) for name in ("health/n1", "health/n2")})
        told.look()
        for name in ("health/n1", "health/n1", "health/n2"):
            servers.exited(name, "in use")
        servers.want("health/", {"health/n1": server("health/n1", code=200)})
        assert told.look() == ["stop health/n2"]
        await asyncio.wait_for(told.something.wait(), 10)
        assert told.look() == ["start health/n1", "answer health/n1"]

    asyncio.run(run())
