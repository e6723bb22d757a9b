"""Target groups of class ``alb``: where requests for a Service go, how it is spoken to, and how its health is seen.

Annotations of the Service go before those of the Ingress.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from kmn.ingress.dialects.alb.annotations import Notes
from kmn.ingress.model import Backend, Cookie, HealthCheck, Protocol, Reach, Upstream
from kmn.k8s.objects import Object

__all__ = ["Target", "target_of"]

_GRPC_PATH = "/AWS.ALB/healthcheck"
_PROTOCOLS = {
    ("HTTP", "HTTP1"): Protocol.HTTP,
    ("HTTP", "HTTP2"): Protocol.H2C,
    ("HTTP", "GRPC"): Protocol.H2C,
    ("HTTPS", "HTTP1"): Protocol.HTTPS,
    ("HTTPS", "HTTP2"): Protocol.H2,
    ("HTTPS", "GRPC"): Protocol.H2,
}
_ATTRIBUTES_AS_THEY_ARE = {
    ("load_balancing.algorithm.type", "round_robin"),
    ("slow_start.duration_seconds", "0"),
    ("stickiness.enabled", "false"),
    ("stickiness.enabled", "true"),
    ("stickiness.type", "lb_cookie"),
}
_DURATION = "stickiness.lb_cookie.duration_seconds"
_HARMLESS_ATTRIBUTES = ("deregistration_delay.", _DURATION)
_COOKIE = "AWSALB"
_A_WEEK = 604_800


class Target(NamedTuple):
    """A target group, and the cookie that keeps a client with a target."""

    upstream: Upstream
    cookie: Cookie | None


def target_of(notes: Notes, backend: Backend, service: Object | None) -> Target:
    """Of a Service that may not be there. ``notes`` has its annotations, and is told what is wrong."""
    reach = Reach.PODS if notes.text("target-type", among=("instance", "ip")) == "ip" else Reach.NODES
    kind = ((service or {}).get("spec") or {}).get("type", "ClusterIP")
    if service is not None and reach is Reach.NODES and kind not in ("NodePort", "LoadBalancer"):
        notes.failed(
            f"service type must be either 'NodePort' or 'LoadBalancer': {backend.namespace}/{backend.service} is of "
            f"type {kind}: requests for it are answered 503; target-type: ip would do, too"
        )
    speaks = notes.text("backend-protocol", among=("HTTP", "HTTPS")) or "HTTP"
    version = notes.text("backend-protocol-version", among=("HTTP1", "HTTP2", "GRPC")) or "HTTP1"
    attributes = notes.attributes("target-group-attributes")
    for key, value in attributes.items():
        if (key, value) not in _ATTRIBUTES_AS_THEY_ARE and not key.startswith(_HARMLESS_ATTRIBUTES):
            notes.ignored(f"target-group-attributes: {key}={value} is not emulated")
    health = _health(notes, speaks, grpc=version == "GRPC")
    upstream = Upstream(backend, _PROTOCOLS[speaks, version], reach=reach, health=health)
    return Target(upstream, _cookie(notes, attributes))


def _cookie(notes: Notes, attributes: dict[str, str]) -> Cookie | None:
    if attributes.get("stickiness.enabled") != "true" or attributes.get("stickiness.type", "lb_cookie") != "lb_cookie":
        return None
    duration = attributes.get(_DURATION, "86400")
    if not duration.isdecimal() or not 1 <= int(duration) <= _A_WEEK:
        notes.wrong("target-group-attributes", f'{_DURATION}: "{duration}" should be from 1 to {_A_WEEK}')
        return None
    return Cookie(_COOKIE, "/", int(duration))


def _health(notes: Notes, speaks: str, *, grpc: bool) -> HealthCheck:
    default = HealthCheck(path=_GRPC_PATH if grpc else "/", codes=((12, 12),) if grpc else ((200, 200),), grpc=grpc)
    if notes.text("healthcheck-protocol", among=("HTTP", "HTTPS")) not in (None, speaks):
        notes.ignored("healthcheck-protocol: not emulated where it is not backend-protocol, which counts")
    interval = notes.number("healthcheck-interval-seconds", 5, 300) or default.interval
    timeout = notes.number("healthcheck-timeout-seconds", 2, 120) or default.timeout
    if timeout >= interval:
        notes.wrong("healthcheck-timeout-seconds", f"{timeout:.0f} should be less than the interval, {interval:.0f}")
        timeout = min(default.timeout, interval - 1)
    path = notes.text("healthcheck-path") or default.path
    if not re.fullmatch("/[!-~]*", path):
        notes.wrong("healthcheck-path", f'"{path}" should be a path that begins with a slash')
        path = default.path
    return default._replace(
        path=path,
        port=_port(notes),
        interval=float(interval),
        timeout=float(timeout),
        healthy=notes.number("healthy-threshold-count", 2, 10) or default.healthy,
        unhealthy=notes.number("unhealthy-threshold-count", 2, 10) or default.unhealthy,
        codes=_codes(notes, grpc=grpc) or default.codes,
    )


def _port(notes: Notes) -> int | None:
    text = notes.text("healthcheck-port")
    if text is None or text == "traffic-port":
        return None
    if text.isdecimal() and 1 <= int(text) <= 65535:
        return int(text)
    notes.ignored(f'healthcheck-port: "{text}": only numbers and traffic-port are emulated: traffic-port counts')
    return None


def _codes(notes: Notes, *, grpc: bool) -> tuple[tuple[int, int], ...]:
    """Of the form ``200,202-299``: first and last codes."""
    least, most = (0, 99) if grpc else (200, 499)
    found = []
    for part in filter(None, (part.strip() for part in (notes.text("success-codes") or "").split(","))):
        first, _, last = part.partition("-")
        if not first.isdecimal() or not (last or first).isdecimal():
            notes.wrong("success-codes", f'"{part}" should be a code such as 200, or codes such as 200-299')
        elif not least <= int(first) <= int(last or first) <= most:
            notes.wrong("success-codes", f'"{part}" should be codes from {least} to {most}')
        else:
            found.append((int(first), int(last or first)))
    return tuple(found)
