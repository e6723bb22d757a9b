"""The controller's ConfigMap: defaults of annotations, and what is true of all hosts."""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass, replace
from typing import Any

from kmn.ingress.dialects.nginx.annotations import size_of
from kmn.ingress.model import Owner, Problem
from kmn.ingress.routing import Find
from kmn.k8s.objects import Key
from kmn.k8s.resources import CONFIGMAPS

__all__ = ["CONFIGMAP", "Defaults", "defaults_of"]

CONFIGMAP = Key("ingress-nginx", "ingress-nginx-controller")
_OWNER = Owner("ConfigMap", *CONFIGMAP)


@dataclass(frozen=True, slots=True)
class Defaults:
    """Upstream's own, where the ConfigMap says nothing."""

    ssl_redirect: bool = True
    force_ssl_redirect: bool = False
    redirect_code: int = 308
    body_size: int | None = 2**20  # bytes
    read_timeout: int | None = None  # seconds; None: the proxy's own, which is upstream's
    connect_timeout: int | None = None
    limit_code: int = 503
    snippets: bool = False
    response_headers: frozenset[str] = frozenset()  # that custom-headers may set, in lower case
    proxy_protocol: bool = False
    forwarded_headers: bool = False


def defaults_of(find: Find) -> tuple[Defaults, tuple[Problem, ...]]:
    """What the ConfigMap says, and which keys of it have no effect."""
    found, problems = Defaults(), []
    for key, value in sorted(((find(CONFIGMAPS, CONFIGMAP) or {}).get("data") or {}).items()):
        try:
            change = _read(key, str(value).strip())
        except ValueError as error:
            problems.append(Problem(_OWNER, "InvalidValue", f'{_OWNER}: data[{key}]: "{value}": {error}'))
            continue
        if change is None:
            message = f"{_OWNER}: data[{key}] is not emulated: it has no effect"
            problems.append(Problem(_OWNER, "NotEmulated", message))
        else:
            found = replace(found, **change)
    return found, tuple(problems)


_FLAGS = {
    "ssl-redirect": "ssl_redirect",
    "force-ssl-redirect": "force_ssl_redirect",
    "allow-snippet-annotations": "snippets",
    "use-proxy-protocol": "proxy_protocol",
    "use-forwarded-headers": "forwarded_headers",
}
_DAYS = range(1, 10 * 86_400)
# What is said here is said of all Ingresses: a number that cannot be followed must not get as far as their rules.
_NUMBERS: dict[str, tuple[str, Container[int], str]] = {
    "http-redirect-code": ("redirect_code", (301, 302, 303, 307, 308), "must be 301, 302, 303, 307 or 308"),
    "proxy-read-timeout": ("read_timeout", _DAYS, "must be a whole number of seconds, ten days at most"),
    "proxy-connect-timeout": ("connect_timeout", _DAYS, "must be a whole number of seconds, ten days at most"),
    "limit-req-status-code": ("limit_code", range(400, 600), "must be a code from 400 to 599"),
}
_WITHOUT_EFFECT = frozenset({
    "proxy-buffer-size", "proxy-buffering", "proxy-buffers-number", "client-body-buffer-size", "worker-processes",
    "worker-connections", "keep-alive-requests", "log-format-upstream", "disable-access-log", "enable-metrics",
    "server-tokens", "annotations-risk-level", "max-worker-connections", "upstream-keepalive-connections",
})  # fmt: skip


def _read(key: str, value: str) -> dict[str, Any] | None:
    """Fields that change; None for a key that nobody knows. Raises ValueError."""
    if key in _FLAGS:
        if value not in ("true", "false"):
            raise ValueError('must be "true" or "false"')
        return {_FLAGS[key]: value == "true"}
    if key in _NUMBERS:
        field, known, right = _NUMBERS[key]
        if re.fullmatch(r"[0-9]{1,9}", value) is None or int(value) not in known:
            raise ValueError(right)
        return {field: int(value)}
    if key == "proxy-body-size":
        return {"body_size": size_of(value) or None}
    if key == "global-allowed-response-headers":
        return {"response_headers": frozenset(name.strip().lower() for name in value.split(","))}
    return {} if key in _WITHOUT_EFFECT else None
