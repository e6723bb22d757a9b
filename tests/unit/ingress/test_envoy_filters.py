"""Treatments beyond a request's way, as Envoy's filters: which a route turns on, and with what."""

from __future__ import annotations

from typing import Any

import pytest

from kmn.ingress.envoy.filters import http_filters, in_common, of_route, upgraded_filters
from kmn.ingress.envoy.routes import route_configuration
from kmn.ingress.model import (
    Answer,
    Authorization,
    Backend,
    BasicAuth,
    Cookie,
    Cors,
    ErrorPages,
    Forward,
    HashKey,
    Host,
    How,
    Keyed,
    Match,
    Owner,
    RateLimit,
    Retry,
    Rule,
    Share,
    Sources,
    Table,
    Text,
    Treatment,
    Upstream,
)

A = Upstream(Backend("default", "a", 80))
TO_A = Forward((Share(A),))


def routes(action: Any = TO_A, **treatment: Any) -> list[Any]:
    rule = Rule(
        Match(Text(How.PREFIX, "/p")), action, Owner("Ingress", "default", "i"), "spec.x", Treatment(**treatment)
    )
    found = route_configuration("t", Table((Host("a", (rule,)),)))["virtual_hosts"]
    return next(list(host["routes"]) for host in found if host["name"] == "a")


def needed(**treatment: Any) -> dict[str, Any]:
    """What a route's filters are told, by the last part of their names."""
    given = of_route(Treatment(**treatment)).get("typed_per_filter_config", {})
    return {name.rpartition(".")[2]: config for name, config in given.items()}


def test_all_filters_are_there_and_off() -> None:
    kept, *filters, router = http_filters()
    assert kept["name"] == "envoy.filters.http.set_filter_state"  # before anything changes host and path
    assert all(each["disabled"] for each in filters)
    assert router["name"] == "envoy.filters.http.router"
    names = [each["name"].rpartition(".")[2] for each in filters]
    assert names == [
        "custom_response", "local_ratelimit", "rbac", "basic_auth", "lua", "ext_authz", "buffer", "stateful_session",
    ]  # fmt: skip
    upgraded = [each["name"].rpartition(".")[2] for each in upgraded_filters()[1:]]
    assert upgraded == [name for name in (*names, "router") if name != "buffer"]


def test_a_plain_route_turns_none_on() -> None:
    assert needed() == {}
    assert "typed_per_filter_config" not in routes()[0]


def test_sources() -> None:
    (policy,) = needed(sources=Sources(("10.0.0.0/8", "192.0.2.1"), ("10.1.0.0/16",)))["rbac"]["rbac"]["rules"][
        "policies"
    ].values()
    (principal,) = policy["principals"]
    denied, allowed = principal["and_ids"]["ids"]
    assert denied["not_id"]["or_ids"]["ids"] == [{"remote_ip": {"address_prefix": "10.1.0.0", "prefix_len": 16}}]
    assert [each["remote_ip"]["prefix_len"] for each in allowed["or_ids"]["ids"]] == [8, 32]


@pytest.mark.parametrize(
    ("users", "wanted"),
    [
        ((("a", "{SHA}x"), ("b", "{SHA}y"), ("a", "{SHA}z")), {"a:{SHA}x", "b:{SHA}y"}),
        ((), {"nobody:{SHA}AAAAAAAAAAAAAAAAAAAAAAAAAAA="}),
    ],
)
def test_users(users: tuple[tuple[str, str], ...], wanted: set[str]) -> None:
    """Each once, and never none: Envoy would refuse all routes."""
    found = needed(basic_auth=BasicAuth("r", users))["basic_auth"]
    assert (set(found["users"]["inline_string"].splitlines()), found["realm"]) == (wanted, "r")


def test_users_whose_passwords_are_hashed_otherwise() -> None:
    """All of the route's are then compared by the program."""
    found = needed(basic_auth=BasicAuth("r", (("a", "{SHA}x"), ("b", "$apr1$s$h"))))
    assert set(found) == {"lua"}
    assert found["lua"]["filter_context"] == {"users": {"a": "{SHA}x", "b": "$apr1$s$h"}, "realm": "r"}


def test_authorization() -> None:
    found = needed(authorization=Authorization(A, "/check?x", ("X-User",)))["ext_authz"]["check_settings"][
        "http_service"
    ]
    assert (found["server_uri"]["cluster"], found["path_override"]) == ("default/a:80", "/check?x")
    assert found["authorization_response"]["allowed_upstream_headers"]["patterns"][0]["exact"] == "X-User"
    keys = {each["key"].lower() for each in found["authorization_request"]["headers_to_add"]}
    assert not keys & {"host", ":method", ":authority"}  # Envoy dies of them


def test_rate_limits() -> None:
    found = needed(rate_limits=(RateLimit(5, 1, 26, 503), RateLimit(60, 60, 61, 503)))["local_ratelimit"]
    assert found["status"] == {"code": 503}
    assert [each["token_bucket"] for each in found["descriptors"]] == [
        {"max_tokens": 26, "tokens_per_fill": 5, "fill_interval": "1s"},
        {"max_tokens": 61, "tokens_per_fill": 60, "fill_interval": "60s"},
    ]
    assert len(found["rate_limits"]) == 2


def test_bodies() -> None:
    assert needed(body_limit=10)["buffer"]["buffer"] == {"max_request_bytes": 10}
    assert needed(body_limit=10, body_streamed=True) == {}
    refusal, _ = routes(body_limit=10, body_streamed=True)
    assert refusal["match"]["headers"][0]["range_match"]["start"] == 11
    assert refusal["direct_response"] == {"status": 413}


def test_a_session() -> None:
    cookie = Cookie("c", "/x", 5, (("Secure", ""),))
    state = needed(session=cookie)["stateful_session"]["stateful_session"]["session_state"]["typed_config"]
    assert state["cookie"] == {
        "name": "c", "path": "/x", "ttl": "5s", "attributes": [{"name": "Secure", "value": ""}],
    }  # fmt: skip
    assert cookie.header("v") == "c=v; Max-Age=5; Path=/x; Secure; HttpOnly"


def test_error_pages() -> None:
    """One answer for each code, from a host that leads to their upstream."""
    pages = ErrorPages((404, 503), A, (("X-Namespace", "n"),))
    rule = Rule(Match(), TO_A, Owner("Ingress", "default", "i"), "spec.x", Treatment(error_pages=pages))
    table = Table((Host("a", (rule,)), Host("b", (rule,))))
    hosts = {each["name"]: each for each in route_configuration("t", table)["virtual_hosts"]}
    assert set(hosts) == {"a", "b", "80.a.default.errors.invalid", "*"}
    (route,) = hosts["80.a.default.errors.invalid"]["routes"]
    assert (route["route"]["cluster"], route["route"]["regex_rewrite"]["substitution"]) == ("default/a:80", "/")
    tree = needed(error_pages=pages)["custom_response"]["custom_response_matcher"]["matcher_tree"]
    for code, entry in tree["exact_match_map"]["map"].items():
        policy = entry["action"]["typed_config"]
        assert policy["redirect_action"] == {"host_redirect": "80.a.default.errors.invalid"}
        headers = {each["header"]["key"]: each["header"]["value"] for each in policy["request_headers_to_add"]}
        assert (headers["X-Code"], headers["X-Namespace"]) == (code, "n")
    assert set(tree["exact_match_map"]["map"]) == {"404", "503"}


def test_hashes() -> None:
    given = Cookie("c", "/")
    keys = (
        HashKey(Keyed.ADDRESS), HashKey(Keyed.HEADER, ":path"), HashKey(Keyed.QUERY, "q"), HashKey(Keyed.COOKIE, "i"),
        HashKey(Keyed.COOKIE, "c", given),
    )  # fmt: skip
    (route,) = routes(hash_on=keys)
    assert route["route"]["hash_policy"] == [
        {"connection_properties": {"source_ip": True}},
        {"header": {"header_name": ":path"}},
        {"query_parameter": {"name": "q"}},
        {"cookie": {"name": "i"}},
        {"cookie": {"name": "c", "path": "/", "ttl": "0s", "attributes": []}},
    ]


def test_retries() -> None:
    assert "retry_policy" not in routes(retry=Retry(1))[0]["route"]
    policy = routes(retry=Retry(3, (502,)))[0]["route"]["retry_policy"]
    assert (policy["num_retries"], policy["retriable_status_codes"]) == (2, [502])
    assert policy["retry_on"].endswith(",retriable-status-codes")
    assert "GET" in str(policy["retriable_request_headers"])


def headers_of(route: Any) -> dict[str, str]:
    return {each["header"]["key"]: each["header"]["value"] for each in route["response_headers_to_add"]}


def test_other_origins() -> None:
    cors = Cors(
        (Text(How.REGEX, "https://[a-z]+", ignore_case=True), Text(How.EXACT, "http://a.b")), "GET", "X", max_age=1
    )
    preflight, with_origin, other = routes(cors=cors, basic_auth=BasicAuth("r", ()))
    assert preflight["direct_response"] == {"status": 204}
    assert "typed_per_filter_config" not in preflight  # browsers send no password with it
    origin = {"name": "origin", "string_match": {"safe_regex": {"regex": r"(?:(?i)https://[a-z]+)|(?:http://a\.b)"}}}
    assert origin in preflight["match"]["headers"]
    assert with_origin["match"]["headers"] == [origin]
    assert headers_of(with_origin)["Access-Control-Allow-Origin"] == "%REQ(ORIGIN)%"
    assert "response_headers_to_add" not in other
    _, everybody = routes(cors=Cors((Text(How.PRESENT),), "GET", "X"))
    assert headers_of(everybody) == {
        "Access-Control-Allow-Origin": "*", "Access-Control-Allow-Methods": "GET", "Access-Control-Allow-Headers": "X",
    }  # fmt: skip


def test_to_https_without_a_slash() -> None:
    redirect, _ = routes(https_only=308, https_without_slash=True)
    assert redirect["redirect"]["regex_rewrite"] == {"pattern": {"regex": "/$"}, "substitution": ""}


def test_a_location_to_the_letter() -> None:
    (route,) = routes(Answer(308, location="http://a/%20"))
    assert route["direct_response"] == {"status": 308}
    assert headers_of(route)["Location"] == "http://a/%%20"


def test_what_most_routes_say_of_bodies_is_said_once() -> None:
    """A route that says otherwise, or nothing, must not get what is said for all; others are left alone."""
    name = "envoy.filters.http.buffer"

    def limited(size: int) -> dict[str, Any]:
        return {"route": {}, **of_route(Treatment(body_limit=size))}

    most, other, none = [limited(7) for _ in range(3)], limited(9), {"route": {}}
    answer = {"direct_response": {"status": 404}}
    common = in_common([*most, other, none, answer])
    assert common["typed_per_filter_config"][name]["buffer"] == {"max_request_bytes": 7}
    assert most == [{"route": {}}] * 3
    assert other["typed_per_filter_config"][name]["buffer"] == {"max_request_bytes": 9}
    assert none["typed_per_filter_config"][name]["disabled"] is True
    assert answer == {"direct_response": {"status": 404}}


def test_nothing_is_said_once_that_is_not_said_by_most() -> None:
    routes = [{"route": {}, **of_route(Treatment(body_limit=size))} for size in (7, 9)]
    before = [dict(each) for each in routes]
    assert in_common(routes) == {}
    assert routes == before
    assert in_common([]) == {}
