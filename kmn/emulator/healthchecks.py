"""``healthCheckNodePort``: on every node an HTTP server that says whether a Service has endpoints there.

For load balancers, so that they send to nodes with endpoints only (externalTrafficPolicy: Local). On real nodes it is
kube-proxy that answers, and in these words. Here the container runtime does, in the node's namespace.
"""

from __future__ import annotations

import json

from kmn.emulator.ownservers import OwnServers, Server
from kmn.emulator.runtime.protocol import Answer, Container
from kmn.k8s.client import WatchEvent
from kmn.k8s.dataplane import NETNS
from kmn.k8s.objects import Key, Object, annotation, key_of, labels, name_of

__all__ = ["PREFIX", "HealthChecks"]

PREFIX = "health/"  # of the ids of these containers; those of pods begin with a uid
_NOT_PROXIED = ("service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless")


class HealthChecks:
    """Wants one server a Service with such a port and node."""

    def __init__(self, servers: OwnServers) -> None:
        self._servers = servers
        self._nodes: dict[str, str] = {}  # their namespaces
        self._ports: dict[Key, int] = {}
        self._slices: dict[Key, dict[Key, Object]] = {}  # of Services

    def observe_node(self, event: WatchEvent) -> None:
        name = name_of(event.object)
        namespace = annotation(event.object, NETNS) if event.type != "DELETED" else None
        if self._nodes.get(name) != namespace:
            if namespace:
                self._nodes[name] = namespace
            else:
                self._nodes.pop(name, None)
            for service in self._ports:
                self._refresh(service)

    def observe_service(self, event: WatchEvent) -> None:
        service = key_of(event.object)
        port = _port(event.object) if event.type != "DELETED" else 0
        if port != self._ports.get(service, 0):
            if port:
                self._ports[service] = port
            else:
                self._ports.pop(service, None)
            self._refresh(service)

    def observe_slice(self, event: WatchEvent) -> None:
        name = labels(event.object).get("kubernetes.io/service-name")
        if not name:
            return
        key = key_of(event.object)
        service = Key(key.namespace, name)
        if event.type == "DELETED":
            self._slices.get(service, {}).pop(key, None)
            if not self._slices.get(service):
                self._slices.pop(service, None)
        else:
            self._slices.setdefault(service, {})[key] = event.object
        if service in self._ports:
            self._refresh(service)

    def _refresh(self, service: Key) -> None:
        """Start, stop and inform the servers of one Service."""
        prefix, port = f"{PREFIX}{service}/", self._ports.get(service)
        counts = self._counts(service) if port else {}
        wanted = {}
        for node, namespace in self._nodes.items() if port else ():
            key = prefix + node
            wanted[key] = Server(_container(key, namespace, port or 0), _answer(key, service, counts.get(node, 0)))
        self._servers.want(prefix, wanted)

    def _counts(self, service: Key) -> dict[str, int]:
        """Ready endpoints by node; one that several slices list counts once."""
        found = {
            (endpoint["nodeName"], endpoint["addresses"][0])
            for piece in self._slices.get(service, {}).values()
            for endpoint in piece.get("endpoints") or ()
            if endpoint.get("nodeName") and (endpoint.get("conditions") or {}).get("ready") is not False
        }
        counts: dict[str, int] = {}
        for node, _ in found:
            counts[node] = counts.get(node, 0) + 1
        return counts


def _port(service: Object) -> int:
    if any(label in labels(service) for label in _NOT_PROXIED):
        return 0
    return int((service.get("spec") or {}).get("healthCheckNodePort") or 0)


def _container(key: str, namespace: str, port: int) -> Container:
    return Container(
        id=key,
        netns=namespace,
        addresses=("0.0.0.0",),
        pod="",
        namespace="",
        node="",
        name="",
        ports=(("TCP", port),),
    )


def _answer(key: str, service: Key, count: int) -> Answer:
    body = {
        "service": {"namespace": service.namespace, "name": service.name},
        "localEndpoints": count,
        "serviceProxyHealthy": True,
    }
    headers = (("X-Content-Type-Options", "nosniff"), ("X-Load-Balancing-Endpoint-Weight", str(count)))
    return Answer(key, 200 if count else 503, json.dumps(body), headers)
