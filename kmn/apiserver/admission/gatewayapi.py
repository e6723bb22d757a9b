"""Rules for the kinds of Gateway API: what their CRDs ask for in CEL, in ``maxProperties`` and in list types.

After the CRDs of kubernetes-sigs/gateway-api 1.6. What needs other objects (does the Gateway exist, may the route go
there) is no business of admission: conditions in ``status`` say it (``kmn.ingress.gateway``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from kmn.apiserver.admission.rules import Errors, ip_address, label_value, qualified_name
from kmn.k8s.durations import seconds_of
from kmn.k8s.objects import Object

__all__ = ["check_gateway", "check_gatewayclass", "check_grpcroute", "check_httproute", "check_l4route"]

Fields = dict[str, Any]

_PATH = re.compile(r"(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|[%][0-9a-fA-F]{2})+")
_NOT_IN_PATHS = ("//", "/./", "/../", "%2f", "%2F", "#")
_SERVICE = re.compile(r"(?i)\.?[a-z_][a-z_0-9]*(\.[a-z_][a-z_0-9]*)*")
_METHOD = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")
_MATCHES = 128  # of all rules of a route
_FILTERS = {  # the field that a type of filter has
    "RequestHeaderModifier": "requestHeaderModifier",
    "ResponseHeaderModifier": "responseHeaderModifier",
    "RequestMirror": "requestMirror",
    "RequestRedirect": "requestRedirect",
    "URLRewrite": "urlRewrite",
    "ExtensionRef": "extensionRef",
    "CORS": "cors",
    "ExternalAuth": "externalAuth",
}
_ONCE = ("RequestHeaderModifier", "ResponseHeaderModifier", "RequestRedirect", "URLRewrite", "CORS")
_PATH_FIELDS = {"ReplaceFullPath": "replaceFullPath", "ReplacePrefixMatch": "replacePrefixMatch"}


def check_gatewayclass(errors: Errors, new: Object, old: Object | None) -> None:
    if old is not None:
        errors.immutable("spec.controllerName", new["spec"]["controllerName"], old["spec"]["controllerName"])


# --- gateways -----------------------------------------------------------------------------------------------------


def check_gateway(errors: Errors, new: Object, old: Object | None) -> None:
    spec = new["spec"]
    names: dict[str, str] = {}
    places: dict[tuple[object, ...], str] = {}
    for index, listener in enumerate(spec["listeners"]):
        at = f"spec.listeners[{index}]"
        first = names.setdefault(listener["name"], at)
        if first != at:
            errors.duplicate(f"{at}.name", listener["name"], f"{first}.name")
        where = (listener["port"], listener["protocol"], listener.get("hostname"))
        first = places.setdefault(where, at)
        if first != at:
            errors.forbidden(at, f"{first} has the same port, protocol and hostname: change one of them")
        _listener(errors, at, listener)
    _addresses(errors, spec.get("addresses") or ())
    infrastructure = spec.get("infrastructure") or {}
    for field, most in (("labels", 8), ("annotations", 16)):
        entries = infrastructure.get(field) or {}
        at = f"spec.infrastructure.{field}"
        if len(entries) > most:
            errors.forbidden(at, f"at most {most} entries, has {len(entries)}")
        for key, value in entries.items():
            errors.check(at, key, qualified_name)
            if field == "labels":
                errors.check(f"{at}[{key}]", value, label_value)


def _listener(errors: Errors, at: str, listener: Fields) -> None:
    protocol, tls = listener["protocol"], listener.get("tls")
    if protocol in ("HTTP", "TCP", "UDP") and tls is not None:
        errors.forbidden(f"{at}.tls", f"may not be given with protocol {protocol}: remove it")
    if protocol in ("TCP", "UDP") and listener.get("hostname"):
        errors.forbidden(f"{at}.hostname", f"may not be given with protocol {protocol}: remove it")
    if protocol == "TLS" and tls is None:
        errors.required(f"{at}.tls", "required with protocol TLS: tls.mode is Terminate or Passthrough")
    if protocol == "HTTPS" and tls is not None and tls.get("mode") != "Terminate":
        errors.invalid(f"{at}.tls.mode", tls["mode"], 'must be "Terminate" with protocol HTTPS')
    if tls is not None and tls.get("mode") == "Terminate" and not tls.get("certificateRefs") and not tls.get("options"):
        errors.required(f"{at}.tls.certificateRefs", "required with mode Terminate: the Secret of a certificate")
    namespaces = (listener.get("allowedRoutes") or {}).get("namespaces") or {}
    errors.selector(f"{at}.allowedRoutes.namespaces.selector", namespaces.get("selector"))


def _addresses(errors: Errors, addresses: Iterable[Fields]) -> None:
    seen: dict[tuple[str, str], str] = {}
    for index, address in enumerate(addresses):
        at, value = f"spec.addresses[{index}].value", address.get("value")
        if not value:
            continue
        if address["type"] == "IPAddress":
            errors.check(at, value, ip_address)
        first = seen.setdefault((address["type"], value), at)
        if first != at:
            errors.duplicate(at, value, first)


# --- routes -------------------------------------------------------------------------------------------------------


def check_httproute(errors: Errors, new: Object, old: Object | None) -> None:
    spec = new["spec"]
    _parents(errors, spec.get("parentRefs") or ())
    rules = spec.get("rules") or ()
    _rules(errors, rules)
    for index, rule in enumerate(rules):
        at = f"spec.rules[{index}]"
        for number, match in enumerate(rule.get("matches") or ()):
            _http_match(errors, f"{at}.matches[{number}]", match)
        if rule.get("backendRefs") and any(f["type"] == "RequestRedirect" for f in rule.get("filters") or ()):
            errors.forbidden(
                f"{at}.backendRefs", "a rule with filter RequestRedirect has no backends: remove one of them"
            )
        one_prefix = _is_one_prefix(rule)
        for path, filters in _filter_lists(at, rule):
            _filters(errors, path, filters, one_prefix=one_prefix)
        _timeouts(errors, f"{at}.timeouts", rule.get("timeouts") or {})
        _session(errors, f"{at}.sessionPersistence", rule.get("sessionPersistence"))


def check_grpcroute(errors: Errors, new: Object, old: Object | None) -> None:
    spec = new["spec"]
    _parents(errors, spec.get("parentRefs") or ())
    rules = spec.get("rules") or ()
    _rules(errors, rules)
    for index, rule in enumerate(rules):
        at = f"spec.rules[{index}]"
        for number, match in enumerate(rule.get("matches") or ()):
            _grpc_match(errors, f"{at}.matches[{number}]", match)
        for path, filters in _filter_lists(at, rule):
            _filters(errors, path, filters, one_prefix=False)
        _session(errors, f"{at}.sessionPersistence", rule.get("sessionPersistence"))


def check_l4route(errors: Errors, new: Object, old: Object | None) -> None:
    """TLSRoute and TCPRoute."""
    spec = new["spec"]
    _parents(errors, spec.get("parentRefs") or ())
    _rules(errors, spec["rules"])


def _parents(errors: Errors, parents: Iterable[Fields]) -> None:
    """Several references to one parent name different sections or ports of it."""
    seen: dict[tuple[str, ...], dict[tuple[str, int], str]] = {}
    for index, parent in enumerate(parents):
        at = f"spec.parentRefs[{index}]"
        identity = tuple(parent.get(field) or "" for field in ("group", "kind", "namespace", "name"))
        section = (parent.get("sectionName") or "", parent.get("port") or 0)
        others = seen.setdefault(identity, {})
        if section in others:
            errors.forbidden(at, f"{others[section]} names the same: give sectionName or port, different ones")
        elif others and (section == ("", 0) or ("", 0) in others):
            first = next(iter(others.values()))
            errors.required(f"{at}.sectionName", f"sectionName or port is required here and in {first}: one parent")
        others.setdefault(section, at)


def _rules(errors: Errors, rules: Iterable[Fields]) -> None:
    """What rules of all kinds of routes have."""
    names: dict[str, str] = {}
    matches = 0
    for index, rule in enumerate(rules):
        at = f"spec.rules[{index}]"
        matches += len(rule.get("matches") or ())
        if rule.get("name"):
            first = names.setdefault(rule["name"], f"{at}.name")
            if first != f"{at}.name":
                errors.duplicate(f"{at}.name", rule["name"], first)
        for number, backend in enumerate(rule.get("backendRefs") or ()):
            _backend(errors, f"{at}.backendRefs[{number}]", backend)
    if matches > _MATCHES:
        errors.forbidden("spec.rules", f"at most {_MATCHES} matches in all rules together, has {matches}")


def _backend(errors: Errors, at: str, backend: Fields) -> None:
    if backend.get("group") == "" and backend.get("kind") == "Service" and backend.get("port") is None:
        errors.required(f"{at}.port", "required for a Service")


def _http_match(errors: Errors, at: str, match: Fields) -> None:
    path = match.get("path") or {}
    value = path.get("value") or "/"
    if path.get("type") in ("Exact", "PathPrefix"):
        if not value.startswith("/"):
            errors.invalid(f"{at}.path.value", value, 'must begin with "/"')
        elif wrong := next((part for part in _NOT_IN_PATHS if part in value), None):
            errors.invalid(f"{at}.path.value", value, f'must not contain "{wrong}"')
        elif value.endswith(("/.", "/..")):
            errors.invalid(f"{at}.path.value", value, 'must not end in "/." or "/.."')
        elif not _PATH.fullmatch(value):
            errors.invalid(f"{at}.path.value", value, "must be a path: letters, digits, -._~!$&'()*+,;=:@ and %XX")
    _distinct(errors, f"{at}.headers", match.get("headers") or ())
    _distinct(errors, f"{at}.queryParams", match.get("queryParams") or ())


def _grpc_match(errors: Errors, at: str, match: Fields) -> None:
    method = match.get("method")
    if method is not None:
        if not method.get("service") and not method.get("method"):
            errors.required(f"{at}.method", "required: service, method, or both")
        if method.get("type") == "Exact":
            for field, pattern in (("service", _SERVICE), ("method", _METHOD)):
                value = method.get(field)
                if value and not pattern.fullmatch(value):
                    errors.invalid(f"{at}.method.{field}", value, "must be a name of letters, digits and _")
    _distinct(errors, f"{at}.headers", match.get("headers") or ())


def _distinct(errors: Errors, at: str, entries: Iterable[Fields]) -> None:
    """The list is a map by ``name``."""
    seen: dict[str, str] = {}
    for index, entry in enumerate(entries):
        first = seen.setdefault(entry["name"], f"{at}[{index}]")
        if first != f"{at}[{index}]":
            errors.duplicate(f"{at}[{index}].name", entry["name"], first)


def _is_one_prefix(rule: Fields) -> bool:
    matches = rule.get("matches") or []
    return len(matches) == 1 and (matches[0].get("path") or {}).get("type") == "PathPrefix"


def _filter_lists(at: str, rule: Fields) -> Iterator[tuple[str, list[Fields]]]:
    yield f"{at}.filters", rule.get("filters") or []
    for index, backend in enumerate(rule.get("backendRefs") or ()):
        yield f"{at}.backendRefs[{index}].filters", backend.get("filters") or []


def _filters(errors: Errors, at: str, filters: list[Fields], *, one_prefix: bool) -> None:
    types = [found["type"] for found in filters]
    for kind in _ONCE:
        if types.count(kind) > 1:
            errors.forbidden(at, f"filter {kind} may be there once, is {types.count(kind)} times")
    if "RequestRedirect" in types and "URLRewrite" in types:
        errors.forbidden(at, "RequestRedirect and URLRewrite exclude each other: remove one of them")
    for index, found in enumerate(filters):
        here, kind = f"{at}[{index}]", found["type"]
        own = _FILTERS[kind]
        if found.get(own) is None:
            errors.required(f"{here}.{own}", f"required with type {kind}")
        for field in _FILTERS.values():
            if field != own and found.get(field) is not None:
                errors.forbidden(f"{here}.{field}", f"may not be given with type {kind}: remove it")
        for field in ("requestRedirect", "urlRewrite"):
            path = (found.get(field) or {}).get("path")
            if path is not None:
                _path_modifier(errors, f"{here}.{field}.path", path, one_prefix=one_prefix)
        for field in ("requestHeaderModifier", "responseHeaderModifier"):
            for change in ("set", "add"):
                entries = (found.get(field) or {}).get(change) or ()
                _distinct(errors, f"{here}.{field}.{change}", entries)
            removed = [{"name": name} for name in (found.get(field) or {}).get("remove") or ()]
            _distinct(errors, f"{here}.{field}.remove", removed)
        mirror = found.get("requestMirror")
        if mirror is not None:
            _mirror(errors, f"{here}.requestMirror", mirror)
        if found.get("cors") is not None:
            _cors(errors, f"{here}.cors", found["cors"])


def _path_modifier(errors: Errors, at: str, path: Fields, *, one_prefix: bool) -> None:
    own = _PATH_FIELDS[path["type"]]
    for field in _PATH_FIELDS.values():
        if field == own and path.get(field) is None:
            errors.required(f"{at}.{field}", f"required with type {path['type']}")
        elif field != own and path.get(field) is not None:
            errors.forbidden(f"{at}.{field}", f"may not be given with type {path['type']}: remove it")
    if own == "replacePrefixMatch" and path.get(own) is not None and not one_prefix:
        errors.forbidden(f"{at}.{own}", "only for rules with exactly one match, whose path is of type PathPrefix")


def _mirror(errors: Errors, at: str, mirror: Fields) -> None:
    _backend(errors, f"{at}.backendRef", mirror["backendRef"])
    fraction = mirror.get("fraction")
    if fraction is not None and mirror.get("percent") is not None:
        errors.forbidden(f"{at}.percent", "percent and fraction exclude each other: remove one of them")
    if fraction is not None and fraction["numerator"] > fraction.get("denominator", 100):
        errors.invalid(f"{at}.fraction.numerator", fraction["numerator"], "must not be more than the denominator")


def _cors(errors: Errors, at: str, cors: Fields) -> None:
    for field in ("allowOrigins", "allowMethods", "allowHeaders"):
        values = cors.get(field) or ()
        if "*" in values and len(values) > 1:
            errors.forbidden(f"{at}.{field}", '"*" stands alone: remove the others')


def _timeouts(errors: Errors, at: str, timeouts: Fields) -> None:
    whole, one = timeouts.get("request"), timeouts.get("backendRequest")
    if whole is not None and one is not None and 0 < seconds_of(whole) < seconds_of(one):
        errors.invalid(f"{at}.backendRequest", one, f"must not be longer than {at}.request, {whole}")


def _session(errors: Errors, at: str, session: Fields | None) -> None:
    if session is None:
        return
    own = session["type"].lower()
    for field in ("cookie", "header"):
        if field != own and session.get(field) is not None:
            errors.forbidden(f"{at}.{field}", f"may not be given with type {session['type']}: remove it")
    lifetime = (session.get("cookie") or {}).get("lifetimeType")
    if lifetime == "Permanent" and not session.get("absoluteTimeout"):
        errors.required(f"{at}.absoluteTimeout", "required with cookie.lifetimeType Permanent")
