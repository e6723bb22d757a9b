"""What Envoy would refuse is set apart: the rule alone, never its neighbours; and what cannot be read is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from ingress_objects import ingress, path, rule

from kmn.ingress.certificates import self_signed
from kmn.ingress.dialects.nginx import routing_of
from kmn.ingress.envoy.limits import within_limits
from kmn.ingress.model import (
    PLAIN,
    Answer,
    Authorization,
    Backend,
    BasicAuth,
    Certificate,
    Condition,
    Cookie,
    Entrance,
    Forward,
    HeaderChange,
    Host,
    How,
    Match,
    Owner,
    RateLimit,
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
from kmn.ingress.nets import read_without_the_unreadable
from kmn.ingress.regexes import checked
from kmn.ingress.state import State
from kmn.k8s.objects import Key, Object, key_of, name_of
from kmn.k8s.resources import CONFIGMAPS, INGRESSCLASSES, INGRESSES

OWNER, NEIGHBOUR = Owner("Ingress", "a", "odd"), Owner("Ingress", "b", "sane")
TO = Forward((Share(Upstream(Backend("a", "web", 80))),))
SANE = Rule(Match(Text(How.PREFIX, "/sane")), TO, NEIGHBOUR, "spec.rules[0]")
ODD = Rule(Match(Text(How.PREFIX, "/odd")), TO, OWNER, "spec.rules[1]")


def limited(*rules: Rule, host: str = "a.example") -> tuple[tuple[Rule, ...], list[str]]:
    found = within_limits(Routing((), {"t": Table((Host(host, (*rules, SANE)),))}))
    hosts = found.tables["t"].hosts
    return hosts[0].rules if hosts else (), [problem.message for problem in found.problems]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (Redirect(300), "code 300"),
        (Redirect(301, host="a\nb"), "control character"),
        (Answer(199), "status 199"),
        (Answer(200, "x" * 5000), "a body of more than 4096 bytes"),
        (Forward((Share(None, -1),)), "weights"),
        (Forward((Share(None, request_headers=HeaderChange(set=((":path", "a"),))),)), 'header ":path"'),
        (replace(PLAIN, response_headers=HeaderChange(add=(("a b", "c"),))), 'header "a b"'),
        (replace(PLAIN, session=Cookie("a;b")), "no name of a cookie"),
        (replace(PLAIN, timeout=1e12), "1e+12 s"),
        (replace(PLAIN, rate_limits=(RateLimit(5, 1, 5, status=7),)), "7: requests over a limit"),
        (replace(PLAIN, rewrite=Rewrite(pattern="a", substitution="\\1")), "no group"),
        (replace(PLAIN, basic_auth=BasicAuth("r", (("a\nb", "{SHA}"),))), "control character"),
        (replace(PLAIN, authorization=Authorization(Upstream(Backend("a", "b", 80)), "x")), 'should begin with "/"'),
    ],
)
def test_a_rule_that_cannot_be_followed_is_answered_500(changed: object, why: str) -> None:
    odd = ODD._replace(treatment=changed) if isinstance(changed, Treatment) else ODD._replace(action=changed)  # type: ignore[arg-type]
    (found, sane), (message,) = limited(odd)
    assert (found.match, found.action, found.treatment) == (ODD.match, Answer(500), PLAIN)
    assert sane == SANE
    assert message.startswith("Ingress a/odd: spec.rules[1]: ") and why in message  # noqa: PT018


@pytest.mark.parametrize(
    "match",
    [
        Match(Text(How.REGEX, "(?=a)")),
        Match(Text(How.REGEX, "")),
        Match(Text(How.PREFIX, "/a?b")),
        Match(headers=(Condition("a b", Text(How.EXACT, "c")),)),
        Match(headers=(Condition("a", Text(How.PREFIX, "")),)),
        Match(query=(Condition("", Text(How.EXACT, "c")),)),
    ],
)
def test_requests_that_cannot_be_told_have_no_rule(match: Match) -> None:
    rules, (message,) = limited(ODD._replace(match=match))
    assert rules == (SANE,)
    assert message.endswith("it has no effect")


@pytest.mark.parametrize("name", ["a b", "*", "*.*", "a\nb", "A.example", "a" * 300])
def test_a_host_that_is_no_name_is_left_out(name: str) -> None:
    rules, messages = limited(host=name)
    assert rules == ()
    assert "is no name of a host" in messages[0]


def test_a_name_of_tls_is_one_stream_or_certificate() -> None:
    stream = Stream(("a.example", "b.example"), (Share(None),), OWNER, "f")
    certificates = (Certificate("b.example", Key("a", "s"), NEIGHBOUR), Certificate("c.example", Key("a", "s"), OWNER))
    entrance = Entrance(443, None, True, certificates, streams=(stream, stream._replace(owner=NEIGHBOUR)))
    found = within_limits(Routing((entrance,), {}))
    (left,) = found.entrances
    assert left.streams == (stream,)
    assert [each.host for each in left.certificates] == ["c.example"]
    assert {problem.owner for problem in found.problems} == {NEIGHBOUR}


def test_what_is_good_stays_as_it_is() -> None:
    routing = Routing((Entrance(80, "t"),), {"t": Table((Host("*.a.example", (SANE,)), Host("", (SANE,))))})
    assert within_limits(routing) == routing


@pytest.mark.parametrize(
    "pattern",
    ["", "(a{100}){100}", "a" * 40_000, "[[:foo:]]", "[\\b]", "\\é", "\\U00000041", "\\(?i)"],
)
def test_expressions_that_re2_does_not_take(pattern: str) -> None:
    with pytest.raises(ValueError):
        checked(pattern)


@pytest.mark.parametrize("pattern", ["[[:alpha:]]+", "(?i)a", "[^/]{100}", "/[a-z]{1,63}(\\.[a-z]{1,63}){0,4}"])
def test_expressions_that_it_takes(pattern: str) -> None:
    assert checked(pattern) == pattern


def read(objects: Sequence[Object]) -> list[str]:
    names = [name_of(each) for each in objects]
    if "bad" in names or {"one", "other"} <= set(names):
        raise KeyError("surprise")
    return names


def test_what_cannot_be_read_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    objects = [ingress(name) for name in ("a", "one", "bad", "b", "other", "c")]
    found, problems = read_without_the_unreadable(read, objects, lambda obj: obj["kind"])
    assert found == ["a", "one", "b", "c"]
    assert [(problem.owner.name, problem.reason) for problem in problems] == [("bad", "NotRead"), ("other", "NotRead")]
    assert "surprise" in caplog.text


def test_an_ingress_that_cannot_be_read_does_not_stop_others() -> None:
    state = State(self_signed("a"))
    state.update(
        INGRESSCLASSES,
        Key("", "nginx"),
        {"metadata": {"name": "nginx"}, "spec": {"controller": "k8s.io/ingress-nginx"}},
    )
    broken = ingress("broken", rule("b.example", path("/", "s")))
    del broken["spec"]["rules"][0]["http"]["paths"][0]["pathType"]  # what no API server would have stored
    for obj in (broken, ingress("sane", rule("a.example", path("/", "s")))):
        state.update(INGRESSES, key_of(obj), obj)
    view = state.view("k8s.io/ingress-nginx")
    assert [host.name for host in view.config.routing.tables["ingress"].hosts] == ["", "a.example"]
    assert [problem.owner.name for problem in view.problems if problem.reason == "NotRead"] == ["broken"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("http-redirect-code", "99"),
        ("limit-req-status-code", "7"),
        ("proxy-read-timeout", "9" * 12),
        ("proxy-connect-timeout", "²"),
    ],
)
def test_a_number_for_all_that_cannot_be_followed_is_not(key: str, value: str) -> None:
    config = {"data": {key: value}}
    found = routing_of(
        [ingress("i", rule("a", path("/", "s")))], lambda kind, _: config if kind is CONFIGMAPS else None
    )
    (problem,) = found.problems
    assert (problem.owner.kind, problem.reason) == ("ConfigMap", "InvalidValue")
    assert within_limits(found) == found


def test_an_alias_that_is_no_name_is_told() -> None:
    given = {"nginx.ingress.kubernetes.io/server-alias": "b.example, *, a b, C.example."}
    found = routing_of([ingress("i", rule("a.example", path("/", "s")), annotations=given)], lambda *_: None)
    assert {host.name for host in found.tables["ingress"].hosts} == {"", "a.example", "b.example", "c.example"}
    (problem,) = found.problems
    assert "*, a b: must be names of hosts" in problem.message
