"""Real sockets in many network namespaces from one process: who answers, and whom did it see asking?

A socket stays in the namespace that it was made in, so one event loop asks from every pod of a cluster at once:
thousands of questions in a second or two. Nothing is asked twice: what is lost on the way shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

import dnslib

from kmn.emulator import netns
from kmn.machine import Machine

T = TypeVar("T")
Q = TypeVar("Q")

TIMEOUT = 10.0  # seconds for one question, on a busy machine
_AT_ONCE = 150


@dataclass(frozen=True, slots=True)
class Question:
    """Who asks whom. ``host`` is an address, or a name that the asker looks up first."""

    asker: Machine
    host: str
    port: int
    protocol: str = "TCP"

    def __str__(self) -> str:
        return f"{self.asker} -> {self.host}:{self.port}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class Answer:
    """Which pod answered, and the client's address as that pod saw it."""

    pod: str
    client: str
    port: int  # of the container; over UDP the pod does not tell, and it is the port that was asked


def ask(questions: Sequence[Question], timeout: float = TIMEOUT) -> list[Answer | Exception]:
    """Ask all of them, many at once; answers, or what went wrong, in the order of the questions."""
    return _all(_ask, questions, timeout)


def answered(question: Question) -> Answer:
    """One question that must be answered."""
    (answer,) = ask([question])
    if isinstance(answer, Exception):
        raise AssertionError(f"{question}: {_described(answer)}") from answer
    return answer


def wrong(
    questions: Sequence[Question],
    pods: Callable[[Question], Iterable[str]],
    client: Callable[[Question, Answer], str] = lambda question, _: question.asker.ip,
) -> list[str]:
    """One line for each question that was not answered by one of ``pods`` that saw ``client`` asking."""
    lines = []
    for question, answer in zip(questions, ask(questions), strict=True):
        if isinstance(answer, Exception):
            lines.append(f"{question}: {_described(answer)}")
        elif answer.pod not in pods(question) or answer.client != client(question, answer):
            expected = f"one of {sorted(pods(question))} that sees {client(question, answer)}"
            lines.append(f"{question}: {answer.pod} saw {answer.client}, should be {expected}")
    return lines


def echo(asker: Machine, address: str, port: int, data: bytes, *, protocol: str = "TCP") -> bytes:
    """What comes back of ``data``: everything over TCP, the first datagram over UDP."""

    async def run() -> bytes:
        async with asyncio.timeout(TIMEOUT):
            with opened(asker, protocol) as sock:
                return await _echo(sock, (address, port), data, protocol)

    return asyncio.run(run())


@contextlib.contextmanager
def opened(
    machine: Machine, protocol: str = "TCP", bind: tuple[str, int] | None = None, *, ipv6: bool = False
) -> Iterator[socket.socket]:
    """A socket of a pod, node or host, without blocking."""
    kinds = {"TCP": (socket.SOCK_STREAM, 0), "UDP": (socket.SOCK_DGRAM, 0), "ICMP": (socket.SOCK_RAW, 1)}
    kind, number = kinds[protocol]
    with netns.entered(machine.netns):
        sock = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, kind | socket.SOCK_NONBLOCK, number)
    with sock:
        if bind is not None:
            sock.bind(bind)
        yield sock


def _all(one: Callable[[Q], Awaitable[T]], items: Sequence[Q], timeout: float) -> list[T | Exception]:
    async def run() -> list[T | Exception]:
        gate = asyncio.Semaphore(_AT_ONCE)

        async def gated(item: Q) -> T | Exception:
            async with gate:
                try:
                    async with asyncio.timeout(timeout):
                        return await one(item)
                except Exception as error:
                    return error

        return await asyncio.gather(*(gated(item) for item in items))

    return asyncio.run(run())


def _described(error: Exception) -> str:
    return f"{type(error).__name__} {error}".strip()


async def _ask(question: Question) -> Answer:
    address = (await resolve(question.asker, question.host), question.port)
    with opened(question.asker, question.protocol, ipv6=":" in address[0]) as sock:
        if question.protocol == "UDP":
            return await _ask_udp(sock, address)
        return await _ask_tcp(sock, address, question.host)


async def _ask_tcp(sock: socket.socket, address: tuple[str, int], host: str) -> Answer:
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, address)
    request = f"GET /who HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    await loop.sock_sendall(sock, request.encode())
    data = b""
    while piece := await loop.sock_recv(sock, 65536):
        data += piece
    answer = json.loads(data.partition(b"\r\n\r\n")[2])
    return Answer(answer["pod"], answer["client"], answer["port"])


async def _ask_udp(sock: socket.socket, address: tuple[str, int]) -> Answer:
    """Two datagrams of one "connection": the same pod must get both."""
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, address)
    await loop.sock_sendall(sock, b"hostname")
    pod = (await loop.sock_recv(sock, 65536)).decode()
    await loop.sock_sendall(sock, b"clientip")
    client = (await loop.sock_recv(sock, 65536)).decode().rpartition(":")[0]
    return Answer(pod, client, address[1])


async def _echo(sock: socket.socket, address: tuple[str, int], data: bytes, protocol: str) -> bytes:
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, address)
    if protocol == "UDP":
        await loop.sock_sendall(sock, data)
        return await loop.sock_recv(sock, 65536)

    async def send() -> None:
        await loop.sock_sendall(sock, data)
        sock.shutdown(socket.SHUT_WR)

    sending = asyncio.create_task(send())
    received = bytearray()
    while piece := await loop.sock_recv(sock, 1 << 20):
        received += piece
    await sending
    return bytes(received)


# --- names ------------------------------------------------------------------------------------------------------------


async def resolve(asker: Machine, name: str) -> str:
    """The address of a name as the asker's resolv.conf says to find it: search list, first name server, UDP."""
    with contextlib.suppress(ValueError):
        return str(ip_address(name))
    lines = [line.split() for line in (Path("/etc/netns") / asker.netns / "resolv.conf").read_text().splitlines()]
    options = {words[0]: words[1:] for words in lines if words}
    suffixes = ("", *options["search"]) if name.count(".") >= 5 else (*options["search"], "")
    for suffix in suffixes:
        full = f"{name}.{suffix}".rstrip(".")
        reply = await _query(asker, options["nameserver"][0], full)
        if reply.rr:
            return str(next(record.rdata for record in reply.rr if record.rtype == dnslib.QTYPE.A))
    raise LookupError(f"{name}: no address in {', '.join(suffixes)}")


async def _query(asker: Machine, server: str, name: str) -> dnslib.DNSRecord:
    loop = asyncio.get_running_loop()
    question = dnslib.DNSRecord.question(name)
    with opened(asker, "UDP") as sock:
        await loop.sock_connect(sock, (server, 53))
        await loop.sock_sendall(sock, question.pack())
        while True:
            reply = dnslib.DNSRecord.parse(await loop.sock_recv(sock, 65535))
            if reply.header.id == question.header.id:
                return reply


# --- ping -------------------------------------------------------------------------------------------------------------

_ECHO_REPLY, _ECHO_REQUEST = 0, 8
_ROUND_TIMEOUT = 5.0


def ping_all(machines: Sequence[Machine]) -> list[str]:
    """Every machine pings every other one, and tells whom it sees pinging. One line for each ping without an answer,
    or that arrived under another source address."""
    return asyncio.run(_PingAll(machines).run())


class _PingAll:
    """A raw socket a machine sees the requests that it gets and the replies to its own. Requests carry who sent them
    in the identifier and whom they are for in the sequence number."""

    def __init__(self, machines: Sequence[Machine]) -> None:
        self._machines = machines
        self._base = os.getpid() & 0x7FFF
        self._missing: set[tuple[int, int]] = set()
        self._unseen: set[tuple[int, int]] = set()
        self._lines: list[str] = []
        self._round_done = asyncio.Event()

    async def run(self) -> list[str]:
        loop = asyncio.get_running_loop()
        count = len(self._machines)
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(opened(machine, "ICMP")) for machine in self._machines]
            for number, sock in enumerate(sockets):
                loop.add_reader(sock, self._read, number, sock)
            for distance in range(1, count):
                pairs = [(number, (number + distance) % count) for number in range(count)]
                await self._round(sockets, pairs)
            for sock in sockets:
                loop.remove_reader(sock)
        return self._lines

    async def _round(self, sockets: Sequence[socket.socket], pairs: Sequence[tuple[int, int]]) -> None:
        self._missing, self._unseen = set(pairs), set(pairs)
        self._round_done.clear()
        for asker, target in pairs:
            head = struct.pack("!BBHHH", _ECHO_REQUEST, 0, 0, self._base + asker & 0xFFFF, target)
            head = head[:2] + struct.pack("!H", _checksum(head)) + head[4:]
            sockets[asker].sendto(head, (self._machines[target].ip, 0))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._round_done.wait(), _ROUND_TIMEOUT)
        for asker, target in sorted(self._missing):
            self._lines.append(f"{self._machines[asker]} -> {self._machines[target]}: no answer")
        for asker, target in sorted(self._unseen - self._missing):
            self._lines.append(f"{self._machines[asker]} -> {self._machines[target]}: answered by somebody else")

    def _read(self, number: int, sock: socket.socket) -> None:
        packet = sock.recv(65535)
        header = 4 * (packet[0] & 0xF)
        source = socket.inet_ntoa(packet[12:16])
        kind, _, _, ident, sequence = struct.unpack_from("!BBHHH", packet, header)
        asker = (ident - self._base) & 0xFFFF
        pair = (asker, sequence)
        if kind == _ECHO_REQUEST and sequence == number and pair in self._unseen:
            self._unseen.discard(pair)
            if source != self._machines[asker].ip:
                self._lines.append(f"{self._machines[asker]} -> {self._machines[number]}: was seen as {source}")
        elif kind == _ECHO_REPLY and asker == number and source == self._machines[sequence].ip:
            self._missing.discard(pair)
        if not self._missing and not self._unseen:
            self._round_done.set()


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF
