"""backendRefs of routes: the Service's port that is meant, or why there is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from kmn.ingress.gateway.conditions import Condition
from kmn.ingress.gateway.world import CORE, Reference, World
from kmn.ingress.model import Backend, Protocol, Upstream
from kmn.k8s.objects import Key, Object, namespace_of

__all__ = ["Found", "find_backend"]

# spec.ports[].appProtocol of Services: what a proxy speaks with them, after KEP-3726.
_PROTOCOLS = {
    "kubernetes.io/h2c": Protocol.H2C,
    "kubernetes.io/ws": Protocol.HTTP,
    "http": Protocol.HTTP,
    "grpc": Protocol.H2C,
}


class Found(NamedTuple):
    """An upstream, or what is wrong with the reference: a condition ResolvedRefs."""

    upstream: Upstream | None
    problem: Condition | None = None


def find_backend(at: str, reference: Mapping[str, Any], route: Object, world: World, protocol: Protocol) -> Found:
    """``protocol`` is what routes of this kind speak where the Service does not say."""
    group, kind = reference.get("group", CORE), reference.get("kind", "Service")
    if (group, kind) != (CORE, "Service"):
        return _problem("InvalidKind", f"{at}: {kind}.{group or 'core'}: only Services are backends")
    own = namespace_of(route)
    service = Key(reference.get("namespace") or own, reference["name"])
    if not world.permits(Reference(route["kind"], own, "Service", service)):
        grants = f"no ReferenceGrant of namespace {service.namespace} lets {route['kind']}s of {own} use it"
        return _problem("RefNotPermitted", f"{at}: Service {service}: {grants}")
    found = world.services.get(service)
    if found is None:
        return _problem("BackendNotFound", f"{at}: Service {service} does not exist")
    if found["spec"].get("type") == "ExternalName":
        return _problem("UnsupportedValue", f"{at}: Service {service} is of type ExternalName, which is no backend")
    port = _port(found["spec"].get("ports") or (), reference.get("port"))
    if port is None:
        return _problem("BackendNotFound", f"{at}: Service {service} has no TCP port {reference.get('port')}")
    spoken = _PROTOCOLS.get(port.get("appProtocol") or "", protocol) if protocol is not Protocol.TCP else protocol
    if protocol is Protocol.H2C:
        spoken = Protocol.H2C
    return Found(Upstream(Backend(service.namespace, service.name, port["port"]), spoken))


def _port(ports: Iterable[dict[str, Any]], number: int | None) -> dict[str, Any] | None:
    return next((p for p in ports if p["port"] == number and p.get("protocol", "TCP") == "TCP"), None)


def _problem(reason: str, message: str) -> Found:
    return Found(None, Condition("ResolvedRefs", False, reason, message))
