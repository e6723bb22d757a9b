"""HTTP filters: what a treatment asks of requests beyond their way.

The list of a listener's filters is always the same, for connections are drained when a listener changes. All of them
are off (``disabled``: they cost nothing), and a route turns those on that its treatment needs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from ipaddress import ip_network
from operator import itemgetter
from pathlib import Path
from typing import Any

from kmn.ingress.envoy.accesslog import as_sent
from kmn.ingress.envoy.forms import Resource, kind, seconds, typed
from kmn.ingress.model import Authorization, BasicAuth, Cookie, ErrorPages, RateLimit, Sources, Treatment

__all__ = ["error_host", "http_filters", "in_common", "of_route", "upgraded_filters"]

_LIMIT = "envoy.filters.http.local_ratelimit", "extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
_SOURCES = "envoy.filters.http.rbac", "extensions.filters.http.rbac.v3.RBAC"
_BASIC = "envoy.filters.http.basic_auth", "extensions.filters.http.basic_auth.v3.BasicAuth"
_ERRORS = "envoy.filters.http.custom_response", "extensions.filters.http.custom_response.v3.CustomResponse"
_PASSWORDS = "envoy.filters.http.lua", "extensions.filters.http.lua.v3.Lua"
_ASK = "envoy.filters.http.ext_authz", "extensions.filters.http.ext_authz.v3.ExtAuthz"
_BODY = "envoy.filters.http.buffer", "extensions.filters.http.buffer.v3.Buffer"
_SESSION = "envoy.filters.http.stateful_session", "extensions.filters.http.stateful_session.v3.StatefulSession"

_FIELD = "typed_per_filter_config"  # of routes, and of all together
_NOBODY = {"server_uri": {"uri": "http://nobody", "cluster": "nobody", "timeout": "1s"}}
_NO_USER = "nobody:{SHA}AAAAAAAAAAAAAAAAAAAAAAAAAAA="  # there must be one: of his password nothing is known
_SHA = "{SHA}"  # the hash that Envoy's own filter compares; the program of Lua is for the others
_PROGRAM = Path(__file__).with_name("passwords.lua").read_text()
_PATIENCE = 60.0  # seconds for an answer to a question
_STATISTICS = "limits"
_CLIENTS = 10_000  # that a rate limit tells apart; those who have not asked for longest are forgotten
_BUFFER = 2**32 - 1  # bytes: the most that the filter knows
_ENOUGH = 1_000_000_000  # no limit for all clients together


# What each filter must have, in the order in which a request goes through them.
_FILTERS: tuple[tuple[tuple[str, str], Resource], ...] = (
    (_ERRORS, {}),
    (_LIMIT, {"stat_prefix": _STATISTICS}),
    (_SOURCES, {}),
    (_BASIC, {"users": {"inline_string": _NO_USER}}),
    (_PASSWORDS, {"default_source_code": {"inline_string": _PROGRAM}}),
    (_ASK, {"http_service": _NOBODY, "allowed_headers": {"patterns": [{"safe_regex": {"regex": ".*"}}]}}),
    (_BODY, {"max_request_bytes": 1}),
    (_SESSION, {}),
)


def http_filters() -> list[Resource]:
    """All of them, after what the log is to keep, and the router."""
    return [as_sent(), *(_off(name, fields) for name, fields in _FILTERS), _router()]


def upgraded_filters() -> list[Resource]:
    """Those of connections that are upgraded (WebSocket): their request never ends, so it has no size."""
    return [as_sent(), *(_off(name, fields) for name, fields in _FILTERS if name is not _BODY), _router()]


def _off(name: tuple[str, str], fields: Resource) -> Resource:
    return {**typed(*name, **fields), "disabled": True}


def _router() -> Resource:
    message = "extensions.filters.http.router.v3.Router"
    # Counters by answer, which nobody reads, take 5 % of the processor time of a request.
    return typed("envoy.filters.http.router", message, suppress_envoy_headers=True, dynamic_stats=False)


def of_route(treatment: Treatment) -> Resource:
    """The field of a route that turns filters on, empty where none is needed."""
    found = dict(_needed(treatment))
    return {_FIELD: found} if found else {}


def in_common(routes: Iterable[Resource]) -> Resource:
    """What most routes say of bodies is taken out of them, and is a field of the whole: Envoy reads one instead of
    thousands, at each change. Routes are changed; only those that lead to an upstream count."""
    forwarding = [route for route in routes if "route" in route]
    said = Counter(limit for route in forwarding if (limit := _body_limit(route)) is not None)
    limit, count = max(said.items(), key=itemgetter(1), default=(0, 0))
    if count <= len(forwarding) / 2:
        return {}
    for route in forwarding:
        own = _body_limit(route)
        fields = route.pop(_FIELD, {})
        if own == limit:
            del fields[_BODY[0]]
        elif own is None:
            fields[_BODY[0]] = _typed(f"{_BODY[1]}PerRoute", disabled=True)
        if fields:
            route[_FIELD] = fields
    return {_FIELD: {_BODY[0]: _body(limit)}}


def _body(limit: int) -> Resource:
    return _typed(f"{_BODY[1]}PerRoute", buffer={"max_request_bytes": limit})


def _body_limit(route: Resource) -> int | None:
    found = route.get(_FIELD, {}).get(_BODY[0])
    return None if found is None else int(found["buffer"]["max_request_bytes"])


def _needed(treatment: Treatment) -> Iterator[tuple[str, Resource]]:
    if treatment.error_pages is not None:
        yield _ERRORS[0], _typed(_ERRORS[1], custom_response_matcher=_error_pages(treatment.error_pages))
    if treatment.rate_limits:
        yield _LIMIT[0], _typed(_LIMIT[1], **_rate_limits(treatment.rate_limits))
    if treatment.sources is not None:
        yield _SOURCES[0], _typed(f"{_SOURCES[1]}PerRoute", rbac={"rules": _sources(treatment.sources)})
    if treatment.basic_auth is not None:
        auth = treatment.basic_auth
        if all(digest.startswith(_SHA) for _, digest in auth.users):
            yield _BASIC[0], _typed(f"{_BASIC[1]}PerRoute", **_basic_auth(auth))
        else:
            context = {"users": _each_once(auth), "realm": auth.realm}
            yield _PASSWORDS[0], _typed(f"{_PASSWORDS[1]}PerRoute", filter_context=context)
    if treatment.authorization is not None:
        service = {"http_service": _authorization(treatment.authorization)}
        yield _ASK[0], _typed(f"{_ASK[1]}PerRoute", check_settings=service)
    if treatment.body_limit is not None and not treatment.body_streamed:
        yield _BODY[0], _body(min(treatment.body_limit, _BUFFER))
    if treatment.session is not None:
        yield _SESSION[0], _typed(f"{_SESSION[1]}PerRoute", stateful_session=_session(treatment.session))


def _typed(message: str, **fields: Any) -> Resource:
    return {"@type": kind(message), **fields}


def _rate_limits(limits: Iterable[RateLimit]) -> Resource:
    """Each has a bucket of tokens for each client; a request takes one of each limit's."""
    found = list(limits)
    descriptors, actions = [], []
    for number, limit in enumerate(found):
        entries = [{"key": "limit", "value": str(number)}, {"key": "remote_address"}]
        bucket = {
            "max_tokens": limit.burst,
            "tokens_per_fill": limit.requests,
            "fill_interval": seconds(limit.seconds),
        }
        descriptors.append({"entries": entries, "token_bucket": bucket})
        which = {"generic_key": {"descriptor_key": "limit", "descriptor_value": str(number)}}
        actions.append({"actions": [which, {"remote_address": {}}]})
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    return {
        "stat_prefix": _STATISTICS,
        "status": {"code": found[0].status},
        "token_bucket": {"max_tokens": _ENOUGH, "tokens_per_fill": _ENOUGH, "fill_interval": "1s"},
        "filter_enabled": always,
        "filter_enforced": always,
        "descriptors": descriptors,
        "rate_limits": actions,
        "max_dynamic_descriptors": _CLIENTS,
        "always_consume_default_token_bucket": False,
    }


def _sources(sources: Sources) -> Resource:
    every = {"not_id": _any_of(sources.denied)} if sources.denied else {"any": True}
    wanted = [every, _any_of(sources.allowed)] if sources.allowed else [every]
    policy = {"permissions": [{"any": True}], "principals": [{"and_ids": {"ids": wanted}}]}
    return {"action": "ALLOW", "policies": {"sources": policy}}


def _any_of(networks: Iterable[str]) -> Resource:
    found = (ip_network(network, strict=False) for network in networks)
    ids = [{"remote_ip": {"address_prefix": str(n.network_address), "prefix_len": n.prefixlen}} for n in found]
    return {"or_ids": {"ids": ids}}


def _basic_auth(auth: BasicAuth) -> Resource:
    lines = [f"{name}:{digest}" for name, digest in _each_once(auth).items()]
    return {"users": {"inline_string": "\n".join(lines) or _NO_USER}, "realm": auth.realm}


def _each_once(auth: BasicAuth) -> dict[str, str]:
    """The first of two with one name counts, as in nginx."""
    return dict(reversed(auth.users))


def _authorization(auth: Authorization) -> Resource:
    # Host and method stay the request's: Envoy 1.40 dies when a route's question is to have others.
    headers = {
        "X-Original-URL": "%REQ(X-FORWARDED-PROTO)%://%REQ(:AUTHORITY)%%REQ(:PATH)%",
        "X-Original-Method": "%REQ(:METHOD)%",
        "X-Auth-Request-Redirect": "%REQ(:PATH)%",
        "X-Real-IP": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
        "X-Forwarded-For": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    }
    found: Resource = {
        "server_uri": {
            "uri": "http://questions",  # it must be there, and nobody looks at it
            "cluster": str(auth.upstream),
            "timeout": seconds(_PATIENCE),
        },
        "path_override": auth.path,
        "authorization_request": {"headers_to_add": [{"key": key, "value": value} for key, value in headers.items()]},
    }
    if auth.forwarded:
        patterns = [{"exact": name, "ignore_case": True} for name in auth.forwarded]
        found["authorization_response"] = {"allowed_upstream_headers": {"patterns": patterns}}
    return found


def _error_pages(pages: ErrorPages) -> Resource:
    code = "type.matcher.v3.HttpResponseStatusCodeMatchInput"
    policies = {str(each): {"action": _instead(pages, each)} for each in pages.codes}
    return {"matcher_tree": {"input": typed("status", code), "exact_match_map": {"map": policies}}}


def _instead(pages: ErrorPages, code: int) -> Resource:
    headers = {
        "X-Code": str(code),
        "X-Format": "%REQ(ACCEPT)%",
        "X-Original-URI": "%REQ(:PATH)%",
        "X-Original-Host": "%REQ(X-FORWARDED-HOST)%",  # the authority is the other one's already
        **dict(pages.headers),
    }
    added = [
        {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        for key, value in headers.items()
    ]
    message = "extensions.http.custom_response.redirect_policy.v3.RedirectPolicy"
    return typed(str(code), message, redirect_action={"host_redirect": error_host(pages)}, request_headers_to_add=added)


def error_host(pages: ErrorPages) -> str:
    """The host whose requests go to the upstream of error pages."""
    backend = pages.upstream.backend
    return f"{backend.port}.{backend.service}.{backend.namespace}.errors.invalid"


def _session(cookie: Cookie) -> Resource:
    message = "extensions.http.stateful_session.cookie.v3.CookieBasedSessionState"
    attributes = [{"name": name, "value": value} for name, value in cookie.attributes]
    own: Resource = {"name": cookie.name, "path": cookie.path, "attributes": attributes}
    if cookie.max_age is not None:
        own["ttl"] = seconds(cookie.max_age)
    return {"session_state": typed("envoy.http.stateful_session.cookie", message, cookie=own)}
