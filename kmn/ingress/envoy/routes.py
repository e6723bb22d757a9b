"""Route configurations: a table of a routing is one, a host a virtual host, a rule a route."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from kmn.ingress.envoy.filters import error_host, in_common, of_route
from kmn.ingress.envoy.forms import Resource, kind, seconds, typed
from kmn.ingress.model import (
    ANY_HOST,
    Answer,
    Condition,
    Cors,
    Forward,
    HashKey,
    HeaderChange,
    Host,
    How,
    Keyed,
    Manner,
    Match,
    Mirror,
    Redirect,
    Retry,
    Rule,
    Share,
    Table,
    Text,
    Treatment,
)

__all__ = ["NOWHERE", "route_configuration"]

NOWHERE = "nowhere"  # there is no cluster of this name: requests are answered 500

# What backends are told of the client, as ingress-nginx does it: what the client itself says of that is not believed.
_FORWARDED = {
    "X-Forwarded-For": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "X-Forwarded-Host": "%REQ(:AUTHORITY)%",
    "X-Forwarded-Port": "%DOWNSTREAM_LOCAL_PORT%",
    "X-Real-IP": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
}
_IDLE_REQUEST = 60.0  # seconds, as ingress-nginx' proxy-read-timeout
_CODES = {
    301: "MOVED_PERMANENTLY",
    302: "FOUND",
    303: "SEE_OTHER",
    307: "TEMPORARY_REDIRECT",
    308: "PERMANENT_REDIRECT",
}
# What templates of redirects may have in them.
_VARIABLES = {
    "host": "%REQ(:AUTHORITY)%", "path": "%PATH(NQ)%", "target": "%REQ(:PATH)%", "query": "%QUERY_PARAMS(ORIG)%",
}  # fmt: skip
_UNDELIVERED = "connect-failure,refused-stream,reset-before-request"
_ELSEWHERE = {
    "retry_host_predicate": [
        typed(
            "envoy.retry_host_predicates.previous_hosts",
            "extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
        )
    ],
    "host_selection_retry_max_attempts": 3,
}
_REPEATABLE = ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE")
_HUGE = 2**62
_TOO_LARGE = {"direct_response": {"status": 413}}
_NOT_FOUND = {"direct_response": {"status": 404}}
# Its name tells the access log why; routes that are not there have none.
_NO_HOST = {"name": "no host", "match": {"prefix": "/"}, **_NOT_FOUND}
_WITHOUT_TLS = {"name": "x-forwarded-proto", "string_match": {"exact": "http"}}  # Envoy's own word


def route_configuration(name: str, table: Table) -> Resource:
    """Requests for hosts that the table does not have are answered 404."""
    fallback = next((host for host in table.hosts if host.name == ANY_HOST), Host(ANY_HOST, ()))
    named = [host for host in table.hosts if host.name != ANY_HOST]
    hosts = [_virtual_host(host, fallback) for host in (*named, fallback)]
    return {
        "@type": kind("config.route.v3.RouteConfiguration"),
        "name": name,
        "ignore_port_in_host_matching": True,
        "request_headers_to_add": [_header(key, value) for key, value in _forwarded(table.manner)],
        **in_common(route for host in hosts for route in host["routes"]),
        "virtual_hosts": [*_error_pages(table), *hosts],
    }


def _forwarded(manner: Manner) -> Iterator[tuple[str, str]]:
    for name, value in _FORWARDED.items():
        # Envoy itself adds the client's address to what is in X-Forwarded-For.
        if not manner.keeps_forwarded_for or name == "X-Forwarded-Port":
            yield name, value


def _virtual_host(host: Host, fallback: Host) -> Resource:
    name = host.name or "*"
    if host.deep or not name.startswith("*."):
        routes = list(_routes(host.rules))
        return {"name": name, "domains": [name], "routes": routes if host.rules or host.name else [_NO_HOST]}
    # Envoy's wildcard stands for any number of labels, this one for one: hosts with more are nobody's.
    guard = {"name": ":authority", "string_match": {"safe_regex": {"regex": _one_label(name)}}}
    refusal = {"match": {"prefix": "/", "headers": [guard]}, **_NOT_FOUND}
    routes = [*_routes(host.rules, guard), refusal, *(_routes(fallback.rules) if fallback.rules else (_NO_HOST,))]
    return {"name": name, "domains": [name], "routes": routes}


def _error_pages(table: Table) -> Iterator[Resource]:
    """Each upstream of error pages has a host of its own."""
    treatments = (rule.treatment for host in table.hosts for rule in host.rules)
    pages = {error_host(each.error_pages): each.error_pages for each in treatments if each.error_pages}
    for host, each in pages.items():
        route = {
            "cluster": str(each.upstream),
            "regex_rewrite": _regex_rewrite("^.*$", "/"),
            "host_rewrite_header": "x-original-host",
        }
        yield {"name": host, "domains": [host], "routes": [{"match": {"prefix": "/"}, "route": route}]}


def _one_label(wildcard: str) -> str:
    return rf"(?i)[^.:]+{re.escape(wildcard[1:])}(:[0-9]+)?"


def _routes(rules: Iterable[Rule], *guards: Resource) -> Iterator[Resource]:
    for rule in rules:
        treatment = rule.treatment
        if treatment.cors is not None:
            yield _preflight(rule, treatment.cors, guards)
        if treatment.https_only is not None:
            redirect = _to_https(treatment.https_only, without_slash=treatment.https_without_slash)
            yield {"name": rule.name, "match": _match(rule.match, (*guards, _WITHOUT_TLS)), "redirect": redirect}
        if treatment.body_limit is not None and treatment.body_streamed:
            length = {"name": "content-length", "range_match": {"start": treatment.body_limit + 1, "end": _HUGE}}
            yield {"name": rule.name, "match": _match(rule.match, (*guards, length)), **_TOO_LARGE}
        route = {"name": rule.name, "match": _match(rule.match, guards), **_action(rule), **of_route(treatment)}
        for name, values in _headers(treatment.request_headers, treatment.response_headers).items():
            route[name] = [*route.get(name, ()), *values]
        if treatment.cors is not None:
            yield from _with_origin(route, rule, treatment.cors, guards)
        else:
            yield route


def _to_https(code: int, *, without_slash: bool) -> Resource:
    redirect: Resource = {"scheme_redirect": "https", "response_code": _CODES[code]}
    if without_slash:
        redirect["regex_rewrite"] = _regex_rewrite("/$", "")
    return redirect


# --- other origins ----------------------------------------------------------------------------------------------


def _preflight(rule: Rule, cors: Cors, guards: Iterable[Resource]) -> Resource:
    """What a browser asks before it sends a script's request."""
    return {
        "name": rule.name,
        "match": _match(rule.match._replace(methods=("OPTIONS",)), (*guards, *_origins(cors))),
        "direct_response": {"status": 204},
        "response_headers_to_add": _cors_headers(cors),
    }


def _with_origin(route: Resource, rule: Rule, cors: Cors, guards: Iterable[Resource]) -> Iterator[Resource]:
    """A route whose answers scripts may read, and it without that for others."""
    origins = _origins(cors)
    added = [*route.get("response_headers_to_add", ()), *_cors_headers(cors)]
    yield {**route, "match": _match(rule.match, (*guards, *origins)), "response_headers_to_add": added}
    if origins:
        yield route


def _origins(cors: Cors) -> list[Resource]:
    """The condition that a request comes from one of them, none where all are allowed."""
    if any(origin.how is How.PRESENT for origin in cors.origins):
        return []
    patterns = [_regex(text) if text.how is How.REGEX else re.escape(text.value) for text in cors.origins]
    return [{"name": "origin", "string_match": {"safe_regex": {"regex": "|".join(f"(?:{each})" for each in patterns)}}}]


def _cors_headers(cors: Cors) -> list[Resource]:
    headers = {"Access-Control-Allow-Origin": "%REQ(ORIGIN)%" if _origins(cors) else "*"}
    if cors.credentials:
        headers["Access-Control-Allow-Credentials"] = "true"
    for what, asked, allowed in (("Methods", "METHOD", cors.methods), ("Headers", "HEADERS", cors.headers)):
        told = f"%REQ(ACCESS-CONTROL-REQUEST-{asked})%" if cors.named and allowed == "*" else _literal(allowed)
        headers[f"Access-Control-Allow-{what}"] = told
    if cors.exposed:
        headers["Access-Control-Expose-Headers"] = _literal(cors.exposed)
    if cors.max_age is not None:
        headers["Access-Control-Max-Age"] = str(cors.max_age)
    return [_header(name, value) for name, value in headers.items()]


# --- which requests ---------------------------------------------------------------------------------------------


def _match(match: Match, guards: Iterable[Resource]) -> Resource:
    headers = [*guards, *_methods(match.methods), *(_condition(each) for each in match.headers)]
    found = _path(match.path)
    if headers:
        found["headers"] = headers
    if match.query:
        found["query_parameters"] = [_condition(each) for each in match.query]
    return found


def _path(path: Text) -> Resource:
    case = {"case_sensitive": False} if path.ignore_case else {}
    if path.how is How.EXACT:
        return {"path": path.value, **case}
    if path.how is How.REGEX:
        return {"safe_regex": {"regex": _regex(path)}}
    return {"path_separated_prefix": path.value, **case} if path.value else {"prefix": "/"}


def _methods(methods: tuple[str, ...]) -> Iterator[Resource]:
    if methods:
        pattern = "|".join(map(re.escape, methods))
        yield {"name": ":method", "string_match": {"safe_regex": {"regex": pattern}}}


def _condition(condition: Condition) -> Resource:
    inverted = {"invert_match": True} if condition.negated else {}
    if condition.text.how is How.PRESENT:
        return {"name": condition.name, "present_match": True, **inverted}
    if condition.negated:
        inverted["treat_missing_header_as_empty"] = True  # otherwise what is missing is unlike nothing
    return {"name": condition.name, "string_match": _string(condition.text), **inverted}


def _string(text: Text) -> Resource:
    if text.how is How.REGEX:
        return {"safe_regex": {"regex": _regex(text)}}
    case = {"ignore_case": True} if text.ignore_case else {}
    return {text.how.value: text.value, **case}


def _regex(text: Text) -> str:
    return f"(?i){text.value}" if text.ignore_case else text.value


# --- what is done with them -------------------------------------------------------------------------------------


def _action(rule: Rule) -> Resource:
    action = rule.action
    if isinstance(action, Redirect):
        if action.template is not None:
            location = _header("location", _filled(action.template))
            return {"direct_response": {"status": action.code}, "response_headers_to_add": [location]}
        return {"redirect": _redirect(action, rule.match.path)}
    if isinstance(action, Answer):
        answer: Resource = {"direct_response": {"status": action.status}}
        if action.body:
            answer["direct_response"]["body"] = {"inline_string": action.body}
            header = {"header": {"key": "content-type", "value": _literal(action.content_type)}}
            answer["response_headers_to_add"] = [{**header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]
        if action.location is not None:
            answer.setdefault("response_headers_to_add", []).append(_header("Location", _literal(action.location)))
        return answer
    target = _target(action)
    if target is None:
        return {"direct_response": {"status": 500}}
    return {"route": {**target, **_route(rule.treatment, rule.match.path)}}


def _redirect(redirect: Redirect, path: Text) -> Resource:
    found: Resource = {"response_code": _CODES[redirect.code]}
    fields = {
        "scheme_redirect": redirect.scheme, "host_redirect": redirect.host, "port_redirect": redirect.port,
        "path_redirect": redirect.path,
    }  # fmt: skip
    found |= {name: value for name, value in fields.items() if value is not None}
    if not redirect.query:
        found["strip_query"] = True
    if redirect.prefix is not None:
        found |= _instead_of_prefix(path, redirect.prefix)
    return found


def _filled(template: str) -> str:
    """A template of a redirect, with Envoy's variables."""
    text = _literal(template)
    for name, variable in _VARIABLES.items():
        text = text.replace(f"{{{name}}}", variable)
    return text


def _target(forward: Forward) -> Resource | None:
    """None: nobody is to get a request."""
    shares = [share for share in forward.shares if share.weight]
    if not shares:
        return None
    plain = HeaderChange()
    (first, *others) = shares
    if not others and first.upstream and first.request_headers == first.response_headers == plain:
        return {"cluster": str(first.upstream)}
    clusters = [
        {**_weighted(share), **_headers(share.request_headers, share.response_headers)} for share in shares
    ]  # fmt: skip
    missing = {"cluster_not_found_response_code": "INTERNAL_SERVER_ERROR"}
    return {"weighted_clusters": {"clusters": clusters}, **missing}


def _weighted(share: Share) -> Resource:
    return {"name": str(share.upstream or NOWHERE), "weight": share.weight}


def _route(treatment: Treatment, path: Text) -> Resource:
    idle = _IDLE_REQUEST if treatment.idle_timeout is None else treatment.idle_timeout
    found: Resource = {
        "timeout": seconds(treatment.timeout or 0),  # without one a request may take long as long as it goes on
        "idle_timeout": seconds(idle),
        **_retry(treatment.retry or Retry(2)),
    }
    if treatment.hash_on:
        found["hash_policy"] = [_hash(key) for key in treatment.hash_on]
    rewrite = treatment.rewrite
    if rewrite is not None:
        if rewrite.host is not None:
            found["host_rewrite_literal"] = rewrite.host
        if rewrite.path is not None:
            found["regex_rewrite"] = _regex_rewrite("^/.*$", _verbatim(rewrite.path))
        elif rewrite.prefix is not None:
            found |= _instead_of_prefix(path, rewrite.prefix)
        elif rewrite.substitution is not None:
            pattern = f"^{_regex(path)}$" if rewrite.pattern is None else rewrite.pattern
            found["regex_rewrite"] = _regex_rewrite(pattern, rewrite.substitution)
    if treatment.mirrors:
        found["request_mirror_policies"] = [_mirror(mirror) for mirror in treatment.mirrors]
    return found


def _retry(retry: Retry) -> Resource:
    if retry.tries < 2:
        return {}
    policy: Resource = {"retry_on": _UNDELIVERED, "num_retries": retry.tries - 1, **_ELSEWHERE}
    if retry.codes:
        policy["retry_on"] += ",retriable-status-codes"
        policy["retriable_status_codes"] = list(retry.codes)
        policy["retriable_request_headers"] = list(_methods(_REPEATABLE))
    return {"retry_policy": policy}


def _hash(key: HashKey) -> Resource:
    if key.by is Keyed.ADDRESS:
        return {"connection_properties": {"source_ip": True}}
    if key.by is Keyed.HEADER:
        return {"header": {"header_name": key.name}}
    if key.by is Keyed.QUERY:
        return {"query_parameter": {"name": key.name}}
    given = key.given
    if given is None:
        return {"cookie": {"name": key.name}}
    attributes = [{"name": name, "value": value} for name, value in given.attributes]
    life = seconds(given.max_age or 0)  # 0: without Max-Age
    return {"cookie": {"name": key.name, "path": given.path, "ttl": life, "attributes": attributes}}


def _mirror(mirror: Mirror) -> Resource:
    millionths = mirror.numerator * 1_000_000 // mirror.denominator
    fraction = {"default_value": {"numerator": millionths, "denominator": "MILLION"}}
    found: Resource = {"cluster": str(mirror.upstream), "runtime_fraction": fraction}
    if mirror.host is not None:
        found |= {"host_rewrite_literal": mirror.host, "disable_shadow_host_suffix_append": True}
    return found


def _instead_of_prefix(path: Text, text: str) -> Resource:
    """/a/b with the prefix /a becomes ``text``/b, and /a ``text``: never with two slashes."""
    case = "(?i)" if path.ignore_case else ""
    pattern = f"{case}^{re.escape(path.value)}/*" if path.value else "^/"
    whole = text.rstrip("/")
    if not whole:
        return {"regex_rewrite": _regex_rewrite(pattern, "/")}
    if path.value:
        return {"prefix_rewrite": whole}
    return {"regex_rewrite": _regex_rewrite(pattern, _verbatim(f"{whole}/"))}


def _regex_rewrite(pattern: str, substitution: str) -> Resource:
    return {"pattern": {"regex": pattern}, "substitution": substitution}


def _verbatim(text: str) -> str:
    return text.replace("\\", "\\\\")


# --- headers ----------------------------------------------------------------------------------------------------


def _headers(request: HeaderChange, response: HeaderChange) -> Resource:
    found: Resource = {}
    for direction, change in (("request", request), ("response", response)):
        added = [_header(name, _literal(value)) for name, value in change.set]
        added += [_header(name, _literal(value), "APPEND_IF_EXISTS_OR_ADD") for name, value in change.add]
        if added:
            found[f"{direction}_headers_to_add"] = added
        if change.remove:
            found[f"{direction}_headers_to_remove"] = list(change.remove)
    return found


def _header(name: str, value: str, action: str = "OVERWRITE_IF_EXISTS_OR_ADD") -> dict[str, Any]:
    return {"header": {"key": name, "value": value}, "append_action": action}


def _literal(value: str) -> str:
    """A percent sign begins one of Envoy's variables."""
    return value.replace("%", "%%")
