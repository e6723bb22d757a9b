"""ingress-nginx' annotations, each by real requests: one cluster, an Ingress and a host for each feature."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import socket
import ssl
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from clusterlab import eventually, running

from kmn import Cluster
from kmn.emulator import netns
from kmn.ingress.certificates import KeyPair, self_signed
from kmn.k8s.objects import Object
from kmn.k8s.resources import EVENTS, INGRESSES

pytestmark = [pytest.mark.packet, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

PREFIX = "nginx.ingress.kubernetes.io/"
ODD = Path(__file__).with_name("odd_server.py")
CERTIFICATE = self_signed("odd")

BACKEND = """\
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
metadata: {{name: {name}}}
spec: {{selector: {{app: {name}}}, ports: [{{port: 80, targetPort: 8080}}]}}
"""
ODD_POD = """\
apiVersion: v1
kind: Pod
metadata: {name: odd, labels: {app: odd}, annotations: {kmn.io/program: none}}
spec: {containers: [{name: odd, image: example.com/odd:1, ports: [{containerPort: 8080}, {containerPort: 8443}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: odd}
spec:
  selector: {app: odd}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: https, port: 443, targetPort: 8443}]
---
apiVersion: v1
kind: Service
metadata: {name: empty}
spec: {selector: {app: nobody}, ports: [{port: 80}]}
"""


# --- objects ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    text: str = "/"
    backend: str = "red"
    port: int = 80
    kind: str = "Prefix"

    def manifest(self) -> Object:
        service = {"name": self.backend, "port": {"number": self.port}}
        return {"path": self.text, "pathType": self.kind, "backend": {"service": service}}


def regex(text: str, backend: str = "red") -> Place:
    return Place(text, backend, kind="ImplementationSpecific")


def ingress(name: str, host: str, *paths: Place, tls: bool = False, **annotations: str) -> Object:
    """Annotations with underscores for hyphens."""
    given = {PREFIX + key.replace("_", "-"): value for key, value in annotations.items()}
    rule = {"host": host, "http": {"paths": [path.manifest() for path in paths or (Place(),)]}}
    spec = {"ingressClassName": "nginx", "rules": [rule], **({"tls": [{"hosts": [host]}]} if tls else {})}
    meta = {"name": name, "namespace": "default", "annotations": given}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": meta, "spec": spec}


def secret(name: str, **texts: str) -> Object:
    data = {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()}
    meta = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": data}


def sha(password: str) -> str:
    return "{SHA}" + base64.b64encode(hashlib.sha1(password.encode()).digest()).decode()


# Of passwords of several lengths.
HASHES = [
    ("u0", "a", "$apr1$fwBYMqEE$Ei48Z9c3HMmJykZZh8don/"),
    ("u1", "secret", "$apr1$qNf/Q950$/fXPJ0TnzxS35L5bO4ObS1"),
    ("u2", "sixteen letters!", "$apr1$ol0PmaI1$OfOPMjoG8TDSY9mGgtfu8/"),
    ("u3", "a password of more than sixteen letters, and an ü", "$apr1$/BiwqBnh$TTrvz10PrfoDplmfm7O7H."),
    ("u4", "x" * 70, "$apr1$5E6xEOWF$bT3VtVLKJmud8aAywQMlq0"),
    ("u5", "secret", "$1$RaQ92lto$TFBoU9evP2G.tTkB/01iB."),
    ("bea", "secret", "$2y$05$abcdefghijklmnopqrstuuJ1o8Y3d6uFbNB8tX8wC5gZ1m8yZ1Qbe"),
]
OBJECTS = [
    secret("users", auth=f"ann:{sha('secret')}\n"),
    # By openssl passwd, -apr1 and -1; the last one's of bcrypt.
    secret("many", auth=f"ann:{sha('secret')}\n" + "".join(f"{user}:{each}\n" for user, _, each in HASHES)),
    secret("map", eve=sha("other")),
    ingress("rewrite", "rewrite.ex", regex("/api(/|$)(.*)"), Place("/API/something/deep", "blue"), rewrite_target="/$2",
            x_forwarded_prefix="/api"),
    ingress("regex", "regex.ex", regex("/v[0-9]+/users", "blue"), use_regex="true"),
    ingress("regex-too", "regex.ex", Place("/", kind="Prefix"), Place("/Plain", "blue", kind="Exact")),
    ingress("app-root", "approot.ex", app_root="/start"),
    ingress("tls", "tls.ex", tls=True),
    ingress("tls-kept", "kept.ex", tls=True, preserve_trailing_slash="true"),
    ingress("tls-off", "tlsoff.ex", tls=True, ssl_redirect="false"),
    ingress("forced", "forced.ex", force_ssl_redirect="true"),
    ingress("permanent", "permanent.ex", permanent_redirect="https://www.example.org/new?a=b",
            permanent_redirect_code="308"),
    ingress("temporal", "temporal.ex", temporal_redirect="http://other.example", tls=True),
    ingress("www", "www.ex", from_to_www_redirect="true", server_alias="alias.ex, *.many.ex"),
    ingress("passthrough", "pass.ex", Place("/", "odd", 443), ssl_passthrough="true"),
    ingress("https", "https.ex", Place("/", "odd", 443), backend_protocol="HTTPS"),
    ingress("grpc", "grpc.ex", backend_protocol="GRPC"),
    ingress("canary-main", "canary.ex"),
    ingress("canary", "canary.ex", Place("/", "blue"), canary="true", canary_by_header="X-Canary",
            canary_by_cookie="beta", canary_weight="30"),
    ingress("canary-value-main", "value.ex"),
    ingress("canary-value", "value.ex", Place("/", "blue"), canary="true", canary_by_header="X-Region",
            canary_by_header_value="north"),
    ingress("canary-pattern-main", "pattern.ex"),
    ingress("canary-pattern", "pattern.ex", Place("/", "blue"), canary="true", canary_by_header="X-Region",
            canary_by_header_pattern="^(north|south)-[0-9]+"),
    ingress("canary-sticky-main", "sticky.ex", affinity="cookie"),
    ingress("canary-sticky", "sticky.ex", Place("/", "blue"), canary="true", canary_weight="50", affinity="cookie"),
    ingress("canary-alone", "alone.ex", Place("/", "blue"), canary="true", canary_weight="100"),
    ingress("affinity", "affinity.ex", affinity="cookie", session_cookie_name="stay", session_cookie_path="/",
            session_cookie_max_age="600", session_cookie_samesite="Strict", session_cookie_secure="true"),
    ingress("persistent", "persistent.ex", affinity="cookie", affinity_mode="persistent"),
    ingress("hash-uri", "hashuri.ex", upstream_hash_by="$request_uri"),
    ingress("hash-header", "hashheader.ex", upstream_hash_by="${http_x_user}-$arg_q"),
    ingress("ewma", "ewma.ex", load_balance="ewma"),
    ingress("vip", "vip.ex", service_upstream="true", upstream_vhost="inner.example"),
    ingress("allowed", "allowed.ex", whitelist_source_range="203.0.113.0/24"),
    ingress("not-allowed", "notallowed.ex", whitelist_source_range="10.0.0.0/8, 198.51.100.7"),
    ingress("denied", "denied.ex", denylist_source_range="203.0.113.0/24"),
    ingress("bad-range", "badrange.ex", whitelist_source_range="everybody"),
    ingress("basic", "basic.ex", auth_type="basic", auth_secret="users", auth_realm="Who are you"),
    ingress("basic-many", "basicmany.ex", auth_type="basic", auth_secret="many", auth_realm='a "b"'),
    ingress("basic-map", "basicmap.ex", auth_type="basic", auth_secret="map", auth_secret_type="auth-map"),
    ingress("basic-missing", "basicmissing.ex", auth_type="basic", auth_secret="later"),
    ingress("ask", "ask.ex", auth_url="http://odd.default.svc.cluster.local/check?how=1",
            auth_response_headers="X-User"),
    ingress("ask-nobody", "asknobody.ex", auth_url="https://httpbin.org/basic-auth/user/passwd"),
    ingress("cors", "cors.ex", enable_cors="true", cors_allow_origin="https://*.shop.example:8443, http://a.example",
            cors_expose_headers="X-Seen", cors_max_age="600"),
    ingress("cors-all", "corsall.ex", enable_cors="true", cors_allow_credentials="false",
            cors_allow_methods="PUT, GET"),
    ingress("body", "body.ex", Place("/", "odd")),
    ingress("body-large", "bodylarge.ex", Place("/", "odd"), proxy_body_size="2m"),
    ingress("body-any", "bodyany.ex", Place("/", "odd"), proxy_body_size="0"),
    ingress("body-streamed", "bodystreamed.ex", Place("/", "odd"), proxy_body_size="1k", proxy_request_buffering="off"),
    ingress("read-timeout", "slow.ex", Place("/", "odd"), proxy_read_timeout="1"),
    ingress("rps", "rps.ex", limit_rps="1", limit_burst_multiplier="2"),
    ingress("spare", "spare.ex", Place("/", "empty"), default_backend="blue"),
    ingress("errors", "errors.ex", Place("/", "odd"), default_backend="blue", custom_http_errors="404,503"),
    ingress("mirror", "mirror.ex", mirror_target="http://odd.default.svc.cluster.local$request_uri"),
    ingress("snippet", "snippet.ex", configuration_snippet="return 200;"),
    ingress("unknown", "unknown.ex", enable_modsecurity="true", proxy_buffer_size="8k", ssl_redirect="perhaps"),
]  # fmt: skip


# --- requests ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]  # names in lower case
    cookies: tuple[str, ...]  # that are set
    told: Any  # of the backend; None where no backend answers

    @property
    def backend(self) -> str:
        """The Deployment that has answered."""
        return str(self.told["pod"]).partition("-")[0]

    def seen(self, header: str) -> str | None:
        """What the backend was sent."""
        return {name.lower(): value for name, value in self.told["headers"].items()}.get(header.lower())


class Visitor:
    """Host e1, before the controller's load balancer."""

    def __init__(self, cluster: Cluster, address: str) -> None:
        self._netns, self._address = cluster.host("e1").netns, address

    def connect(self, host: str = "", *, tls: bool = False) -> socket.socket:
        with netns.entered(self._netns):
            sock = socket.socket()
        sock.settimeout(10)
        sock.connect((self._address, 443 if tls else 80))
        if not tls:
            return sock
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context.wrap_socket(sock, server_hostname=host)

    def ask(
        self, host: str, path: str = "/", method: str = "GET", *, body: bytes | None = None, tls: bool = False,
        before: bytes = b"", **headers: str,
    ) -> Answer:  # fmt: skip
        """One request of a connection that begins with ``before``; headers with underscores for hyphens."""
        connection = http.client.HTTPConnection(host)
        connection.sock = self.connect(host, tls=tls)
        try:
            connection.sock.sendall(before)
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, {"Host": host, **given})
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        found = {name.lower(): value for name, value in response.getheaders()}
        cookies = tuple(response.headers.get_all("Set-Cookie") or ())
        return Answer(response.status, found, cookies, json.loads(text) if text.startswith(b"{") else None)

    def location(self, host: str, path: str = "/", **more: Any) -> tuple[int, str | None]:
        """Where it is redirected to."""
        answer = self.ask(host, path, **more)
        return answer.status, answer.headers.get("location")

    def pods(self, host: str, count: int = 40, path: str = "/", **headers: str) -> Counter[str]:
        """Who answers so many requests."""
        return Counter(self.ask(host, path, **headers).told["pod"] for _ in range(count))


@contextmanager
def odd_server(cluster: Cluster, folder: Path, pair: KeyPair) -> Iterator[None]:
    file = folder / "odd.pem"
    file.write_text(pair.certificate + pair.key)
    with cluster.pod("odd").popen([sys.executable, str(ODD), str(file)]) as process:
        try:
            yield
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running("ngx") as cluster:
        cluster.apply(BACKEND.format(name="red", replicas=3), BACKEND.format(name="blue", replicas=1), ODD_POD)
        cluster.apply(*OBJECTS)
        cluster.wait_ready()
        with odd_server(cluster, tmp_path_factory.mktemp("odd"), CERTIFICATE):
            yield cluster


@pytest.fixture(scope="module")
def visitor(cluster: Cluster) -> Visitor:
    def address() -> str | None:
        status = cluster.client.get(INGRESSES, "default", "unknown").get("status") or {}
        entries = (status.get("loadBalancer") or {}).get("ingress") or [{}]
        found: str | None = entries[0].get("ip")
        return found

    eventually(lambda: address() is not None, "an address")
    found = Visitor(cluster, address() or "")
    cluster.wait_ready()
    eventually(lambda: _answers(found), "the controller answers")
    return found


def _answers(visitor: Visitor) -> bool:
    try:
        return visitor.ask("body.ex").status == 200
    except (OSError, http.client.HTTPException):
        return False


# --- paths and redirects ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "seen"),
    [("/api", "/"), ("/api/", "/"), ("/api/a/b?q=1", "/a/b?q=1"), ("/Api/x", "/x"), ("/apix", None), ("/", None)],
)
def test_rewrite_target(visitor: Visitor, path: str, seen: str | None) -> None:
    answer = visitor.ask("rewrite.ex", path)
    assert answer.status == (404 if seen is None else 200)
    if seen is not None:
        assert (answer.told["path"], answer.seen("X-Forwarded-Prefix")) == (seen, "/api")


def test_all_paths_of_a_rewritten_host_are_expressions(visitor: Visitor) -> None:
    """The longest first, without case, from the beginning."""
    assert visitor.ask("rewrite.ex", "/api/something/deeper").backend == "blue"
    assert visitor.ask("rewrite.ex", "/api/something").backend == "red"


def test_use_regex(visitor: Visitor) -> None:
    backends = {
        path: visitor.ask("regex.ex", path).backend for path in ("/v12/users/7", "/V1/USERS", "/v/users", "/plainer")
    }
    assert backends == {"/v12/users/7": "blue", "/V1/USERS": "blue", "/v/users": "red", "/plainer": "blue"}


def test_redirects(visitor: Visitor) -> None:
    assert visitor.location("approot.ex", "/?x=1") == (302, "http://approot.ex/start")
    assert visitor.ask("approot.ex", "/start").status == 200
    assert visitor.location("tls.ex", "/a/b?c=d") == (308, "https://tls.ex/a/b?c=d")
    assert visitor.location("tls.ex", "/a/") == (308, "https://tls.ex/a")
    assert visitor.location("kept.ex", "/a/") == (308, "https://kept.ex/a/")
    assert visitor.ask("tls.ex", "/a/", tls=True).told["path"] == "/a/"
    assert visitor.ask("tlsoff.ex").status == 200
    assert visitor.location("forced.ex", "/x") == (308, "https://forced.ex/x")
    assert visitor.location("permanent.ex", "/x?y") == (308, "https://www.example.org/new?a=b")
    assert visitor.location("temporal.ex", "/x") == (302, "http://other.example")  # before that to https


def test_hosts_beside(visitor: Visitor) -> None:
    assert visitor.ask("www.ex").status == 200
    assert visitor.location("www.www.ex", "/x?y=z") == (404, None)
    assert visitor.location("ex", "/x?y=z") == (308, "http://www.ex/x?y=z")
    assert visitor.location("ex", "/x?y=z", tls=True) == (308, "https://www.ex/x?y=z")
    assert [visitor.ask(host).status for host in ("alias.ex", "a.many.ex", "many.ex")] == [200, 200, 404]


# --- backends ---------------------------------------------------------------------------------------------------


def test_tls_is_passed_through(visitor: Visitor) -> None:
    with visitor.connect("pass.ex", tls=True) as sock:
        assert isinstance(sock, ssl.SSLSocket)
        assert sock.getpeercert(binary_form=True) == ssl.PEM_cert_to_DER_cert(CERTIFICATE.certificate)
    answer = visitor.ask("pass.ex", "/x", tls=True)
    assert (answer.told["port"], answer.seen("X-Forwarded-For")) == (8443, None)


def test_protocols_of_backends(visitor: Visitor) -> None:
    assert visitor.ask("https.ex").told["port"] == 8443
    assert visitor.ask("grpc.ex", "/x").told["path"] == "/x"  # by HTTP/2: an emulated container tells the same


def test_websocket(visitor: Visitor) -> None:
    with visitor.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: body.ex\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        assert sock.recv(4096).startswith(b"HTTP/1.1 101 ")
        sock.sendall(b"hello")
        assert sock.recv(4096) == b"hello"


def test_service_upstream_and_vhost(visitor: Visitor) -> None:
    answer = visitor.ask("vip.ex")
    assert (answer.backend, answer.seen("Host")) == ("red", "inner.example")


def test_a_spare_backend(visitor: Visitor) -> None:
    assert visitor.ask("spare.ex").backend == "blue"


def test_error_pages(visitor: Visitor) -> None:
    page = visitor.ask("errors.ex", "/status/503?x=y", Accept="text/html")
    assert (page.status, page.backend, page.told["path"]) == (200, "blue", "/?x=y")
    seen = {name: page.seen(name) for name in ("X-Code", "X-Format", "X-Original-URI", "X-Ingress-Name", "Host")}
    assert seen == {
        "X-Code": "503", "X-Format": "text/html", "X-Original-URI": "/status/503?x=y", "X-Ingress-Name": "errors",
        "Host": "errors.ex",
    }  # fmt: skip
    assert [visitor.ask("errors.ex", f"/status/{code}").status for code in (200, 500)] == [200, 500]


def test_mirror(visitor: Visitor) -> None:
    assert visitor.ask("mirror.ex", "/a/copy?x=y").backend == "red"
    eventually(lambda: "/a/copy?x=y" in visitor.ask("body.ex").told["seen"], "the copy has come")


# --- who has a request ------------------------------------------------------------------------------------------


def test_canary_precedence(visitor: Visitor) -> None:
    """Header, then cookie, then weight."""
    for headers, backend in (
        ({"X_Canary": "always"}, "blue"),
        ({"X_Canary": "never"}, "red"),
        ({"X_Canary": "never", "Cookie": "beta=always"}, "red"),
        ({"X_Canary": "always", "Cookie": "beta=never"}, "blue"),
        ({"X_Canary": "else", "Cookie": "a=b; beta=always; c=d"}, "blue"),
        ({"Cookie": "beta=never"}, "red"),
    ):
        assert {visitor.ask("canary.ex", **headers).backend for _ in range(8)} == {backend}, headers
    counted = Counter(visitor.ask("canary.ex", Cookie="alphabeta=always").backend for _ in range(300))
    assert 50 < counted["blue"] < 130  # 90 on average, ± 8


def test_canary_by_value_and_pattern(visitor: Visitor) -> None:
    assert [visitor.ask("value.ex", X_Region=text).backend for text in ("north", "always", "northern")] == [
        "blue", "red", "red",
    ]  # fmt: skip
    assert [visitor.ask("pattern.ex", X_Region=text).backend for text in ("south-12", "far-north-1", "north")] == [
        "blue", "red", "red",
    ]  # fmt: skip
    assert visitor.ask("value.ex").backend == visitor.ask("pattern.ex").backend == "red"


def test_a_canary_without_a_main_ingress(cluster: Cluster, visitor: Visitor) -> None:
    assert visitor.ask("alone.ex").status == 404
    assert ("Rejected", "canary-alone") in told(cluster)


def test_affinity_by_cookie(visitor: Visitor) -> None:
    first = visitor.ask("affinity.ex")
    cookie, *attributes = first.headers["set-cookie"].split("; ")
    assert cookie.startswith("stay=")
    assert {each.lower() for each in attributes} == {"max-age=600", "path=/", "httponly", "samesite=strict", "secure"}
    assert visitor.pods("affinity.ex", 20, Cookie=cookie) == {first.told["pod"]: 20}
    assert "set-cookie" not in visitor.ask("affinity.ex", Cookie=cookie).headers
    assert len(visitor.pods("affinity.ex")) == 3  # others come elsewhere


def test_persistent_affinity(visitor: Visitor) -> None:
    first = visitor.ask("persistent.ex")
    cookie = first.headers["set-cookie"].partition(";")[0]
    assert cookie.startswith("INGRESSCOOKIE=")
    assert visitor.pods("persistent.ex", 20, Cookie=cookie) == {first.told["pod"]: 20}


def test_clients_stay_with_a_canary(visitor: Visitor) -> None:
    seen = set()
    for _ in range(12):
        first = visitor.ask("sticky.ex")
        cookie = "; ".join(text.partition(";")[0] for text in first.cookies)
        assert {visitor.ask("sticky.ex", Cookie=cookie).backend for _ in range(6)} == {first.backend}
        seen.add(first.backend)
    assert seen == {"red", "blue"}


def test_hash_of_requests(visitor: Visitor) -> None:
    by_path = {path: visitor.pods("hashuri.ex", 6, path) for path in (f"/p{number}" for number in range(12))}
    assert all(len(pods) == 1 for pods in by_path.values())
    assert len({pod for pods in by_path.values() for pod in pods}) > 1
    by_user = [visitor.pods("hashheader.ex", 6, X_User=f"user-{number}") for number in range(12)]
    assert all(len(pods) == 1 for pods in by_user)
    assert len({pod for pods in by_user for pod in pods}) > 1
    assert len(visitor.pods("ewma.ex")) == 3


# --- who may ask ------------------------------------------------------------------------------------------------


def test_source_ranges(cluster: Cluster, visitor: Visitor) -> None:
    hosts = ("allowed.ex", "notallowed.ex", "denied.ex", "badrange.ex")
    assert [visitor.ask(host).status for host in hosts] == [200, 403, 403, 503]
    assert visitor.ask("notallowed.ex", X_Forwarded_For="10.0.0.1").status == 403  # clients are not believed
    assert ("Denied", "bad-range") in told(cluster)


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_passwords(cluster: Cluster, visitor: Visitor) -> None:
    refused = visitor.ask("basic.ex")
    assert (refused.status, refused.headers["www-authenticate"]) == (401, 'Basic realm="Who are you"')
    for user, password, status in (("ann", "secret", 200), ("ann", "Secret", 401), ("bob", "secret", 401)):
        assert visitor.ask("basic.ex", Authorization=_basic(user, password)).status == status
    assert visitor.ask("basicmap.ex", Authorization=_basic("eve", "other")).status == 200
    assert visitor.ask("basicmany.ex").headers["www-authenticate"] == r'Basic realm="a \"b\""'
    for user, password, each in (("ann", "secret", ""), *HASHES):
        status = 401 if each.startswith("$2") else 200  # bcrypt
        for _ in range(2):
            assert visitor.ask("basicmany.ex", Authorization=_basic(user, password)).status == status, user
        assert visitor.ask("basicmany.ex", Authorization=_basic(user, f"{password}x")).status == 401
    assert visitor.ask("basicmany.ex", Authorization="Basic ?").status == 401
    assert ("NotEmulated", "basic-many") in told(cluster)
    assert visitor.ask("basicmissing.ex", Authorization=_basic("ann", "secret")).status == 503
    cluster.apply(secret("later", auth=f"ann:{sha('secret')}"))
    eventually(lambda: visitor.ask("basicmissing.ex").status == 401, "the Secret counts")
    assert visitor.ask("basicmissing.ex", Authorization=_basic("ann", "secret")).status == 200


def test_somebody_else_is_asked(cluster: Cluster, visitor: Visitor) -> None:
    assert visitor.ask("ask.ex", "/x", X_Token="bad").status == 401
    asked = visitor.ask("ask.ex", "/x", X_Token="bad", method="POST", body=b"secret").told
    headers = {name.lower(): value for name, value in asked["headers"].items()}
    assert (asked["path"], asked["size"]) == ("/check?how=1", 0)
    assert headers["x-original-url"] == "http://ask.ex/x"
    assert headers["x-original-method"] == "POST"
    passed = visitor.ask("ask.ex", "/x", X_Token="good", X_User="eve", method="POST", body=b"mine")
    assert (passed.status, passed.told["path"], passed.seen("X-User")) == (200, "/x", "ann")
    assert visitor.ask("asknobody.ex").status == 503
    assert ("Denied", "ask-nobody") in told(cluster)


def test_other_origins(visitor: Visitor) -> None:
    origin = "https://www.shop.example:8443"
    preflight = visitor.ask("cors.ex", method="OPTIONS", Origin=origin, Access_Control_Request_Method="PUT")
    assert (preflight.status, preflight.headers["access-control-allow-origin"]) == (204, origin)
    assert preflight.headers["access-control-allow-methods"] == "GET, PUT, POST, DELETE, PATCH, OPTIONS"
    assert preflight.headers["access-control-max-age"] == "600"
    answer = visitor.ask("cors.ex", Origin="http://a.example")
    assert (answer.backend, answer.headers["access-control-allow-origin"]) == ("red", "http://a.example")
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert answer.headers["access-control-expose-headers"] == "X-Seen"
    for other in ("https://a.b.shop.example:8443", "https://www.shop.example", "http://a.example.org"):
        assert "access-control-allow-origin" not in visitor.ask("cors.ex", Origin=other).headers
    everybody = visitor.ask("corsall.ex", Origin="http://x")
    assert everybody.headers["access-control-allow-origin"] == "*"
    assert everybody.headers["access-control-allow-methods"] == "PUT, GET"
    assert "access-control-allow-credentials" not in everybody.headers


# --- limits -----------------------------------------------------------------------------------------------------


def chunked(visitor: Visitor, host: str, size: int) -> int:
    """The status of a body whose size is not said before."""
    connection = http.client.HTTPConnection(host)
    connection.sock = visitor.connect()
    try:
        parts = (b"x" * 65536 for _ in range(size // 65536))
        connection.request("POST", "/", parts, {"Host": host}, encode_chunked=True)
        return connection.getresponse().status
    finally:
        connection.close()


def test_sizes_of_bodies(visitor: Visitor) -> None:
    """The limit is 1 MiB if nothing is said."""
    half, much, more = (b"x" * size for size in (2**19, 3 * 2**19, 2**21 + 1))
    for host, body, status in (
        ("body.ex", half, 200), ("body.ex", much, 413), ("bodylarge.ex", much, 200), ("bodylarge.ex", more, 413),
        ("bodyany.ex", more, 200), ("bodystreamed.ex", b"x" * 1024, 200), ("bodystreamed.ex", b"x" * 1025, 413),
    ):  # fmt: skip
        answer = visitor.ask(host, method="POST", body=body)
        assert answer.status == status, host
        assert status != 200 or answer.told["size"] == len(body)
    assert chunked(visitor, "body.ex", 2**21) == 413


def test_time_to_answer(visitor: Visitor) -> None:
    begin = time.monotonic()
    assert visitor.ask("slow.ex", "/sleep/3").status == 504
    assert 0.9 < time.monotonic() - begin < 2.5
    assert visitor.ask("slow.ex", "/sleep/0.2").status == 200


def test_rate_limit(visitor: Visitor) -> None:
    """1 a second, and 3 at once: the first, and twice the limit."""
    statuses = [visitor.ask("rps.ex").status for _ in range(8)]
    assert statuses[:3] == [200, 200, 200]
    assert set(statuses[5:]) == {503}
    eventually(lambda: visitor.ask("rps.ex").status == 200, "the second is over")


# --- what is told -----------------------------------------------------------------------------------------------


def told(cluster: Cluster) -> set[tuple[str, str]]:
    """Reasons, and the Ingresses that they are about."""
    return {(event["reason"], event["involvedObject"]["name"]) for event in cluster.client.list(EVENTS).items}


def test_what_is_not_followed_is_told(cluster: Cluster, visitor: Visitor) -> None:
    events = {
        event["message"] for event in cluster.client.list(EVENTS).items if event["involvedObject"]["name"] == "unknown"
    }
    at = f"Ingress default/unknown: annotation {PREFIX}"
    assert events == {
        f"{at}enable-modsecurity is not emulated: it has no effect",
        f'{at}ssl-redirect: "perhaps": must be "true" or "false"; it is ignored',
    }
    assert visitor.ask("unknown.ex").status == 200
    assert visitor.ask("snippet.ex").status == 404
    assert ("Rejected", "snippet") in told(cluster)


# --- the controller's ConfigMap ---------------------------------------------------------------------------------


def configure(cluster: Cluster, **data: str) -> None:
    meta = {"name": "ingress-nginx-controller", "namespace": "ingress-nginx"}
    given = {key.replace("_", "-"): value for key, value in data.items()}
    cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": given})


def test_the_configmap(cluster: Cluster, visitor: Visitor) -> None:
    proxied = b"PROXY TCP4 198.51.100.7 192.0.2.1 4000 80\r\n"
    configure(cluster, use_proxy_protocol="true", use_forwarded_headers="true", ssl_redirect="false", gzip_level="5")
    try:
        eventually(lambda: visitor.ask("tls.ex").status == 200, "no redirect")
        eventually(lambda: visitor.ask("notallowed.ex", before=proxied).status == 200, "PROXY protocol")
        assert visitor.ask("notallowed.ex", before=proxied).seen("X-Real-IP") == "198.51.100.7"
        assert visitor.ask("notallowed.ex").status == 403  # a connection may begin without
        assert visitor.ask("notallowed.ex", X_Forwarded_For="10.0.0.1").seen("X-Real-IP") == "10.0.0.1"
        assert visitor.ask("forced.ex", X_Forwarded_Proto="https").status == 200
        assert ("NotEmulated", "ingress-nginx-controller") in told(cluster)
    finally:
        configure(cluster)
    eventually(lambda: visitor.ask("tls.ex").status == 308, "the defaults are back")
    eventually(lambda: visitor.ask("notallowed.ex", X_Forwarded_For="10.0.0.1").status == 403, "in listeners, too")
