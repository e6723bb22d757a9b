"""All that comes in by Istio's ingress gateway: servers of Gateways, with the VirtualServices that name them.

A virtual host is a host of a VirtualService as far as a server has it; of several VirtualServices for one host the
older one's routes are tried first, and those for all requests last. Hosts with different names never share routes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from kmn.ingress.certificates import KeyPair
from kmn.ingress.gateway.hostnames import common
from kmn.ingress.gateway.world import route_age
from kmn.ingress.istio.destinations import Destinations, policy_gaps
from kmn.ingress.istio.http_routes import HttpRoutes
from kmn.ingress.istio.manifests import ISTIO_NAMESPACE, pod_port, public_port, selects_ours
from kmn.ingress.model import (
    ANY_HOST,
    Certificate,
    Entrance,
    Host,
    Match,
    Owner,
    Problem,
    Protocol,
    Redirect,
    Routing,
    Rule,
    Share,
    Stream,
    Table,
)
from kmn.k8s.objects import Key, Object, key_of, name_of, namespace_of

__all__ = ["ISTIO_GATEWAY_KIND", "IstioWorld", "read_istio"]

ISTIO_GATEWAY_KIND = "Gateway.networking.istio.io"
_WEB = ("HTTP", "HTTP2", "GRPC", "GRPC-WEB", "HTTPS")
_MESH = "mesh"
_CERTIFIED = "SIMPLE"


@dataclass(frozen=True, slots=True)
class IstioWorld:
    """``pair`` is a Secret's certificate, or what is wrong with it."""

    gateways: Collection[Object]
    virtual_services: Collection[Object]
    destination_rules: Collection[Object]
    services: Mapping[Key, Object]
    pair: Callable[[Key], KeyPair | ValueError]


class _Server(NamedTuple):
    """One of ``spec.servers``. ``hosts`` with the namespaces that may serve them ("*": any)."""

    gateway: Object
    owner: Owner
    field: str
    number: int  # as the Gateway has it
    hosts: tuple[tuple[str, str], ...]
    web: bool
    mode: str  # of TLS; "": none
    certificate: Key | None
    redirects: bool  # to https

    @property
    def layer(self) -> str:
        return "TLS" if self.mode else "HTTP" if self.web else "TCP"


def read_istio(world: IstioWorld) -> Routing:
    """The ingress gateway's routing."""
    reader = _Reader(world)
    ports: defaultdict[int, list[_Server]] = defaultdict(list)
    for gateway in sorted(world.gateways, key=route_age):
        if selects_ours(gateway):
            for server in reader.servers(gateway):
                ports[pod_port(server.number)].append(server)
    tables: dict[str, Table] = {}
    entrances = [reader.entrance(port, servers, tables) for port, servers in ports.items()]
    reader.tell_the_rest()
    open_ = tuple(each for each in entrances if each.table is not None or each.streams)
    return Routing(open_, tables, tuple(dict.fromkeys(reader.problems)))


class _Reader:
    def __init__(self, world: IstioWorld) -> None:
        self.problems: list[Problem] = []
        self._world = world
        self._services = sorted(world.virtual_services, key=route_age)
        self._by_key = {key_of(service): service for service in self._services}
        self._destinations = Destinations(world.services, world.destination_rules)

    # --- servers

    def servers(self, gateway: Object) -> Iterator[_Server]:
        """Those that can be served."""
        key = key_of(gateway)
        owner = Owner(ISTIO_GATEWAY_KIND, key.namespace, key.name)
        for index, server in enumerate(gateway["spec"].get("servers") or ()):
            at, tls = f"spec.servers[{index}]", server.get("tls") or {}
            protocol = server["port"]["protocol"].upper()
            web = protocol in _WEB and tls.get("mode") != "PASSTHROUGH"
            mode = tls.get("mode") or ("" if protocol not in ("HTTPS", "TLS") else _CERTIFIED)
            certificate = None
            if mode not in ("", _CERTIFIED, "PASSTHROUGH"):
                why = "clients' certificates cannot be asked for: the server is left out"
                self._problem(owner, "NotEmulated", f"{at}.tls.mode: {mode}: {why}")
                continue
            if mode == _CERTIFIED:
                certificate = self._certificate(owner, at, tls)
                if certificate is None:
                    continue
            hosts = tuple(_server_host(host, key.namespace) for host in server["hosts"])
            number, redirects = server["port"]["number"], bool(tls.get("httpsRedirect"))
            yield _Server(gateway, owner, at, number, hosts, web, mode, certificate, redirects)

    def _certificate(self, owner: Owner, at: str, tls: Mapping[str, Any]) -> Key | None:
        """It is looked for beside the gateway's pods."""
        name = tls.get("credentialName") or next(iter(tls.get("credentialNames") or ()), None)
        if not name:
            why = "certificates come from Secrets: give credentialName"
            self._problem(owner, "NotEmulated", f"{at}.tls: files cannot be read: {why}; the server is left out")
            return None
        secret = Key(ISTIO_NAMESPACE, name)
        pair = self._world.pair(secret)
        if not isinstance(pair, KeyPair):
            self._problem(owner, "BadCertificate", f"{at}.tls.credentialName: {pair}: the server is left out")
            return None
        return secret

    # --- a port

    def entrance(self, port: int, servers: Sequence[_Server], tables: dict[str, Table]) -> Entrance:
        servers = list(self._of_one_kind(port, servers))
        web = [server for server in servers if server.web]
        name = f"port-{port}" if web else None
        if name is not None:
            tables[name] = self._table(web)
        certificates: dict[str, Certificate] = {}
        for server in web:
            for _, host in server.hosts:
                if server.certificate is not None:
                    certificates.setdefault(host, Certificate(host, server.certificate, server.owner))
        streams = tuple(self._streams([server for server in servers if not server.web], set(certificates)))
        tls = any(server.mode for server in servers)
        return Entrance(
            port, name, tls, tuple(certificates.values()), strict=True, streams=streams, outside=public_port(port)
        )

    def _of_one_kind(self, port: int, servers: Sequence[_Server]) -> Iterator[_Server]:
        """A port is one of TLS, of HTTP or of TCP: what its first server is."""
        for server in servers:
            if server.layer == servers[0].layer:
                yield server
            else:
                why = f"{servers[0].owner} has {servers[0].layer} on port {port}: the server is left out"
                self._problem(server.owner, "Conflict", f"{server.field}: {server.layer}: {why}")

    def _bound(self, server: _Server) -> Iterator[tuple[Object, set[str], list[str]]]:
        """VirtualServices of a server: the names that they have for its Gateway, and the hosts of both."""
        gateway = key_of(server.gateway)
        for service in self._services:
            own = namespace_of(service)
            names = {f"{gateway.namespace}/{gateway.name}"} | ({gateway.name} if own == gateway.namespace else set())
            if not names & set(service["spec"].get("gateways") or ()):
                continue
            hosts: dict[str, None] = {}
            wanted = [_plain(host) for host in service["spec"].get("hosts") or ()]
            for namespace, host in server.hosts:
                if wanted and namespace in ("*", own):
                    hosts.update(dict.fromkeys(_common(host, wanted)))
            if hosts:
                yield service, names, list(hosts)

    def _table(self, servers: Iterable[_Server]) -> Table:
        rules: defaultdict[str, list[list[Rule]]] = defaultdict(list)
        for server in servers:
            redirect = Rule(Match(), Redirect(301, "https"), server.owner, f"{server.field}.tls.httpsRedirect")
            if server.redirects:
                for _, host in server.hosts:
                    rules[host].append([redirect])
            for service, names, hosts in self._bound(server):
                owner = _owner(service)
                read = HttpRoutes(service, owner, self._destinations, self._noter(owner), self._by_key)
                found = [redirect] if server.redirects else list(read.rules(server.number, names))
                for host in hosts:
                    rules[host].append(found)
        known = sorted({*rules, ANY_HOST})
        return Table(tuple(Host(name, tuple(_in_order(rules.get(name, []))), deep=True) for name in known))

    def _streams(self, servers: Iterable[_Server], taken: set[str]) -> Iterator[Stream]:
        """Of hosts that are not ``taken``."""
        for server in servers:
            for service, names, hosts in self._bound(server):
                for wanted, shares, field in self._passed_on(server, service, names, hosts):
                    free = tuple(host for host in wanted if host not in taken)
                    taken.update(wanted)
                    if free:
                        named = tuple(host for host in free if host != ANY_HOST)
                        yield Stream(named, shares, _owner(service), field, server.certificate)

    def _passed_on(
        self, server: _Server, service: Object, names: set[str], hosts: list[str]
    ) -> Iterator[tuple[list[str], tuple[Share, ...], str]]:
        """Hosts, where their connections go, and what says so."""
        kind = "tls" if server.mode == "PASSTHROUGH" else "tcp"
        for index, route in enumerate(service["spec"].get(kind) or ()):
            at = f"spec.{kind}[{index}]"
            matches = [m for m in route.get("match") or [{}] if self._applies(server, service, at, m, names)]
            found: list[str] = []
            for match in matches:
                sni = [_plain(host) for host in match.get("sniHosts") or ()]
                found += [name for host in hosts for name in _common(host, sni)] if sni else hosts
            if not server.mode and found:
                found = [ANY_HOST]  # a port without TLS has no names
            if found:
                yield list(dict.fromkeys(found)), tuple(self._shares(service, at, route.get("route") or [])), at

    def _applies(self, server: _Server, service: Object, at: str, match: Mapping[str, Any], names: set[str]) -> bool:
        for field in ("destinationSubnets", "sourceSubnet", "sourceLabels", "sourceNamespace"):
            if match.get(field):
                self._noter(_owner(service))(f"{at}.match.{field} is not looked at: the match has no effect")
                return False
        gateways = match.get("gateways")
        return match.get("port") in (None, 0, server.number) and (not gateways or bool(names & set(gateways)))

    def _shares(self, service: Object, at: str, routes: list[Mapping[str, Any]]) -> Iterator[Share]:
        for index, entry in enumerate(routes):
            found = self._destinations.find(entry["destination"], namespace_of(service), Protocol.TCP)
            if found.problem is not None:
                self._noter(_owner(service))(f"{at}.route[{index}].destination: {found.problem}")
            yield Share(found.upstream, entry.get("weight") or 0 if len(routes) > 1 else 1)

    # --- what is told

    def tell_the_rest(self) -> None:
        """What of the objects no server has looked at."""
        ours = [gateway for gateway in self._world.gateways if selects_ours(gateway)]
        known = {f"{namespace_of(gateway)}/{name_of(gateway)}" for gateway in ours}
        for gateway in self._world.gateways:
            if not selects_ours(gateway):
                key = key_of(gateway)
                why = "no pods of a gateway have these labels: use istio: ingressgateway"
                self._problem(Owner(ISTIO_GATEWAY_KIND, *key), "NoController", f"spec.selector: {why}")
        for service in self._services:
            if not service["spec"].get("hosts"):
                continue  # others leave routes to it
            note = self._noter(_owner(service))
            gateways = service["spec"].get("gateways") or [_MESH]
            if _MESH in gateways:
                note("spec.gateways: mesh: pods have no sidecars: requests between pods are as without it")
            for name in gateways:
                full = name if "/" in name else f"{namespace_of(service)}/{name}"
                if name != _MESH and full not in known:
                    self._problem(_owner(service), "NoController", f"spec.gateways: there is no Gateway {full}")
        for rule in self._world.destination_rules:
            spec = rule["spec"]
            policies = {"spec.trafficPolicy": spec.get("trafficPolicy") or {}}
            for index, subset in enumerate(spec.get("subsets") or ()):
                policies[f"spec.subsets[{index}].trafficPolicy"] = subset.get("trafficPolicy") or {}
            for at, policy in policies.items():
                for gap in policy_gaps(policy):
                    self._noter(Owner(rule["kind"], *key_of(rule)))(f"{at}.{gap} has no effect")

    def _noter(self, owner: Owner) -> Callable[[str], None]:
        return lambda text: self._problem(owner, "NotEmulated", text)

    def _problem(self, owner: Owner, reason: str, text: str) -> None:
        self.problems.append(Problem(owner, reason, f"{owner}: {text}"))


def _owner(service: Object) -> Owner:
    return Owner(service["kind"], *key_of(service))


def _server_host(text: str, namespace: str) -> tuple[str, str]:
    where, slash, host = text.rpartition("/")
    return (namespace if where == "." else where) if slash else "*", _plain(host)


def _plain(host: str) -> str:
    return ANY_HOST if host == "*" else host.lower()


def _common(host: str, wanted: list[str]) -> list[str]:
    """As :func:`common`, where ``*`` is a name among others."""
    if ANY_HOST in wanted:
        return [host]
    return common(host, wanted)


def _in_order(found: list[list[Rule]]) -> list[Rule]:
    """Of one VirtualService as it says; of several, rules for all requests go last."""
    rules = [rule for each in found for rule in each]
    if len(found) > 1:
        rules.sort(key=lambda rule: rule.match == Match())
    return rules
