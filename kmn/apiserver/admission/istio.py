"""Rules for Istio's Gateway and VirtualService: the parts of its validating webhook that catch mistakes of users.

After ``pkg/config/validation`` of istio/istio.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from kmn.apiserver.admission.rules import Errors, dns_label, dns_subdomain, wildcard_subdomain
from kmn.k8s.durations import seconds_of
from kmn.k8s.objects import Object

__all__ = ["check_istio_gateway", "check_virtualservice"]

Fields = dict[str, Any]

_PROTOCOLS = ("HTTP", "HTTPS", "GRPC", "GRPC-WEB", "HTTP2", "MONGO", "TCP", "TLS", "HTTP_PROXY")
_CERTIFIED = ("SIMPLE", "MUTUAL", "OPTIONAL_MUTUAL")
_MATCH_FORMS = ("exact", "prefix", "regex")
_ACTIONS = ("route", "redirect", "directResponse", "delegate")


def check_istio_gateway(errors: Errors, new: Object, old: Object | None) -> None:
    servers = new["spec"].get("servers") or ()
    if not servers:
        errors.required("spec.servers", "required: at least one")
    for index, server in enumerate(servers):
        at = f"spec.servers[{index}]"
        protocol = server["port"]["protocol"].upper()
        errors.choice(f"{at}.port.protocol", protocol, _PROTOCOLS)
        for number, host in enumerate(server["hosts"]):
            errors.check(f"{at}.hosts[{number}]", host, _server_host)
        tls = server.get("tls")
        if tls is None and protocol in ("HTTPS", "TLS"):
            errors.required(f"{at}.tls", f"required with protocol {protocol}: tls.mode, tls.credentialName")
        elif tls is not None:
            _server_tls(errors, f"{at}.tls", tls, protocol)


def _server_tls(errors: Errors, at: str, tls: Fields, protocol: str) -> None:
    if protocol in ("HTTP", "HTTP2", "GRPC") and set(tls) - {"httpsRedirect"}:
        errors.forbidden(at, f"with protocol {protocol} only httpsRedirect may be given")
        return
    source = tls.get("credentialName") or tls.get("credentialNames") or tls.get("tlsCertificates")
    if tls.get("mode") in _CERTIFIED and not source and not (tls.get("serverCertificate") and tls.get("privateKey")):
        errors.required(f"{at}.credentialName", f"required with mode {tls['mode']}: the Secret of a certificate")


def _server_host(value: str) -> str:
    """``[namespace/]name``, wildcards included."""
    namespace, slash, name = value.rpartition("/")
    if slash and namespace not in ("*", ".") and dns_label(namespace):
        return 'must be a host, after a namespace, "*" or "." and a slash if need be'
    return _host(name)


def _host(value: str) -> str:
    plain = value.lower()
    if plain == "*" or not dns_subdomain(plain) or not wildcard_subdomain(plain):
        return ""
    return 'must be a DNS name such as "shop.example", a wildcard such as "*.shop.example", or "*"'


def check_virtualservice(errors: Errors, new: Object, old: Object | None) -> None:
    spec = new["spec"]
    hosts = spec.get("hosts") or ()
    routes = [kind for kind in ("http", "tls", "tcp") if spec.get(kind)]
    delegated = not hosts
    if delegated and (spec.get("gateways") or "http" not in routes):
        errors.required("spec.hosts", "required, but for a VirtualService that another one delegates http routes to")
    for index, host in enumerate(hosts):
        errors.check(f"spec.hosts[{index}]", host, _host)
    if not routes:
        errors.required("spec.http", "required: http, tcp or tls, with at least one route")
    for index, route in enumerate(spec.get("http") or ()):
        _http(errors, f"spec.http[{index}]", route, delegated=delegated)
    for kind in ("tls", "tcp"):
        for index, route in enumerate(spec.get(kind) or ()):
            at = f"spec.{kind}[{index}].route"
            if not route.get("route"):
                errors.required(at, "required: at least one destination")
            _weights(errors, at, route.get("route") or ())


def _http(errors: Errors, at: str, route: Fields, *, delegated: bool) -> None:
    given = [action for action in _ACTIONS if route.get(action)]
    if len(given) != 1:
        words = "exactly one of route, redirect, directResponse and delegate"
        errors.required(f"{at}.route", f"required: {words}; has {' and '.join(given) or 'none'}")
    if delegated and route.get("delegate"):
        errors.forbidden(f"{at}.delegate", "only one level of delegation: this one has no hosts, so is delegated to")
    for field in ("rewrite", "fault", "mirror", "mirrors") if route.get("redirect") else ():
        if route.get(field):
            errors.forbidden(f"{at}.{field}", "has no meaning with redirect: remove it")
    for index, match in enumerate(route.get("match") or ()):
        _match(errors, f"{at}.match[{index}]", match)
    if route.get("mirror") and route.get("mirrors"):
        errors.forbidden(f"{at}.mirror", "mirror and mirrors exclude each other: remove one of them")
    rewrite = route.get("rewrite")
    if rewrite is not None and not any(rewrite.get(field) for field in ("uri", "authority", "uriRegexRewrite")):
        errors.required(f"{at}.rewrite", "required: uri, authority or uriRegexRewrite")
    if route.get("timeout") is not None and seconds_of(route["timeout"]) and seconds_of(route["timeout"]) < 0.001:
        errors.invalid(f"{at}.timeout", route["timeout"], "must be at least 1ms, or 0s for none")
    _weights(errors, f"{at}.route", route.get("route") or ())


def _match(errors: Errors, at: str, match: Fields) -> None:
    for field in ("uri", "scheme", "method", "authority"):
        if match.get(field):
            _string(errors, f"{at}.{field}", match[field])
    for field in ("headers", "withoutHeaders", "queryParams"):
        for name, wanted in (match.get(field) or {}).items():
            if wanted:  # nothing is asked of the value: it is there
                _string(errors, f"{at}.{field}[{name}]", wanted)


def _string(errors: Errors, at: str, match: Fields) -> None:
    given = [form for form in _MATCH_FORMS if match.get(form) is not None]
    if len(given) != 1:
        errors.required(at, f"required: exactly one of exact, prefix, regex; has {' and '.join(given) or 'none'}")
    elif given == ["regex"]:
        try:
            re.compile(match["regex"])
        except re.error as error:
            errors.invalid(f"{at}.regex", match["regex"], f"must be a regular expression ({error})")


def _weights(errors: Errors, at: str, destinations: Iterable[Fields]) -> None:
    weights = [destination.get("weight") or 0 for destination in destinations]
    if len(weights) > 1 and not sum(weights):
        errors.invalid(at, weights, "must have weights whose sum is more than 0")
