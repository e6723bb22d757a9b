"""The DNS of the emulated internet, on port 53 of every outside host: names of hosts and load balancers.

``e1.internet.test`` is host e1; ``test`` is the top-level domain that is reserved for this (RFC 6761). It knows the
whole of this internet, so that all other names do not exist. The cluster's DNS may forward to it (``spec.dns``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Any

from kmn.dns.config import DnsConfig
from kmn.dns.records import Node, Record, RRType, Soa, address_record
from kmn.dns.responder import Responder
from kmn.dns.reverse import reverse_name
from kmn.dns.server import PodServer
from kmn.k8s.families import host_ips
from kmn.k8s.objects import Key, Object
from kmn.k8s.resources import EDGES, Resource
from kmn.naming import NETNS_DIR

__all__ = ["DOMAIN", "HostServers", "InternetNames", "names"]

log = logging.getLogger(__name__)

DOMAIN = "internet.test."
_BALANCER_TTL = 60  # seconds, as AWS has it
_RETRY = 0.2  # seconds until a host's namespace, which comes after its Edge, is looked for again


def names(hosts: Iterable[tuple[str, Sequence[str]]], balancers: Iterable[tuple[str, str]] = ()) -> dict[str, Node]:
    """What exists, for hosts as (name, addresses) and load balancers as (DNS name, address)."""
    found: dict[str, Node] = {}
    servers = []
    for host, addresses in hosts:
        name = f"{host.lower()}.{DOMAIN}"
        servers.append(Record(DOMAIN, RRType.NS, name))
        records = [address_record(name, address) for address in addresses]
        found[name] = {record.type: (record,) for record in records}
        for address in addresses:
            pointer = reverse_name(address)
            found[pointer] = {RRType.PTR: (Record(pointer, RRType.PTR, name),)}
    for name, address in balancers:
        name = f"{name.lower()}."
        found[name] = {RRType.A: (address_record(name, address)._replace(ttl=_BALANCER_TTL),)}
    for name in list(found):  # names that are there only as others are below them
        while name := name.partition(".")[2]:
            found.setdefault(name, {})
    found[DOMAIN] = {RRType.SOA: (_soa(DOMAIN, len(servers)),), RRType.NS: tuple(servers)}
    return found


class InternetNames:
    """The names as :class:`kmn.dns.responder.Responder` asks for them."""

    def __init__(self) -> None:
        self.config = DnsConfig()
        self.version = 0
        self._table = names(())

    def replace(self, hosts: Iterable[tuple[str, Sequence[str]]], balancers: Iterable[tuple[str, str]] = ()) -> None:
        """These are the hosts and the load balancers from now on."""
        self._table = names(hosts, balancers)
        self.version += 1

    def apex(self, name: str) -> str:
        """The zone of a name; what is not in the internet's domain is in the root, which is known here as well."""
        return DOMAIN if f".{name}".endswith(f".{DOMAIN}") else "."

    def find(self, name: str) -> Node | None:
        return self._table.get(name)

    def soa(self, apex: str) -> Record:
        return _soa(apex, self.version)


def _soa(owner: str, serial: int) -> Record:
    return Record(owner, RRType.SOA, Soa(f"ns.{DOMAIN}", f"hostmaster.{DOMAIN}", serial))


class HostServers:
    """A server on each outside host, as Edges come and go."""

    def __init__(self) -> None:
        self._names = InternetNames()
        self._responder = Responder(self._names)
        self._edges: dict[Key, list[dict[str, Any]]] = {}
        self._balancers: dict[Key, tuple[str, str]] = {}
        self._servers: dict[tuple[str, tuple[str, ...]], PodServer] = {}  # by namespace and addresses
        self._changed = asyncio.Event()

    def update(self, resource: Resource, key: Key, obj: Object | None) -> None:
        """Take the new state of an Edge or ApplicationLoadBalancer in; None: it is gone."""
        if resource is EDGES:
            self._edges[key] = list(((obj or {}).get("spec") or {}).get("hosts") or ())
        else:
            self._balancers.pop(key, None)
            address = ((obj or {}).get("status") or {}).get("address")
            if obj is not None and address:
                self._balancers[key] = obj["spec"]["hostname"], address
        hosts = [host for of_edge in self._edges.values() for host in of_edge]
        self._names.replace([(host["name"], host_ips(host)) for host in hosts], self._balancers.values())
        self._changed.set()

    async def run(self) -> None:
        """Work until cancelled; then everything is closed."""
        try:
            while True:
                self._changed.clear()
                complete = await self._settle()
                try:
                    await asyncio.wait_for(self._changed.wait(), None if complete else _RETRY)
                except TimeoutError:
                    pass
        finally:
            for server in self._servers.values():
                await server.stop()

    async def _settle(self) -> bool:
        """Make servers match the hosts; whether all of it could be done."""
        wanted = {
            (host["netns"], host_ips(host)) for hosts in self._edges.values() for host in hosts if host.get("dns", True)
        }
        for gone in self._servers.keys() - wanted:
            await self._servers.pop(gone).stop()
        for netns, addresses in sorted(wanted - self._servers.keys()):
            if not (NETNS_DIR / netns).exists():
                continue
            loopback = ("127.0.0.1", "::1")[: len(addresses)]  # IPv6 is off where there is no address of it
            server = PodServer(self._responder, netns, (*addresses, *loopback))
            try:
                await server.start()
            except OSError as error:
                await server.stop()
                log.warning("%s: port 53 cannot be opened yet: %s", netns, error)
                continue
            self._servers[netns, addresses] = server
            log.info("%s: DNS on %s", netns, ", ".join(addresses))
        return wanted == self._servers.keys()
