"""The DNS server over real sockets, in a namespace of its own: UDP and TCP, EDNS, bad packets, upstream."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import dnslib
import pytest

from kmn.dns.config import DnsConfig
from kmn.dns.forward import Forwarder
from kmn.dns.responder import Responder
from kmn.dns.server import PodServer, placement_of
from kmn.dns.sockets import in_netns
from kmn.dns.zone import Zone
from kmn.emulator import netns
from kmn.k8s.dataplane import NETNS, PROGRAM
from kmn.k8s.objects import Key, Object
from kmn.k8s.resources import ENDPOINTSLICES, SERVICES
from kmn.naming import netns as netns_name

pytestmark = [pytest.mark.packet, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

T = TypeVar("T")
LOCAL = "127.0.0.1"
WEB = "web.shop.svc.cluster.local"


def new_namespace(name: str) -> None:
    with netns.restored():
        netns.create(name)
        up_loopback()


def up_loopback() -> None:
    """SIOCSIFFLAGS on lo, for the namespace of the calling thread."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, 0x8914, struct.pack("16sh14x", b"lo", 0x1))


@pytest.fixture
def space() -> Iterator[str]:
    name = netns_name(f"hhdns{os.getpid()}", "pod", "kube-system", "coredns-1")
    new_namespace(name)
    yield name
    netns.delete(name)


def zone_of(config: DnsConfig | None = None) -> Zone:
    zone = Zone(config)
    put_service(zone, "web", {"clusterIP": "10.96.0.7", "ports": [{"name": "http", "port": 80}]})
    put_service(zone, "many", {"clusterIP": "None"})
    put_slice(zone, "many", [f"10.244.{n // 250}.{n % 250}" for n in range(400)])
    put_service(zone, "out", {"type": "ExternalName", "externalName": "www.example.org"})
    return zone


def put_service(zone: Zone, name: str, spec: dict[str, Any]) -> None:
    zone.update(SERVICES, Key("shop", name), {"metadata": {"name": name, "namespace": "shop"}, "spec": spec})


def put_slice(zone: Zone, service: str, addresses: list[str]) -> None:
    zone.update(
        ENDPOINTSLICES,
        Key("shop", service),
        {
            "metadata": {"labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4",
            "ports": [{"name": "", "port": 80}],
            "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
        },
    )


def serve(space: str, zone: Zone, talk: Callable[[PodServer], Awaitable[T]], *, upstream_port: int = 53) -> T:
    """Run one conversation with a server in the namespace."""

    async def run() -> T:
        server = PodServer(Responder(zone), space, [LOCAL])
        server._forwarder = Forwarder(space, port=upstream_port, timeout=0.3)
        await server.start()
        try:
            return await asyncio.wait_for(talk(server), 20)
        finally:
            await server.stop()

    return asyncio.run(run())


def question(name: str, kind: str = "A", *, size: int | None = None) -> bytes:
    message = dnslib.DNSRecord.question(name, kind)
    if size is not None:
        message.add_ar(dnslib.EDNS0(udp_len=size))
    return bytes(message.pack())


async def over_udp(space: str, *packets: bytes) -> list[Any]:
    """Send datagrams from one socket; the replies parsed, one for each, in any order."""
    loop = asyncio.get_running_loop()
    with in_netns(space, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)) as sock:
        await loop.sock_connect(sock, (LOCAL, 53))
        for packet in packets:
            await loop.sock_sendall(sock, packet)
        return [dnslib.DNSRecord.parse(await loop.sock_recv(sock, 65535)) for _ in packets]


async def tcp_connection(space: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    loop = asyncio.get_running_loop()
    sock = in_netns(space, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
    await loop.sock_connect(sock, (LOCAL, 53))
    return await asyncio.open_connection(sock=sock)


async def read_reply(reader: asyncio.StreamReader) -> Any:
    size = int.from_bytes(await reader.readexactly(2), "big")
    return dnslib.DNSRecord.parse(await reader.readexactly(size))


def framed(packet: bytes) -> bytes:
    return len(packet).to_bytes(2, "big") + packet


def addresses(reply: Any) -> list[str]:
    return [str(record.rdata) for record in reply.rr if record.rtype == dnslib.QTYPE.A]


def test_udp_answer_keeps_id_and_case(space: str) -> None:
    async def talk(_: PodServer) -> None:
        packet = question("wEb.Shop.svc.CLUSTER.local")
        for _ in range(2):  # computed, then out of the cache
            [reply] = await over_udp(space, packet)
            assert reply.header.id == int.from_bytes(packet[:2], "big")
            assert (reply.header.qr, reply.header.aa, reply.header.rcode) == (1, 1, 0)
            assert str(reply.q.qname) == str(reply.rr[0].rname) == "wEb.Shop.svc.CLUSTER.local."
            assert (addresses(reply), reply.rr[0].ttl) == (["10.96.0.7"], 5)

    serve(space, zone_of(), talk)


def test_an_answer_changes_with_the_object(space: str) -> None:
    zone = zone_of()

    async def talk(_: PodServer) -> None:
        [before] = await over_udp(space, question(WEB))
        put_service(zone, "web", {"clusterIP": "10.96.0.8"})
        [after] = await over_udp(space, question(WEB))
        zone.update(SERVICES, Key("shop", "web"), None)
        [gone] = await over_udp(space, question(WEB))
        assert (addresses(before), addresses(after)) == (["10.96.0.7"], ["10.96.0.8"])
        assert (gone.header.rcode, gone.auth[0].rtype) == (3, dnslib.QTYPE.SOA)

    serve(space, zone, talk)


def test_large_answers_are_cut_on_udp_and_whole_on_tcp(space: str) -> None:
    async def talk(_: PodServer) -> None:
        name = "many.shop.svc.cluster.local"
        plain, edns = (await over_udp(space, question(name)))[0], (await over_udp(space, question(name, size=1400)))[0]
        assert plain.header.tc == edns.header.tc == 1
        assert 20 < len(plain.rr) < len(edns.rr) < 400
        assert len(plain.pack()) <= 512 < len(edns.pack()) <= 1400
        reader, writer = await tcp_connection(space)
        writer.write(framed(question(name)))
        whole = await read_reply(reader)
        assert whole.header.tc == 0
        assert len(set(addresses(whole))) == 400
        writer.close()

    serve(space, zone_of(), talk)


def test_addresses_take_turns(space: str) -> None:
    zone = zone_of()
    put_slice(zone, "many", ["10.244.0.1", "10.244.0.2", "10.244.0.3"])

    async def talk(_: PodServer) -> None:
        packet = question("many.shop.svc.cluster.local")
        first = [addresses((await over_udp(space, packet))[0])[0] for _ in range(6)]
        assert sorted(first) == sorted(2 * ["10.244.0.1", "10.244.0.2", "10.244.0.3"])

    serve(space, zone, talk)


def test_tcp_carries_several_queries(space: str) -> None:
    async def talk(_: PodServer) -> None:
        reader, writer = await tcp_connection(space)
        writer.write(framed(question(WEB)) + framed(question("nope.shop.svc.cluster.local")))
        first, second = await read_reply(reader), await read_reply(reader)
        assert (addresses(first), second.header.rcode) == (["10.96.0.7"], 3)
        half = framed(question(WEB))
        writer.write(half[:7])
        await writer.drain()
        writer.write(half[7:])
        assert addresses(await read_reply(reader)) == ["10.96.0.7"]
        writer.close()

    serve(space, zone_of(), talk)


def test_bad_packets_get_their_code_and_harm_nobody(space: str) -> None:
    header = struct.Struct("!6H")
    asked = question(WEB)
    bad = {
        "two questions": (header.pack(1, 0x0100, 2, 0, 0, 0) + 2 * asked[12:], 1),
        "no question": (header.pack(2, 0x0100, 0, 0, 0, 0), 1),
        "name runs out": (header.pack(3, 0x0100, 1, 0, 0, 0) + b"\x09abc", 1),
        "name points at itself": (header.pack(4, 0x0100, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1", 1),
        "opcode UPDATE": (header.pack(5, 0x2900, 1, 0, 0, 0) + asked[12:], 4),
        "class CHAOS": (header.pack(6, 0x0100, 1, 0, 0, 0) + asked[12:-2] + b"\0\3", 5),
        "zone transfer": (header.pack(7, 0x0100, 1, 0, 0, 0) + asked[12:-4] + b"\0\xfc\0\1", 5),
        "label too long": (header.pack(8, 0x0100, 1, 0, 0, 0) + b"\x7f" + 127 * b"a" + b"\0\0\1\0\1", 1),
    }
    silent = [b"", b"\0", asked[:11], bytes([*asked[:2], asked[2] | 0x80, *asked[3:]]), os.urandom(2) + b"\x80"]

    async def talk(_: PodServer) -> None:
        await asyncio.gather(*(over_udp_without_reply(space, packet) for packet in silent))
        for what, (packet, rcode) in bad.items():
            [reply] = await over_udp(space, packet)
            assert (reply.header.rcode, reply.header.id) == (rcode, int.from_bytes(packet[:2], "big")), what
        for _ in range(300):
            await over_udp_without_reply(space, os.urandom(40))
        [reply] = await over_udp(space, asked)
        assert addresses(reply) == ["10.96.0.7"]

    serve(space, zone_of(), talk)


async def over_udp_without_reply(space: str, packet: bytes) -> None:
    loop = asyncio.get_running_loop()
    with in_netns(space, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)) as sock:
        await loop.sock_connect(sock, (LOCAL, 53))
        await loop.sock_sendall(sock, packet)


def test_edns_version_is_checked(space: str) -> None:
    async def talk(_: PodServer) -> None:
        message = dnslib.DNSRecord.question(WEB)
        message.add_ar(dnslib.EDNS0(udp_len=1232, version=1))
        [reply] = await over_udp(space, bytes(message.pack()))
        [option] = reply.ar
        assert (option.ttl >> 24, reply.header.rcode) == (1, 0)  # BADVERS, 16
        assert not reply.rr

    serve(space, zone_of(), talk)


def test_without_upstream_outside_names_fail_and_say_why(space: str) -> None:
    async def talk(_: PodServer) -> None:
        [reply] = await over_udp(space, question("www.example.org", size=1232))
        assert reply.header.rcode == 2
        assert b"no upstream is configured" in reply.ar[0].rdata[0].data
        [chain] = await over_udp(space, question("out.shop.svc.cluster.local"))
        assert (chain.header.rcode, str(chain.rr[0].rdata)) == (0, "www.example.org.")

    serve(space, zone_of(), talk)


class Upstream(asyncio.DatagramProtocol):
    """A resolver that knows www.example.org; it tells lies first: answers to other questions."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        reply = dnslib.DNSRecord.parse(data).reply()
        if str(reply.q.qname) == "www.example.org.":
            reply.add_answer(*dnslib.RR.fromZone("www.example.org. 60 A 203.0.113.10"))
        else:
            reply.header.rcode = 3
        wrong = dnslib.DNSRecord.question("other.example.org").reply()
        wrong.header.id = reply.header.id
        for packet in (bytes([data[0] ^ 1]) + bytes(reply.pack())[1:], wrong.pack(), reply.pack()):
            self.transport.sendto(bytes(packet), addr)


def test_upstream_is_asked_from_the_pods_namespace(space: str) -> None:
    config = DnsConfig(upstreams=("127.0.0.9", LOCAL), stub_domains={"corp.test.": ("127.0.0.8",)})

    async def talk(_: PodServer) -> None:
        def bound() -> socket.socket:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            sock.bind((LOCAL, 5300))
            return sock

        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Upstream, sock=in_netns(space, bound))
        plain = question("www.example.org")
        [reply] = await over_udp(space, plain)  # the first upstream refuses, the second knows
        assert (reply.header.id, addresses(reply)) == (int.from_bytes(plain[:2], "big"), ["203.0.113.10"])
        [missing] = await over_udp(space, question("nope.example.org"))
        assert missing.header.rcode == 3
        [chain] = await over_udp(space, question("out.shop.svc.cluster.local"))
        assert [str(record.rdata) for record in chain.rr] == ["www.example.org.", "203.0.113.10"]
        [dead] = await over_udp(space, question("x.corp.test", size=1232))
        assert dead.header.rcode == 2
        assert b"127.0.0.8" in dead.ar[0].rdata[0].data
        transport.close()

    serve(space, zone_of(config), talk, upstream_port=5300)


def dns_pod(space: str, uid: str) -> Object:
    return {
        "metadata": {
            "name": "c",
            "namespace": "kube-system",
            "uid": uid,
            "annotations": {PROGRAM: "dns", NETNS: space},
        },
        "status": {"podIPs": [{"ip": "10.244.1.2"}]},  # not on any device yet: the sockets may come first
    }


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not what():  # noqa: ASYNC110 - a server tells nobody that its sockets are open
            await asyncio.sleep(0.01)


def test_pods_are_served_from_namespace_to_deletion() -> None:
    space = netns_name(f"hhdns{os.getpid()}", "pod", "kube-system", "late")
    key = Key("kube-system", "c")

    async def run() -> None:
        placement = placement_of(Responder(zone_of()))
        running = asyncio.create_task(placement.run())
        placement.update(key, dns_pod(space, "1"))
        placement.update(Key("shop", "other"), {"metadata": {"name": "other", "uid": "2"}, "status": {}})
        await asyncio.sleep(0)
        assert not placement.serving
        new_namespace(space)
        await until(lambda: list(placement.serving) == [key])
        [reply] = await over_udp(space, question(WEB))
        assert addresses(reply) == ["10.96.0.7"]
        placement.update(key, dns_pod(space, "3"))  # replaced under the same name
        await until(lambda: placement._running[key][0].uid == "3" if key in placement._running else False)
        [reply] = await over_udp(space, question(WEB))
        assert addresses(reply) == ["10.96.0.7"]
        placement.update(key, None)
        await until(lambda: not placement.serving)
        with pytest.raises(ConnectionRefusedError):
            await over_udp(space, question(WEB))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    try:
        asyncio.run(run())
    finally:
        netns.delete(space)
