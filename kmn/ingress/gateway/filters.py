"""Filters and policies of routes that are more than a change of headers: other origins, questions, tries, sessions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from kmn.ingress.model import Balance, Cookie, Cors, HashKey, How, Keyed, Retry, Text
from kmn.k8s.durations import seconds_of

__all__ = ["cors_of", "retry_of", "session_of"]

Fields = dict[str, Any]

_SESSION = "kmn-session"  # the cookie's name where the route gives none
_ATTEMPTS = 1  # after the first, where a route does not say


def cors_of(cors: Fields) -> Cors:
    """A wildcard stands for any labels before a domain; "*" alone for all origins.

    Browsers take no "*" from whom they send credentials to: then "*" is what they have asked for.
    """
    credentials = bool(cors.get("allowCredentials"))
    return Cors(
        origins=tuple(_origin(text, credentials=credentials) for text in cors.get("allowOrigins") or ()),
        methods=_joined(cors.get("allowMethods") or ()),
        headers=_joined(cors.get("allowHeaders") or ()),
        exposed=_joined(cors.get("exposeHeaders") or ()),
        credentials=credentials,
        max_age=cors.get("maxAge", 5),
        named=credentials,
    )


def _origin(text: str, *, credentials: bool) -> Text:
    if text == "*":
        return Text(How.REGEX, ".+") if credentials else Text(How.PRESENT)
    if "*" not in text:
        return Text(How.EXACT, text)
    return Text(How.REGEX, re.escape(text).replace(r"\*", r"[-.A-Za-z0-9]+"))


def _joined(values: Iterable[str]) -> str:
    return ", ".join(values)


def retry_of(retry: Fields) -> Retry:
    return Retry(1 + retry.get("attempts", _ATTEMPTS), tuple(retry.get("codes") or ()))


def session_of(session: Fields) -> tuple[Balance, Cookie | None, tuple[HashKey, ...]]:
    """How backends are balanced; the cookie that keeps clients with a pod, or the header that they are known by."""
    if session.get("type") == "Header":
        return Balance.HASH, None, (HashKey(Keyed.HEADER, session["header"]["name"]),)
    cookie = session.get("cookie") or {}
    permanent = cookie.get("lifetimeType") == "Permanent"
    age = round(seconds_of(session["absoluteTimeout"])) if permanent else None
    return Balance.ROUND_ROBIN, Cookie(cookie.get("name") or _SESSION, cookie.get("path") or "/", age), ()
