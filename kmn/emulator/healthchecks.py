"""``healthCheckNodePort``: on every node an HTTP server that says whether a Service has endpoints there.

For load balancers, so that they send to nodes with endpoints only (externalTrafficPolicy: Local). On real nodes it is
kube-proxy that answers, and in these words. Here the container runtime does, in the node's namespace.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

from kmn.emulator.runtime.protocol import Answer, Container
from kmn.k8s.client import WatchEvent
from kmn.k8s.dataplane import NETNS
from kmn.k8s.objects import Key, Object, annotation, key_of, labels, name_of

__all__ = ["PREFIX", "HealthChecks"]

log = logging.getLogger(__name__)

PREFIX = "health/"  # of the ids of these containers; those of pods begin with a uid
_RETRY = 0.5  # seconds: a port may be in use, a namespace not there yet
_NOT_PROXIED = ("service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless")


class HealthChecks:
    """Keeps one server a Service with such a port and node."""

    def __init__(self, send: Callable[[str, Any], None]) -> None:
        self._send = send
        self._nodes: dict[str, str] = {}  # their namespaces
        self._ports: dict[Key, int] = {}
        self._slices: dict[Key, dict[Key, Object]] = {}  # of Services
        self._running: dict[str, Container] = {}
        self._answers: dict[str, Answer] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}

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

    def connected(self) -> None:
        """There is a new runtime."""
        for key, container in self._running.items():
            self._send("start", container)
            self._send("answer", self._answers[key])

    def exited(self, key: str, message: str) -> None:
        """A server could not start: try again as long as it is wanted."""
        log.debug("%s: %s", key, message)
        if key not in self._timers:
            self._timers[key] = asyncio.get_running_loop().call_later(_RETRY, self._again, key)

    def stop(self) -> None:
        for timer in self._timers.values():
            timer.cancel()

    def _again(self, key: str) -> None:
        del self._timers[key]
        if container := self._running.get(key):
            self._send("start", container)
            self._send("answer", self._answers[key])

    def _refresh(self, service: Key) -> None:
        """Start, stop and inform the servers of one Service."""
        prefix, port = f"{PREFIX}{service}/", self._ports.get(service)
        counts = self._counts(service) if port else {}
        wanted = {prefix + node: node for node in self._nodes} if port else {}
        for key in [key for key in self._running if key.startswith(prefix)]:
            same = key in wanted and self._running[key] == _container(key, self._nodes[wanted[key]], port or 0)
            if not same:
                del self._running[key], self._answers[key]
                self._send("stop", key)
        for key, node in wanted.items():
            answer = _answer(key, service, counts.get(node, 0))
            if key not in self._running:
                self._running[key] = _container(key, self._nodes[node], port or 0)
                self._send("start", self._running[key])
            elif self._answers[key] == answer:
                continue
            self._answers[key] = answer
            self._send("answer", answer)

    def _counts(self, service: Key) -> dict[str, int]:
        """Ready endpoints by node; one that several slices list counts once."""
        found = {
            (piece["addressType"], endpoint["nodeName"], endpoint["addresses"][0])
            for piece in self._slices.get(service, {}).values()
            for endpoint in piece.get("endpoints") or ()
            if endpoint.get("nodeName") and (endpoint.get("conditions") or {}).get("ready") is not False
        }
        of_family: dict[tuple[str, str], int] = {}
        for family, node, _ in found:
            of_family[family, node] = of_family.get((family, node), 0) + 1
        counts: dict[str, int] = {}
        for (_, node), count in of_family.items():
            # Pods with addresses of both families count once.
            counts[node] = max(count, counts.get(node, 0))
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
