"""What Envoy takes and what not: rules and endpoints with a value that it would refuse are set apart. Pure.

Envoy takes a route configuration, or all clusters, as a whole or not at all: one bad value would keep the changes of
everybody else out. Readers of objects refuse such values themselves, in the words of their field; this is what none of
them can get around. A rule that says what cannot be done is never skipped, for then another one would have its
requests: they are answered 500. Only where it cannot be told which requests are meant, there is no rule.

The limits are those of Envoy's v3 API (the constraints in its .proto files) and of the code behind it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass, replace
from functools import lru_cache
from ipaddress import ip_network
from typing import Any

from kmn.ingress.headers import is_changeable
from kmn.ingress.model import (
    ANY_HOST,
    Action,
    Answer,
    Condition,
    Entrance,
    Forward,
    HeaderChange,
    Host,
    How,
    Keyed,
    Match,
    Owner,
    Problem,
    Redirect,
    Rewrite,
    Routing,
    Rule,
    Share,
    Stream,
    Text,
    Treatment,
    Upstream,
)
from kmn.ingress.regexes import checked, groups_of

__all__ = ["within_limits"]

_REASON = "Rejected"
_REDIRECTS = (301, 302, 303, 307, 308)
_LONGEST_TIME = 315_576_000.0  # seconds: ten years
_LONGEST_TEXT = 16_384  # bytes: of a header
_LONGEST_BODY = 4096  # bytes: of what Envoy answers itself
_WHOLE = 2**32 - 1
_LARGEST_BODY = 2**60
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
_HOST = re.compile(r"(\*\.)?[a-z0-9_]([-a-z0-9_.]*[a-z0-9_])?")
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+")
_PSEUDO = (":authority", ":path", ":method", ":scheme")
_PREFIX = re.compile(r"/[^?#]*[^?#/]")
_REFERENCE = re.compile(r"\\(.?)", re.DOTALL)
_REMEMBERED = 65536
_SOMEBODY = Owner("", "", "")
_SESSION_NAME = re.compile(r"[^\s=;,\"\\]+")


def within_limits(routing: Routing) -> Routing:
    """The same, without what Envoy would refuse; problems say what that was."""
    checks = _Checks()
    tables = {name: table._replace(hosts=tuple(checks.hosts(table.hosts))) for name, table in routing.tables.items()}
    entrances = tuple(checks.entrance(each) for each in routing.entrances)
    return replace(
        routing, tables=tables, entrances=entrances, problems=(*routing.problems, *dict.fromkeys(checks.problems))
    )


class _Checks:
    """Collects problems."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def hosts(self, hosts: Iterable[Host]) -> Iterator[Host]:
        """Each name once, and only what is a name."""
        seen: set[str] = set()
        for host in hosts:
            name = host.name
            if name in seen or (name != ANY_HOST and not (_HOST.fullmatch(name) and len(name) <= 255)):
                why = "is there already" if name in seen else "is no name of a host: requests for it are answered 404"
                for owner in dict.fromkeys(rule.owner for rule in host.rules):
                    self._tell(owner, f'host "{_shown(name)}" {why}')
                continue
            seen.add(name)
            yield host._replace(rules=tuple(self._rules(host.rules)))

    def _rules(self, rules: Iterable[Rule]) -> Iterator[Rule]:
        for rule in rules:
            if (error := _wrong_match(rule.match)) is not None:
                self._tell(rule.owner, f"{rule.field}: {error}: it has no effect")
                continue
            if (error := _wrong_deed(rule.match, rule.action, rule.treatment)) is not None:
                self._tell(rule.owner, f"{rule.field}: {error}: requests are answered 500")
                rule = Rule(rule.match, Answer(500), rule.owner, rule.field)
            yield rule

    def entrance(self, entrance: Entrance) -> Entrance:
        """Without streams that lead nowhere; each host of them once, and none twice that is a certificate's."""
        taken: set[str] = set()
        streams = []
        for stream in entrance.streams:
            if found := self._stream(stream, taken):
                taken.update(found.hosts)
                streams.append(found)
        certificates = []
        for each in entrance.certificates:
            if each.host in taken or not (each.host == ANY_HOST or _HOST.fullmatch(each.host)):
                self._tell(each.owner, f'host "{_shown(each.host)}": no certificate can be shown for it')
            else:
                taken.add(each.host)
                certificates.append(each)
        return entrance._replace(streams=tuple(streams), certificates=tuple(certificates))

    def _stream(self, stream: Stream, taken: set[str]) -> Stream | None:
        hosts = tuple(h for h in dict.fromkeys(stream.hosts) if h not in taken and _HOST.fullmatch(h))
        for host in stream.hosts:
            if host not in hosts:
                self._tell(stream.owner, f'{stream.field}: host "{_shown(host)}" is no name, or somebody else\'s')
        if stream.hosts and not hosts:
            return None
        try:
            _check_shares(stream.shares)
            for share in stream.shares:
                if share.upstream is not None:
                    _check_upstream_of(share.upstream)
        except ValueError as error:
            self._tell(stream.owner, f"{stream.field}: {error}: connections are closed")
            return stream._replace(hosts=hosts, shares=(Share(None),))
        return stream._replace(hosts=hosts)

    def _tell(self, owner: Owner, message: str) -> None:
        self.problems.append(Problem(owner, _REASON, f"{owner}: {message}"))


# At a change nearly all rules are as they were, and many are done by alike: each is looked at once.


@lru_cache(maxsize=_REMEMBERED)
def _wrong_match(match: Match) -> str | None:
    try:
        _check_match(match)
    except ValueError as error:
        return str(error)
    return None


@lru_cache(maxsize=_REMEMBERED)
def _wrong_deed(match: Match, action: Action, treatment: Treatment) -> str | None:
    """What is wrong with what is done with the requests that match."""
    try:
        rule = Rule(match, action, _SOMEBODY, "", treatment)
        _check_action(rule)
        if (wrong := _wrong_treatment(treatment)) is not None:
            return wrong
        if treatment.rewrite is not None:
            _check_rewrite(treatment.rewrite, match.path)
        for upstream in rule.upstreams():
            _check_upstream_of(upstream)
    except ValueError as error:
        return str(error)
    return None


@lru_cache(maxsize=_REMEMBERED)
def _wrong_treatment(treatment: Treatment) -> str | None:
    try:
        _check_texts(treatment)
        _check_treatment(treatment)
    except ValueError as error:
        return str(error)
    return None


def _check_upstream_of(upstream: Upstream) -> None:
    try:
        _check_upstream(upstream)
    except ValueError as error:
        raise ValueError(f"{upstream.backend}: {error}") from None


def _shown(text: str) -> str:
    """For a message, however long it is."""
    return text.encode("unicode_escape").decode()[:80]


# --- texts --------------------------------------------------------------------------------------------------------


def _check_texts(value: Any) -> None:
    """All in it, whatever it is: what has control characters in it would be more than one line of a request."""
    if isinstance(value, str):
        if found := _CONTROL.search(value):
            raise ValueError(f'"{_shown(value)}" has a control character in it ({found.group()!r})')
        if len(value.encode()) > _LONGEST_TEXT:
            raise ValueError(f'"{_shown(value)}…" is too long: {_LONGEST_TEXT} bytes are allowed')
    elif isinstance(value, tuple):
        for each in value:
            _check_texts(each)
    elif is_dataclass(value):
        for each in fields(value):
            _check_texts(getattr(value, each.name))


def _check_text(text: Text) -> None:
    if text.how is How.REGEX:
        checked(text.value)
    elif text.how is How.PREFIX and not text.value:
        raise ValueError("a prefix is needed: it is empty")


def _check_header(name: str, *, changed: bool = False) -> None:
    if changed and not is_changeable(name):
        raise ValueError(f'header "{_shown(name)}" cannot be changed')
    if not _NAME.fullmatch(name) and name not in _PSEUDO:
        raise ValueError(f'"{_shown(name)}" is no name of a header')


# --- which requests -----------------------------------------------------------------------------------------------


def _check_match(match: Match) -> None:
    _check_texts(match)
    path = match.path
    if path.how is How.PREFIX:
        if path.value and not _PREFIX.fullmatch(path.value):
            raise ValueError(f'path "{_shown(path.value)}" should begin with "/", without "?" and "#"')
    else:
        _check_text(path)
    for condition in match.headers:
        _check_header(condition.name)
        _check_text(condition.text)
    for condition in match.query:
        _check_query(condition)
    if any(not method for method in match.methods):
        raise ValueError("a method is needed: it is empty")


def _check_query(condition: Condition) -> None:
    if not condition.name:
        raise ValueError("a query parameter needs a name: it is empty")
    if len(condition.name.encode()) > 1024:
        raise ValueError(f'query parameter "{_shown(condition.name)}": the name is too long: 1024 bytes are allowed')
    _check_text(condition.text)


# --- what is done with them ---------------------------------------------------------------------------------------


def _check_action(rule: Rule) -> None:
    action = rule.action
    match action:
        case Answer():
            _check_texts(action._replace(body=""))
            if not 200 <= action.status <= 599:
                raise ValueError(f"status {action.status}: must be from 200 to 599")
            if len(action.body.encode("utf-8", "surrogatepass")) > _LONGEST_BODY:
                raise ValueError(f"a body of more than {_LONGEST_BODY} bytes cannot be answered")
        case Redirect():
            _check_texts(action)
            if action.code not in _REDIRECTS:
                raise ValueError(f"code {action.code}: must be one of {', '.join(map(str, _REDIRECTS))}")
            if action.port is not None and not 0 < action.port <= 65535:
                raise ValueError(f"port {action.port}: must be from 1 to 65535")
        case Forward():
            _check_shares(action.shares)


def _check_shares(shares: Iterable[Share]) -> None:
    found = list(shares)
    if any(share.weight < 0 for share in found) or sum(share.weight for share in found) > _WHOLE:
        raise ValueError(f"weights must be 0 or more, and {_WHOLE} at most together")
    for share in found:
        _check_change(share.request_headers)
        _check_change(share.response_headers)


def _check_change(change: HeaderChange) -> None:
    _check_texts(change)
    for name in (*(name for name, _ in (*change.set, *change.add)), *change.remove):
        _check_header(name, changed=True)


def _check_rewrite(rewrite: Rewrite, path: Text) -> None:
    if rewrite.host == "":
        raise ValueError("a host is needed: it is empty")
    if rewrite.substitution is None:
        return
    if rewrite.pattern is not None:
        checked(rewrite.pattern)
    pattern = rewrite.pattern if rewrite.pattern is not None else path.value
    groups = groups_of(pattern)
    for named in _REFERENCE.findall(rewrite.substitution):
        if named != "\\" and (not named.isdecimal() or int(named) > groups):
            raise ValueError(f'"{_shown(rewrite.substitution)}" names what "{_shown(pattern)}" has no group for')


def _check_treatment(treatment: Treatment) -> None:
    if treatment.https_only not in (None, *_REDIRECTS):
        raise ValueError(f"code {treatment.https_only}: must be one of {', '.join(map(str, _REDIRECTS))}")
    _check_change(treatment.request_headers)
    _check_change(treatment.response_headers)
    for time in (treatment.timeout, treatment.idle_timeout):
        _check_time(time, least=0)
    _check_numbers(treatment)
    if treatment.sources is not None:
        for network in (*treatment.sources.allowed, *treatment.sources.denied):
            if "%" in network:
                raise ValueError(f'network "{network}": without a zone')
            ip_network(network, strict=False)
    if treatment.basic_auth is not None and any(
        not n or ":" in n or n != n.strip() for n, _ in treatment.basic_auth.users
    ):
        raise ValueError('names of users must not be empty, nor have ":" or space around')
    if treatment.authorization is not None:
        if not treatment.authorization.path.startswith("/"):
            raise ValueError(f'path "{_shown(treatment.authorization.path)}" should begin with "/"')
        for name in treatment.authorization.forwarded:
            _check_header(name)
    if treatment.cors is not None:
        for origin in treatment.cors.origins:
            _check_text(origin)
    for key in treatment.hash_on:
        if key.by is Keyed.HEADER:
            _check_header(key.name)
        elif key.by is not Keyed.ADDRESS and not key.name:
            raise ValueError(f"a {key.by.value} needs a name: it is empty")
    for cookie in (treatment.session, *(key.given for key in treatment.hash_on)):
        if cookie is not None:
            if not _SESSION_NAME.fullmatch(cookie.name):
                raise ValueError(f'"{_shown(cookie.name)}" is no name of a cookie')
            _check_time(cookie.max_age, least=0)
    if treatment.error_pages is not None and not all(200 <= code <= 599 for code in treatment.error_pages.codes):
        raise ValueError("codes of error pages must be from 200 to 599")


def _check_numbers(treatment: Treatment) -> None:
    for limit in treatment.rate_limits:
        if not 0 < limit.requests <= limit.burst <= _WHOLE or not 1 <= limit.seconds <= _LONGEST_TIME:
            raise ValueError(f"{limit.requests} requests in {limit.seconds} s: a limit must be from 1 to {_WHOLE}")
        if not 400 <= limit.status <= 599:
            raise ValueError(f"{limit.status}: requests over a limit are answered 400 to 599")
    if treatment.retry is not None and treatment.retry.tries > _WHOLE:
        raise ValueError(f"{treatment.retry.tries} tries: {_WHOLE} are allowed")
    if treatment.body_limit is not None and not 0 < treatment.body_limit <= _LARGEST_BODY:
        raise ValueError(f"bodies of {treatment.body_limit} bytes: a limit must be from 1 to {_LARGEST_BODY}")
    for mirror in treatment.mirrors:
        if mirror.denominator <= 0 or not 0 <= mirror.numerator <= mirror.denominator:
            raise ValueError(f"{mirror.numerator} of {mirror.denominator} is no part of the requests")


def _check_time(seconds: float | None, *, least: float) -> None:
    if seconds is not None and not least <= seconds <= _LONGEST_TIME:
        raise ValueError(f"{seconds:g} s: a time must be from {least:g} to {_LONGEST_TIME:.0f} s")


# --- where they go ------------------------------------------------------------------------------------------------


def _check_upstream(upstream: Upstream) -> None:
    _check_texts(upstream)
    _check_time(upstream.connect_timeout, least=0.001)
    health = upstream.health
    if health is None:
        return
    for time in (health.interval, health.timeout):
        _check_time(time, least=0.001)
    if not health.grpc and not all(100 <= first <= last <= 599 for first, last in health.codes):
        raise ValueError("codes of health checks must be from 100 to 599")
    if health.port is not None and not 0 < health.port <= 65535:
        raise ValueError(f"port {health.port} of health checks must be from 1 to 65535")
