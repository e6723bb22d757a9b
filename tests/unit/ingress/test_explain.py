"""What becomes of a request, and why: questions about a few Ingresses, and the words of the answers."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from ingress_objects import ingress, path, rule, service_object, slice_of, tls_secret

from kmn.cli.ingress import Query, asked_of, chosen
from kmn.errors import UserError
from kmn.ingress.certificates import self_signed
from kmn.ingress.explain import Explanation, explain
from kmn.ingress.match import Request, decide, named, unfulfilled
from kmn.ingress.model import (
    Backend,
    Certificate,
    Condition,
    Entrance,
    Forward,
    Host,
    How,
    Match,
    Owner,
    Redirect,
    Rewrite,
    Routing,
    Rule,
    Share,
    Stream,
    Table,
    Text,
    Treatment,
    Upstream,
)
from kmn.ingress.state import State, View
from kmn.k8s.objects import Key, Object, key_of
from kmn.k8s.resources import ENDPOINTSLICES, INGRESSCLASSES, INGRESSES, SECRETS, SERVICES

NGINX = "k8s.io/ingress-nginx"
PAIR = self_signed("a")


def explained(url: str, *ingresses: Object, **query: Any) -> Explanation:
    """Services ``red`` (one pod) and ``none`` (no pod) are there, and Secret ``cert``."""
    state = State(PAIR)
    nginx = {"metadata": {"name": "nginx"}, "spec": {"controller": NGINX}}
    things = [(INGRESSCLASSES, nginx), (SERVICES, service_object("red")), (SERVICES, service_object("none"))]
    things += [(ENDPOINTSLICES, slice_of("red", "10.0.0.1")), (SECRETS, tls_secret("cert", PAIR))]
    for resource, obj in [*things, *((INGRESSES, each) for each in ingresses)]:
        state.update(resource, key_of(obj), obj)
    alone = partial(state.alone, NGINX)
    return explain(asked_of(Query(url, **query)), NGINX, state.view(NGINX), lambda ip: f"pod at {ip}", alone)


def others(found: Explanation) -> dict[str, str]:
    return {each.rule.name.removeprefix("Ingress default/"): each.why for each in found.others}


SHOP = ingress(
    "shop",
    rule("shop.example", path("/", "red"), path("/cart", "none"), path("/cart", "red", "Exact")),
    created=1,
    tls=[{"hosts": ["shop.example"], "secretName": "cert"}],
    annotations={"nginx.ingress.kubernetes.io/ssl-redirect": "false"},
)
WILD = ingress(
    "wild", rule("*.example", path("/", "red")), rule("shop.example", path("/", "none")), created=2, default="red"
)


def test_each_rule_that_does_not_get_it_is_told_why() -> None:
    found = explained("http://shop.example/cart?x=1", SHOP, WILD)
    assert (found.verdict, found.good, found.host) == ("forwarded", True, "shop.example")
    assert found.winner is not None
    assert found.winner.rule.name == "Ingress default/shop spec.rules[0].http.paths[2]"
    assert [target.endpoints for target in found.targets] == [("pod at 10.0.0.1 at 10.0.0.1:8080",)]
    assert others(found) == {
        "shop spec.rules[0].http.paths[0]": "/cart (Exact) goes before / (Prefix)",
        "shop spec.rules[0].http.paths[1]": "/cart (Exact) goes before /cart (Prefix)",
        "wild spec.defaultBackend": "/cart (Exact) goes before / (Prefix)",
        "wild spec.rules[0].http.paths[0]": "host shop.example is more specific than host *.example",
        "wild spec.rules[1].http.paths[0]": (
            "Ingress default/shop, which is older, says where host shop.example and path / (Prefix) goes"
        ),
    }
    assert [note.partition(":")[0] for note in found.notes] == ["Conflict"]


@pytest.mark.parametrize(
    ("url", "verdict", "why"),
    [
        ("http://shop.example/cart/1", "answered 503", "default/none:80 has no ready endpoint"),
        ("http://nobody/", "answered 404", "no rule is for host nobody"),
        ("http://shop.example:8080/", "refused", "port 8080 is not there; those that are: 80, 443 (TLS)"),
        ("https://shop.example:80/", "refused",
         "port 80 is not there for https: it speaks no TLS; those that are: 80, 443 (TLS)"),
    ],
)  # fmt: skip
def test_why_it_is_not_forwarded(url: str, verdict: str, why: str) -> None:
    found = explained(url, SHOP)
    assert (found.verdict, found.reason, found.good) == (verdict, why, False)


def test_a_host_without_a_rule_for_the_path() -> None:
    found = explained("http://a.example/x", ingress("i", rule("a.example", path("/y", "red"))))
    assert (found.verdict, found.winner) == ("answered 404", None)
    assert found.reason == "host a.example has rules, but none that matches, and there is no default backend"
    assert others(found) == {"i spec.rules[0].http.paths[0]": "the path is not /y (Prefix)"}


def test_what_is_wrong_with_a_backend() -> None:
    found = explained("http://a.example/", ingress("i", rule("a.example", path("/", "missing"))))
    assert (found.status, found.reason) == (503, "Service default/missing does not exist")
    assert found.notes[0].startswith("NoBackend: Ingress default/i: requests for default/missing:80 are answered 503")


@pytest.mark.parametrize(
    ("url", "certificate"),
    [
        ("https://shop.example/", "certificate of Secret default/cert for shop.example (Ingress default/shop)"),
        ("https://other.example/", "the default certificate"),
    ],
)
def test_which_certificate(url: str, certificate: str) -> None:
    assert explained(url, SHOP).entrance == f"port 443, TLS, {certificate}"


def test_a_certificate_of_a_broken_secret_is_the_default_one() -> None:
    secretless = ingress("i", rule("a", path("/", "red")), tls=[{"hosts": ["a"], "secretName": "missing"}])
    assert explained("https://a/", secretless).entrance == "port 443, TLS, the default certificate"


def test_the_host_header_counts_and_the_name_that_tls_asks_for_is_that_of_the_url() -> None:
    found = explained("https://shop.example/", SHOP, WILD, headers=("Host: x.example",))
    assert found.host == "*.example"
    assert "for shop.example" in found.entrance


@pytest.mark.parametrize("query", [Query("ftp://a/"), Query("http://"), Query("http://a:x/"),
                                   Query("a", headers=("novalue",)), Query("a", client="nobody")])  # fmt: skip
def test_what_cannot_be_understood(query: Query) -> None:
    with pytest.raises(UserError):
        asked_of(query)


# --- rules that no Ingress can say yet ------------------------------------------------------------------------------

RED = Upstream(Backend("default", "red", 80))
OWNER = Owner("Ingress", "default", "i")


def of_rules(*rules: Rule, deep: bool = False) -> Table:
    return Table((Host("*.a" if deep else "a", rules, deep),))


@pytest.mark.parametrize(
    ("match", "missing"),
    [
        (Match(methods=("POST", "PUT")), ["the method is not POST or PUT"]),
        (Match(headers=(Condition("x-user", Text(How.EXACT, "bob")),)),
         ["header x-user is 'eve', wanted: 'bob'"]),
        (Match(headers=(Condition("X-None", Text(How.PRESENT)),)), ["header X-None is missing, wanted: present"]),
        (Match(headers=(Condition("X-User", Text(How.PRESENT), negated=True),)),
         ["header X-User is 'eve', wanted: absent"]),
        (Match(headers=(Condition("X-None", Text(How.EXACT, "a"), negated=True),)), []),
        (Match(headers=(Condition("X-None", Text(How.REGEX, ".*"), negated=True),)),
         ["header X-None is missing, wanted: not like .*"]),
        (Match(query=(Condition("v", Text(How.REGEX, "[0-9]+")),)),
         ["query parameter v is 'x', wanted: like [0-9]+"]),
        (Match(Text(How.EXACT, "/A", ignore_case=True), headers=(Condition("x-user", Text(How.PREFIX, "e")),)), []),
    ],
)  # fmt: skip
def test_conditions_that_are_not_fulfilled(match: Match, missing: list[str]) -> None:
    assert unfulfilled(match, Request("a", "/a", "GET", "v=x", (("X-User", "eve"),))) == missing


def test_a_deep_wildcard_is_any_number_of_labels() -> None:
    rule = Rule(Match(), Forward((Share(RED),)), OWNER, "f")
    assert decide(of_rules(rule, deep=True), Request("x.y.a")).winner is not None
    assert decide(of_rules(rule, deep=True), Request("a")).winner is None


def test_names_of_tls() -> None:
    names = ["a.b.c", "*.c", "*.b.c"]
    assert [named(names, name) for name in ("a.b.c", "x.b.c", "x.y.c", "c", "d")] == [
        "a.b.c", "*.b.c", "*.c", None, None]  # fmt: skip


class TestTreatment:
    """Redirects, rewriting and shares, by a view whose routing is put together by hand."""

    def view(self) -> View:
        state = State(PAIR)
        nginx = {"metadata": {"name": "nginx"}, "spec": {"controller": NGINX}}
        things = [(INGRESSCLASSES, nginx), (SERVICES, service_object("red"))]
        things += [
            (ENDPOINTSLICES, slice_of("red", "10.0.0.1")),
            (INGRESSES, ingress("i", rule("a", path("/", "red")))),
        ]
        for resource, obj in things:
            state.update(resource, key_of(obj), obj)
        return state.view(NGINX)

    def view_of(self, routing: Routing) -> View:
        view = self.view()
        return replace(view, config=replace(view.config, routing=routing))

    def explained(self, treated: Rule, url: str = "http://a/x/y?q=1") -> Explanation:
        routing = self.view().config.routing
        view = self.view_of(replace(routing, tables={next(iter(routing.tables)): of_rules(treated)}))
        return explain(asked_of(Query(url, client="192.0.2.7")), NGINX, view, str, lambda _: Routing((), {}))

    def test_redirects(self) -> None:
        treated = Rule(Match(Text(How.PREFIX, "/x")), Redirect(302, "https", prefix="/z"), OWNER, "f")
        found = self.explained(treated)
        assert (found.verdict, found.location, found.good) == ("redirected (302)", "https://a/z/y?q=1", True)

    def test_without_tls(self) -> None:
        treated = Rule(Match(), Forward((Share(RED),)), OWNER, "f", Treatment(https_only=308))
        assert self.explained(treated).location == "https://a/x/y?q=1"
        assert self.explained(treated, "https://a/x/y").verdict == "forwarded"

    def test_rewriting_and_shares(self) -> None:
        rewrite = Treatment(rewrite=Rewrite(host="inner", path="/p"), timeout=2.5, idle_timeout=9.0)
        treated = Rule(Match(), Forward((Share(RED, 3), Share(None, 1), Share(RED, 0))), OWNER, "f", rewrite)
        found = self.explained(treated)
        assert found.treatment == (
            "the backend sees path /p", "the backend sees host inner",
            "the backend sees client 192.0.2.7 in X-Forwarded-For and X-Real-IP", "answered 504 after 2.5 s",
            "answered 504 when nothing comes for 9 s",
        )  # fmt: skip
        assert [(target.backend, target.percent) for target in found.targets] == [("default/red:80", 75.0)]
        assert found.as_json()["backends"][0]["endpoints"] == ["10.0.0.1:8080"]

    def test_connections_that_are_passed_on(self) -> None:
        """TLS by the name that it asks for; others of its port by rules."""
        stream = Stream(("*.db", "x.a"), (Share(RED),), Owner("TLSRoute", "default", "db"), "spec.rules[0]")
        plain = Entrance(5432, streams=(stream._replace(hosts=()),))
        certificate = Certificate("two.db", Key("default", "cert"), OWNER)
        table = next(iter(self.view().config.routing.tables))
        secure = Entrance(443, table, tls=True, certificates=(certificate,), strict=True, streams=(stream,))
        view = self.view_of(replace(self.view().config.routing, entrances=(plain, secure)))

        def asked(url: str) -> Explanation:
            return explain(asked_of(Query(url)), NGINX, view, str, lambda _: Routing((), {}))

        assert asked("https://one.db/").reason == "TLSRoute default/db spec.rules[0] passes the connection on as it is"
        assert asked("https://two.db/").entrance == "port 443, TLS, the default certificate"  # a name before a wildcard
        assert asked("http://any:5432/").targets[0].endpoints == ("10.0.0.1:8080",)
        refused = asked("https://a/")
        assert (refused.verdict, refused.entrance) == ("refused", "port 443, TLS, no certificate for the host")


def ordered(**annotations: str) -> Object:
    """An Ingress of ingress-nginx; names with underscores for hyphens."""
    given = {f"nginx.ingress.kubernetes.io/{name.replace('_', '-')}": value for name, value in annotations.items()}
    tls = [{"hosts": ["nginx.example"]}]
    return ingress("nginx", rule("nginx.example", path("/", "red")), annotations=given, tls=tls)


def test_orders_to_ingress_nginx() -> None:
    plain = explained("http://nginx.example/a/?b=c", ordered())
    assert (plain.status, plain.location) == (308, "https://nginx.example/a?b=c")
    moved = explained("http://nginx.example/a", ordered(permanent_redirect="https://other.example/b"))
    assert (moved.status, moved.location) == (301, "https://other.example/b")
    root = explained("http://nginx.example/?b=c", ordered(app_root="/app"))
    assert (root.status, root.location) == (302, "http://nginx.example/app")
    some = ordered(whitelist_source_range="192.0.2.0/24", ssl_redirect="false", proxy_body_size="2k")
    assert explained("http://nginx.example/", some, client="192.0.2.7").verdict == "forwarded"
    turned_away = explained("http://nginx.example/", some, client="198.51.100.7")
    assert (turned_away.status, turned_away.reason) == (403, "clients with address 198.51.100.7 may not ask")
    assert "bodies of more than 2048 bytes are answered 413" in explained("http://nginx.example/", some).treatment


def test_of_several_controllers_the_one_with_the_most_specific_host_is_asked() -> None:
    url = "http://shop.example/"
    exact = explained(url, SHOP)
    wild = replace(explained(url, ingress("w", rule("*.example", path("/", "red")))), controller="b")
    every = replace(explained(url, ingress("e", rule(None, path("/", "red")))), controller="alb group")
    nobody = replace(explained(url), controller="d")
    assert chosen([every, wild, exact, nobody]) is exact
    assert chosen([every, wild]) is wild
    assert chosen([nobody]) is nobody
    with pytest.raises(UserError, match=r"several controllers have a rule for it: 'alb group', c"):
        chosen([every, replace(every, controller="c"), nobody])
