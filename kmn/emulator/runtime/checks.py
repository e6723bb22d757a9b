"""One attempt of a probe, as a kubelet makes it: an HTTP request, a TCP connection, a gRPC health check."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset, TrailersReceived
from h2.exceptions import ProtocolError

from kmn.emulator.netns import entered
from kmn.emulator.runtime import grpc
from kmn.emulator.runtime.http1 import PROBE_AGENT, PROBE_KIND
from kmn.emulator.runtime.protocol import Check, Probe

__all__ = ["attempt", "http_request"]

_AGENT = f"{PROBE_AGENT}1.37"
_ENOUGH = 10 * 1024  # bytes of a response that a kubelet reads


class _Failed(Exception):
    """The text of a kubelet's Unhealthy event."""


async def attempt(probe: Probe) -> str:
    """Probe once, from the probe's namespace. What went wrong, "" if nothing did."""
    check = probe.check
    if check.type == "none":
        return ""
    try:
        sock = _socket_in(probe.netns)
    except OSError as error:
        return f"network namespace {probe.netns}: {error.strerror}"
    with sock:
        try:
            async with asyncio.timeout(probe.timeout):
                await _connect(sock, check)
                match check.type:
                    case "http":
                        await _http(sock, probe)
                    case "grpc":
                        await _grpc(sock, probe)
        except TimeoutError:
            return _timed_out(check)
        except _Failed as failed:
            return str(failed)
        except ValueError as error:
            return str(error)
        except OSError as error:
            return f"read {check.host}:{check.port}: {_words(error)}"
    return ""


def _socket_in(netns: str) -> socket.socket:
    with entered(netns):
        return socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)


def _words(error: OSError) -> str:
    """The error as Go words it: in lower case."""
    if error.errno == errno.EHOSTUNREACH:
        return "no route to host"
    return os.strerror(error.errno).lower() if error.errno else str(error)


def _url(check: Check) -> str:
    return f'Get "http://{check.host}:{check.port}{check.path}": '


def _timed_out(check: Check) -> str:
    match check.type:
        case "http":
            return _url(check) + "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        case "grpc":
            return f'timeout: failed to connect service "{check.host}:{check.port}" within the timeout'
    return f"dial tcp {check.host}:{check.port}: i/o timeout"


async def _connect(sock: socket.socket, check: Check) -> None:
    try:
        ipaddress.IPv4Address(check.host)  # a name would be looked up in this process's namespace, not in the node's
    except ValueError:
        raise _Failed(f"lookup {check.host}: not emulated; give the probe an IPv4 address as its host") from None
    try:
        await asyncio.get_running_loop().sock_connect(sock, (check.host, check.port))
    except OSError as error:
        prefix = _url(check) if check.type == "http" else ""
        raise _Failed(f"{prefix}dial tcp {check.host}:{check.port}: connect: {_words(error)}") from None


def http_request(probe: Probe) -> bytes:
    """The request of an HTTP probe. A header of the manifest replaces the one that a kubelet sends by itself."""
    check = probe.check
    headers = {
        "host": ("Host", f"{check.host}:{check.port}"),
        "user-agent": ("User-Agent", _AGENT),
        "accept": ("Accept", "*/*"),
    }
    extra = []
    for name, value in check.headers:
        if name.lower() in headers:
            headers[name.lower()] = (name, value)
        else:
            extra.append((name, value))
    lines = [*headers.values(), *extra, (PROBE_KIND, probe.kind), ("Connection", "close")]
    return (f"GET {check.path} HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in lines) + "\r\n").encode()


async def _http(sock: socket.socket, probe: Probe) -> None:
    """Any status from 200 to 399 is a success. Redirects are not followed."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, http_request(probe))
    received = b""
    while piece := await loop.sock_recv(sock, _ENOUGH):
        received += piece
        if len(received) > _ENOUGH:
            break
    if not received:
        raise _Failed(_url(probe.check) + "EOF")
    try:
        version, status = received.split(maxsplit=2)[:2]
        code = int(status)
    except ValueError:
        version, code = b"", 0
    if not version.startswith(b"HTTP/1."):
        start = received[:20].decode(errors="replace")
        raise _Failed(f'{_url(probe.check)}net/http: HTTP/1.x transport connection broken: malformed: "{start}"')
    if not 200 <= code < 400:
        raise _Failed(f"HTTP probe failed with statuscode: {code}")


async def _grpc(sock: socket.socket, probe: Probe) -> None:
    """Health/Check must answer SERVING."""
    loop = asyncio.get_running_loop()
    check = probe.check
    h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
    h2.initiate_connection()
    headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", grpc.HEALTH_CHECK),
        (":authority", f"{check.host}:{check.port}"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("user-agent", _AGENT),
        (PROBE_KIND.lower(), probe.kind),
    ]
    h2.send_headers(1, headers)
    h2.send_data(1, grpc.check_request(check.service), end_stream=True)
    await loop.sock_sendall(sock, h2.data_to_send())
    message, reply, ended = b"", dict[str, str](), False
    while not ended:
        piece = await loop.sock_recv(sock, 65536)
        if not piece:
            raise _Failed("error reading from server: EOF")
        try:
            events = h2.receive_data(piece)
        except ProtocolError as error:
            raise _Failed(f"no gRPC server: {error}") from None
        for event in events:
            match event:
                case ResponseReceived(headers=found) | TrailersReceived(headers=found):
                    reply.update((str(name), str(value)) for name, value in found or ())
                case DataReceived(data=data):
                    message += data or b""
                case StreamEnded() | StreamReset():
                    ended = True
        if answer := h2.data_to_send():
            await loop.sock_sendall(sock, answer)
    if reply.get("grpc-status") == grpc.UNIMPLEMENTED:
        raise _Failed("this server does not implement the grpc health protocol (grpc.health.v1.Health)")
    if reply.get("grpc-status") != "0":
        raise _Failed(f"rpc error: code = {reply.get('grpc-status', 'none')} desc = {reply.get('grpc-message', '')}")
    if (status := grpc.status_of(message)) != grpc.SERVING:
        name = "NOT_SERVING" if status == grpc.NOT_SERVING else str(status)
        raise _Failed(f'service unhealthy (responded with "{name}")')
