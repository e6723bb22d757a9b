"""One Gateway with the routes that attach to it: its routing, and what their statuses are to say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from kmn.ingress.gateway.attachment import Attachment, attach, parents_of
from kmn.ingress.gateway.conditions import Condition
from kmn.ingress.gateway.http_rules import RouteRules, rules_of
from kmn.ingress.gateway.listeners import Listener, listeners_of
from kmn.ingress.gateway.stream_rules import AttachedStream, shares_of, streams_of
from kmn.ingress.gateway.tables import Attached, table_of
from kmn.ingress.gateway.world import World, route_age
from kmn.ingress.model import Certificate, Entrance, Owner, Problem, Routing, Table
from kmn.k8s.objects import Key, Object, key_of

__all__ = ["GatewayStatus", "ListenerStatus", "ParentStatus", "Reading", "Site", "gateway_problem", "read_gateway"]

_RESOLVED = Condition("ResolvedRefs", True, "ResolvedRefs", "all references are good")
_HTTP_KINDS = ("HTTPRoute", "GRPCRoute")


class Site(NamedTuple):
    """Where a Gateway is to be had: the addresses of its load balancer, and whether a pod of it is ready."""

    addresses: tuple[str, ...] = ()
    ready: bool = False


class ListenerStatus(NamedTuple):
    name: str
    kinds: tuple[str, ...]
    attached: int
    conditions: tuple[Condition, ...]


class GatewayStatus(NamedTuple):
    addresses: tuple[str, ...]
    listeners: tuple[ListenerStatus, ...]
    conditions: tuple[Condition, ...]


class ParentStatus(NamedTuple):
    """What became of one parentRef of a route."""

    route: Owner
    parent: dict[str, Any]
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """``controller`` is the name that stands beside the conditions of routes."""

    controller: str
    gateway: Key
    routing: Routing
    status: GatewayStatus
    parents: tuple[ParentStatus, ...]


def gateway_problem(gateway: Object) -> Condition | None:
    """Why a Gateway of ours is not served at all."""
    reference = (gateway["spec"].get("infrastructure") or {}).get("parametersRef")
    if reference is not None:
        what = f"{reference['kind']} {reference['name']}"
        message = f"spec.infrastructure.parametersRef: {what}: no parameters are known to kmn: remove it"
        return Condition("Accepted", False, "InvalidParameters", message)
    other = [entry for entry in gateway["spec"].get("addresses") or () if entry.get("type") != "IPAddress"]
    if other:
        message = f"spec.addresses: {other[0].get('type')}: addresses are of type IPAddress"
        return Condition("Accepted", False, "UnsupportedAddress", message)
    return None


def read_gateway(gateway: Object, controller: str, world: World, site: Site) -> Reading:
    """A Gateway of one of our classes."""
    reader = _Reader(gateway, world)
    for kind in (*_HTTP_KINDS, "TLSRoute", "TCPRoute"):
        for route in sorted(world.routes.get(kind, ()), key=route_age):
            reader.take(route)
    refusal = gateway_problem(gateway)
    routing = reader.routing() if refusal is None else Routing((), {})
    status = _status(gateway, reader.listeners, reader.attached_routes, refusal, site)
    return Reading(controller, key_of(gateway), routing, status, tuple(reader.parents))


class _Reader:
    """Takes in routes, the oldest of each kind first."""

    def __init__(self, gateway: Object, world: World) -> None:
        self.listeners = listeners_of(gateway, world)
        self.attached_routes: dict[str, set[Owner]] = {listener.name: set() for listener in self.listeners}
        self.parents: list[ParentStatus] = []
        self._gateway = gateway
        self._world = world
        self._http: defaultdict[int, list[Attached]] = defaultdict(list)
        self._streams: defaultdict[int, list[AttachedStream]] = defaultdict(list)
        self._empty: set[Owner] = set()  # routes of which nothing is left
        self._problems: list[Problem] = []
        key = key_of(gateway)
        self._owner = Owner("Gateway", key.namespace, key.name)

    def take(self, route: Object) -> None:
        parents = list(parents_of(route, key_of(self._gateway)))
        if not parents:
            return
        key = key_of(route)
        owner = Owner(route["kind"], key.namespace, key.name)
        attachments = [attach(route, parent, self._gateway, self.listeners, self._world) for parent in parents]
        if route["kind"] in _HTTP_KINDS:
            conditions = self._take_rules(route, owner, attachments)
        else:
            conditions = self._take_streams(route, attachments)
        for attachment in attachments:
            for listener, _ in attachment.listeners:
                self.attached_routes[listener.name].add(owner)
            accepted = attachment.accepted
            if accepted.status and owner in self._empty:
                accepted = Condition("Accepted", False, "UnsupportedValue", "none of its rules can be had")
            told = tuple(each for each in conditions if accepted.status or each.type == "ResolvedRefs")
            self.parents.append(ParentStatus(owner, attachment.parent, (accepted, *told)))

    def _take_rules(self, route: Object, owner: Owner, attachments: Iterable[Attachment]) -> list[Condition]:
        found = rules_of(route, self._world)
        if found.dropped and not found.rules:
            self._empty.add(owner)
        for listener, hosts in _of(attachments):
            if listener.good:
                self._http[listener.port].append(Attached(listener, hosts, found.rules, route_age(route)))
        self._problems += [Problem(owner, "NotEmulated", f"{owner}: {text}") for text in _texts(found)]
        return [found.unresolved or _RESOLVED, *_partial(found)]

    def _take_streams(self, route: Object, attachments: Iterable[Attachment]) -> list[Condition]:
        found = shares_of(route, self._world)
        for listener, hosts in _of(attachments):
            if listener.good:
                self._streams[listener.port].append(AttachedStream(listener, hosts, found, route_age(route)))
        return [found.unresolved or _RESOLVED]

    def routing(self) -> Routing:
        tables: dict[str, Table] = {}
        entrances = []
        ports: defaultdict[int, list[Listener]] = defaultdict(list)
        for listener in self.listeners:
            self._problems += [Problem(self._owner, "NotEmulated", f"{self._owner}: {t}") for t in listener.notes]
            if listener.good:
                ports[listener.port].append(listener)
        for port, listeners in ports.items():
            entrance = self._entrance(port, listeners, tables)
            if entrance.table is not None or entrance.streams:
                entrances.append(entrance)  # without either it is a closed port
        problems = [*self._problems, *self._not_in_effect()]
        return Routing(tuple(entrances), tables, tuple(dict.fromkeys(problems)))

    def _entrance(self, port: int, listeners: Sequence[Listener], tables: dict[str, Table]) -> Entrance:
        web = [listener for listener in listeners if listener.protocol in ("HTTP", "HTTPS")]
        name = f"port-{port}" if web else None
        if name is not None:
            tables[name] = table_of(web, self._http[port])
        streams, late = streams_of(listeners, self._streams[port])
        self._problems += [Problem(owner, "Conflict", f"{owner}: {why}") for owner, why in late]
        certificates = [
            Certificate(listener.hostname, listener.certificate, self._owner)
            for listener in web
            if listener.certificate is not None
        ]
        tls = any(listener.layer == "TLS" for listener in listeners)
        return Entrance(port, name, tls, tuple(certificates), strict=True, streams=streams)

    def _not_in_effect(self) -> Iterator[Problem]:
        for field, why in (
            ("tls", "clients' certificates are not asked for, and backends are shown none"),
            ("allowedListeners", "ListenerSets are not emulated"),
            ("defaultScope", "routes attach by their parentRefs"),
        ):
            if self._gateway["spec"].get(field):
                yield Problem(self._owner, "NotEmulated", f"{self._owner}: spec.{field} has no effect: {why}")


def _of(attachments: Iterable[Attachment]) -> Iterator[tuple[Listener, tuple[str, ...]]]:
    """Each listener once, with the hosts of all that lead there."""
    found: dict[str, tuple[Listener, dict[str, None]]] = {}
    for attachment in attachments:
        for listener, hosts in attachment.listeners:
            found.setdefault(listener.name, (listener, {}))[1].update(dict.fromkeys(hosts))
    return ((listener, tuple(hosts)) for listener, hosts in found.values())


def _texts(found: RouteRules) -> list[str]:
    return [*found.dropped, *found.notes]


def _partial(found: RouteRules) -> Iterator[Condition]:
    if found.dropped:
        yield Condition("PartiallyInvalid", True, "UnsupportedValue", "; ".join(found.dropped))


# --- the Gateway's status ---------------------------------------------------------------------------------------


def _status(
    gateway: Object,
    listeners: Sequence[Listener],
    attached: dict[str, set[Owner]],
    refusal: Condition | None,
    site: Site,
) -> GatewayStatus:
    wanted = [entry["value"] for entry in gateway["spec"].get("addresses") or () if entry.get("value")]
    bad = [listener.name for listener in listeners if listener.refusal or listener.conflict]
    if refusal is not None:
        accepted = refusal
    elif bad:
        some = len(bad) < len(listeners)
        accepted = Condition("Accepted", some, "ListenersNotValid", f"not valid: listener {', '.join(bad)}")
    else:
        accepted = Condition("Accepted", True, "Accepted", "the Gateway is served")
    programmed = _programmed(accepted, listeners, wanted, site)
    states = tuple(
        ListenerStatus(
            listener.name, listener.kinds, len(attached[listener.name]), tuple(_conditions(listener, programmed))
        )
        for listener in listeners
    )
    return GatewayStatus(site.addresses, states, (accepted, programmed))


def _programmed(accepted: Condition, listeners: Sequence[Listener], wanted: Sequence[str], site: Site) -> Condition:
    if not accepted.status:
        return Condition("Programmed", False, "Invalid", accepted.message)
    if not any(listener.good for listener in listeners):
        names = ", ".join(listener.name for listener in listeners)
        return Condition("Programmed", False, "Invalid", f"none can be served: listener {names}")
    if not site.addresses and wanted:
        message = f"spec.addresses: none of {', '.join(wanted)} can be had: see the Events of its Service"
        return Condition("Programmed", False, "AddressNotUsable", message)
    if not site.addresses:
        return Condition("Programmed", False, "AddressNotAssigned", "its Service has no address yet")
    if not site.ready:
        return Condition("Programmed", False, "NoResources", "none of its pods is ready yet")
    return Condition("Programmed", True, "Programmed", f"requests are taken at {', '.join(site.addresses)}")


def _conditions(listener: Listener, programmed: Condition) -> Iterator[Condition]:
    broken = listener.refusal or listener.conflict
    if listener.refusal is not None:
        yield listener.refusal
    elif listener.conflict is not None:
        yield Condition("Accepted", False, listener.conflict.reason, listener.conflict.message)
    else:
        yield Condition("Accepted", True, "Accepted", "the listener is good")
    yield listener.unresolved or _RESOLVED
    yield listener.conflict or Condition("Conflicted", False, "NoConflicts", "no other listener is in the way")
    if not listener.good:
        why = broken or listener.unresolved
        yield Condition("Programmed", False, "Invalid", why.message if why is not None else "")
    elif programmed.status:
        yield Condition("Programmed", True, "Programmed", "connections are taken")
    else:
        yield Condition("Programmed", False, "Pending", programmed.message)
