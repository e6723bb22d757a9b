"""Does it arrive? Real packets from pods to pods, many at once, and what became of them.

TCP connects: an established connection has arrived, and so has one that is refused (RST), as policies drop in silence.
It ends with RST as well, so that neither side keeps anything of it. A datagram has arrived when it is seen behind the
destination's device (a packet socket there takes up what carries this run's mark); no program has to answer, and none
is started. What a firewall of the pod's own does behind the device is not seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import resource
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address

from kmn.emulator import netns

__all__ = ["PATIENCE", "Outcome", "Probe", "send"]

PATIENCE = 5.0  # seconds for what should arrive: a SYN that is lost is sent again after 1 and after 3
_SHORT_PATIENCE = 1.2  # seconds for what should not: two SYNs
_RESEND = 0.25  # seconds after which a datagram is sent again
_AT_ONCE = 500
_DEVICE = "eth0"
_SO_ATTACH_FILTER = 26  # <asm-generic/socket.h>
_ETH_P_IP = 0x0800
_CLOSERS = 64  # closing a packet socket waits for all CPUs: many wait together


@dataclass(frozen=True, slots=True)
class Probe:
    """One connection or datagram. ``expected``: whether it should arrive, which only says how long to wait."""

    source: str  # network namespaces
    destination: str
    address: IPv4Address  # of the destination
    port: int
    protocol: str  # TCP or UDP
    expected: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """``arrived`` None: it could not be sent, as a pod was gone."""

    arrived: bool | None
    how: str  # "connected", "refused", "no answer within 5 s"


def send(probes: Sequence[Probe], on_progress: Callable[[int], None] = lambda done: None) -> list[Outcome]:
    """Send all of them, some hundreds at a time, and say what became of each. Needs root; leaves nothing behind.

    What should have arrived and did not is sent once more: the first packets between two nodes may be lost on a
    machine that has much to do. What did arrive needs no second opinion.
    """
    _allow_many_files(_AT_ONCE + len({probe.destination for probe in probes if probe.protocol == "UDP"}))
    outcomes = asyncio.run(_send(probes, on_progress))
    missing = [n for n, (p, o) in enumerate(zip(probes, outcomes, strict=True)) if p.expected and o.arrived is False]
    again = asyncio.run(_send([probes[n] for n in missing], lambda done: None)) if missing else []
    for number, outcome in zip(missing, again, strict=True):
        outcomes[number] = outcome
    return outcomes


async def _send(probes: Sequence[Probe], on_progress: Callable[[int], None]) -> list[Outcome]:
    free = asyncio.Semaphore(_AT_ONCE)
    done = 0

    async def one(number: int, probe: Probe) -> Outcome:
        nonlocal done
        async with free:
            try:
                outcome = await (_connect(probe) if probe.protocol == "TCP" else _datagram(probe, number, arrivals))
            except FileNotFoundError:
                outcome = Outcome(None, "the pod is gone")
        done += 1
        on_progress(done)
        return outcome

    with _arrivals(probes) as arrivals:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(number, probe)) for number, probe in enumerate(probes)]
        return [task.result() for task in tasks]


async def _connect(probe: Probe) -> Outcome:
    patience = _patience(probe)
    with _socket(probe, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        try:
            async with asyncio.timeout(patience):
                await asyncio.get_running_loop().sock_connect(sock, (str(probe.address), probe.port))
        except ConnectionRefusedError:
            return Outcome(True, "refused")
        except TimeoutError:
            return Outcome(False, f"no answer within {patience:g} s")
        except OSError as error:
            return Outcome(False, _words(error))
    return Outcome(True, "connected")


async def _datagram(probe: Probe, number: int, arrivals: _Arrivals) -> Outcome:
    patience = _patience(probe)
    arrived = arrivals.expect(number, probe.destination)
    with _socket(probe, socket.SOCK_DGRAM) as sock:
        try:
            async with asyncio.timeout(patience):
                sock.connect((str(probe.address), probe.port))
                while not arrived.is_set():
                    # An ICMP error that came meanwhile would be told now: the packet socket knows better.
                    with contextlib.suppress(ConnectionRefusedError, BlockingIOError):
                        sock.send(arrivals.payload(number))
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(arrived.wait(), _RESEND)
        except TimeoutError:
            return Outcome(False, f"did not arrive within {patience:g} s")
        except OSError as error:
            return Outcome(False, _words(error))
    return Outcome(True, "arrived")


def _patience(probe: Probe) -> float:
    return PATIENCE if probe.expected else _SHORT_PATIENCE


def _socket(probe: Probe, kind: socket.SocketKind) -> socket.socket:
    with netns.entered(probe.source):
        return socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK)


def _words(error: OSError) -> str:
    return os.strerror(error.errno).lower() if error.errno else str(error)


class _Arrivals:
    """Which datagrams of this run came through to the namespace that they are for."""

    def __init__(self) -> None:
        self._mark = b"kmn" + os.urandom(5)
        self._expected: dict[int, tuple[str, asyncio.Event]] = {}

    @property
    def mark(self) -> int:
        """The first four bytes of payloads."""
        return int.from_bytes(self._mark[:4])

    def payload(self, number: int) -> bytes:
        return self._mark + number.to_bytes(4)

    def expect(self, number: int, destination: str) -> asyncio.Event:
        self._expected[number] = destination, asyncio.Event()
        return self._expected[number][1]

    def take_in(self, sock: socket.socket, place: str) -> None:
        """Read what came to a namespace. Echoes of what this run sent elsewhere are none of it."""
        while True:
            try:
                packet = sock.recv(2048)
            except BlockingIOError:
                return
            payload = packet[(packet[0] & 0xF) * 4 + 8 :]  # behind the headers of IP and UDP
            destination, event = self._expected.get(int.from_bytes(payload[8:12]), ("", None))
            if event is not None and destination == place and payload[:8] == self._mark:
                event.set()


@contextlib.contextmanager
def _arrivals(probes: Iterable[Probe]) -> Iterator[_Arrivals]:
    """Watch the devices of all destinations of datagrams."""
    arrivals, sockets = _Arrivals(), list[socket.socket]()
    loop = asyncio.get_running_loop()
    places = dict.fromkeys(probe.destination for probe in probes if probe.protocol == "UDP")
    try:
        for place in places:
            with contextlib.suppress(FileNotFoundError), netns.entered(place):
                sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0)
                sockets.append(sock)
                _attach(sock, _filter(arrivals.mark))
                sock.bind((_DEVICE, _ETH_P_IP))
                loop.add_reader(sock, arrivals.take_in, sock, place)
        yield arrivals
    finally:
        for sock in sockets:
            loop.remove_reader(sock)
        with ThreadPoolExecutor(_CLOSERS) as pool:
            list(pool.map(socket.socket.close, sockets))


def _filter(mark: int) -> list[tuple[int, int, int, int]]:
    """A program for the kernel (classic BPF, from the IP header on) that takes UDP whose payload begins so."""
    load_byte, load_word_after, header_to_x, jump_if_equal, give = 0x30, 0x40, 0xB1, 0x15, 0x06
    return [
        (load_byte, 0, 0, 9),
        (jump_if_equal, 0, 4, socket.IPPROTO_UDP),
        (header_to_x, 0, 0, 0),
        (load_word_after, 0, 0, 8),
        (jump_if_equal, 0, 1, mark),
        (give, 0, 0, 0xFFFF),
        (give, 0, 0, 0),
    ]


def _attach(sock: socket.socket, program: Sequence[tuple[int, int, int, int]]) -> None:
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", len(program), ctypes.addressof(code)))


def _allow_many_files(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 200
    if soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (min(wanted, hard) if hard != resource.RLIM_INFINITY else wanted, hard)
        )
