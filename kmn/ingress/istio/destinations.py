"""Destinations of VirtualServices: ``host``, ``port`` and ``subset``, as an upstream."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kmn.ingress.model import Backend, Protocol, Upstream
from kmn.k8s.objects import Key, Object, namespace_of

__all__ = ["Destinations", "service_of"]

_DOMAIN = ("svc", "cluster", "local")


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
    """Services, and the subsets that DestinationRules make of them."""

    services: Mapping[Key, Object]
    rules: Iterable[Object]

    def find(
        self, destination: Mapping[str, Any], namespace: str, protocol: Protocol
    ) -> tuple[Upstream | None, str | None]:
        """The upstream, and what is wrong with it. What can be named and is not there is an upstream, too: it has no
        endpoints, and requests are answered 503."""
        host = destination["host"]
        key = service_of(host, namespace)
        if key is None:
            return None, f"host {host} is no Service of the cluster: only these are served"
        service = self.services.get(key)
        ports = [
            p for p in (service["spec"].get("ports") or () if service else ()) if p.get("protocol", "TCP") == "TCP"
        ]
        number = (destination.get("port") or {}).get("number")
        if number is None and len(ports) != 1:
            number = 0
            if ports:
                return None, f"Service {key} has several ports: give port.number"
        port = next((p for p in ports if number is None or p["port"] == number), None)
        labels: tuple[tuple[str, str], ...] = ()
        if destination.get("subset"):
            found = self._subset(key, destination["subset"])
            if found is None:
                return None, f"no DestinationRule for {host} has subset {destination['subset']}"
            labels = found
        spoken = protocol if protocol is Protocol.TCP or port is None else _protocol(port)
        return Upstream(Backend(*key, port["port"] if port else number or 0), spoken, labels=labels), None

    def _subset(self, service: Key, name: str) -> tuple[tuple[str, str], ...] | None:
        for rule in self.rules:
            if service_of(rule["spec"]["host"], namespace_of(rule)) != service:
                continue
            for subset in rule["spec"].get("subsets") or ():
                if subset["name"] == name:
                    return tuple(sorted((subset.get("labels") or {}).items()))
        return None


def _protocol(port: Mapping[str, Any]) -> Protocol:
    """By ``appProtocol``, or by the beginning of the port's name."""
    word = (port.get("appProtocol") or port.get("name") or "").rpartition("/")[2].lower()
    return Protocol.H2C if word.split("-")[0] in ("grpc", "http2", "h2c") else Protocol.HTTP
