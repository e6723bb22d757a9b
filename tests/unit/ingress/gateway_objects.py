"""Gateways and routes as the API server stores them, and a small cluster around them."""

from __future__ import annotations

import copy
from typing import Any

from ingress_objects import service_object

from kmn.apiserver.admission.schema import fill_defaults
from kmn.ingress.certificates import KeyPair, self_signed
from kmn.ingress.gateway.reading import ParentStatus, Reading, Site, read_gateway
from kmn.ingress.gateway.world import World
from kmn.ingress.model import Answer, Forward, Host, Redirect, Rule
from kmn.k8s.objects import Key, Object

V1 = "gateway.networking.k8s.io/v1"
CONTROLLER = "kmn.io/gateway-controller"
PAIR = self_signed("shop.example")
HTTP = {"name": "http", "port": 80, "protocol": "HTTP"}


def made(kind: str, name: str, namespace: str = "default", created: int = 0, **spec: Any) -> Object:
    meta = {"name": name, "namespace": namespace, "uid": f"{kind}-{name}", "generation": 1}
    meta["creationTimestamp"] = f"2026-01-01T00:00:{created:02}Z"
    obj = {"apiVersion": V1, "kind": kind, "metadata": meta, "spec": copy.deepcopy(spec)}
    fill_defaults(obj)
    return obj


def gateway(*listeners: dict[str, Any], **spec: Any) -> Object:
    return made("Gateway", "front", gatewayClassName="kmn", listeners=list(listeners or (HTTP,)), **spec)


def https(name: str, hostname: str | None = None, secret: str = "shop", **fields: Any) -> dict[str, Any]:
    found = {"name": name, "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": secret}]}, **fields}
    return {**found, "hostname": hostname} if hostname else found


def http_route(name: str, *rules: dict[str, Any], parent: Any = None, **fields: Any) -> Object:
    parents = [{"name": "front", **(parent or {})}]
    return made("HTTPRoute", name, **{"parentRefs": parents, "rules": list(rules or (to("web"),)), **fields})


def to(service: str, path: str = "/", kind: str = "PathPrefix", port: int = 80, **rule: Any) -> dict[str, Any]:
    matches = [{"path": {"type": kind, "value": path}, **rule.pop("match", {})}]
    backends = [] if service == "" else [{"name": service, "port": port}]
    return {"matches": matches, "backendRefs": backends, **rule}


def namespace(name: str, **labels: str) -> Object:
    return {"metadata": {"name": name, "labels": labels}}


def grant(namespace: str, kind: str, source: str, to_kind: str, name: str | None = None) -> Object:
    target = {"group": "", "kind": to_kind, **({"name": name} if name else {})}
    origin = {"group": "gateway.networking.k8s.io", "kind": kind, "namespace": source}
    return made("ReferenceGrant", "open", namespace, **{"from": [origin], "to": [target]})


def world(*objects: Object, services: tuple[str, ...] = ("default/web",), secrets: tuple[str, ...] = ()) -> World:
    """``secrets`` beside default/shop."""
    pairs = {Key(*each.split("/")): PAIR for each in ("default/shop", *secrets)}

    def pair(key: Key) -> KeyPair | ValueError:
        return pairs.get(key) or ValueError(f"there is no Secret {key}")

    def of(kind: str) -> list[Object]:
        return [obj for obj in objects if obj.get("kind") == kind]

    known = {}
    for each in services:
        where, name = each.split("/")
        known[Key(where, name)] = service_object(name)
    routes = {kind: of(kind) for kind in ("HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute")}
    namespaces = {Key("", obj["metadata"]["name"]): obj for obj in objects if "kind" not in obj}
    return World(namespaces, known, of("ReferenceGrant"), routes, pair)


def read(obj: Object, around: World, *, ready: bool = True) -> Reading:
    return read_gateway(obj, CONTROLLER, around, Site(("192.0.2.1",), ready))


def host(reading: Reading, name: str, table: str = "port-80") -> Host:
    return next(host for host in reading.routing.tables[table].hosts if host.name == name)


def told(rule: Rule) -> str:
    """Where a rule's requests go, in short."""
    match rule.action:
        case Forward(shares):
            return ",".join(share.upstream.backend.service if share.upstream else "500" for share in shares) or "500"
        case Redirect() as redirect:
            return f"redirect {redirect.code}"
        case Answer(status):
            return str(status)


def conditions(status: ParentStatus) -> dict[str, str]:
    """Reasons by type, those that are False with a minus."""
    return {c.type: c.reason if c.status else f"-{c.reason}" for c in status.conditions}


def listener_conditions(reading: Reading) -> dict[str, dict[str, str]]:
    return {
        each.name: {c.type: c.reason if c.status else f"-{c.reason}" for c in each.conditions}
        for each in reading.status.listeners
    }
