"""Canaries: an Ingress whose backend has some of the requests of another one with the same host and path."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from kmn.ingress.dialects.nginx.annotations import Annotations
from kmn.ingress.model import Condition, Cookie, Forward, HeaderChange, How, Rule, Share, Text, Upstream
from kmn.ingress.regexes import checked, found_in

__all__ = ["Canary", "canary_of", "with_canary"]

_WEIGHTS = 100
_MAIN, _CANARY = "main", "canary"
_SIDE = "-side"  # at the end of the affinity's cookie's name: the cookie that tells a client's side


class Canary(NamedTuple):
    """What requests a canary has: those with the header, else those with the cookie, else so many by chance."""

    header: str | None = None
    value: Text | None = None  # of the header; None: "always" and "never" are what counts
    cookie: str | None = None
    weight: int = 0
    total: int = _WEIGHTS


def canary_of(given: Annotations) -> Canary | None:
    """None for an Ingress that is none."""
    enabled = given.flag("canary")
    header = given.text("canary-by-header")
    value, pattern = given.text("canary-by-header-value"), given.text("canary-by-header-pattern")
    cookie, weight = given.text("canary-by-cookie"), given.number("canary-weight") or 0
    total = max(given.number("canary-weight-total") or _WEIGHTS, _WEIGHTS)
    if not enabled:
        if name := given.has(("canary-weight", "canary-by-header", "canary-by-cookie")):
            given.invalid(name, 'counts with annotation canary: "true" only')
        return None
    wanted = None
    if value is not None:
        wanted = Text(How.EXACT, value)
    elif pattern is not None:
        try:
            wanted = Text(How.REGEX, found_in(checked(pattern)))
        except ValueError as error:
            given.invalid("canary-by-header-pattern", str(error))
    return Canary(header, wanted, cookie, min(weight, total), total)


def with_canary(rule: Rule, canary: Canary, upstream: Upstream, kept: Cookie | None) -> Iterator[Rule]:
    """Rules in the place of one: its requests, and what part of them the canary's upstream has. ``kept`` is the cookie
    by which clients stay where they have been before all others counts; None: they are asked each time."""
    (main,) = rule.action.shares if isinstance(rule.action, Forward) else (Share(None),)
    sides = {_CANARY: Share(upstream), _MAIN: main}
    if kept is not None:
        kept = kept._replace(name=f"{kept.name}{_SIDE}")
        for side, share in sides.items():
            yield _when(rule, "cookie", _cookie_is(kept.name, side), share)
        sides = {side: _telling(share, kept.header(side)) for side, share in sides.items()}
    if canary.header is not None:
        always = canary.value or Text(How.EXACT, "always")
        yield _when(rule, canary.header, always, sides[_CANARY])
        if canary.value is None:
            yield _when(rule, canary.header, Text(How.EXACT, "never"), sides[_MAIN])
    if canary.cookie is not None:
        for word, side in (("always", _CANARY), ("never", _MAIN)):
            yield _when(rule, "cookie", _cookie_is(canary.cookie, word), sides[side])
    weights = {_MAIN: canary.total - canary.weight, _CANARY: canary.weight}
    yield rule._replace(action=Forward(tuple(sides[side]._replace(weight=part) for side, part in weights.items())))


def _cookie_is(name: str, value: str) -> Text:
    return Text(How.REGEX, rf"(?:.*;\s*)?{re.escape(name)}={value}(?:\s*;.*)?")


def _telling(share: Share, cookie: str) -> Share:
    return share._replace(response_headers=HeaderChange(add=(("Set-Cookie", cookie),)))


def _when(rule: Rule, header: str, text: Text, share: Share) -> Rule:
    match = rule.match._replace(headers=(*rule.match.headers, Condition(header.lower(), text)))
    return rule._replace(match=match, action=Forward((share,)))
