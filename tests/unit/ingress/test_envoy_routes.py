"""Rules as Envoy's routes: which requests, where they go, what is changed on the way."""

from __future__ import annotations

import re
from typing import Any

import pytest

from kmn.ingress.envoy.routes import route_configuration
from kmn.ingress.model import (
    Action,
    Answer,
    Backend,
    Condition,
    Forward,
    HeaderChange,
    Host,
    How,
    Match,
    Mirror,
    Owner,
    Redirect,
    Rewrite,
    Rule,
    Share,
    Table,
    Text,
    Treatment,
    Upstream,
)

OWNER = Owner("Ingress", "default", "i")
A, B = (Upstream(Backend("default", name, 80)) for name in "ab")
TO_A = Forward((Share(A),))
P = Match(Text(How.PREFIX, "/p"))


def routes(match: Match = P, action: Action = TO_A, **treatment: Any) -> list[Any]:
    rule = Rule(match, action, OWNER, "spec.x", Treatment(**treatment))
    hosts = route_configuration("t", Table((Host("a", (rule,)),)))["virtual_hosts"]
    (host,) = (each for each in hosts if each["name"] == "a")
    return list(host["routes"])


def route(match: Match = P, action: Action = TO_A, **treatment: Any) -> Any:
    (found,) = routes(match, action, **treatment)
    return found


def test_conditions_are_all_to_be_fulfilled() -> None:
    match = Match(
        Text(How.REGEX, "/a/[0-9]+", ignore_case=True),
        ("GET", "M-SEARCH"),
        (Condition("x", Text(How.EXACT, "1")), Condition("y", Text(How.PRESENT), negated=True)),
        (Condition("q", Text(How.REGEX, "b+")),),
    )
    assert route(match)["match"] == {
        "safe_regex": {"regex": "(?i)/a/[0-9]+"},
        "headers": [
            {"name": ":method", "string_match": {"safe_regex": {"regex": r"GET|M\-SEARCH"}}},
            {"name": "x", "string_match": {"exact": "1"}},
            {"name": "y", "present_match": True, "invert_match": True},
        ],
        "query_parameters": [{"name": "q", "string_match": {"safe_regex": {"regex": "b+"}}}],
    }


def test_requests_are_shared_by_weight() -> None:
    shares = (Share(A, 3), Share(None, 1), Share(B, 0), Share(B, 2, HeaderChange(set=(("v", "100%"),))))
    target = route(action=Forward(shares))["route"]
    assert [(each["name"], each["weight"]) for each in target["weighted_clusters"]["clusters"]] == [
        ("default/a:80", 3), ("nowhere", 1), ("default/b:80", 2),
    ]  # fmt: skip
    (header,) = target["weighted_clusters"]["clusters"][2]["request_headers_to_add"]
    assert header["header"]["value"] == "100%%"
    assert target["cluster_not_found_response_code"] == "INTERNAL_SERVER_ERROR"
    assert route(action=Forward((Share(A, 0),)))["direct_response"] == {"status": 500}


@pytest.mark.parametrize(
    ("prefix", "replacement", "wanted"),
    [
        ("/p", "/new", {"/p": "/new", "/p/x": "/new/x"}),
        ("/p", "/new/", {"/p": "/new", "/p/x": "/new/x"}),
        ("/p", "/", {"/p": "/", "/p/x": "/x", "/p/": "/"}),
        ("", "/new", {"/": "/new/", "/x": "/new/x"}),
    ],
)
def test_a_prefix_is_replaced(prefix: str, replacement: str, wanted: dict[str, str]) -> None:
    """What the replacement does, by the words of Envoy's reference."""
    match = Match(Text(How.PREFIX, prefix))
    found = route(match, rewrite=Rewrite(prefix=replacement))["route"]
    redirected = route(match, Redirect(301, prefix=replacement))["redirect"]
    for path, after in wanted.items():
        if "prefix_rewrite" in found:
            result = found["prefix_rewrite"] + path.removeprefix(prefix)
        else:
            rewrite = found["regex_rewrite"]
            result = re.sub(rewrite["pattern"]["regex"], rewrite["substitution"], path)
        assert result == after
    parts = ("prefix_rewrite", "regex_rewrite")
    assert [redirected.get(part) for part in parts] == [found.get(part) for part in parts]


def test_redirects_and_answers() -> None:
    redirect = route(action=Redirect(308, "https", "b.example", 8443, "/x"))["redirect"]
    assert redirect == {
        "response_code": "PERMANENT_REDIRECT", "scheme_redirect": "https", "host_redirect": "b.example",
        "port_redirect": 8443, "path_redirect": "/x",
    }  # fmt: skip
    answer = route(action=Answer(503, "later", "text/html"))
    assert answer["direct_response"] == {"status": 503, "body": {"inline_string": "later"}}
    (header,) = answer["response_headers_to_add"]
    assert header["header"] == {"key": "content-type", "value": "text/html"}


def test_what_is_done_with_requests() -> None:
    found = route(
        rewrite=Rewrite(host="b", path="/only"),
        mirrors=(Mirror(B, 1, 3),),
        timeout=0.25,
        idle_timeout=2,
        request_headers=HeaderChange(add=(("x", "1"),), remove=("y",)),
    )
    target = found["route"]
    assert (target["timeout"], target["idle_timeout"], target["host_rewrite_literal"]) == ("0.25s", "2s", "b")
    assert target["regex_rewrite"] == {"pattern": {"regex": "^/.*$"}, "substitution": "/only"}
    (mirror,) = target["request_mirror_policies"]
    assert (mirror["cluster"], mirror["runtime_fraction"]["default_value"]["numerator"]) == ("default/b:80", 333333)
    (header,) = found["request_headers_to_add"]
    assert header == {"header": {"key": "x", "value": "1"}, "append_action": "APPEND_IF_EXISTS_OR_ADD"}
    assert found["request_headers_to_remove"] == ["y"]
    assert found["name"] == "Ingress default/i spec.x"


def test_https_only() -> None:
    clear, secure = routes(https_only=308)
    assert clear["match"]["headers"] == [{"name": "x-forwarded-proto", "string_match": {"exact": "http"}}]
    assert clear["redirect"] == {"scheme_redirect": "https", "response_code": "PERMANENT_REDIRECT"}
    assert "headers" not in secure["match"]
