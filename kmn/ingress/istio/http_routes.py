"""http routes of a VirtualService: what each match asks for, and what is done with its requests.

Routes are tried in their order. A prefix of a path is one of characters (``/a`` is one of ``/apple``), so it becomes a
regular expression here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from kmn.ingress.headers import is_changeable
from kmn.ingress.istio.delegation import delegated
from kmn.ingress.istio.destinations import Destinations, Found
from kmn.ingress.model import (
    Action,
    Answer,
    Condition,
    Cors,
    Forward,
    HashKey,
    HeaderChange,
    How,
    Match,
    Mirror,
    Owner,
    Protocol,
    Redirect,
    Retry,
    Rewrite,
    Rule,
    Share,
    Text,
    Treatment,
)
from kmn.ingress.regexes import checked, groups_of
from kmn.k8s.durations import seconds_of
from kmn.k8s.objects import Key, Object, namespace_of

__all__ = ["HttpRoutes"]

Fields = Mapping[str, Any]

_ALL_PATHS = Text(How.PREFIX)
_REDIRECTS = (301, 302, 303, 307, 308)
_NOT_IN_EFFECT = ("fault",)
_GATEWAY_ERRORS = (502, 503, 504)
_RETRY_ON = {  # answers that are tried again; what could not be delivered is so always
    "5xx": (500, *_GATEWAY_ERRORS),
    "gateway-error": _GATEWAY_ERRORS,
    **dict.fromkeys(
        ("connect-failure", "refused-stream", "reset", "reset-before-request", "retriable-status-codes"), ()
    ),
}
_TRIES = 3  # all together, where a route does not say: Istio's own default
_MILLION = 1_000_000
_HOST = ("host", ":authority")
_LONGEST_BODY = 4096  # bytes: Envoy's limit for what it answers itself
_REFERENCE = re.compile(r"\\([0-9])")


class HttpRoutes:
    """Rules of one VirtualService. ``note`` is told what has no effect; ``delegates`` are those that routes may be left
    to."""

    def __init__(
        self,
        service: Object,
        owner: Owner,
        destinations: Destinations,
        note: Callable[[str], None],
        delegates: Mapping[Key, Object],
    ) -> None:
        self._service = service
        self._namespace = namespace_of(service)
        self._owner = owner
        self._destinations = destinations
        self._note = note
        self._delegates = delegates

    def rules(self, port: int, gateways: Collection[str]) -> Iterator[Rule]:
        """For requests that come in by a server's port; ``gateways`` are the names that there are for its Gateway."""
        for index, route in enumerate(self._service["spec"].get("http") or ()):
            at = f"spec.http[{index}]"
            if route.get("delegate"):
                yield from self._delegated(at, route, port, gateways)
                continue
            action, rewritable = self._action(at, route), route.get("rewrite") or {}
            for number, match in enumerate(route.get("match") or [{}]):
                here = f"{at}.match[{number}]" if route.get("match") else at
                if match.get("port") not in (None, 0, port) or not self._applies(here, match, gateways):
                    continue
                try:
                    path, rewrite = _path(match, rewritable)
                    wanted = Match(path, _methods(match), tuple(_headers(match)), tuple(_query(match)))
                except ValueError as error:
                    self._note(f"{here}: {error}: the match has no effect")
                    continue
                rewrite = self._with_host(rewrite, route)
                yield Rule(wanted, action, self._owner, here, self._treatment(at, route, rewrite))

    def _delegated(self, at: str, route: Fields, port: int, gateways: Collection[str]) -> Iterator[Rule]:
        named = route["delegate"]
        key = Key(named.get("namespace") or self._namespace, named.get("name") or "")
        target = self._delegates.get(key)
        if target is None or target["spec"].get("hosts"):
            why = "does not exist" if target is None else "has hosts, so nothing can be left to it"
            self._note(f"{at}.delegate: VirtualService {key} {why}: the route has no effect")
            return
        inner = HttpRoutes(
            delegated(route, target),
            Owner(target["kind"], *key),
            self._destinations,
            lambda text: self._note(f"{at}.delegate: {text}"),
            {},  # there is one level of it
        )
        yield from inner.rules(port, gateways)

    def _applies(self, at: str, match: Fields, gateways: Collection[str]) -> bool:
        if match.get("gateways") and not set(match["gateways"]) & set(gateways):
            return False
        for field in ("sourceLabels", "sourceNamespace"):
            if match.get(field):
                self._note(f"{at}.{field} is about sidecars, and there are none: the match has no effect")
                return False
        return True

    def _action(self, at: str, route: Fields) -> Action:
        if route.get("redirect"):
            return self._redirect(f"{at}.redirect", route["redirect"])
        answer = route.get("directResponse")
        if answer:
            body = (answer.get("body") or {}).get("string") or ""
            if len(body.encode()) > _LONGEST_BODY:
                self._note(f"{at}.directResponse.body: more than {_LONGEST_BODY} bytes: it is left out")
                body = ""
            return Answer(answer["status"], body)
        return Forward(tuple(self._shares(at, route.get("route") or [])))

    def _shares(self, at: str, routes: list[Fields]) -> Iterator[Share]:
        for index, entry in enumerate(routes):
            found = self._found(f"{at}.route[{index}].destination", entry["destination"])
            change = entry.get("headers") or {}
            weight = entry.get("weight") or 0 if len(routes) > 1 else 1
            request, response = (self._change(at, change.get(part)) for part in ("request", "response"))
            yield Share(found.upstream, weight, request, response)

    def _found(self, at: str, destination: Fields) -> Found:
        found = self._destinations.find(destination, self._namespace, Protocol.HTTP)
        if found.problem is not None:
            self._note(f"{at}: {found.problem}")
        return found

    def _hash_on(self, route: Fields) -> tuple[HashKey, ...]:
        """What all the destinations' rules want requests to be hashed by."""
        found = (
            self._destinations.find(entry["destination"], self._namespace, Protocol.HTTP).hash_on
            for entry in route.get("route") or ()
        )
        return tuple(dict.fromkeys(key for keys in found for key in keys))

    def _redirect(self, at: str, redirect: Fields) -> Redirect:
        code = redirect.get("redirectCode") or 301
        if code not in _REDIRECTS:
            self._note(f"{at}.redirectCode: {code}: 301 is sent; {', '.join(map(str, _REDIRECTS))} can be had")
            code = 301
        for field in ("derivePort", "prefixRewrite"):
            if redirect.get(field):
                self._note(f"{at}.{field} has no effect")
        return Redirect(
            code,
            redirect.get("scheme") or None,
            redirect.get("authority") or None,
            redirect.get("port") or None,
            redirect.get("uri") or None,
        )

    def _treatment(self, at: str, route: Fields, rewrite: Rewrite | None) -> Treatment:
        for field in _NOT_IN_EFFECT:
            if route.get(field):
                self._note(f"{at}.{field} has no effect")
        change = route.get("headers") or {}
        timeout = seconds_of(route["timeout"]) if route.get("timeout") else 0.0
        return Treatment(
            rewrite=rewrite,
            request_headers=self._change(at, change.get("request"), but=_HOST),
            response_headers=self._change(at, change.get("response")),
            mirrors=tuple(self._mirrors(at, route)),
            timeout=timeout or None,
            retry=self._retry(f"{at}.retries", route.get("retries")),
            cors=self._cors(f"{at}.corsPolicy", route.get("corsPolicy")),
            hash_on=self._hash_on(route),
        )

    def _retry(self, at: str, retries: Fields | None) -> Retry:
        if retries is None:
            return Retry(_TRIES)
        codes: dict[int, None] = {}
        for word in filter(None, (part.strip() for part in (retries.get("retryOn") or "").split(","))):
            if word.isdecimal() and 100 <= int(word) <= 599:
                codes[int(word)] = None
            elif word in _RETRY_ON:
                codes.update(dict.fromkeys(_RETRY_ON[word]))
            else:
                self._note(f"{at}.retryOn: {word} has no effect")
        for field in ("perTryTimeout", "backoff", "retryRemoteLocalities"):
            if retries.get(field):
                self._note(f"{at}.{field} has no effect")
        return Retry(1 + retries.get("attempts", _TRIES - 1), tuple(codes))

    def _cors(self, at: str, policy: Fields | None) -> Cors | None:
        if policy is None:
            return None
        if policy.get("unmatchedPreflights"):
            self._note(f"{at}.unmatchedPreflights has no effect")
        origins = [Text(How.PRESENT) if o == "*" else Text(How.EXACT, o) for o in policy.get("allowOrigin") or ()]
        for index, origin in enumerate(policy.get("allowOrigins") or ()):
            try:
                origins.append(_origin(origin))
            except ValueError as error:
                self._note(f"{at}.allowOrigins[{index}]: {error}: it has no effect")
        age = policy.get("maxAge")
        return Cors(
            tuple(origins),
            ", ".join(policy.get("allowMethods") or ()),
            ", ".join(policy.get("allowHeaders") or ()),
            ", ".join(policy.get("exposeHeaders") or ()),
            bool(policy.get("allowCredentials")),
            round(seconds_of(age)) if age else None,
        )

    def _with_host(self, rewrite: Rewrite | None, route: Fields) -> Rewrite | None:
        """The host may be set like a header."""
        wanted = ((route.get("headers") or {}).get("request") or {}).get("set") or {}
        host = next((value for name, value in wanted.items() if name.lower() in _HOST), None)
        return (rewrite or Rewrite())._replace(host=host) if host is not None else rewrite

    def _change(self, at: str, headers: Fields | None, but: Collection[str] = ()) -> HeaderChange:
        """``but`` are headers that somebody else takes care of."""
        found = headers or {}

        def good(name: str) -> bool:
            if not is_changeable(name) and name.lower() not in but:
                self._note(f"{at}.headers: {name}: this header cannot be changed")
            return is_changeable(name)

        set_, added = (tuple(p for p in (found.get(how) or {}).items() if good(p[0])) for how in ("set", "add"))
        return HeaderChange(set_, added, tuple(name for name in found.get("remove") or () if good(name)))

    def _mirrors(self, at: str, route: Fields) -> Iterator[Mirror]:
        if route.get("mirror"):
            percent = (route.get("mirrorPercentage") or {}).get("value")
            for field in ("mirrorPercent", "mirror_percent"):
                percent = route.get(field) if percent is None else percent
            yield from self._mirror(f"{at}.mirror", route["mirror"], percent)
        for index, entry in enumerate(route.get("mirrors") or ()):
            percent = (entry.get("percentage") or {}).get("value")
            yield from self._mirror(f"{at}.mirrors[{index}].destination", entry["destination"], percent)

    def _mirror(self, at: str, destination: Fields, percent: float | None) -> Iterator[Mirror]:
        upstream = self._found(at, destination).upstream
        if upstream is not None:
            share = 100.0 if percent is None else percent
            yield Mirror(upstream, round(share * _MILLION / 100), _MILLION)


# --- which requests ---------------------------------------------------------------------------------------------


def _path(match: Fields, rewrite: Fields) -> tuple[Text, Rewrite | None]:
    """What the path must be, and what becomes of it."""
    uri = match.get("uri") or {}
    case = bool(match.get("ignoreUriCase"))
    host, new = rewrite.get("authority") or None, rewrite.get("uri") or None
    instead = rewrite.get("uriRegexRewrite")
    if instead:
        pattern, substitution = checked(instead.get("match", "")), instead.get("rewrite", "")
        if any(int(number) > groups_of(pattern) for number in _REFERENCE.findall(substitution)):
            raise ValueError(f'rewrite.uriRegexRewrite: "{substitution}" names more groups than "{pattern}" has')
        changed = Rewrite(host, pattern=pattern, substitution=substitution)
    else:
        changed = Rewrite(host, path=new)
    if "exact" in uri:
        text = Text(How.EXACT, uri["exact"], case)
    elif "regex" in uri:
        text = Text(How.REGEX, checked(uri["regex"]), case)
    else:
        prefix = uri.get("prefix") or "/"
        text = _ALL_PATHS if prefix == "/" and not new else Text(How.REGEX, f"{re.escape(prefix)}(.*)", case)
        if new and not instead:
            changed = Rewrite(host, substitution=new.replace("\\", "\\\\") + "\\1")
    return text, changed if changed != Rewrite() else None


def _origin(origin: Fields) -> Text:
    """Whole origins: a prefix becomes a regular expression."""
    text = _text(origin)
    if text == Text(How.EXACT, "*"):
        return Text(How.PRESENT)
    return Text(How.REGEX, f"{re.escape(text.value)}.*") if text.how is How.PREFIX else text


def _methods(match: Fields) -> tuple[str, ...]:
    return (match["method"]["exact"],) if "exact" in (match.get("method") or {}) else ()


def _headers(match: Fields) -> Iterator[Condition]:
    for field in ("authority", "scheme", "method"):
        wanted = match.get(field)
        if wanted and (field != "method" or "exact" not in wanted):
            yield Condition(f":{field}", _text(wanted))
    for name, wanted in (match.get("headers") or {}).items():
        yield Condition(name, _text(wanted))
    for name, wanted in (match.get("withoutHeaders") or {}).items():
        yield Condition(name, _text(wanted), negated=True)


def _query(match: Fields) -> Iterator[Condition]:
    for name, wanted in (match.get("queryParams") or {}).items():
        yield Condition(name, _text(wanted))


def _text(wanted: Fields | None) -> Text:
    """Nothing asked of a value: it is there."""
    for how in (How.EXACT, How.PREFIX, How.REGEX):
        if wanted and how.value in wanted:
            return Text(how, checked(wanted[how.value]) if how is How.REGEX else wanted[how.value])
    return Text(How.PRESENT)
