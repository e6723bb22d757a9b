"""HTTPRoutes and GRPCRoutes: what each match of each rule asks for, and what is done with its requests.

The rules of a route are the same wherever it is attached, but for redirects: these name the port of the listener.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from kmn.ingress.gateway.backends import find_backend
from kmn.ingress.gateway.conditions import Condition
from kmn.ingress.gateway.filters import cors_of, retry_of, session_of
from kmn.ingress.gateway.world import World
from kmn.ingress.headers import is_changeable
from kmn.ingress.model import (
    Action,
    Answer,
    Authorization,
    Balance,
    Forward,
    HeaderChange,
    How,
    Match,
    Mirror,
    Owner,
    Protocol,
    Redirect,
    Rewrite,
    Rule,
    Share,
    Text,
    Treatment,
)
from kmn.ingress.model import Condition as Wanted
from kmn.ingress.regexes import checked
from kmn.k8s.durations import seconds_of
from kmn.k8s.objects import Object, key_of

__all__ = ["RouteRules", "rules_of"]

Fields = dict[str, Any]

_ALL_PATHS = Text(How.PREFIX)


@dataclass(slots=True)
class RouteRules:
    """``rules`` in the route's order; a rule with several matches is several. ``unresolved`` is a condition
    ResolvedRefs; ``dropped`` says which filters cannot be had, so that the requests are answered 500, and which
    matches, so that they are left out."""

    rules: list[Rule] = field(default_factory=list)
    unresolved: Condition | None = None
    dropped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what has no effect


def rules_of(route: Object, world: World) -> RouteRules:
    """Of an HTTPRoute or a GRPCRoute."""
    reader = _Reader(route, world)
    for index, rule in enumerate(route["spec"].get("rules") or ()):
        reader.rule(f"spec.rules[{index}]", rule)
    return reader.found


class _Reader:
    def __init__(self, route: Object, world: World) -> None:
        key = key_of(route)
        self.found = RouteRules()
        self._route = route
        self._world = world
        self._owner = Owner(route["kind"], key.namespace, key.name)
        self._grpc = route["kind"] == "GRPCRoute"
        self._protocol = Protocol.H2C if self._grpc else Protocol.HTTP

    def rule(self, at: str, rule: Fields) -> None:
        backends = rule.get("backendRefs") or []
        filters = list(_numbered(f"{at}.filters", rule.get("filters") or ()))
        if len(backends) == 1:  # what is said of the only backend is said of all requests
            filters += _numbered(f"{at}.backendRefs[0].filters", backends[0].get("filters") or ())
            backends = [{**backends[0], "filters": []}]
        action, treatment = self._filters(filters)
        treatment = replace(treatment, timeout=_timeout(rule.get("timeouts") or {}))
        if rule.get("retry"):
            treatment = replace(treatment, retry=retry_of(rule["retry"]))
            if rule["retry"].get("backoff"):
                self.found.notes.append(f"{at}.retry.backoff has no effect")
        balance = Balance.ROUND_ROBIN
        if rule.get("sessionPersistence"):
            balance, session, keys = session_of(rule["sessionPersistence"])
            treatment = replace(treatment, session=session, hash_on=keys)
        if action is None:
            action = Forward(tuple(self._shares(f"{at}.backendRefs", backends, balance)))
        for index, match in enumerate(rule.get("matches") or [{}]):
            here = f"{at}.matches[{index}]"
            try:
                wanted = _grpc_match(match) if self._grpc else _http_match(match)
            except ValueError as error:
                self._drop(f"{here}: {error}: the match is left out")
                continue
            self.found.rules.append(Rule(wanted, action, self._owner, here, treatment))

    def _shares(self, at: str, backends: Iterable[Fields], balance: Balance) -> Iterator[Share]:
        for index, backend in enumerate(backends):
            here = f"{at}[{index}]"
            found = find_backend(here, backend, self._route, self._world, self._protocol)
            self._resolve(found.problem)
            weight = backend.get("weight", 1)
            action, treatment = self._filters(_numbered(f"{here}.filters", backend.get("filters") or ()))
            upstream = found.upstream._replace(balance=balance) if found.upstream is not None else None
            if action is not None or _more_than_headers(treatment):
                self._drop(f"{here}.filters: of one backend of several only header modifiers have an effect")
                upstream = None
            yield Share(upstream, weight, treatment.request_headers, treatment.response_headers)

    def _filters(self, filters: Iterable[tuple[str, Fields]]) -> tuple[Action | None, Treatment]:
        """What answers instead of a backend, if anything does, and the rest."""
        action: Action | None = None
        treatment = Treatment()
        for here, entry in filters:
            match entry["type"]:
                case "RequestHeaderModifier":
                    change = self._headers(here, entry["requestHeaderModifier"])
                    change = _both(treatment.request_headers, change)
                    treatment = replace(treatment, request_headers=change)
                case "ResponseHeaderModifier":
                    change = self._headers(here, entry["responseHeaderModifier"])
                    change = _both(treatment.response_headers, change)
                    treatment = replace(treatment, response_headers=change)
                case "RequestMirror":
                    mirrors = (*treatment.mirrors, *self._mirror(here, entry["requestMirror"]))
                    treatment = replace(treatment, mirrors=mirrors)
                case "RequestRedirect":
                    action = action or _redirect(entry["requestRedirect"])
                case "URLRewrite":
                    treatment = replace(treatment, rewrite=_rewrite(entry["urlRewrite"]))
                case "CORS":
                    treatment = replace(treatment, cors=cors_of(entry["cors"]))
                case "ExternalAuth" if entry["externalAuth"]["protocol"] == "HTTP":
                    question, refusal = self._authorization(here, entry["externalAuth"])
                    treatment, action = replace(treatment, authorization=question), action or refusal
                case other:
                    self._drop(f"{here}: filters of type {other} are not emulated: requests are answered 500")
                    action = Answer(500)
        return action, treatment

    def _authorization(self, at: str, auth: Fields) -> tuple[Authorization | None, Answer | None]:
        """Who is asked; without him nobody gets in."""
        where = f"{at}.externalAuth"
        found = find_backend(f"{where}.backendRef", auth["backendRef"], self._route, self._world, Protocol.HTTP)
        self._resolve(found.problem)
        if found.upstream is None:
            return None, Answer(500)
        http = auth.get("http") or {}
        if auth.get("forwardBody"):
            self.found.notes.append(f"{where}.forwardBody has no effect: questions have no body")
        if http.get("allowedHeaders"):
            self.found.notes.append(f"{where}.http.allowedHeaders has no effect: all headers are told")
        return Authorization(
            found.upstream, http.get("path") or "/", tuple(http.get("allowedResponseHeaders") or ())
        ), None

    def _headers(self, at: str, modifier: Fields) -> HeaderChange:
        """Of several entries of one name the first counts. A proxy changes the host by rewriting it, not otherwise."""
        found: dict[str, tuple[tuple[str, str], ...]] = {}
        for how in ("set", "add"):
            first: dict[str, tuple[str, str]] = {}
            for entry in modifier.get(how) or ():
                first.setdefault(entry["name"].lower(), (entry["name"], entry["value"]))
            found[how] = tuple(pair for name, pair in first.items() if self._changeable(f"{at}: {how}", name))
        removed = modifier.get("remove") or ()
        kept = tuple(name for name in removed if self._changeable(f"{at}: remove", name.lower()))
        return HeaderChange(found["set"], found["add"], kept)

    def _changeable(self, at: str, name: str) -> bool:
        if is_changeable(name):
            return True
        self.found.notes.append(f"{at}: {name}: this header cannot be changed")
        return False

    def _mirror(self, at: str, mirror: Fields) -> Iterator[Mirror]:
        found = find_backend(
            f"{at}.requestMirror.backendRef", mirror["backendRef"], self._route, self._world, self._protocol
        )
        self._resolve(found.problem)
        fraction = mirror.get("fraction") or {"numerator": mirror.get("percent", 100)}
        if found.upstream is not None:
            yield Mirror(found.upstream, fraction["numerator"], fraction.get("denominator") or 100)

    def _resolve(self, problem: Condition | None) -> None:
        self.found.unresolved = self.found.unresolved or problem

    def _drop(self, why: str) -> None:
        self.found.dropped.append(why)


# --- which requests ---------------------------------------------------------------------------------------------


def _http_match(match: Fields) -> Match:
    path = match.get("path") or {}
    value = path.get("value") or "/"
    match path.get("type", "PathPrefix"):
        case "Exact":
            text = Text(How.EXACT, value)
        case "RegularExpression":
            text = Text(How.REGEX, checked(value))
        case _:
            text = Text(How.PREFIX, value.rstrip("/"))
    methods = (match["method"],) if match.get("method") else ()
    query = _conditions(match.get("queryParams") or (), fold=False)
    return Match(text, methods, _conditions(match.get("headers") or (), fold=True), query)


def _grpc_match(match: Fields) -> Match:
    method = match.get("method") or {}
    return Match(_grpc_path(method), headers=_conditions(match.get("headers") or (), fold=True))


def _grpc_path(method: Fields) -> Text:
    """A call goes to ``/service/method``."""
    service, name = method.get("service"), method.get("method")
    if not service and not name:
        return _ALL_PATHS
    if method.get("type") == "RegularExpression":
        return Text(How.REGEX, checked(f"/{_group(service)}/{_group(name)}"))
    if service and name:
        return Text(How.EXACT, f"/{service}/{name}")
    return Text(How.PREFIX, f"/{service}") if service else Text(How.REGEX, f"/[^/]+/{re.escape(name or '')}")


def _group(pattern: str | None) -> str:
    return f"({pattern})" if pattern else "[^/]+"


def _conditions(entries: Iterable[Fields], *, fold: bool) -> tuple[Wanted, ...]:
    """Of several entries of one name the first counts."""
    found: dict[str, Wanted] = {}
    for entry in entries:
        name = entry["name"].lower() if fold else entry["name"]
        if entry.get("type") == "RegularExpression":
            text = Text(How.REGEX, checked(entry["value"]))
        else:
            text = Text(How.EXACT, entry["value"])
        found.setdefault(name, Wanted(name, text))
    return tuple(found.values())


# --- what is done with them -------------------------------------------------------------------------------------


def _both(first: HeaderChange, then: HeaderChange) -> HeaderChange:
    return HeaderChange(first.set + then.set, first.add + then.add, first.remove + then.remove)


def _more_than_headers(treatment: Treatment) -> bool:
    plain = replace(treatment, request_headers=HeaderChange(), response_headers=HeaderChange())
    return plain != Treatment()


def _numbered(at: str, filters: Iterable[Fields]) -> Iterator[tuple[str, Fields]]:
    return ((f"{at}[{index}]", entry) for index, entry in enumerate(filters))


def _path_change(change: Fields) -> tuple[str | None, str | None]:
    """The whole path, or what stands in for the prefix."""
    path = change.get("path") or {}
    return path.get("replaceFullPath"), path.get("replacePrefixMatch")


def _redirect(redirect: Fields) -> Redirect:
    path, prefix = _path_change(redirect)
    code = redirect.get("statusCode", 302)
    return Redirect(code, redirect.get("scheme"), redirect.get("hostname"), redirect.get("port"), path, prefix)


def _rewrite(rewrite: Fields) -> Rewrite:
    path, prefix = _path_change(rewrite)
    return Rewrite(rewrite.get("hostname"), path, prefix)


def _timeout(timeouts: Fields) -> float | None:
    """A request is tried once, so the shorter of both counts; 0 is none."""
    given = [seconds_of(timeouts[name]) for name in ("request", "backendRequest") if timeouts.get(name)]
    return min((seconds for seconds in given if seconds), default=None)
