"""What HTTPRoutes and GRPCRoutes say: matches in their order, backends, filters."""

from __future__ import annotations

from typing import Any

import pytest
from gateway_objects import HTTP, conditions, gateway, grant, host, http_route, https, made, read, to, told, world

from kmn.ingress.gateway.reading import Reading
from kmn.ingress.model import (
    Authorization,
    Backend,
    Balance,
    Cookie,
    Cors,
    Forward,
    HashKey,
    HeaderChange,
    How,
    Keyed,
    Match,
    Mirror,
    Protocol,
    Redirect,
    Retry,
    Rewrite,
    Rule,
    Text,
    Upstream,
)

WEB = Upstream(Backend("default", "web", 80))


def read_rules(*rules: dict[str, Any], **fields: Any) -> Reading:
    return read(gateway(), world(http_route("shop", *rules, **fields), services=("default/web", "default/b")))


def only(*rules: dict[str, Any], **fields: Any) -> Rule:
    (found,) = host(read_rules(*rules, **fields), "").rules
    return found


def header(value: str, kind: str = "Exact", name: str = "x") -> dict[str, Any]:
    return {"name": name, "type": kind, "value": value}


def test_rules_are_tried_in_the_order_of_the_specification() -> None:
    exact, long, short = to("", "/a/b", "Exact"), to("", "/a/bcdef"), to("", "/a")
    method = to("", "/a", match={"method": "GET"})
    one = to("", "/a", match={"headers": [header("1")]})
    two = to("", "/a", match={"headers": [header("1"), header("2", name="y")]})
    query = to("", "/a", match={"queryParams": [header("1")]})
    wanted = [exact, long, method, two, one, query, short]
    given = [short, query, one, two, method, long, exact]
    for index, rule in enumerate(given):
        rule["name"] = f"r{index}"
    found = [rule.field for rule in host(read_rules(*given), "").rules]
    assert found == [f"spec.rules[{given.index(rule)}].matches[0]" for rule in wanted]


def test_of_equal_matches_the_older_route_counts_then_the_name_then_the_order() -> None:
    routes = [
        http_route("c", to("web"), to("b"), created=1),
        http_route("b", to("web"), created=2),
        http_route("a", to("web"), created=2),
    ]
    found = read(gateway(), world(*routes, services=("default/web", "default/b")))
    assert [(r.owner.name, told(r)) for r in host(found, "").rules] == [
        ("c", "web"), ("c", "b"), ("a", "web"), ("b", "web"),
    ]  # fmt: skip


def test_the_rules_of_the_better_hostname_go_first() -> None:
    routes = [
        http_route("wild", to("web", "/long/path"), hostnames=["*.example"]),
        http_route("one", to("b"), hostnames=["a.example"]),
        http_route("any", to("web", "/x")),
    ]
    found = read(gateway(), world(*routes, services=("default/web", "default/b")))
    assert [r.owner.name for r in host(found, "a.example").rules] == ["one", "wild", "any"]
    assert [r.owner.name for r in host(found, "*.example").rules] == ["wild", "any"]
    assert [r.owner.name for r in host(found, "").rules] == ["any"]


def test_what_a_match_asks_for() -> None:
    match = {
        "method": "PUT",
        "headers": [header("a"), header("b", name="X")],
        "queryParams": [header("c.*", "RegularExpression")],
    }
    found = only(to("web", "/shop/", match=match)).match
    assert found.path == Text(How.PREFIX, "/shop")
    assert found.methods == ("PUT",)
    assert [(c.name, c.text) for c in found.headers] == [("x", Text(How.EXACT, "a"))]
    assert [(c.name, c.text) for c in found.query] == [("x", Text(How.REGEX, "c.*"))]
    assert only(to("web", "/a/", "Exact")).match == Match(Text(How.EXACT, "/a/"))
    assert only(to("web", "/a.*", "RegularExpression")).match == Match(Text(How.REGEX, "/a.*"))


@pytest.mark.parametrize(
    ("backend", "reason", "goes"),
    [
        ({"name": "web", "port": 80}, "ResolvedRefs", "web"),
        ({"name": "none", "port": 80}, "-BackendNotFound", "500"),
        ({"name": "web", "port": 81}, "-BackendNotFound", "500"),
        ({"name": "web", "kind": "Bucket", "group": "x.y"}, "-InvalidKind", "500"),
        ({"name": "web", "namespace": "apps", "port": 80}, "-RefNotPermitted", "500"),
    ],
)
def test_a_backend_that_is_none_is_answered_500_and_told(backend: dict[str, Any], reason: str, goes: str) -> None:
    found = read(gateway(), world(http_route("shop", {"backendRefs": [backend]}), services=("default/web", "apps/web")))
    assert conditions(found.parents[0]) == {"Accepted": "Accepted", "ResolvedRefs": reason}
    assert [told(rule) for rule in host(found, "").rules] == [goes]


def test_backends_of_another_namespace_need_a_grant() -> None:
    route = http_route("shop", {"backendRefs": [{"name": "web", "namespace": "apps", "port": 80}]})
    for given, goes in (
        (grant("apps", "HTTPRoute", "default", "Service"), "web"),
        (grant("apps", "HTTPRoute", "default", "Service", "web"), "web"),
        (grant("apps", "HTTPRoute", "default", "Service", "db"), "500"),
        (grant("apps", "HTTPRoute", "other", "Service"), "500"),
        (grant("apps", "GRPCRoute", "default", "Service"), "500"),
        (grant("default", "HTTPRoute", "default", "Service"), "500"),
    ):
        found = read(gateway(), world(route, given, services=("apps/web",)))
        assert [told(rule) for rule in host(found, "").rules] == [goes]


def test_weights_and_rules_without_backends() -> None:
    backends = [
        {"name": "web", "port": 80, "weight": 9},
        {"name": "no", "port": 80},
        {"name": "b", "port": 80, "weight": 0},
    ]
    action = only({"backendRefs": backends}).action
    assert isinstance(action, Forward)
    assert [share.weight for share in action.shares] == [9, 1, 0]
    assert action.shares[1].upstream is None
    assert told(only({"backendRefs": []})) == "500"


def change(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, kind[0].lower() + kind[1:]: fields}


def test_header_modifiers_of_rules_and_backends() -> None:
    pair = {"name": "A", "value": "1"}
    set_, added = (
        change("RequestHeaderModifier", set=[pair], remove=["B"]),
        change("ResponseHeaderModifier", add=[pair]),
    )
    rule = only(to("web", filters=[set_, added]))
    assert rule.treatment.request_headers == HeaderChange(set=(("A", "1"),), remove=("B",))
    assert rule.treatment.response_headers == HeaderChange(add=(("A", "1"),))
    backends = [{"name": "web", "port": 80, "filters": [set_]}, {"name": "b", "port": 80, "filters": [added]}]
    action = only({"backendRefs": backends}).action
    assert isinstance(action, Forward)
    assert [s.request_headers.remove for s in action.shares] == [("B",), ()]
    assert action.shares[1].response_headers.add == (("A", "1"),)
    assert only({"backendRefs": backends[:1]}).treatment.request_headers.remove == ("B",)  # the only one


def test_rewrites_mirrors_and_timeouts() -> None:
    path = {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"}
    filters = [
        {"type": "URLRewrite", "urlRewrite": {"hostname": "in.example", "path": path}},
        {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "b", "port": 80}, "percent": 20}},
        {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "none", "port": 80}}},
    ]
    found = read_rules(to("web", "/old", filters=filters, timeouts={"request": "10s", "backendRequest": "500ms"}))
    (rule,) = host(found, "").rules
    assert rule.treatment.rewrite == Rewrite(host="in.example", prefix="/new")
    assert rule.treatment.mirrors == (Mirror(Upstream(Backend("default", "b", 80)), 20, 100),)
    assert rule.treatment.timeout == 0.5
    assert conditions(found.parents[0])["ResolvedRefs"] == "-BackendNotFound"
    assert only(to("web", timeouts={"request": "0s"})).treatment.timeout is None


@pytest.mark.parametrize(
    ("listener", "hostname", "redirect", "wanted"),
    [
        (HTTP, "a.example", {"scheme": "https"}, Redirect(302, "https", "a.example")),
        (HTTP, None, {"scheme": "https", "statusCode": 301}, Redirect(301, "https")),
        (HTTP, None, {"hostname": "b.example"}, Redirect(302, None, "b.example")),
        (HTTP, "a.example", {"port": 8443}, Redirect(302, None, "a.example", 8443)),
        ({**HTTP, "port": 8080}, "a.example", {"hostname": "b.example"}, Redirect(302, None, "b.example", 8080)),
        ({**HTTP, "port": 8080}, "a.example", {"scheme": "https"}, Redirect(302, "https", "a.example")),
        ({**HTTP, "port": 8080}, None, {"scheme": "https"}, Redirect(302, "https", None, 443)),
        (https("s"), None, {"scheme": "http"}, Redirect(302, "http")),
        (https("s"), "a.example", {"path": {"type": "ReplaceFullPath", "replaceFullPath": "/x"}},
         Redirect(302, None, "a.example", None, "/x")),
    ],
)  # fmt: skip
def test_redirects_name_the_port_where_it_does_not_go_without_saying(
    listener: Any, hostname: str | None, redirect: dict[str, Any], wanted: Redirect
) -> None:
    rule = {"filters": [{"type": "RequestRedirect", "requestRedirect": redirect}]}
    hostnames = {"hostnames": [hostname]} if hostname else {}
    found = read(gateway(listener), world(http_route("shop", rule, **hostnames)))
    (made_rule,) = host(found, hostname or "", f"port-{listener['port']}").rules
    assert made_rule.action == wanted


def test_a_filter_that_is_not_emulated_is_not_skipped() -> None:
    found = read_rules(
        to("web", filters=[{"type": "ExtensionRef", "extensionRef": {"group": "x", "kind": "Y", "name": "z"}}])
    )
    assert told(host(found, "").rules[0]) == "500"
    assert conditions(found.parents[0])["PartiallyInvalid"] == "UnsupportedValue"
    (problem,) = found.routing.problems
    assert problem.reason == "NotEmulated"
    assert "spec.rules[0].filters[0]: filters of type ExtensionRef are not emulated" in problem.message


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ({"service": "a.B", "method": "C"}, Text(How.EXACT, "/a.B/C")),
        ({"service": "a.B"}, Text(How.PREFIX, "/a.B")),
        ({"method": "C"}, Text(How.REGEX, "/[^/]+/C")),
        ({"service": "a.*", "method": "C|D", "type": "RegularExpression"}, Text(How.REGEX, "/(a.*)/(C|D)")),
        ({"service": "a.*", "type": "RegularExpression"}, Text(How.REGEX, "/(a.*)/[^/]+")),
    ],
)
def test_grpc_routes(method: dict[str, Any], path: Text) -> None:
    rules = [{"matches": [{"method": method}], "backendRefs": [{"name": "web", "port": 80}]}]
    found = read(gateway(), world(made("GRPCRoute", "calls", parentRefs=[{"name": "front"}], rules=rules)))
    (rule,) = host(found, "").rules
    assert rule.match.path == path
    assert [upstream.protocol for upstream in rule.upstreams()] == [Protocol.H2C]


def test_a_regular_expression_that_envoy_does_not_take_is_left_out_and_told() -> None:
    bad, good = to("web", "/(?=a)", "RegularExpression"), to("b", "/b")
    found = read_rules(bad, good)
    assert [told(rule) for rule in host(found, "").rules] == ["b"]
    assert conditions(found.parents[0])["PartiallyInvalid"] == "UnsupportedValue"
    assert conditions(read_rules(bad).parents[0])["Accepted"] == "-UnsupportedValue"
    headers = [{"name": "x", "type": "RegularExpression", "value": "("}]
    assert conditions(read_rules(to("web", match={"headers": headers})).parents[0])["Accepted"] == "-UnsupportedValue"


def test_headers_that_a_proxy_does_not_change_are_told() -> None:
    set_ = [{"name": "Host", "value": "a"}, {"name": "X", "value": "b"}]
    found = read_rules(to("web", filters=[change("RequestHeaderModifier", set=set_, remove=[":path", "Y"])]))
    assert host(found, "").rules[0].treatment.request_headers == HeaderChange(set=(("X", "b"),), remove=("Y",))
    assert len(found.routing.problems) == 2


def test_other_origins() -> None:
    cors = {"allowOrigins": ["https://a.example", "https://*.b.example"], "allowMethods": ["GET", "PUT"], "maxAge": 60}
    assert only(to("web", filters=[{"type": "CORS", "cors": cors}])).treatment.cors == Cors(
        (Text(How.EXACT, "https://a.example"), Text(How.REGEX, r"https://[-.A-Za-z0-9]+\.b\.example")),
        "GET, PUT", "", max_age=60,
    )  # fmt: skip
    anybody = {"allowOrigins": ["*"], "allowHeaders": ["*"]}
    found = only(to("web", filters=[{"type": "CORS", "cors": anybody}])).treatment.cors
    assert found == Cors((Text(How.PRESENT),), "", "*", max_age=5)
    found = only(to("web", filters=[{"type": "CORS", "cors": {**anybody, "allowCredentials": True}}])).treatment.cors
    assert found == Cors((Text(How.REGEX, ".+"),), "", "*", credentials=True, max_age=5, named=True)


def test_tries_and_sessions() -> None:
    assert only(to("web", retry={"codes": [503], "attempts": 3})).treatment.retry == Retry(4, (503,))
    assert only(to("web", retry={})).treatment.retry is None
    cookie = only(to("web", sessionPersistence={"cookie": {"name": "s", "path": "/a"}})).treatment
    assert cookie.session == Cookie("s", "/a")
    lasting = {"absoluteTimeout": "1h", "cookie": {"lifetimeType": "Permanent"}}
    assert only(to("web", sessionPersistence=lasting)).treatment.session == Cookie("kmn-session", max_age=3600)
    rule = only(to("web", sessionPersistence={"type": "Header", "header": {"name": "X-Session"}}))
    assert rule.treatment.hash_on == (HashKey(Keyed.HEADER, "X-Session"),)
    assert [upstream.balance for upstream in rule.upstreams()] == [Balance.HASH]


def test_somebody_is_asked_first() -> None:
    auth = {"protocol": "HTTP", "backendRef": {"name": "b", "port": 80}, "http": {"path": "/ask"}}
    rule = only(to("web", filters=[{"type": "ExternalAuth", "externalAuth": auth}]))
    assert rule.treatment.authorization == Authorization(Upstream(Backend("default", "b", 80)), "/ask")
    nobody = {**auth, "backendRef": {"name": "none", "port": 80}}
    assert told(only(to("web", filters=[{"type": "ExternalAuth", "externalAuth": nobody}]))) == "500"
    grpc = {**auth, "protocol": "GRPC", "grpc": {}}
    assert told(only(to("web", filters=[{"type": "ExternalAuth", "externalAuth": grpc}]))) == "500"
