"""Ingresses of class ``traefik`` on real requests: routers, middlewares, entry points, clients that stay."""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from clusterlab import eventually, running

from kmn import Cluster
from kmn.emulator import netns
from kmn.k8s.objects import Object
from kmn.k8s.resources import EVENTS, INGRESSES, MIDDLEWARES, SERVICES

pytestmark = [pytest.mark.packet, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

PREFIX = "traefik.ingress.kubernetes.io/"
WEB = """\
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec: {{containers: [{{name: web, image: example.com/web:1, ports: [{{containerPort: 8080}}]}}]}}
---
apiVersion: v1
kind: Service
metadata:
  name: {name}
  annotations: {{{annotations}}}
spec: {{selector: {{app: {name}}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}
"""
STICKY = f'{PREFIX}service.sticky.cookie: "true", {PREFIX}service.sticky.cookie.name: stay'
MIDDLEWARES_OF = {
    "strip": {"stripPrefix": {"prefixes": ["/api"]}},
    "secure": {"redirectScheme": {"scheme": "https", "permanent": True}},
    "headers": {"headers": {"customRequestHeaders": {"X-Added": "yes"}, "customResponseHeaders": {"X-Said": "so"}}},
    "login": {"basicAuth": {"secret": "users"}},
    "inside": {"ipAllowList": {"sourceRange": ["10.0.0.0/8"]}},
}


def middleware(name: str, spec: Object) -> Object:
    meta = {"name": name, "namespace": "default"}
    return {"apiVersion": "traefik.io/v1alpha1", "kind": "Middleware", "metadata": meta, "spec": spec}


def ingress(name: str, path: str, backend: str = "red", **annotations: str) -> Object:
    """Annotations with ``_`` for ``.``; middlewares by their names."""
    notes = {PREFIX + key.replace("_", "."): value for key, value in annotations.items()}
    middlewares = annotations.get("router_middlewares", "").split(",")
    if middlewares != [""]:
        notes[f"{PREFIX}router.middlewares"] = ",".join(f"default-{each}@kubernetescrd" for each in middlewares)
    service = {"service": {"name": backend, "port": {"name": "http"}}}
    rule = {"http": {"paths": [{"path": path, "pathType": "Prefix", "backend": service}]}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": name, "namespace": "default", "annotations": notes},
        "spec": {"ingressClassName": "traefik", "rules": [rule]},
    }


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    told: Object  # what a pod tells of the request


class World:
    """A cluster whose Traefik e1 asks."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._netns = cluster.host("e1").netns

    @property
    def address(self) -> str:
        service = self.cluster.client.get(SERVICES, "traefik", "traefik")
        found: str = service["status"]["loadBalancer"]["ingress"][0]["ip"]
        return found

    def ask(self, path: str, **headers: str) -> Reply:
        """On port 80; status 0: no answer."""
        with netns.entered(self._netns):
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        connection = http.client.HTTPConnection("shop.example")
        try:
            sock.settimeout(2)
            sock.connect((self.address, 80))
            connection.sock = sock
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            body = response.read()
        except OSError:
            return Reply(0, {}, {})
        finally:
            connection.close()
            sock.close()
        told = json.loads(body) if response.status == 200 else {}
        return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, told)

    def until(self, path: str, good: Callable[[Reply], Any], **headers: str) -> Reply:
        """The first answer that is good."""
        deadline = time.monotonic() + 15
        while not good(reply := self.ask(path, **headers)):
            assert time.monotonic() < deadline, reply
            time.sleep(0.02)
        return reply

    def events(self, reason: str) -> list[str]:
        return [event["message"] for event in self.cluster.client.list(EVENTS).items if event["reason"] == reason]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with running("trf") as cluster:
        users = base64.b64encode(b"ann:{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=\n").decode()  # test
        meta = {"name": "users", "namespace": "default"}
        cluster.apply(
            WEB.format(name="red", replicas=1, annotations=""),
            WEB.format(name="blue", replicas=3, annotations=STICKY),
            {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": {"users": users}},
            *(middleware(name, spec) for name, spec in MIDDLEWARES_OF.items()),
            ingress("plain", "/plain"),
        )
        eventually(lambda: bool(cluster.client.get(INGRESSES, "default", "plain").get("status")), "an address")
        cluster.wait_ready()
        yield World(cluster)


def test_prefixes_are_of_characters(world: World) -> None:
    world.until("/plain", lambda reply: reply.status == 200)
    assert world.ask("/plainly/x").told["path"] == "/plainly/x"
    assert world.ask("/other").status == 404
    status = world.cluster.client.get(INGRESSES, "default", "plain")["status"]
    assert status["loadBalancer"]["ingress"] == [{"ip": world.address}]


def test_a_prefix_is_stripped(world: World) -> None:
    world.cluster.apply(ingress("strip", "/api", router_middlewares="strip"))
    reply = world.until("/api/x?y=z", lambda reply: reply.status == 200)
    assert reply.told["path"] == "/x?y=z"
    assert {name.lower(): value for name, value in reply.told["headers"].items()}["x-forwarded-prefix"] == "/api"
    assert world.ask("/api").told["path"] == "/"
    # Another prefix takes effect without any change of the Ingress.
    world.cluster.apply(middleware("strip", {"stripPrefix": {"prefixes": ["/api/x"]}}))
    assert world.until("/api/x/y", lambda reply: reply.told.get("path") == "/y")


def test_a_redirect_to_https(world: World) -> None:
    world.cluster.apply(ingress("secure", "/secure", router_middlewares="secure"))
    reply = world.until("/secure/x", lambda reply: reply.status == 301)
    assert reply.headers["location"] == "https://shop.example/secure/x"


def test_headers_passwords_and_sources(world: World) -> None:
    world.cluster.apply(ingress("login", "/login", router_middlewares="headers,login"))
    world.cluster.apply(ingress("inside", "/inside", router_middlewares="inside"))
    world.until("/login", lambda reply: reply.status == 401)
    word = base64.b64encode(b"ann:test").decode()
    reply = world.until("/login", lambda reply: reply.status == 200, Authorization=f"Basic {word}")
    assert reply.headers["x-said"] == "so"
    assert {name.lower(): value for name, value in reply.told["headers"].items()}["x-added"] == "yes"
    # The Service of Traefik has traffic policy Cluster: what it sees is a node.
    world.until("/inside", lambda reply: reply.status == 403)


def test_clients_stay_with_a_server(world: World) -> None:
    world.cluster.apply(ingress("sticky", "/sticky", "blue"))
    first = world.until("/sticky", lambda reply: reply.status == 200)
    cookie = first.headers["set-cookie"].partition(";")[0]
    assert cookie.startswith("stay=")
    pods = {world.ask("/sticky", Cookie=cookie).told["pod"] for _ in range(20)}
    assert pods == {first.told["pod"]}
    assert len({world.ask("/sticky").told["pod"] for _ in range(20)}) > 1


def test_priorities(world: World) -> None:
    world.cluster.apply(ingress("specific", "/who/is/there"), ingress("all", "/who", "blue"))
    world.until("/who/is/there", lambda reply: reply.told.get("pod", "").startswith("red"))
    world.until("/who", lambda reply: reply.told.get("pod", "").startswith("blue"))
    world.cluster.apply(ingress("all", "/who", "blue", router_priority="100"))
    world.until("/who/is/there", lambda reply: reply.told.get("pod", "").startswith("blue"))


def test_a_middleware_that_is_missing_leaves_no_router(world: World) -> None:
    world.cluster.apply(ingress("missing", "/missing", router_middlewares="later"))
    eventually(
        lambda: any('"default-later@kubernetescrd" does not' in text for text in world.events("Rejected")), "told"
    )
    assert world.ask("/missing").status == 404
    world.cluster.apply(middleware("later", {"addPrefix": {"prefix": "/found"}}))
    assert world.until("/missing", lambda reply: reply.status == 200).told["path"] == "/found/missing"
    world.cluster.client.delete(MIDDLEWARES, "default", "later")
    world.until("/missing", lambda reply: reply.status == 404)
