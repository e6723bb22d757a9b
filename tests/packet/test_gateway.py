"""Gateways from outside to pods: HTTP, HTTPS, HTTP/2, TLS passed on and TCP, by requests of an outside host."""

from __future__ import annotations

import os
import socket
import ssl
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

import pytest
from clusterlab import eventually, running
from gatewayclient import OutsideClient, certificate_secret, der

from kmn import Cluster
from kmn.emulator import netns
from kmn.ingress.certificates import KeyPair, self_signed
from kmn.k8s.errors import NotFound
from kmn.k8s.objects import Object
from kmn.k8s.resources import DEPLOYMENTS, EVENTS, GATEWAYS, GRPCROUTES, HTTPROUTES, SERVICES, TCPROUTES, Resource

pytestmark = [pytest.mark.packet, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

BACKEND = """\
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec: {{containers: [{{name: web, image: example.com/web:1, ports: [{{containerPort: 3000}}]}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{selector: {{app: {name}}}, ports: [{{port: 8080, targetPort: 3000}}]}}
---
"""
NAMESPACE = "apiVersion: v1\nkind: Namespace\nmetadata: {name: apps, labels: {shop: 'yes'}}\n---\n"
# A pod in which a test has a server of its own.
OWN = """\
apiVersion: v1
kind: Pod
metadata: {name: own, labels: {app: own}, annotations: {kmn.io/program: none}}
spec: {containers: [{name: own, image: example.com/own:1}]}
---
apiVersion: v1
kind: Service
metadata: {name: own}
spec: {selector: {app: own}, ports: [{name: tls, port: 443, targetPort: 4443}, {name: tcp, port: 5432}]}
"""
GATEWAY = """\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: front}
spec:
  gatewayClassName: eg
  listeners:
  - {name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}
  - name: https
    port: 443
    protocol: HTTPS
    hostname: shop.example
    tls: {certificateRefs: [{name: shop-tls}]}
  - {name: pass, port: 443, protocol: TLS, hostname: own.example, tls: {mode: Passthrough}}
  - {name: end, port: 8443, protocol: TLS, tls: {certificateRefs: [{name: shop-tls}]}}
  - {name: db, port: 5432, protocol: TCP}
"""
ROUTES = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop}
spec:
  parentRefs: [{name: front, sectionName: http}, {name: front, sectionName: https}]
  hostnames: [shop.example]
  rules:
  - matches: [{path: {value: /weights}}]
    backendRefs: [{name: red, port: 8080, weight: 3}, {name: blue, port: 8080, weight: 1},
                  {name: grey, port: 8080, weight: 0}]
  - matches: [{path: {value: /half}}]
    backendRefs: [{name: red, port: 8080}, {name: none, port: 8080}]
  - matches: [{path: {value: /idle}}]
    backendRefs: [{name: idle, port: 8080}]
  - matches: [{path: {value: /slow}}]
    timeouts: {request: 300ms}
    backendRefs: [{name: own, port: 5432}]
  - matches: [{path: {value: /copied}}]
    filters: [{type: RequestMirror, requestMirror: {backendRef: {name: own, port: 5432}}}]
    backendRefs: [{name: red, port: 8080}]
  - matches: [{path: {value: /scripts}}]
    filters: [{type: CORS, cors: {allowOrigins: ["https://*.shop.example"], allowMethods: [GET, PUT], maxAge: 60}}]
    backendRefs: [{name: red, port: 8080}]
  - matches: [{path: {value: /basket}}]
    sessionPersistence: {cookie: {name: basket}}
    backendRefs: [{name: grey, port: 8080}]
  - matches: [{path: {value: /secure}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301}}]
  - matches: [{path: {value: /old}}]
    filters:
    - {type: URLRewrite, urlRewrite: {hostname: in.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Way, value: gate}], remove: [X-Own]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: X-Seen, value: "yes"}]}}
    backendRefs: [{name: red, port: 8080}]
  - matches: [{path: {value: /red}}, {headers: [{name: Color, value: red}]}]
    backendRefs: [{name: red, port: 8080}]
  - matches: [{method: POST}, {queryParams: [{name: color, value: blue}]}]
    backendRefs: [{name: blue, port: 8080}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: calls}
spec:
  parentRefs: [{name: front, sectionName: http}]
  hostnames: [calls.example]
  rules:
  - matches: [{method: {service: grpc.health.v1.Health}}]
    backendRefs: [{name: blue, port: 8080}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: own}
spec: {parentRefs: [{name: front, sectionName: pass}], hostnames: [own.example],
       rules: [{backendRefs: [{name: own, port: 443}]}]}
---
apiVersion: gateway.networking.k8s.io/v1alpha3
kind: TLSRoute
metadata: {name: ended}
spec: {parentRefs: [{name: front, sectionName: end}], hostnames: [ended.example],
       rules: [{backendRefs: [{name: red, port: 8080}]}]}
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {name: db}
spec: {parentRefs: [{name: front, sectionName: db}], rules: [{backendRefs: [{name: own, port: 5432}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: apps, namespace: apps}
spec:
  parentRefs: [{name: front, namespace: default, sectionName: http}]
  hostnames: ["*.apps.example"]
  rules: [{backendRefs: [{name: red, namespace: default, port: 8080}]}]
"""
GRANT = """\
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: apps}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: apps}]
  to: [{group: "", kind: Service, name: red}]
"""


def reasons(conditions: list[Object]) -> dict[str, str]:
    return {c["type"]: c["reason"] for c in conditions if "observedGeneration" in c}


class Outside(OutsideClient):
    """Host e1, and a Gateway."""

    def __init__(self, cluster: Cluster, gateway: str = "front") -> None:
        super().__init__(cluster)
        self._cluster = cluster
        self._gateway = gateway
        eventually(lambda: self.told().get("Programmed") == "Programmed", "the Gateway is programmed")
        self.address = self._status()["addresses"][0]["value"]

    def _status(self) -> Object:
        found: Object = self._cluster.client.get(GATEWAYS, "default", self._gateway).get("status") or {}
        return found

    def told(self) -> dict[str, str]:
        return reasons(self._status().get("conditions") or [])

    def listener(self, name: str) -> Object:
        found: Object = next(each for each in self._status()["listeners"] if each["name"] == name)
        return found


@contextmanager
def silent(where: str, port: int) -> Iterator[list[bytes]]:
    """A server in a pod that answers nothing; what it has heard."""
    with netns.entered(where):
        listener = socket.create_server(("0.0.0.0", port))
    heard: list[bytes] = []
    open_: list[socket.socket] = []

    def listen() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            open_.append(sock)
            heard.append(sock.recv(10_000))

    thread = Thread(target=listen)
    thread.start()
    try:
        yield heard
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for sock in open_:
            sock.close()


@contextmanager
def serving(where: str, port: int, answer: bytes, pair: KeyPair | None = None) -> Iterator[None]:
    """A server in a pod that says one thing to whoever connects."""
    with netns.entered(where):
        listener = socket.create_server(("0.0.0.0", port))
    context = None
    if pair is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        file = f"/tmp/{where}.pem"
        with open(file, "w") as out:
            out.write(pair.certificate + pair.key)
        context.load_cert_chain(file)
        os.unlink(file)

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(sock, server_side=True) if context else sock as spoken:
                    spoken.sendall(answer)
            except OSError:
                sock.close()

    thread = Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


PAIR, OWN_PAIR = self_signed("shop.example"), self_signed("own.example")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running("gw") as found:
        found.apply(
            NAMESPACE + "".join(BACKEND.format(name=name, namespace="default") for name in ("red", "blue", "grey"))
        )
        idle = BACKEND.format(name="idle", namespace="default").replace(
            "spec:\n  selector", "spec:\n  replicas: 0\n  selector", 1
        )
        found.apply(idle + OWN)
        found.client.patch(DEPLOYMENTS, "default", "grey", {"spec": {"replicas": 3}})
        found.apply(certificate_secret("shop-tls", PAIR))
        found.apply(GATEWAY)
        found.apply(ROUTES)
        found.wait_ready()
        yield found


@pytest.fixture(scope="module")
def outside(cluster: Cluster) -> Outside:
    found = Outside(cluster)
    eventually(lambda: found.backend("/red") == "red", "routes are in force")
    return found


def accepted(cluster: Cluster, resource: Resource, name: str, namespace: str = "default") -> list[dict[str, str]]:
    status = cluster.client.get(resource, namespace, name).get("status") or {}
    return [reasons(parent["conditions"]) for parent in status.get("parents") or ()]


def test_statuses(cluster: Cluster, outside: Outside) -> None:
    assert outside.told() == {"Accepted": "Accepted", "Programmed": "Programmed"}
    eventually(lambda: outside.listener("http")["attachedRoutes"] == 3, "its routes are counted")
    assert [kind["kind"] for kind in outside.listener("pass")["supportedKinds"]] == ["TLSRoute"]
    good = {"Accepted": "Accepted", "ResolvedRefs": "ResolvedRefs"}
    wanted = {
        (HTTPROUTES, "shop", "default"): [{**good, "ResolvedRefs": "BackendNotFound"}] * 2,
        (GRPCROUTES, "calls", "default"): [good],
        (TCPROUTES, "db", "default"): [good],
        (HTTPROUTES, "apps", "apps"): [{**good, "ResolvedRefs": "RefNotPermitted"}],
    }
    for where, told in wanted.items():
        eventually(lambda where=where, told=told: accepted(cluster, *where) == told, f"{where[1]} is told {told}")


def test_requests_go_by_path_header_method_and_query(outside: Outside) -> None:
    assert outside.backend("/red/x") == "red"
    assert outside.backend("/redder") == "404"
    assert outside.backend("/", Color="red") == "red"
    assert outside.backend("/", method="POST") == "blue"
    assert outside.backend("/?color=blue") == "blue"
    assert outside.backend("/red?color=blue", method="POST") == "red"  # the longer path counts first
    assert outside.backend("/red", "other.example") == "404"
    _, _, found = outside.ask("/red")
    assert found["headers"]["x-forwarded-for"] == outside.ip


def test_weights(outside: Outside) -> None:
    found = Counter(outside.backend("/weights") for _ in range(200))
    assert set(found) == {"red", "blue"}
    assert 120 <= found["red"] <= 180  # three of four


def test_backends_that_are_not_there(outside: Outside) -> None:
    found = Counter(outside.backend("/half") for _ in range(60))
    assert set(found) == {"red", "500"}
    assert outside.backend("/idle") == "503"


def test_redirects_and_rewrites(outside: Outside) -> None:
    status, headers, _ = outside.ask("/secure/x?y=1")
    assert (status, headers["location"]) == (301, "https://shop.example/secure/x?y=1")
    status, headers, found = outside.ask("/old/x?y=1", X_Own="1")
    assert (status, headers["x-seen"]) == (200, "yes")
    assert (found["path"], found["host"]) == ("/new/x?y=1", "in.example")
    assert found["headers"]["x-way"] == "gate"
    assert "x-own" not in found["headers"]


def test_https_by_the_name_that_is_asked_for(outside: Outside) -> None:
    assert outside.backend("/red", tls=True, port=443) == "red"
    assert outside.certificate("shop.example") == der(PAIR)
    with pytest.raises(OSError):
        outside.connect(443, "unknown.example")


def test_grpc_speaks_http2_with_its_backends(outside: Outside) -> None:
    url = f"http://{outside.address}/grpc.health.v1.Health/Check"
    call = ("--http2-prior-knowledge", "-HHost: calls.example", "-Hcontent-type: application/grpc", "-Hte: trailers")
    answer = outside.curl(*call, "--data-binary", "@-", url, data=bytes(5))
    assert answer.startswith("HTTP/2 200")
    assert "grpc-status: 0" in answer
    # Without a body: an answer that comes before the body's end may be lost on curl.
    answer = outside.curl(*call, "-XPOST", url.replace("Health/Check", "Other/Call"))
    assert "grpc-status: 12" in answer  # unimplemented: no rule has it


def test_tls_is_passed_on_or_ended(cluster: Cluster, outside: Outside) -> None:
    with serving(cluster.pod("own").netns, 4443, b"own\n", OWN_PAIR):
        eventually(lambda: outside.certificate("own.example") == der(OWN_PAIR), "its own server answers")
        with outside.connect(443, "own.example") as sock:
            assert sock.recv(100) == b"own\n"
    assert outside.backend("/any", "ended.example", tls=True, port=8443) == "red"
    assert outside.certificate("ended.example", 8443) == der(PAIR)


def test_tcp_is_passed_on(cluster: Cluster, outside: Outside) -> None:
    with serving(cluster.pod("own").netns, 5432, b"db\n"), outside.connect(5432) as sock:
        assert sock.recv(100) == b"db\n"


def test_timeouts_and_mirrors(cluster: Cluster, outside: Outside) -> None:
    with silent(cluster.pod("own").netns, 5432) as heard:
        assert outside.backend("/slow") == "504"
        assert outside.backend("/copied/x") == "red"
        eventually(lambda: any(data.startswith(b"GET /copied/x ") for data in heard), "the copy has come")


def test_scripts_of_other_origins(outside: Outside) -> None:
    asking = {"Origin": "https://a.shop.example", "Access_Control_Request_Method": "PUT"}
    status, headers, _ = outside.ask("/scripts", method="OPTIONS", **asking)
    assert status in (200, 204)
    assert headers["access-control-allow-origin"] == "https://a.shop.example"
    assert headers["access-control-allow-methods"] == "GET, PUT"
    assert headers["access-control-max-age"] == "60"
    _, headers, _ = outside.ask("/scripts", Origin="https://evil.example")
    assert "access-control-allow-origin" not in headers


def test_a_client_with_a_session_stays_with_its_pod(outside: Outside) -> None:
    _, headers, found = outside.ask("/basket")
    cookie = headers["set-cookie"].partition(";")[0]
    assert cookie.startswith("basket=")
    assert len({outside.ask("/basket")[2]["pod"] for _ in range(30)}) == 3
    pods = {outside.ask("/basket", Cookie=cookie)[2]["pod"] for _ in range(10)}
    assert pods == {found["pod"]}


def test_a_grant_lets_routes_of_another_namespace_in(cluster: Cluster, outside: Outside) -> None:
    assert outside.backend("/", "a.b.apps.example") == "500"
    cluster.apply(GRANT)
    eventually(lambda: outside.backend("/", "a.b.apps.example") == "red", "the grant is in force")
    eventually(lambda: accepted(cluster, HTTPROUTES, "apps", "apps")[0]["ResolvedRefs"] == "ResolvedRefs", "it is told")
    cluster.delete(GRANT)
    eventually(lambda: outside.backend("/", "a.b.apps.example") == "500", "the grant is gone")


def test_listeners_come_and_go(cluster: Cluster) -> None:
    text = GATEWAY.replace("name: front", "name: other").replace("eg", "kmn").split("  - name: https")[0]
    cluster.apply(text)
    route = ROUTES.split("---")[0].replace("name: shop", "name: more")
    cluster.apply(
        route.replace("[{name: front, sectionName: http}, {name: front, sectionName: https}]", "[{name: other}]")
    )
    other = Outside(cluster, "other")
    eventually(lambda: other.backend("/red") == "red", "it serves")
    cluster.apply(text + "  - {name: alt, port: 8080, protocol: HTTP}\n")
    eventually(lambda: other.backend("/red", port=8080) == "red", "the new port serves")
    assert other.backend("/red") == "red"
    cluster.apply(text.replace("port: 80,", "port: 81,"))
    eventually(lambda: other.backend("/red", port=81) == "red", "the changed port serves")
    assert [p["port"] for p in cluster.client.get(SERVICES, "default", "other-kmn")["spec"]["ports"]] == [81]
    cluster.delete(text)

    def gone() -> bool:
        for resource in (DEPLOYMENTS, SERVICES):
            try:
                cluster.client.get(resource, "default", "other-kmn")
            except NotFound:
                continue
            return False
        return True

    eventually(gone, "what belonged to it is gone")
    eventually(lambda: accepted(cluster, HTTPROUTES, "more") == [], "the route has no parent any more")


def test_no_request_is_lost_while_rules_change(cluster: Cluster, outside: Outside) -> None:
    text = ROUTES.split("---")[0]
    answers: list[str] = []
    ended = Event()

    def ask() -> None:
        while not ended.is_set():
            answers.append(outside.backend("/weights"))

    thread = Thread(target=ask)
    thread.start()
    try:
        for weight in range(20):
            cluster.apply(text.replace("weight: 3", f"weight: {weight}"))
        generation = cluster.client.get(HTTPROUTES, "default", "shop")["metadata"]["generation"]

        def observed() -> int:
            parents = cluster.client.get(HTTPROUTES, "default", "shop")["status"]["parents"]
            return int(parents[0]["conditions"][0]["observedGeneration"])

        eventually(lambda: observed() == generation, "the last one is in force")
    finally:
        ended.set()
        thread.join()
        cluster.apply(text)
    assert set(answers) <= {"red", "blue"}
    assert len(answers) > 20


NASTY = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: nasty}
spec:
  parentRefs: [{name: front}]
  hostnames: [nasty.example]
  rules:
  - matches:
    - {path: {type: RegularExpression, value: "/(?!a).*"}}
    - {headers: [{name: x, type: RegularExpression, value: "("}]}
    backendRefs: [{name: red, port: 8080}]
  - filters:
    - type: RequestHeaderModifier
      requestHeaderModifier:
        {set: [{name: Host, value: a%b}, {name: X-Percent, value: "50%"}], remove: [":path", "Host"]}
    - {type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: '/a\\1%b'}}}
    backendRefs: [{name: red, port: 8080}]
"""


def test_what_envoy_does_not_take_breaks_nothing_else(cluster: Cluster, outside: Outside) -> None:
    cluster.apply(NASTY)
    eventually(lambda: outside.backend("/x", "nasty.example") == "red", "what is good of it is in force")
    _, _, found = outside.ask("/x", "nasty.example")
    assert found["path"] == "/a\\1%b/x"
    assert found["headers"]["x-percent"] == "50%"
    assert outside.backend("/red") == "red"
    eventually(lambda: any("PartiallyInvalid" in each for each in accepted(cluster, HTTPROUTES, "nasty")), "it is told")
    logs = [file.read_text() for file in cluster.paths.log.glob("envoy-*.log")]
    assert not any("rejected" in text for text in logs)
    cluster.delete(NASTY)


def test_a_gateway_that_nobody_serves_is_told_so(cluster: Cluster) -> None:
    cluster.apply(GATEWAY.replace("name: front", "name: lost").replace("eg", "unheard-of"))

    def told() -> str:
        events = cluster.client.list(EVENTS, "default").items
        return next((e["message"] for e in events if e["involvedObject"]["name"] == "lost"), "")

    eventually(lambda: "there is no GatewayClass unheard-of" in told(), "an Event says why")
