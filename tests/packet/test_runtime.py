"""What emulated containers answer: HTTP/1, HTTP/2, gRPC health, echo, UDP. Asked over veths, from the node."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded, TrailersReceived
from podlab import NODE_ADDRESS, PodLab, connect, datagram, exchange, lab, run_in

pytestmark = pytest.mark.packet

FIELDS = ["pod", "namespace", "node", "container", "port", "client", "path", "host", "headers"]
PORTS = [{"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}]


def in_lab(test: Callable[[PodLab, str], Awaitable[None]]) -> None:
    """Run a test against one ready pod, ``web``; it is given the pod's address."""

    async def run() -> None:
        async with lab("he-runtime") as it:
            pod = it.bind("web", {"containers": [{"name": "c", "ports": PORTS}]})
            it.in_force()
            await it.ready("web")
            await test(it, pod["status"]["podIP"])

    asyncio.run(run())


def test_http_1_tells_who_and_where_and_how_the_client_looked() -> None:
    async def check(it: PodLab, ip: str) -> None:
        answer = json.loads(await run_in(it.node_netns, "curl", "-s", "-H", "A: 1", "-H", "A: 2", f"http://{ip}/x?y=1"))
        assert list(answer) == FIELDS
        headers = answer.pop("headers")
        assert answer == {
            "pod": "web",
            "namespace": "default",
            "node": "n1",
            "container": "c",
            "port": 80,
            "client": NODE_ADDRESS,
            "path": "/x?y=1",
            "host": ip,
        }
        assert headers["A"] == "1, 2"

    in_lab(check)


def test_http_1_bodies_head_keep_alive_and_pieces() -> None:
    async def check(it: PodLab, ip: str) -> None:
        # More than a megabyte: curl asks "Expect: 100-continue" first.
        big = await run_in(
            it.node_netns, "curl", "-s", "--data-binary", "@-", f"http://{ip}/post", stdin=b"x" * 3_000_000
        )
        assert json.loads(big)["path"] == "/post"
        head = await run_in(it.node_netns, "curl", "-sI", f"http://{ip}/")
        assert head.startswith("HTTP/1.1 200 OK")
        twice = await run_in(it.node_netns, "curl", "-sv", "--stderr", "-", f"http://{ip}/1", f"http://{ip}/2")
        assert "Re-using existing connection" in twice
        reader, writer = await connect(it.node_netns, ip, 80)
        for piece in (b"GE", b"T /slow HT", b"TP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"):
            writer.write(piece)
            await asyncio.sleep(0.05)
        assert b'"path":"/slow"' in await reader.read()
        writer.close()
        assert b'"path":"/half"' in await exchange(it.node_netns, ip, 80, b"GET /half HTTP/1.0\r\n\r\n")
        reader, writer = await connect(it.node_netns, ip, 80)
        writer.write(b"GET /kept HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b'"path":"/kept"' in await reader.readuntil(b"}\n")
        writer.write_eof()  # for want of another request it ends
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        upgrade = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
        assert (await exchange(it.node_netns, ip, 80, upgrade)).startswith(b"HTTP/1.1 501 ")

    in_lab(check)


def test_other_tcp_is_echoed_until_the_client_has_sent_all() -> None:
    async def check(it: PodLab, ip: str) -> None:
        assert await exchange(it.node_netns, ip, 80, b"hello\n") == b"hello\n"
        assert await exchange(it.node_netns, ip, 80, b"GET") == b"GET"  # could have become a request
        assert await exchange(it.node_netns, ip, 80, b"POST no request line\n") == b"POST no request line\n"
        assert await exchange(it.node_netns, ip, 80, b"") == b""
        much = bytes(range(256)) * 40_000
        assert await exchange(it.node_netns, ip, 80, much) == much

    in_lab(check)


def test_udp_answers_as_agnhost_does() -> None:
    async def check(it: PodLab, ip: str) -> None:
        assert (await datagram(it.node_netns, ip, 53, b"hostname"))[0] == b"web"
        answer, mine = await datagram(it.node_netns, ip, 53, b"clientip\n")
        assert answer.decode() == mine
        assert (await datagram(it.node_netns, ip, 53, b"echo a b"))[0] == b"a b"
        assert (await datagram(it.node_netns, ip, 53, b"\x00\x01 else"))[0] == b"\x00\x01 else"

    in_lab(check)


async def h2_request(
    name: str, ip: str, headers: list[tuple[str, str]], body: bytes = b""
) -> tuple[dict[str, str], bytes]:
    """One request with prior knowledge; headers and trailers, and body of the response."""
    reader, writer = await connect(name, ip, 80)
    h2 = H2Connection(H2Configuration(header_encoding="utf-8"))
    h2.initiate_connection()
    h2.send_headers(1, [(":scheme", "http"), (":authority", ip), *headers], end_stream=not body)
    if body:
        h2.send_data(1, body, end_stream=True)
    writer.write(h2.data_to_send())
    found: dict[str, str] = {}
    data, ended = b"", False
    while not ended:
        events: list[Any] = list(h2.receive_data(await asyncio.wait_for(reader.read(65536), 5)))
        for event in events:
            match event:
                case ResponseReceived() | TrailersReceived():
                    found.update((str(n), str(v)) for n, v in event.headers)
                case DataReceived():
                    data += event.data
                case StreamEnded():
                    ended = True
    writer.close()
    return found, data


def test_http_2_with_prior_knowledge() -> None:
    async def check(it: PodLab, ip: str) -> None:
        headers, data = await h2_request(it.node_netns, ip, [(":method", "GET"), (":path", "/two?z"), ("a", "1")])
        assert (headers[":status"], headers["content-type"]) == ("200", "application/json")
        answer = json.loads(data)
        assert list(answer) == FIELDS
        assert (answer["pod"], answer["path"], answer["host"], answer["headers"]) == ("web", "/two?z", ip, {"a": "1"})
        assert "web" in await run_in(it.node_netns, "curl", "-s", "--http2-prior-knowledge", f"http://{ip}/")

    in_lab(check)


def test_grpc_health_follows_the_readiness_of_the_pod() -> None:
    def grpc(path: str) -> list[tuple[str, str]]:
        return [(":method", "POST"), (":path", path), ("content-type", "application/grpc"), ("te", "trailers")]

    async def check(it: PodLab, ip: str) -> None:
        health = "/grpc.health.v1.Health/Check"
        headers, data = await h2_request(it.node_netns, ip, grpc(health), b"\0\0\0\0\0")
        assert (headers["grpc-status"], data) == ("0", b"\0\0\0\0\2\x08\x01")
        it.annotate("web", ready="false")
        await it.until(lambda: not it.is_ready("web"), "not ready")
        _, data = await h2_request(it.node_netns, ip, grpc(health), b"\0\0\0\0\0")
        assert data == b"\0\0\0\0\2\x08\x02"
        headers, _ = await h2_request(it.node_netns, ip, grpc("/shop.Cart/Get"), b"\0\0\0\0\0")
        assert headers["grpc-status"] == "12"

    in_lab(check)


def test_outside_hosts_answer_too() -> None:
    async def check(it: PodLab, ip: str) -> None:
        # The node's namespace stands in for an outside host's: it has a loopback address to ask.
        host = {"name": "e1", "ip": NODE_ADDRESS, "netns": it.node_netns}
        edge = {"apiVersion": "kmn.io/v1", "kind": "Edge", "metadata": {"name": "edge"}, "spec": {"hosts": [host]}}
        it.client.create(edge)

        answer = b""

        async def answers() -> bool:
            nonlocal answer
            try:
                answer = await exchange(it.node_netns, NODE_ADDRESS, 80, b"GET / HTTP/1.0\r\n\r\n")
            except ConnectionRefusedError:
                return False
            return True

        await it.until(answers, "the host answers")
        body = json.loads(answer.partition(b"\r\n\r\n")[2])
        assert (body["pod"], body["namespace"], body["node"]) == ("e1", "", "")
        assert (await datagram(it.node_netns, NODE_ADDRESS, 7, b"ping"))[0] == b"ping"

    in_lab(check)
