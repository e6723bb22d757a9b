"""Ingresses as Traefik reads them: routers and their order, entry points, middlewares, annotations of Services."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest
from ingress_objects import ingress, meta, path, rule, service_object

from kmn.ingress.dialects.traefik.rules import routing_of
from kmn.ingress.model import (
    Backend,
    BasicAuth,
    Cookie,
    Forward,
    HeaderChange,
    How,
    Match,
    Owner,
    Protocol,
    RateLimit,
    Reach,
    Redirect,
    Retry,
    Rewrite,
    Routing,
    Rule,
    Share,
    Sources,
    Text,
    Treatment,
    Upstream,
)
from kmn.ingress.outcome import path_seen
from kmn.k8s.objects import Key, Object
from kmn.k8s.resources import MIDDLEWARES, SECRETS, SERVICES, Resource

PREFIX = "traefik.ingress.kubernetes.io/"


def noted(
    name: str, *rules: dict[str, Any], default: str = "", created: int = 0, tls: Any = None, **notes: str
) -> Object:
    """An Ingress with annotations, ``_`` for ``.``."""
    named = {PREFIX + key.replace("_", "."): value for key, value in notes.items()}
    fields = {"tls": tls} if tls else {}
    return ingress(name, *rules, default=default, created=created, annotations=named, **fields)


def middleware(name: str, kind: str, **spec: Any) -> Object:
    return {"kind": "Middleware", "metadata": meta(name), "spec": {kind: spec}}


def routed(*objects: Object) -> Routing:
    """Services a and b are there."""
    known: dict[tuple[Resource, Key], Object] = {}
    ingresses = []
    for obj in (service_object("a"), service_object("b"), *objects):
        key = Key(obj["metadata"]["namespace"], obj["metadata"]["name"])
        if obj.get("kind") == "Ingress":
            ingresses.append(obj)
        else:
            kinds = {"Middleware": MIDDLEWARES, "Secret": SECRETS}
            known[kinds.get(obj.get("kind", ""), SERVICES), key] = obj
    return routing_of(ingresses, lambda resource, key: known.get((resource, key)))


def rules_of(routing: Routing, host: str = "", table: str = "web") -> list[tuple[str, str]]:
    """Paths and Services of a host, in the order in which they are tried."""
    (found,) = [each for each in routing.tables[table].hosts if each.name == host]
    return [(each.match.path.value, next(each.upstreams()).backend.service) for each in found.rules]


def only(routing: Routing, table: str = "web") -> Rule:
    (host,) = routing.tables[table].hosts
    (found,) = host.rules
    return found


def told(routing: Routing) -> list[str]:
    return [f"{problem.reason}: {problem.message}" for problem in routing.problems]


def treated(*middlewares: Object, text: str = "/api") -> tuple[Rule, list[str]]:
    """What middlewares make of a rule."""
    names = ", ".join(
        f"default-{each['metadata']['name']}@kubernetescrd" for each in middlewares if each["kind"] != "Secret"
    )
    routing = routed(noted("x", rule(None, path(text, "a")), router_middlewares=names), *middlewares)
    return only(routing), told(routing)


# --- routers


@pytest.mark.parametrize(
    ("kind", "text", "notes", "wanted"),
    [
        ("Prefix", "/", {}, Text(How.PREFIX)),
        ("Prefix", "/foo", {}, Text(How.REGEX, "/foo.*")),  # /foobar, too
        ("ImplementationSpecific", "/foo.x", {}, Text(How.REGEX, r"/foo\.x.*")),
        ("Exact", "/foo", {}, Text(How.EXACT, "/foo")),
        ("ImplementationSpecific", "/foo", {"router_pathmatcher": "Path"}, Text(How.EXACT, "/foo")),
        ("Prefix", "/foo", {"router_pathmatcher": "Path"}, Text(How.REGEX, "/foo.*")),
        (
            "ImplementationSpecific",
            "^/a[0-9]+$",
            {"router_pathmatcher": "PathRegexp"},
            Text(How.REGEX, ".*(?:^/a[0-9]+$).*"),
        ),
    ],
)
def test_paths(kind: str, text: str, notes: dict[str, str], wanted: Text) -> None:
    routing = routed(noted("x", rule(None, path(text, "a", kind)), **notes))
    assert only(routing).match == Match(path=wanted)
    assert not routing.problems


def test_rules_go_by_their_length_as_text_or_their_priority() -> None:
    routing = routed(
        noted("short", rule("a.example", path("/x", "a")), rule("*.example", path("/x", "b"))),
        noted("any", rule(None, path("/a-very-long-path-for-all-hosts", "b"), path("/", "a"))),
        noted("first", rule(None, path("/now", "b")), router_priority="1000"),
    )
    # HostRegexp(`^[a-zA-Z0-9-]+\.example$`) is longer than Host(`a.example`).
    assert rules_of(routing, "a.example") == [
        ("/now.*", "b"), ("/x.*", "b"), (r"/a\-very\-long\-path\-for\-all\-hosts.*", "b"), ("/x.*", "a"), ("", "a"),
    ]  # fmt: skip
    assert [service for _, service in rules_of(routing, "*.example")] == ["b", "b", "b", "a"]
    assert [service for _, service in rules_of(routing)] == ["b", "b", "a"]
    assert not routing.problems


def test_the_default_backend_is_that_of_an_ingress_without_rules() -> None:
    routing = routed(noted("late", default="b", created=9), noted("early", default="a"),
                     noted("ruled", rule("h.example", path("/x", "a")), default="b"))  # fmt: skip
    assert rules_of(routing, "h.example") == [("/x.*", "a"), ("", "a")]
    assert sorted(told(routing)) == [
        "Conflict: Ingress default/late: spec.defaultBackend: Ingress default/early, which is older, has it already",
        "Rejected: Ingress default/ruled: spec.defaultBackend: it counts only where an Ingress has no rules",
    ]


def test_two_with_the_same_rule() -> None:
    routing = routed(noted("late", rule(None, path("/x", "b")), created=9), noted("early", rule(None, path("/x", "a"))))
    assert rules_of(routing)[0] == ("/x.*", "a")
    (message,) = told(routing)
    assert message.endswith("any host/x: Ingress default/early, which is older, has the same rule already")


@pytest.mark.parametrize(
    ("notes", "tables"),
    [
        ({}, {"web", "websecure"}),
        ({"router_entrypoints": "web"}, {"web"}),
        ({"router_entrypoints": "websecure,web"}, {"web", "websecure"}),
        ({"router_tls": "true"}, {"websecure"}),
        ({"router_tls": "true", "router_entrypoints": "web"}, set()),
    ],
)
def test_entry_points(notes: dict[str, str], tables: set[str]) -> None:
    routing = routed(noted("x", rule(None, path("/x", "a")), **notes))
    assert {name for name in routing.tables if rules_of(routing, table=name)} == tables
    assert [(each.port, each.table, each.tls) for each in routing.entrances] == [
        (80, "web", False),
        (443, "websecure", True),
    ]


def test_a_service_that_is_not_there_has_no_router() -> None:
    routing = routed(noted("x", rule(None, path("/x", "gone"))))
    assert not rules_of(routing)
    (message,) = told(routing)
    assert message.endswith("there is no router, requests are answered 404: Service default/gone does not exist")


@pytest.mark.parametrize(
    ("notes", "why"),
    [
        ({"router_priority": "high"}, '"high" should be a whole number'),
        ({"router_pathmatcher": "Glob"}, '"Glob" should be Path or PathPrefix or PathRegexp'),
        ({"router_entrypoints": "web,metrics"}, '"metrics" is none: there are web and websecure'),
        ({"router_tls_certresolver": "le"}, "router.tls.certresolver is not emulated: it has no effect"),
        ({"router_middlewares": "auth@file"}, "there is no router, requests are answered 404"),
        (
            {"router_middlewares": "default-gone@kubernetescrd"},
            'middleware "default-gone@kubernetescrd" does not exist',
        ),
    ],
)
def test_annotations_that_cannot_be_followed_are_told_once(notes: dict[str, str], why: str) -> None:
    routing = routed(
        noted(
            "x",
            rule(None, path("/a", "a", "ImplementationSpecific"), path("/b", "a", "ImplementationSpecific")),
            **notes,
        )
    )
    messages = {re.sub(r"paths\[.\]", "paths", each) for each in told(routing)}
    assert len(messages) == 1
    assert why in messages.pop()


# --- middlewares


@pytest.mark.parametrize(
    ("chain", "text", "before", "after"),
    [
        ([("stripPrefix", {"prefixes": ["/api", "/v1"]})], "/api",
         ["/api/x", "/api", "/apix", "/v1//y"], ["/x", "/", "/x", "//y"]),
        ([("stripPrefix", {"prefixes": ["/api"]}), ("addPrefix", {"prefix": "/new"})], "/api",
         ["/api/x", "/api"], ["/new/x", "/new/"]),
        ([("stripPrefixRegex", {"regex": ["/[a-z]+/[0-9]+"]})], "/", ["/abc/12/x", "/abc"], ["/x", "/abc"]),
        ([("addPrefix", {"prefix": "/new"})], "/", ["/x"], ["/new/x"]),
        ([("replacePath", {"path": "/only"})], "/", ["/x/y"], ["/only"]),
        ([("replacePathRegex", {"regex": "^/foo/(.*)", "replacement": "/bar/$1"})], "/",
         ["/foo/x", "/y"], ["/bar/x", "/y"]),
        ([("replacePathRegex", {"regex": "o+", "replacement": "0"})], "/", ["/foo/boo"], ["/f0/b0"]),
    ],
)  # fmt: skip
def test_paths_that_servers_see(chain: list[tuple[str, Any]], text: str, before: list[str], after: list[str]) -> None:
    made = [middleware(f"m{number}", kind, **spec) for number, (kind, spec) in enumerate(chain)]
    found, messages = treated(*made, text=text)
    rewrite = found.treatment.rewrite
    assert rewrite is not None
    assert rewrite.pattern is not None
    assert rewrite.substitution is not None
    assert [path_seen(rewrite, found.match.path, each) for each in before] == after
    assert not messages


def test_what_was_stripped_is_told_to_servers() -> None:
    found, _ = treated(middleware("m", "stripPrefix", prefixes=["/api"]))
    assert found.treatment.request_headers == HeaderChange(set=(("X-Forwarded-Prefix", "/api"),))


def test_a_redirect_keeps_bodies_and_ends_at_its_own_scheme() -> None:
    made = middleware("m", "redirectScheme", scheme="https", permanent=True, port="8443")
    routing = routed(noted("x", rule(None, path("/", "a")), router_middlewares="default-m@kubernetescrd"), made)
    (host,) = routing.tables["web"].hosts
    assert [(each.match.methods, each.action) for each in host.rules] == [
        (("GET",), Redirect(301, scheme="https", port=8443)),
        ((), Redirect(308, scheme="https", port=8443)),
    ]
    assert isinstance(only(routing, "websecure").action, Forward)


def test_headers_and_who_may() -> None:
    users = {"users": base64.b64encode(b"ann:{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=\nbob:$2y$05$x\n").decode()}
    secret = {"kind": "Secret", "metadata": meta("users"), "data": users}
    found, messages = treated(
        middleware("h", "headers", customRequestHeaders={"X-A": "1", "X-B": ""}, customResponseHeaders={"X-C": "2"},
                   frameDeny=True, stsSeconds=60),
        middleware("i", "ipAllowList", sourceRange=["10.0.0.0/8", "192.0.2.7"]),
        middleware("b", "basicAuth", secret="users", removeHeader=True),
        middleware("r", "rateLimit", average=100, period="1m", burst=50),
        middleware("y", "retry", attempts=3),
        secret,
    )  # fmt: skip
    assert found.treatment == Treatment(
        request_headers=HeaderChange(set=(("X-A", "1"),), remove=("X-B", "Authorization")),
        response_headers=HeaderChange(set=(("X-C", "2"), ("X-Frame-Options", "DENY"))),
        sources=Sources(("10.0.0.0/8", "192.0.2.7/32")),
        basic_auth=BasicAuth("traefik", (("ann", "{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M="),)),
        rate_limits=(RateLimit(100, 60, 100),),
        retry=Retry(3),
    )
    assert len(messages) == 2
    assert "headers.stsseconds is not emulated" in messages[0]
    assert "user bob: only passwords by SHA-1 and MD5 are emulated" in messages[1]


def test_chains() -> None:
    inner = middleware("inner", "addPrefix", prefix="/new")
    chain = middleware("outer", "chain", middlewares=[{"name": "inner"}])
    routing = routed(
        noted("x", rule(None, path("/", "a")), router_middlewares="default-outer@kubernetescrd"), inner, chain
    )
    assert only(routing).treatment.rewrite == Rewrite(pattern="^(.*)$", substitution=r"/new\1")
    circle = middleware("outer", "chain", middlewares=[{"name": "outer"}])
    routing = routed(noted("x", rule(None, path("/", "a")), router_middlewares="default-outer@kubernetescrd"), circle)
    assert not rules_of(routing)
    assert "spec.chain leads back to itself" in told(routing)[0]


@pytest.mark.parametrize(
    ("kind", "spec", "why"),
    [
        ("forwardAuth", {"address": "http://x"}, "spec.forwardAuth is not emulated"),
        ("ipAllowList", {"sourceRange": ["10.0.0.0/8"], "ipStrategy": {"depth": 1}}, "ipStrategy is not emulated"),
        ("ipAllowList", {"sourceRange": []}, "sourceRange is empty"),
        ("basicAuth", {"secret": "gone"}, "there is no Secret gone"),
        ("basicAuth", {}, "cannot be read: KeyError('secret')"),
        ("redirectScheme", {"scheme": "ftp"}, 'scheme "ftp" should be http or https'),
        ("redirectRegex", {"regex": "x", "replacement": "y"}, "spec.redirectRegex is not emulated"),
        ("replacePathRegex", {"regex": "(", "replacement": "y"}, "spec.replacePathRegex"),
        ("replacePathRegex", {"regex": "a", "replacement": "$1"}, "only groups of regex by number"),
        ("addPrefix", {"prefix": "new"}, '"new" should be a path that begins with a slash'),
        ("headers", {"customRequestHeaders": {"a b": "x"}}, '"a b" is no name of a header'),
    ],
)
def test_a_middleware_that_cannot_be_followed_leaves_no_router(kind: str, spec: dict[str, Any], why: str) -> None:
    made = middleware("m", kind, **spec)
    routing = routed(noted("x", rule(None, path("/", "a")), router_middlewares="default-m@kubernetescrd"), made)
    assert not rules_of(routing)
    (message,) = told(routing)
    assert "there is no router, requests are answered 404" in message
    assert why in message


def test_what_one_may_do_without_is_only_told() -> None:
    found, (message,) = treated(middleware("m", "compress"))
    assert found.treatment == Treatment()
    assert message == "NotEmulated: Ingress default/x: Middleware default/m: spec.compress is not emulated: no effect"


# --- Services


def test_annotations_of_services() -> None:
    own = service_object("a", {"port": 8443, "name": "web"})
    own["metadata"]["annotations"] = {
        f"{PREFIX}service.{name}": value
        for name, value in {
            "serversscheme": "h2c", "nodeportlb": "true", "passhostheader": "false",
            "sticky.cookie": "true", "sticky.cookie.name": "stay", "sticky.cookie.secure": "true",
            "sticky.cookie.samesite": "lax", "sticky.cookie.maxage": "60",
        }.items()
    }  # fmt: skip
    routing = routed(
        noted("x", rule(None, {**path("/", "a"), "backend": {"service": {"name": "a", "port": {"number": 8443}}}})), own
    )
    found = only(routing)
    backend = Backend("default", "a", 8443)
    assert found.action == Forward((Share(Upstream(backend, Protocol.H2C, reach=Reach.NODES)),))
    assert found.treatment.session == Cookie("stay", "/", 60, (("Secure", ""), ("SameSite", "Lax")))
    assert found.owner == Owner("Ingress", "default", "x")
    (message,) = told(routing)
    assert message.startswith(f"NotEmulated: Ingress default/x: Service default/a: annotation {PREFIX}service.passhost")


@pytest.mark.parametrize(
    ("port", "wanted"),
    [
        ({"port": 80}, Protocol.HTTP),
        ({"port": 443}, Protocol.HTTPS),
        ({"port": 8443, "name": "https-web"}, Protocol.HTTPS),
    ],
)
def test_ports_that_are_https(port: dict[str, Any], wanted: Protocol) -> None:
    backend = {"service": {"name": "c", "port": {"number": port["port"]}}}
    routing = routed(noted("x", rule(None, {**path("/", "c"), "backend": backend})), service_object("c", port))
    assert next(only(routing).upstreams()).protocol is wanted


def test_a_sticky_cookie_without_a_name_has_one() -> None:
    own = service_object("a")
    own["metadata"]["annotations"] = {f"{PREFIX}service.sticky.cookie": "true"}
    cookie = only(routed(noted("x", rule(None, path("/", "a"))), own)).treatment.session
    assert cookie is not None
    assert re.fullmatch("_[0-9a-f]{5}", cookie.name)
