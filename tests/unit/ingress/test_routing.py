"""From Ingresses to routing: a table of what requests match, then conflicts and what is told about them."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from ingress_objects import ingress, path, rule, service

from kmn.ingress.classes import class_of, controller_of
from kmn.ingress.dialects import dialect_of
from kmn.ingress.model import ANY_HOST, Host, How, Routing, Text
from kmn.k8s.objects import Key, Object


def routing_of(ingresses: Iterable[Object]) -> Routing:
    """By a controller that has no annotations of its own."""
    return dialect_of("example.com/own")(ingresses, lambda resource, key: None)


def hosts_of(routing: Routing) -> tuple[Host, ...]:
    """Both entrances lead to the same."""
    (table,) = routing.tables.values()
    assert [(each.port, routing.tables[each.table or ""]) for each in routing.entrances] == [(80, table), (443, table)]
    return table.hosts


def matched(routing: Routing, host: str, text: str) -> str | None:
    """The Service that a request goes to, by the words of the API reference alone."""
    hosts = {each.name: each for each in hosts_of(routing)}
    found = hosts.get(host) or hosts.get("*." + host.partition(".")[2]) or hosts[ANY_HOST]
    chosen = next((rule for rule in found.rules if _matches(rule.match.path, text)), None)
    return next(chosen.upstreams()).backend.service if chosen else None


def _matches(path: Text, text: str) -> bool:
    if path.how is How.EXACT:
        return text == path.value
    assert path.how is How.PREFIX
    wanted = [part for part in path.value.split("/") if part]
    return [part for part in text.split("/") if part][: len(wanted)] == wanted


HOSTS = routing_of(
    [
        ingress(
            "i",
            rule("*.foo.com", path("/", "wild")),
            rule("a.foo.com", path("/x", "exact-host")),
            rule(None, path("/any", "any-host")),
        )
    ]
)
PATHS = routing_of(
    [
        ingress(
            "i",
            rule(
                "a",
                path("/", "root"),
                path("/aaa", "short"),
                path("/aaa/bbb/", "long"),
                path("/aaa/bbb", "exact", "Exact"),
                path("/impl", "impl", "ImplementationSpecific"),
                path("/end/", "end", "Exact"),
            ),
        )
    ]
)


@pytest.mark.parametrize(
    ("routing", "host", "text", "wanted"),
    [
        (HOSTS, "b.foo.com", "/", "wild"),
        (HOSTS, "a.foo.com", "/x/y", "exact-host"),
        (HOSTS, "a.foo.com", "/", None),  # neither the wildcard's rules are tried, nor those without a host
        (HOSTS, "b.c.foo.com", "/any", "any-host"),
        (HOSTS, "b.c.foo.com", "/", None),
        (HOSTS, "other.com", "/any/thing", "any-host"),
        (PATHS, "a", "/", "root"),
        (PATHS, "a", "/aaaccc", "root"),
        (PATHS, "a", "/aaa/ccc", "short"),
        (PATHS, "a", "/aaa/bbb", "exact"),
        (PATHS, "a", "/aaa/bbb/", "long"),
        (PATHS, "a", "/aaa/bbb/c", "long"),
        (PATHS, "a", "/AAA", "root"),
        (PATHS, "a", "/impl/x", "impl"),
        (PATHS, "a", "/end", "root"),
        (PATHS, "a", "/end/", "end"),
        (PATHS, "b", "/", None),
    ],
)
def test_precedence(routing: Routing, host: str, text: str, wanted: str | None) -> None:
    assert matched(routing, host, text) == wanted


def test_exact_paths_come_first_then_the_longest() -> None:
    host = next(each for each in hosts_of(PATHS) if each.name == "a")
    assert [(each.match.path.value, each.match.path.how is How.EXACT) for each in host.rules] == [
        ("/aaa/bbb", True), ("/end/", True), ("/aaa/bbb", False), ("/impl", False), ("/aaa", False), ("", False),
    ]  # fmt: skip


def test_default_backends() -> None:
    """An Ingress's own for its hosts, the oldest of all for what nobody has."""
    routing = routing_of(
        [
            ingress("young", rule("b", path("/y", "y")), default="young", created=9),
            ingress("old", rule("a", path("/x", "x")), default="old", created=1),
            ingress("none", rule("c", path("/z", "z"))),
        ]
    )
    assert [matched(routing, host, "/") for host in ("a", "b", "c", "nobody")] == ["old", "young", "old", "old"]
    assert matched(routing, "b", "/y/") == "y"


def told(*ingresses: Object) -> list[tuple[str, str]]:
    return [(problem.reason, problem.message) for problem in routing_of(ingresses).problems]


def test_the_older_ingress_has_a_path() -> None:
    old = ingress("z", rule("A.example", path("/p/", "mine")), created=1)
    young = ingress("a", rule("a.example", path("/p", "theirs"), path("/q", "theirs")), created=2)
    routing = routing_of([young, old])
    assert [matched(routing, "a.example", text) for text in ("/p", "/q")] == ["mine", "theirs"]
    where = "spec.rules[0].http.paths[0]: a.example/p (Prefix)"
    owner = "Ingress default/z, which is older, sends it to default/mine:80 already"
    assert told(young, old) == [("Conflict", f"Ingress default/a: {where}: {owner}")]
    same = ingress("b", rule("a.example", path("/p", "mine")), created=3)
    assert told(same, old) == []  # they agree


def test_of_the_same_age_the_first_by_name() -> None:
    routing = routing_of([ingress(name, rule("h", path("/", name))) for name in ("b", "a")])
    assert matched(routing, "h", "/") == "a"


def test_certificates() -> None:
    first = ingress("a", rule("x.example"), rule("y.example"), tls=[{"secretName": "all"}], created=1)
    second = ingress(
        "b", tls=[{"hosts": ["Y.example", "*.z.example"], "secretName": "own"}, {"hosts": ["q"]}], created=2
    )
    routing = routing_of([second, first])
    assert {c.host: c.secret.name for c in routing.certificates()} == {
        "x.example": "all", "y.example": "all", "*.z.example": "own",
    }  # fmt: skip
    ((reason, message),) = told(second, first)
    assert reason == "Conflict"
    assert (
        "spec.tls[0]: Y.example: Ingress default/a, which is older, has the certificate of Secret default/all"
        in message
    )


def test_what_has_no_effect_is_told() -> None:
    names = {
        "nginx.ingress.kubernetes.io/rewrite-target": "/",
        "traefik.ingress.kubernetes.io/router.tls": "true",
        "example.com/owner": "me",
    }
    bucket = {"path": "/b", "pathType": "Prefix", "backend": {"resource": {"kind": "Bucket", "name": "icons"}}}
    obj = ingress("i", rule("h", bucket, path("/a?b", "s")), annotations=names)
    at = "Ingress default/i: spec.rules[0].http.paths"
    unknown = "is not emulated: it has no effect"
    assert told(obj) == [
        ("NotEmulated", f"{at}[0].backend.resource: Bucket icons: only Services are served: name a service"),
        ("Rejected", f'{at}[1].path: "/a?b": no path of a request has "?" or "#" in it: remove it'),
        ("NotEmulated", f"Ingress default/i: annotation nginx.ingress.kubernetes.io/rewrite-target {unknown}"),
        ("NotEmulated", f"Ingress default/i: annotation traefik.ingress.kubernetes.io/router.tls {unknown}"),
    ]


def test_who_takes_an_ingress() -> None:
    classes: dict[Key, Object] = {Key("", "nginx"): {"spec": {"controller": "k8s.io/ingress-nginx"}}}
    named = ingress("a")
    assert controller_of(named, classes) == "k8s.io/ingress-nginx"
    old = {"metadata": {"annotations": {"kubernetes.io/ingress.class": "nginx"}}, "spec": {}}
    assert controller_of(old, classes) == "k8s.io/ingress-nginx"
    assert class_of({"metadata": {}, "spec": {"defaultBackend": service("s")}}) is None
    assert controller_of(named, {}) is None
