"""Destinations of VirtualServices: ``host``, ``port`` and ``subset``, as an upstream; and what DestinationRules say of
them (``trafficPolicy``: how endpoints are chosen, how connections are made)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from kmn.ingress.model import Backend, Balance, Cookie, HashKey, Keyed, Protocol, Upstream
from kmn.k8s.durations import seconds_of
from kmn.k8s.objects import Key, Object, namespace_of

__all__ = ["Destinations", "Found", "policy_gaps", "service_of"]

_DOMAIN = ("svc", "cluster", "local")
_BALANCES = {"ROUND_ROBIN": Balance.ROUND_ROBIN, "LEAST_REQUEST": Balance.LEAST_REQUESTS}
_PLAIN = ("DISABLE", "ISTIO_MUTUAL")  # TLS between sidecars: there are none


class Found(NamedTuple):
    """An upstream and what requests to it are hashed by, or what is wrong. What can be named and is not there is an
    upstream, too: it has no endpoints, and requests are answered 503."""

    upstream: Upstream | None
    problem: str | None = None
    hash_on: tuple[HashKey, ...] = ()


def service_of(host: str, namespace: str) -> Key | None:
    """The Service that a host names from a namespace: ``web``, ``web.apps``, ``web.apps.svc.cluster.local``. None: the
    host is none of the cluster."""
    labels = host.rstrip(".").split(".")
    if len(labels) == 1:
        return Key(namespace, labels[0])
    rest = tuple(labels[2:])
    return Key(labels[1], labels[0]) if rest in ((), _DOMAIN[:1], _DOMAIN) else None


@dataclass(frozen=True, slots=True)
class Destinations:
    """Services, and what DestinationRules make of them."""

    services: Mapping[Key, Object]
    rules: Collection[Object]

    def find(self, destination: Mapping[str, Any], namespace: str, protocol: Protocol) -> Found:
        """From a VirtualService of a namespace."""
        host = destination["host"]
        key = service_of(host, namespace)
        if key is None:
            return Found(None, f"host {host} is no Service of the cluster: only these are served")
        service = self.services.get(key)
        ports = [
            p for p in (service["spec"].get("ports") or () if service else ()) if p.get("protocol", "TCP") == "TCP"
        ]
        number = (destination.get("port") or {}).get("number")
        if number is None and len(ports) > 1:
            return Found(None, f"Service {key} has several ports: give port.number")
        port = next((p for p in ports if number is None or p["port"] == number), None)
        rule = self._rule(key)
        policy = (rule or {}).get("trafficPolicy") or {}
        labels: tuple[tuple[str, str], ...] = ()
        if destination.get("subset"):
            subset = next((s for s in (rule or {}).get("subsets") or () if s["name"] == destination["subset"]), None)
            if subset is None:
                return Found(None, f"no DestinationRule for {host} has subset {destination['subset']}")
            labels = tuple(sorted((subset.get("labels") or {}).items()))
            policy = {**policy, **(subset.get("trafficPolicy") or {})}
        spoken = protocol if protocol is Protocol.TCP or port is None else _protocol(port, policy)
        balance, hash_on = _balance(policy.get("loadBalancer") or {})
        timeout = ((policy.get("connectionPool") or {}).get("tcp") or {}).get("connectTimeout")
        upstream = Upstream(
            Backend(*key, port["port"] if port else number or 0),
            spoken,
            seconds_of(timeout) if timeout else None,
            labels,
            balance,
        )
        return Found(upstream, None, hash_on)

    def _rule(self, service: Key) -> Mapping[str, Any] | None:
        """``spec`` of the DestinationRule for a Service."""
        hosts = ((rule["spec"], service_of(rule["spec"]["host"], namespace_of(rule))) for rule in self.rules)
        return next((spec for spec, host in hosts if host == service), None)


def _protocol(port: Mapping[str, Any], policy: Mapping[str, Any]) -> Protocol:
    """By ``appProtocol``, or by the beginning of the port's name."""
    word = (port.get("appProtocol") or port.get("name") or "").rpartition("/")[2].lower()
    http2 = word.split("-")[0] in ("grpc", "http2", "h2c")
    if (policy.get("tls") or {}).get("mode") == "SIMPLE":
        return Protocol.H2 if http2 else Protocol.HTTPS
    return Protocol.H2C if http2 else Protocol.HTTP


def _balance(given: Mapping[str, Any]) -> tuple[Balance, tuple[HashKey, ...]]:
    hashed = given.get("consistentHash") or {}
    if hashed.get("httpHeaderName"):
        return Balance.HASH, (HashKey(Keyed.HEADER, hashed["httpHeaderName"]),)
    if hashed.get("httpQueryParameterName"):
        return Balance.HASH, (HashKey(Keyed.QUERY, hashed["httpQueryParameterName"]),)
    if hashed.get("useSourceIp"):
        return Balance.HASH, (HashKey(Keyed.ADDRESS),)
    cookie = hashed.get("httpCookie")
    if cookie:
        age = round(seconds_of(cookie["ttl"])) if cookie.get("ttl") else None
        made = Cookie(cookie["name"], cookie.get("path") or "/", age or None)
        return Balance.HASH, (HashKey(Keyed.COOKIE, cookie["name"], made),)
    return _BALANCES.get(given.get("simple") or "", Balance.ROUND_ROBIN), ()


def policy_gaps(policy: Mapping[str, Any]) -> Iterator[str]:
    """Fields of a ``trafficPolicy`` that have no effect."""
    for name in policy:
        if name not in ("loadBalancer", "connectionPool", "tls"):
            yield name
    balancer = policy.get("loadBalancer") or {}
    for name, value in balancer.items():
        if name != "consistentHash" and not (name == "simple" and value in _BALANCES):
            yield f"loadBalancer.{name}" + (f": {value}" if name == "simple" else "")
    for layer, settings in (policy.get("connectionPool") or {}).items():
        for name in settings or ():
            if (layer, name) != ("tcp", "connectTimeout"):
                yield f"connectionPool.{layer}.{name}"
    mode = (policy.get("tls") or {}).get("mode")
    if mode not in (None, "SIMPLE", *_PLAIN):
        yield f"tls.mode: {mode}"
