"""Listeners of a Gateway: which are good, and why the others are not.

After the API reference of Listener and ListenerConditionReason. Of listeners that conflict with each other all are left
out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from kmn.ingress.certificates import KeyPair
from kmn.ingress.envoy.listeners import HEALTH_PORT
from kmn.ingress.gateway.conditions import Condition
from kmn.ingress.gateway.world import CORE, GATEWAY_GROUP, Reference, World
from kmn.ingress.model import ANY_HOST
from kmn.k8s.objects import Key, Object, key_of

__all__ = ["Listener", "listeners_of"]

# The kinds of routes that a listener takes, by protocol; of TLS by its mode.
_KINDS = {
    "HTTP": ("HTTPRoute", "GRPCRoute"),
    "HTTPS": ("HTTPRoute", "GRPCRoute"),
    "TLS Passthrough": ("TLSRoute",),
    "TLS Terminate": ("TLSRoute", "TCPRoute"),
    "TCP": ("TCPRoute",),
}
# Protocols that can share a port.
_LAYER = {"HTTP": "HTTP", "HTTPS": "TLS", "TLS": "TLS", "TCP": "TCP"}


@dataclass(slots=True)
class Listener:
    """One entry of ``spec.listeners``. ``kinds`` are those of routes that it takes."""

    name: str
    port: int
    protocol: str
    hostname: str  # ANY_HOST: none is given
    kinds: tuple[str, ...]
    allowed: dict[str, Any]  # allowedRoutes.namespaces
    terminates: bool = False  # TLS
    certificate: Key | None = None
    conflict: Condition | None = None
    refusal: Condition | None = None  # Accepted is False
    unresolved: Condition | None = None  # ResolvedRefs is False
    notes: list[str] = field(default_factory=list)  # what of it is not emulated

    @property
    def good(self) -> bool:
        """Whether it can be served."""
        return not (self.conflict or self.refusal) and (not self.terminates or self.certificate is not None)

    @property
    def layer(self) -> str:
        """What it shares its port with."""
        return _LAYER[self.protocol]


def listeners_of(gateway: Object, world: World) -> list[Listener]:
    """All of them, in their order."""
    found = [_listener(gateway, entry, world) for entry in gateway["spec"]["listeners"]]
    _mark_conflicts(found)
    return found


def _listener(gateway: Object, entry: dict[str, Any], world: World) -> Listener:
    protocol, tls = entry["protocol"], entry.get("tls") or {}
    mode = tls.get("mode", "Terminate")
    supported = _KINDS.get(f"TLS {mode}" if protocol == "TLS" else protocol, ())
    allowed = entry.get("allowedRoutes") or {}
    wanted = allowed.get("kinds") or ()
    found = Listener(
        name=entry["name"],
        port=entry["port"],
        protocol=protocol,
        hostname=entry.get("hostname") or ANY_HOST,
        kinds=tuple(_permitted(supported, wanted)),
        allowed=allowed.get("namespaces") or {"from": "Same"},
        terminates=protocol == "HTTPS" or (protocol == "TLS" and mode == "Terminate"),
    )
    if not supported:
        known = "HTTP, HTTPS, TLS and TCP"
        found.refusal = Condition("Accepted", False, "UnsupportedProtocol", f"{protocol}: kmn serves {known}")
    elif found.port == HEALTH_PORT:
        message = f"port {HEALTH_PORT} is asked whether the Gateway's pods are ready: use another"
        found.refusal = Condition("Accepted", False, "PortUnavailable", message)
    bad = [f"{kind.get('group')}/{kind['kind']}" for kind in wanted if not _is_among(kind, supported)]
    if found.terminates:
        _certify(found, gateway, tls, world)
    if bad and found.unresolved is None:
        message = f"allowedRoutes.kinds: {', '.join(bad)}: a listener of protocol {protocol} takes {_words(supported)}"
        found.unresolved = Condition("ResolvedRefs", False, "InvalidRouteKinds", message)
    if tls.get("options"):
        found.notes.append(f"listener {entry['name']}: tls.options have no effect")
    return found


def _words(kinds: Iterable[str]) -> str:
    return " and ".join(kinds) or "none"


def _is_among(kind: dict[str, Any], supported: Iterable[str]) -> bool:
    return kind.get("group", GATEWAY_GROUP) == GATEWAY_GROUP and kind["kind"] in supported


def _permitted(supported: tuple[str, ...], wanted: Iterable[dict[str, Any]]) -> Iterator[str]:
    asked = list(wanted)
    if not asked:
        yield from supported
    yield from (kind["kind"] for kind in asked if _is_among(kind, supported))


def _certify(listener: Listener, gateway: Object, tls: dict[str, Any], world: World) -> None:
    """The first reference that is good is the listener's certificate."""
    references = tls.get("certificateRefs") or ()
    for index, reference in enumerate(references):
        at = f"tls.certificateRefs[{index}]"
        problem, secret = _certificate(gateway, at, reference, world)
        if problem is not None:
            listener.unresolved = listener.unresolved or problem
        elif listener.certificate is None:
            listener.certificate = secret
        else:
            note = f"listener {listener.name}: {at}: has no effect: one certificate is shown"
            listener.notes.append(note)
    if not references:
        message = "tls.certificateRefs: there is none"
        listener.unresolved = Condition("ResolvedRefs", False, "InvalidCertificateRef", message)


def _certificate(
    gateway: Object, at: str, reference: dict[str, Any], world: World
) -> tuple[Condition | None, Key | None]:
    group, kind = reference.get("group", CORE), reference.get("kind", "Secret")
    if (group, kind) != (CORE, "Secret"):
        return _invalid(f"{at}: {kind}.{group}: only Secrets hold certificates"), None
    own = key_of(gateway).namespace
    secret = Key(reference.get("namespace") or own, reference["name"])
    if not world.permits(Reference("Gateway", own, "Secret", secret)):
        message = f"{at}: no ReferenceGrant of namespace {secret.namespace} lets Gateways of {own} use Secret {secret}"
        return Condition("ResolvedRefs", False, "RefNotPermitted", message), None
    pair = world.pair(secret)
    if not isinstance(pair, KeyPair):
        return _invalid(f"{at}: {pair}"), None
    return None, secret


def _invalid(message: str) -> Condition:
    return Condition("ResolvedRefs", False, "InvalidCertificateRef", message)


def _mark_conflicts(listeners: list[Listener]) -> None:
    """Of the listeners of a port."""
    ports: defaultdict[int, list[Listener]] = defaultdict(list)
    for listener in listeners:
        if listener.refusal is None:
            ports[listener.port].append(listener)
    for port, sharing in ports.items():
        protocols = {listener.layer for listener in sharing}
        if len(protocols) > 1:
            said = " and ".join(sorted({listener.protocol for listener in sharing}))
            message = f"port {port} is one of {said}: they cannot share it"
            for listener in sharing:
                listener.conflict = Condition("Conflicted", True, "ProtocolConflict", message)
            continue
        names: defaultdict[str, list[Listener]] = defaultdict(list)
        for listener in sharing:
            names[listener.hostname].append(listener)
        for hostname, same in names.items():
            if len(same) > 1:
                message = f"port {port}: {', '.join(each.name for each in same)} have one hostname, {hostname or 'all'}"
                for listener in same:
                    listener.conflict = Condition("Conflicted", True, "HostnameConflict", message)
