"""Servers on outside hosts, as the cases want them: HTTP and UDP on given ports, and a DNS server that knows names.

They run in threads of the test process, on sockets of the hosts' namespaces.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import dnslib

from kmn.emulator import netns

__all__ = ["UPSTREAM_NAMES", "Servers"]

# What the upstream of the cluster's DNS knows: names that the cases take for known.
UPSTREAM_NAMES = {"www.example.com.": "203.0.113.80", "ext.interwebs.test.": "1.2.3.4"}


class Servers:
    """Everything that listens outside; ``close`` ends it."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        self._open: set[tuple[str, int, str]] = set()
        self.asked: list[str] = []  # names that the DNS servers were asked for

    def serve(self, name: str, namespace: str, port: int, protocol: str) -> None:
        """Answer on a port of a host as an emulated container does, unless somebody does already."""
        if (name, port, protocol) in self._open:
            return
        self._open.add((name, port, protocol))
        try:
            if protocol == "TCP":
                sock = self._bound(namespace, socket.SOCK_STREAM, port)
                sock.listen(16)
                self._run(lambda: _serve_http(sock, name, port))
            elif protocol == "UDP":
                sock = self._bound(namespace, socket.SOCK_DGRAM, port)
                self._run(lambda: _serve_udp(sock, lambda data, client: _command(name, data, client)))
        except OSError as error:
            if error.errno != 98:  # EADDRINUSE: the emulated host itself answers there
                raise

    def serve_dns(self, namespace: str, names: Mapping[str, str]) -> None:
        """Answer for absolute names and their addresses on UDP port 53 of a host."""
        sock = self._bound(namespace, socket.SOCK_DGRAM, 53)
        self._run(lambda: _serve_udp(sock, lambda data, _: _resolve(names, data, self.asked)))

    def close(self) -> None:
        for sock in self._sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits on it
            except OSError:
                pass  # UDP: the same, and an error
            sock.close()

    def _bound(self, namespace: str, kind: socket.SocketKind, port: int) -> socket.socket:
        with netns.entered(namespace):
            sock = socket.socket(socket.AF_INET, kind)
        self._sockets.append(sock)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("", port))
        return sock

    def _run(self, work: Callable[[], None]) -> None:
        threading.Thread(target=work, daemon=True).start()


def _serve_udp(sock: socket.socket, answer: Callable[[bytes, tuple[str, int]], bytes]) -> None:
    while True:
        try:
            data, client = sock.recvfrom(65536)
        except OSError:
            return  # closed
        if data:
            sock.sendto(answer(data, client), client)
        elif sock.fileno() == -1:
            return


def _command(name: str, data: bytes, client: tuple[str, int]) -> bytes:
    return {b"hostname": name.encode(), b"clientip": f"{client[0]}:{client[1]}".encode()}.get(data.strip(), data)


def _resolve(names: Mapping[str, str], data: bytes, asked: list[str]) -> bytes:
    reply = dnslib.DNSRecord.parse(data).reply()
    name = str(reply.q.qname).lower()
    asked.append(name)
    if name not in names:
        reply.header.rcode = dnslib.RCODE.NXDOMAIN
    elif reply.q.qtype == dnslib.QTYPE.A:
        reply.add_answer(dnslib.RR(name, dnslib.QTYPE.A, ttl=60, rdata=dnslib.A(names[name])))
    return bytes(reply.pack())


def _serve_http(sock: socket.socket, name: str, port: int) -> None:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer = {"pod": name, "namespace": "", "port": port, "client": self.client_address[0]}
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("", 0), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = sock
    while sock.fileno() != -1:
        try:
            server.handle_request()
        except (OSError, ValueError):
            return
