"""Asking upstream, from inside a pod's namespace, so that the question crosses the emulated network.

Each upstream is tried in order, with a little time. Answers are kept for a while (see ``kmn.dns.cache``).
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from functools import partial

import dnslib

from kmn.dns.answer import Rcode
from kmn.dns.cache import ReplyCache
from kmn.dns.sockets import PORT, in_netns, udp_client

__all__ = ["Forwarder", "UpstreamError"]

_TIMEOUT = 2.0  # seconds for one upstream, as CoreDNS' forward has it
_MAX_PACKET = 65535


class UpstreamError(Exception):
    """No upstream answered; the message says who was asked and what happened."""


class Forwarder:
    """Sends packets of queries on from one namespace."""

    def __init__(self, netns: str, *, port: int = PORT, timeout: float = _TIMEOUT) -> None:
        self._netns = netns
        self._port = port
        self._timeout = timeout
        self._caches = (ReplyCache(), ReplyCache())  # UDP, TCP

    async def ask(self, packet: bytes, upstreams: tuple[str, ...], *, tcp: bool = False) -> bytes:
        """The first reply, with the id of ``packet``. Raises UpstreamError when none of them answers."""
        cache = self._caches[tcp]
        if (known := cache.get(packet, time.monotonic())) is not None:
            return known
        failures = []
        for upstream in upstreams:
            # An id of our own and a fresh source port, so that nobody who did not see the question can answer it.
            ident = secrets.token_bytes(2)
            exchange = self._over_tcp if tcp else self._over_udp
            try:
                reply = await asyncio.wait_for(exchange(upstream, ident + packet[2:]), self._timeout)
            except TimeoutError:
                failures.append(f"{upstream}: no answer in {self._timeout:g} s")
            except (OSError, EOFError) as error:
                failures.append(f"{upstream}: {error or type(error).__name__}")
            else:
                cache.put(packet, reply, time.monotonic())
                return packet[:2] + reply[2:]
        raise UpstreamError("; ".join(failures))

    async def resolve(self, name: str, rrtype: int, upstreams: tuple[str, ...]) -> tuple[Rcode, list[dnslib.RR]]:
        """Ask a question of our own: what stands at the end of a CNAME. Raises UpstreamError."""
        question = dnslib.DNSQuestion(dnslib.DNSLabel(name.rstrip(".").encode().split(b".")), rrtype)
        packet = bytes(dnslib.DNSRecord(dnslib.DNSHeader(id=0), q=question).pack())
        try:
            reply = dnslib.DNSRecord.parse(await self.ask(packet, upstreams))
            if reply.header.tc:
                reply = dnslib.DNSRecord.parse(await self.ask(packet, upstreams, tcp=True))
        except dnslib.DNSError as error:
            raise UpstreamError(f"{', '.join(upstreams)}: the answer makes no sense: {error}") from None
        return Rcode(reply.header.rcode), reply.rr

    async def _over_udp(self, upstream: str, packet: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        sock = in_netns(self._netns, partial(udp_client, upstream, self._port))
        with sock:
            await loop.sock_sendall(sock, packet)
            while True:
                reply = await loop.sock_recv(sock, _MAX_PACKET)
                if _answers(reply, packet):
                    return reply

    async def _over_tcp(self, upstream: str, packet: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in upstream else socket.AF_INET
        sock = in_netns(self._netns, lambda: socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
        try:
            await loop.sock_connect(sock, (upstream, self._port))
            reader, writer = await asyncio.open_connection(sock=sock)
        except BaseException:
            sock.close()
            raise
        try:
            writer.write(len(packet).to_bytes(2, "big") + packet)
            reply = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        finally:
            writer.close()
        if not _answers(reply, packet):
            raise OSError("the answer is to another question")
        return reply


def _answers(reply: bytes, query: bytes) -> bool:
    """Whether a packet is a response to this very question (ids and questions agree, but for the case)."""
    if len(reply) < 12 or reply[:2] != query[:2] or not reply[2] & 0x80:
        return False
    end = query.index(b"\0", 12) + 5
    return reply[12:end].lower() == query[12:end].lower()
