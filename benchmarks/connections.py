"""Many TCP connections open at the same time, through a ClusterIP and one node's bridge: does each still work?

Clients and servers are in pods of that node. Each connection sends a byte and gets it back when it is made, and again
when all are there. A process holds as many ends as it may open files: there is one a pod, clients and servers apart.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import select
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks import workload
from benchmarks.http import client_ports
from benchmarks.memory import Memory
from benchmarks.report import Row, show
from kmn import Cluster
from kmn.dns.sockets import in_netns
from kmn.k8s.resources import SERVICES
from kmn.ovstools import argv

__all__ = ["Clients", "main", "serve", "shares"]

_PORT = 7000
_UNDER_WAY = 64  # connections that a process is making, or bytes on the way
_TIMEOUT = 20.0  # seconds without any progress, after which what is missing has failed
_MOST_FILES = 30_000  # a process; a client has one address, and 32,000 ports that Linux likes to give
_SPARE_FILES = 1000
_spawn = multiprocessing.get_context("spawn")


def main(*, quick: bool = False, json_file: Path | None = None) -> None:
    wanted = 10_000 if quick else 100_000
    files = _may_open()
    counts = shares(wanted, files - _SPARE_FILES)
    name = f"conns{os.getpid()}"
    clients = [f"client-{n}" for n in range(len(counts))]
    servers = [f"server-{n}" for n in range(2 * len(counts))]  # twice: the bridge does not divide evenly
    with Cluster(workload.cluster(name, 1)) as cluster, ExitStack() as stack:
        cluster.apply(*[workload.place(pod, "n1") for pod in (*clients, *servers)])
        cluster.wait_ready()
        cluster.apply(workload.selectorless_service("many", _PORT))
        cluster.apply(workload.slice_of("many", [cluster.pod(pod).ip for pod in servers], _PORT))
        cluster.wait_ready()
        address = cluster.client.get(SERVICES, "default", "many")["spec"]["clusterIP"]
        for pod in servers:
            pipe = stack.enter_context(_process(serve, cluster.pod(pod).netns, _PORT, files))
            pipe.recv()  # it listens
        before = Memory.of(name).pss["ovs-vswitchd"]
        start = time.perf_counter()
        workers = []
        for pod, count in zip(clients, counts, strict=True):
            client_ports(cluster.pod(pod).netns)
            workers.append(stack.enter_context(_process(_client, cluster.pod(pod).netns, address, _PORT, count, files)))
        opened = sum(pipe.recv() for pipe in workers)
        making = time.perf_counter() - start
        tracked, memory = _tracked(cluster), Memory.of(name).pss["ovs-vswitchd"]
        start = time.perf_counter()
        for pipe in workers:
            pipe.send(None)
        alive = sum(pipe.recv() for pipe in workers)
        again = time.perf_counter() - start
        failures: Counter[str] = Counter()
        for pipe in workers:
            failures += pipe.recv()
        rows = [
            Row("opened, a byte there and back", opened, f"of {wanted:,}", wanted="all"),
            Row("connections made", opened / making, "/s"),
            Row("tracked by the switch at that time", tracked, ""),
            Row("a byte there and back when all are open", alive, f"of {wanted:,}", wanted="all"),
            Row("bytes there and back", alive / again, "/s"),
            Row("lost", wanted - alive, "", wanted="0"),
            Row("the switch before, PSS", before / 1024, "MB"),
            Row("the switch with all of them, PSS", memory / 1024, "MB"),
            Row("a connection in the switch", (memory - before) / max(opened, 1), "kB"),
            *(Row(f"failed: {why}", count, "") for why, count in failures.items()),
        ]
    show(f"{wanted:,} TCP connections open at a time, through a ClusterIP and one node", rows, json_file=json_file)


def shares(wanted: int, most: int) -> list[int]:
    """How many connections each client makes, none more than ``most``, as even as can be."""
    count = -(-wanted // most)
    return [wanted // count + (number < wanted % count) for number in range(count)]


class Clients:
    """Connections from one namespace, driven by one poll. ``alive``: how many have just had their byte back."""

    def __init__(self) -> None:
        self.alive = 0
        self.failures: Counter[str] = Counter()  # what went wrong
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._waiting: set[int] = set()  # those whose byte is not back yet

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self._sockets.values():
            sock.close()
        self._poll.close()

    def connect(self, netns: str, address: str, port: int, count: int) -> None:
        """Make connections from a namespace, and send a byte there and back on each."""
        made = in_netns(netns, lambda: [socket.socket() for _ in range(count)])

        def begin(sock: socket.socket) -> None:
            sock.setblocking(False)
            self._sockets[sock.fileno()] = sock
            error = sock.connect_ex((address, port))
            if error in (0, errno.EINPROGRESS):
                self._waiting.add(sock.fileno())
                self._poll.register(sock, select.EPOLLOUT)
            else:
                self._fail(sock.fileno(), os.strerror(error))

        self._run(made, begin)

    def again(self) -> None:
        """Send another byte there and back on each connection that is left."""
        self.alive = 0
        self._run(list(self._sockets.values()), self._send)

    def _run(self, todo: Sequence[socket.socket], begin: Callable[[socket.socket], None]) -> None:
        """Begin with each, so many at a time, and wait for their bytes."""
        rest, progress = iter(todo), time.monotonic()
        while True:
            for sock in islice(rest, _UNDER_WAY - len(self._waiting)):
                begin(sock)
            if not self._waiting:
                return
            events = self._poll.poll(1.0)
            for number, event in events:
                self._handle(number, self._sockets[number], event)
            if events:
                progress = time.monotonic()
            elif time.monotonic() - progress > _TIMEOUT:
                for number in list(self._waiting):
                    self._fail(number, f"no answer within {_TIMEOUT:.0f} s")

    def _handle(self, number: int, sock: socket.socket, event: int) -> None:
        if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._fail(number, os.strerror(error))
        elif event & select.EPOLLIN:
            if sock.recv(1):
                self.alive += 1
                self._waiting.discard(number)
            else:
                self._fail(number, "closed by the other end")
        elif event & select.EPOLLOUT:
            self._poll.modify(number, select.EPOLLIN)
            self._send(sock)

    def _send(self, sock: socket.socket) -> None:
        number = sock.fileno()
        if number < 0:
            return  # failed after the list of them was made
        self._waiting.add(number)
        try:
            sock.send(b"x")
        except OSError as error:
            self._fail(number, os.strerror(error.errno or 0))

    def _fail(self, number: int, why: str) -> None:
        self.failures[why] += 1
        self._waiting.discard(number)
        self._sockets.pop(number).close()  # closing takes it out of the poll


# --- processes --------------------------------------------------------------------------------------------------------


@contextmanager
def _process(run: Callable[..., None], *args: object) -> Iterator[Connection]:
    """``run(pipe, *args)`` in a process of its own, which ends with the block; this end of the pipe."""
    here, there = _spawn.Pipe()
    process = _spawn.Process(target=run, args=(there, *args))
    process.start()
    there.close()  # so that the end of the process is the end of the pipe
    try:
        yield here
    finally:
        process.kill()
        process.join()
        here.close()


def serve(pipe: Connection, netns: str, port: int, files: int) -> None:
    """Echo single bytes on all connections, for ever. Sends one object when it listens."""
    _open_files(files)
    listener = in_netns(netns, lambda: socket.create_server(("", port), backlog=4096))
    listener.setblocking(False)
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    ends: dict[int, socket.socket] = {}
    pipe.send(None)
    while True:
        for number, _ in poll.poll():
            if number == listener.fileno():
                for end in _accepted(listener):
                    ends[end.fileno()] = end
                    poll.register(end, select.EPOLLIN)
                continue
            try:
                byte = ends[number].recv(1)
                ends[number].send(byte)
            except OSError:
                byte = b""  # reset; the client notices, too
            if not byte:
                ends.pop(number).close()


def _accepted(listener: socket.socket) -> Iterable[socket.socket]:
    while True:
        try:
            end, _ = listener.accept()
        except BlockingIOError:
            return
        end.setblocking(False)
        yield end


def _client(pipe: Connection, netns: str, address: str, port: int, count: int, files: int) -> None:
    """Tell how many connections were made; when asked, how many still work, and what failed."""
    _open_files(files)
    with Clients() as clients:
        clients.connect(netns, address, port, count)
        pipe.send(clients.alive)
        pipe.recv()
        clients.again()
        pipe.send(clients.alive)
        pipe.send(clients.failures)
        pipe.poll(None)  # until it is ended, they stay open


def _may_open() -> int:
    """Files that a process of ours may open."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return min(hard, _MOST_FILES)


def _open_files(count: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def _tracked(cluster: Cluster) -> int:
    """Connections in the connection tracking of node n1's switch."""
    command = argv(cluster.paths.ovs("n1"), "dpctl", ["ct-get-nconns"])
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
