"""What is seen of ingress: ``kmn ingress explain``, ``log`` and ``counters`` beside real requests; and what passes."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from clusterlab import eventually, running
from faultlab import kmn
from logreader import Log, log_of

from kmn import Cluster
from kmn.cli.ingress import Query, asked_of, state_of
from kmn.emulator import netns
from kmn.ingress.explain import Explanation, explain
from kmn.k8s.objects import Object
from kmn.k8s.resources import INGRESSES, PODS

pytestmark = [pytest.mark.packet, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

NGINX = "k8s.io/ingress-nginx"
SEED = 20261121
BACKENDS = ("red", "blue")
HOSTS = ("a.test", "b.test", "c.a.test", "*.test", "*.a.test")
PIECES = ("a", "b", "ab")
WEBSOCKETS = """\
from aiohttp import web

async def echo(request):
    answers = web.WebSocketResponse()
    await answers.prepare(request)
    async for message in answers:
        await answers.send_str("echo " + message.data)
    return answers

app = web.Application()
app.router.add_get("/ws", echo)
web.run_app(app, port=8080, print=None)
"""
TALKER = """\
import asyncio, sys, aiohttp

async def talk():
    async with aiohttp.ClientSession() as session:
        async with session.ws_connect(sys.argv[1], headers={"Host": "ws.test"}, ssl=False) as socket:
            for line in sys.stdin:
                await socket.send_str(line.strip())
                print(await socket.receive_str(), flush=True)

asyncio.run(talk())
"""


def backend(name: str, *, replicas: int = 2, app_protocol: str = "") -> list[Object]:
    meta, labels = {"name": name, "namespace": "default"}, {"app": name}
    container = {"name": "c", "image": "example.com/x", "ports": [{"containerPort": 8080}]}
    port = {"port": 80, "targetPort": 8080, **({"appProtocol": app_protocol} if app_protocol else {})}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    return [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta,
         "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}},
        {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"selector": labels, "ports": [port]}},
    ]  # fmt: skip


def bare_pod(name: str) -> Object:
    """Nothing listens in it but what a test starts."""
    meta = {"name": name, "namespace": "default", "labels": {"app": name},
            "annotations": {"kmn.io/program": "none"}}  # fmt: skip
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta,
            "spec": {"containers": [{"name": "c", "image": "example.com/x"}]}}  # fmt: skip


def service_of(name: str) -> Object:
    spec = {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


def to(service: str) -> Object:
    return {"service": {"name": service, "port": {"number": 80}}}


def ingress(name: str, host: str | None, *paths: tuple[str, str, str], default: str = "") -> Object:
    """Paths are (path, its type, Service)."""
    entries = [{"path": path, "pathType": kind, "backend": to(service)} for path, kind, service in paths]
    rules = [{"http": {"paths": entries}, **({"host": host} if host else {})}] if paths else []
    spec: Object = {"ingressClassName": "nginx", "rules": rules}
    if default:
        spec["defaultBackend"] = to(default)
    return {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": {"name": name, "namespace": "default"}, "spec": spec}  # fmt: skip


class Client:
    """Host e1, with a connection to the ingress controller that stays open."""

    def __init__(self, cluster: Cluster) -> None:
        self.machine = cluster.host("e1")
        self.address = address_of(cluster)
        self._connection = http.client.HTTPConnection(self.address)
        self.reconnect()

    def reconnect(self) -> None:
        self._connection.close()
        with netns.entered(self.machine.netns):
            self._connection.sock = socket.create_connection((self.address, 80), timeout=10)

    def get(self, host: str, path: str) -> tuple[int, Object]:
        """Status, and what the pod tells."""
        self._connection.request("GET", path, headers={"Host": host})
        response = self._connection.getresponse()
        body = response.read()
        return response.status, json.loads(body) if response.status == 200 else {}

    def close(self) -> None:
        self._connection.close()

    def curl(self, url: str, host: str, *options: str) -> subprocess.CompletedProcess[str]:
        resolved = ("--resolve", f"{host}:80:{self.address}", "--resolve", f"{host}:443:{self.address}")
        return self.machine.run(["curl", "-sk", "-m", "10", *resolved, *options, url])


def address_of(cluster: Cluster) -> str:
    """The load balancer's, once it has one."""

    def told() -> str:
        status = cluster.client.get(INGRESSES, "default", "first").get("status") or {}
        entries = (status.get("loadBalancer") or {}).get("ingress") or [{}]
        return entries[0].get("ip") or ""

    eventually(lambda: bool(told()), "the Ingress has an address")
    return told()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running("seen", nodes=[{"count": 2}]) as cluster:
        for name in BACKENDS:
            cluster.apply(*backend(name))
        cluster.apply(service_of("nobody"), ingress("first", "first.test", ("/", "Prefix", "red")))
        eventually(lambda: bool(cluster.client.get(INGRESSES, "default", "first").get("status")), "it is taken")
        cluster.wait_ready()
        follower = Log(cluster.name, command=("ingress", "log"))
        yield cluster
    assert follower.ended() == 0
    assert follower.notes[-1] == f"kmn: cluster {cluster.name} has ended"
    assert any("first.test" in line for line in follower.lines)


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    client = Client(cluster)
    eventually(lambda: client.get("first.test", "/")[0] == 200, "requests get through")
    yield client
    client.close()


@contextlib.contextmanager
def there(cluster: Cluster, client: Client, *ingresses: Object) -> Iterator[None]:
    """While these are, and all that is known before is in force."""
    marker = ingress("marker", "marker.test", ("/", "Prefix", "red"))
    cluster.apply(*ingresses, marker)
    eventually(lambda: client.get("marker.test", "/")[0] == 200, "rules are in force")
    yield
    for each in (*ingresses, marker):
        cluster.client.delete(INGRESSES, "default", each["metadata"]["name"])
    eventually(lambda: client.get("marker.test", "/")[0] == 404, "rules are gone")


def explained(cluster: Cluster, *urls: str) -> list[Explanation]:
    state = state_of(cluster.client)
    view = state.view(NGINX)
    return [explain(asked_of(Query(url)), NGINX, view, str, partial(state.alone, NGINX)) for url in urls]


def log_lines(cluster: Cluster, *options: str) -> list[dict[str, Any]]:
    done = kmn("ingress", "log", "--name", cluster.name, "--json", "--no-follow", *options)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


# --- explain and log: three opinions about random Ingresses -----------------------------------------------------------


def random_ingresses(dice: random.Random, *, everywhere: bool) -> list[Object]:
    """``everywhere``: some have a default backend, rules without a host, or for all paths."""
    found = []
    for number in range(40):
        paths = []
        for _ in range(dice.randrange(1, 4)):
            kind = dice.choice(("Exact", "Prefix", "Prefix", "ImplementationSpecific"))
            text = "".join(f"/{dice.choice(PIECES)}" for _ in range(dice.randrange(not everywhere, 3)))
            text += dice.choice(("", "", "/"))
            paths.append((text or "/", kind, dice.choice((*BACKENDS, "nobody", "missing"))))
        host = dice.choice((*HOSTS, None) if everywhere else HOSTS)
        default = "blue" if everywhere and dice.random() < 0.2 else ""
        found.append(ingress(f"random-{number}", host, *paths, default=default))
    return found


def random_url(dice: random.Random, number: int) -> tuple[str, str]:
    """Host, and path with a query that is the request's own."""
    host = dice.choice(("a.test", "b.test", "C.a.test", "x.test", "x.a.test", "y.x.a.test", "test", "a.test:80", "z"))
    path = "".join(f"/{dice.choice((*PIECES, 'abc'))}" for _ in range(dice.randrange(4))) + dice.choice(("", "/"))
    return host, f"{path or '/'}?n={number}"


@pytest.mark.parametrize("everywhere", [True, False])
def test_explain_says_what_envoy_does_and_the_log_says_why(
    cluster: Cluster, client: Client, *, everywhere: bool
) -> None:
    dice = random.Random(SEED)
    asked = [random_url(dice, number + 1000 * everywhere) for number in range(400)]
    with there(cluster, client, *random_ingresses(dice, everywhere=everywhere)):
        foretold = explained(cluster, *(f"http://{host}{path}" for host, path in asked))
        answers = [client.get(host, path) for host, path in asked]

        def logged() -> dict[str, Object]:
            return {line["path"]: line for line in log_lines(cluster, "--tail", "2000")}

        eventually(lambda: asked[-1][1] in logged(), "the log has the last request")
        lines = logged()
    seen = set()
    for (host, path), wanted, (status, told) in zip(asked, foretold, answers, strict=True):
        line, context = lines[path], f"{host}{path}: {wanted}"
        assert status == line["status"] == (wanted.status or 200), context
        assert line["host"] == host
        rule = (
            f"Ingress {line['owner']['namespace']}/{line['owner']['name']} {line['rule']}" if "owner" in line else None
        )
        assert rule == (wanted.winner.rule.name if wanted.winner else None), context
        if status == 200:
            assert line["pod"] == f"default/{told['pod']}", context
            assert any(end.startswith(line["endpoint"]) for target in wanted.targets for end in target.endpoints)
        if rule is None:
            assert line["rule"] in ("no host", "no rule")
            assert (line["rule"] == "no host") is wanted.reason.startswith("no rule is for host"), context
        seen.add((status, line["rule"] if rule is None else ""))
    assert seen == {(200, ""), (503, "")} | (set() if everywhere else {(404, "no host"), (404, "no rule")})


def test_the_command_explains(cluster: Cluster, client: Client) -> None:
    with there(cluster, client, ingress("one", "one.test", ("/", "Prefix", "red"), ("/none", "Exact", "nobody"))):
        good = kmn("ingress", "explain", "https://one.test/x", "--name", cluster.name)
        bad = kmn("ingress", "explain", "http://one.test/none", "--name", cluster.name, "-o", "json")
        wrong = kmn("ingress", "explain", "http://one.test/", "--class", "other", "--name", cluster.name)
    assert (good.returncode, bad.returncode, wrong.returncode) == (0, 1, 2)
    lines = good.stdout.splitlines()
    assert lines[0] == "GET https://one.test/x: forwarded"
    assert "  controller k8s.io/ingress-nginx, port 443, TLS, the default certificate" in lines
    assert len([line for line in lines if line.startswith("    pod default/red-")]) == 2
    told = json.loads(bad.stdout)
    assert (told["status"], told["reason"]) == (503, "default/nobody:80 has no ready endpoint")
    assert "no IngressClass or GatewayClass other" in wrong.stderr


# --- log ------------------------------------------------------------------------------------------------------------


def test_the_log_tells_each_request_as_it_ends(cluster: Cluster, client: Client) -> None:
    cluster.apply(bare_pod("silent"), service_of("silent"))
    cluster.wait_ready()
    (proxy,) = cluster.client.list(PODS, "ingress-nginx").items
    paths = [("/", "Prefix", "red"), ("/nobody", "Prefix", "nobody"), ("/silent", "Prefix", "silent")]
    shop = ingress("shop", "shop.test", *((path, kind, service) for path, kind, service in paths))
    with (
        there(cluster, client, shop),
        log_of(cluster, "--json", "--host", "shop.test", command=("ingress", "log")) as log,
    ):
        told = client.get("shop.test", "/x?y=1")[1]
        client.get("other.test", "/")  # not wanted
        client.get("shop.test", "/nobody")
        client.get("shop.test", "/silent")
        client.curl("https://shop.test/tls", "shop.test")
        first, nobody, silent, secure = log.take(4)
    assert first["proxy"] == f"ingress-nginx/{proxy['metadata']['name']}"
    assert first["client"]["address"] == str(client.machine.ip)
    assert [first[name] for name in ("method", "scheme", "path", "protocol", "status", "backend", "pod")] == [
        "GET", "http", "/x?y=1", "HTTP/1.1", 200, "default/red:80", f"default/{told['pod']}"]  # fmt: skip
    assert first["owner"] == {"kind": "Ingress", "namespace": "default", "name": "shop"}
    assert first["rule"] == "spec.rules[0].http.paths[0]"
    assert 0 < first["milliseconds"]["firstByte"] <= first["milliseconds"]["total"]
    assert first["bytes"]["sent"] > 100
    assert (nobody["status"], nobody["problem"]) == (503, "no ready endpoint")
    assert (silent["status"], silent["problem"]) == (503, "connection refused, tried again in vain")
    assert silent["attempts"] == 3  # as many as ingress-nginx makes by default
    assert (secure["scheme"], secure["protocol"], secure["tls"]) == ("https", "HTTP/2", "TLSv1.3")


def test_filters_and_the_past(cluster: Cluster, client: Client) -> None:
    with there(cluster, client, ingress("past", "past.test", ("/", "Prefix", "red"), ("/no", "Exact", "nobody"))):
        for path in ("/1", "/no", "/2"):
            client.get("past.test", path)
        of_it = ("--tail", "10", "--ingress", "default/past")
        eventually(lambda: len(log_lines(cluster, *of_it)) == 3, "all three are there")
        assert [line["path"] for line in log_lines(cluster, *of_it)] == ["/1", "/no", "/2"]
        assert [line["path"] for line in log_lines(cluster, *of_it, "--status", "5xx")] == ["/no"]
        assert [line["path"] for line in log_lines(cluster, "--tail", "1", "--ingress", "past")] == ["/2"]
        assert log_lines(cluster, *of_it, "-n", "other") == []


# --- counters -------------------------------------------------------------------------------------------------------


def counters(cluster: Cluster, name: str) -> Object:
    done = kmn("ingress", "counters", "--name", cluster.name, "-o", "json")
    assert done.returncode == 0, done.stderr
    rows = [row for row in json.loads(done.stdout) if row.get("owner", {}).get("name") == name]
    assert len(rows) == 1
    found: Object = rows[0]
    return found


def test_counters_are_exact_while_rules_change(cluster: Cluster, client: Client) -> None:
    def counted(backend: str) -> Object:
        return ingress("counted", "counted.test", ("/", "Prefix", backend))

    answered: dict[str, int] = {}
    done = threading.Event()

    def load() -> None:
        own = Client(cluster)
        while not done.is_set():
            status, told = own.get("counted.test", "/")
            answered[told.get("pod", str(status))] = answered.get(told.get("pod", str(status)), 0) + 1
        own.close()

    with there(cluster, client, counted("red")):
        assert counters(cluster, "counted")["requests"] == 0
        workers = [threading.Thread(target=load) for _ in range(2)]
        for worker in workers:
            worker.start()
        try:
            for number in range(15):
                wanted = ("blue", "nobody", "red")[number % 3]
                cluster.apply(counted(wanted))
                before = sum(answered.values())
                eventually(lambda before=before: sum(answered.values()) > before + 20, "requests go on")
        finally:
            done.set()
            for worker in workers:
                worker.join()
        total = sum(answered.values())
        eventually(lambda: counters(cluster, "counted")["requests"] >= total, "all are counted")
        row = counters(cluster, "counted")
    assert row["requests"] == total > 15 * 20
    by = {each.get("pod", "503").removeprefix("default/"): each for each in row["by"]}
    assert {name: each["requests"] for name, each in by.items()} == answered
    assert set(row["answers"]) <= {"2xx", "5xx"}
    assert row["answers"].get("5xx", 0) == answered.get("503", 0)
    assert 0 < row["milliseconds"]["p50"] <= row["milliseconds"]["p99"]


def test_counts_and_log_outlive_the_controllers_pod(cluster: Cluster, client: Client) -> None:
    (proxy,) = cluster.client.list(PODS, "ingress-nginx").items
    with (
        there(cluster, client, ingress("outlives", "outlives.test", ("/", "Prefix", "red"))),
        log_of(cluster, "--json", "--ingress", "outlives", command=("ingress", "log")) as log,
    ):
        client.get("outlives.test", "/1")
        (first,) = log.take(1)
        cluster.client.delete(PODS, "ingress-nginx", proxy["metadata"]["name"])
        eventually(lambda: not (cluster.paths.root / "ingress" / proxy["metadata"]["uid"][:8]).exists(), "it is gone")
        cluster.wait_ready()
        later = Client(cluster)
        later.get("outlives.test", "/2")
        (second,) = log.take(1)
        assert counters(cluster, "outlives")["requests"] == 2
        later.close()
        client.reconnect()
    assert (first["path"], second["path"]) == ("/1", "/2")
    assert first["proxy"] == f"ingress-nginx/{proxy['metadata']['name']}" != second["proxy"]


# --- what passes ----------------------------------------------------------------------------------------------------


def test_http2_with_tls_and_without(cluster: Cluster, client: Client) -> None:
    told = "%{http_version} %{response_code}"
    for options, url in ((("--http2",), "https"), (("--http2-prior-knowledge",), "http"), (("--http1.1",), "https")):
        done = client.curl(f"{url}://first.test/", "first.test", *options, "-o", "/dev/null", "-w", told)
        assert done.stdout == ("1.1 200" if "--http1.1" in options else "2 200"), (options, done)


@pytest.mark.parametrize("app_protocol", ["kubernetes.io/h2c", ""])
def test_grpc(cluster: Cluster, client: Client, app_protocol: str) -> None:
    """The health service of an emulated container: over HTTP/2 all the way, or not at all."""
    cluster.apply(*backend("grpc", replicas=1, app_protocol=app_protocol))
    cluster.wait_ready()
    question = ("-X", "POST", "-H", "content-type: application/grpc", "-H", "te: trailers",
                "--data-binary", "@/proc/self/fd/0", "-D", "-", "-o", "/dev/null")  # fmt: skip
    with there(cluster, client, ingress("grpc", "grpc.test", ("/", "Prefix", "grpc"))):
        for scheme, version in (("https", "--http2"), ("http", "--http2-prior-knowledge")):
            url = f"{scheme}://grpc.test/grpc.health.v1.Health/Check"
            resolved = f"grpc.test:{443 if scheme == 'https' else 80}:{client.address}"
            argv = ["curl", "-sk", "-m", "10", "--resolve", resolved, version, *question, url]
            told = client.machine.run(argv, input="\0\0\0\0\0").stdout.lower()
            assert ("grpc-status: 0" in told) is bool(app_protocol), told


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_a_websocket_goes_on_while_rules_change(cluster: Cluster, client: Client, scheme: str) -> None:
    cluster.apply(bare_pod("ws"), service_of("ws"))
    cluster.wait_ready()
    server = cluster.pod("ws").popen([sys.executable, "-c", WEBSOCKETS])
    try:
        with there(cluster, client, ingress("ws", "ws.test", ("/", "Prefix", "ws"))):
            eventually(lambda: client.get("ws.test", "/")[0] == 404, "the program listens")
            url = f"{scheme}://{client.address}/ws"
            talker = client.machine.popen([sys.executable, "-c", TALKER, url], stdin=subprocess.PIPE)
            assert talker.stdin is not None
            assert talker.stdout is not None
            for word in ("one", "two"):
                print(word, file=talker.stdin, flush=True)
                assert talker.stdout.readline() == f"echo {word}\n"
                cluster.apply(ingress("first", f"{word}.test", ("/", "Prefix", "red")))
                eventually(lambda w=word: client.get(f"{w}.test", "/")[0] == 200, "another rule is in force")
            cluster.apply(ingress("first", "first.test", ("/", "Prefix", "red")))
            talker.stdin.close()
            assert talker.wait(10) == 0
            talker.stdout.close()
            of_it = ("--tail", "1", "--ingress", "ws", "--status", "101")
            eventually(lambda: bool(log_lines(cluster, *of_it)), "its end is in the log")
    finally:
        server.kill()
        server.communicate()


# --- names outside --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "ports", "answers"),
    [
        ("e1.internet.test", [], "e1"),
        ("e1.internet.test", [{"port": 80, "targetPort": 80}], "e1"),
        ("red.default.svc.cluster.local", [], "red-"),
    ],
)
def test_external_names(cluster: Cluster, client: Client, name: str, ports: list[Object], answers: str) -> None:
    meta = {"name": "ext", "namespace": "default"}
    spec = {"type": "ExternalName", "externalName": name, **({"ports": ports} if ports else {})}
    cluster.apply({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec})
    with there(cluster, client, ingress("ext", "ext.test", ("/", "Prefix", "ext"))):
        eventually(lambda: client.get("ext.test", "/")[1].get("pod", "").startswith(answers), f"{name} answers")
        (found,) = explained(cluster, "http://ext.test/")
    assert found.good
    assert [target.endpoints for target in found.targets] == [(f"{name}:80",)]
    kmn("delete", "service", "ext", "--name", cluster.name)
