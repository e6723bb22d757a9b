"""Who may ask, and how often: source ranges, passwords, somebody else's opinion, limits, other origins.

What would keep somebody out upstream and cannot be followed here lets nobody in: its location is denied (503).
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import NamedTuple

from kmn.ingress.dialects.nginx.annotations import Annotations
from kmn.ingress.dialects.nginx.services import service_of_url
from kmn.ingress.model import PASSWORD_HASH, Authorization, BasicAuth, Cors, How, Owner, RateLimit, Sources, Text
from kmn.ingress.routing import Find
from kmn.k8s.objects import Key, Object
from kmn.k8s.resources import SECRETS

__all__ = ["ask_for_certificates", "authorization_of", "basic_auth_of", "cors_of", "rate_limits_of", "sources_of"]

_ORIGIN = re.compile(r"([a-z]+://(\*\.)?[A-Za-z0-9.-]*(:\d+)?|\*|null)")
_METHODS = "GET, PUT, POST, DELETE, PATCH, OPTIONS"
_HEADERS = "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,Range,Authorization"
_MAX_AGE = 1_728_000
# Those that can be compared: by SHA-1 and by MD5, as Apache and crypt have it.
_BURST = 5  # times a limit, at once


def sources_of(given: Annotations) -> Sources | None:
    """``whitelist-source-range`` (now ``allowlist-``) and ``denylist-source-range``."""
    try:
        allowed = given.networks("whitelist-source-range", "allowlist-source-range")
        denied = given.networks("denylist-source-range")
    except ValueError as error:
        given.denied("allowlist-source-range or denylist-source-range", f"{error}: name networks as 10.0.0.0/8")
        return None
    return Sources(allowed, denied) if allowed or denied else None


def ask_for_certificates(given: Annotations) -> None:
    """``auth-tls-secret``: nobody is asked for one, so nobody who needs one gets in."""
    wanted = given.choice("auth-tls-verify-client", "on", "off", "optional", "optional_no_ca") or "on"
    if given.text("auth-tls-secret") is None or wanted == "off":
        return
    if wanted == "on":
        given.denied("auth-tls-secret", "clients are not asked for certificates")
    else:
        given.not_emulated("auth-tls-secret", "clients are not asked for certificates, which they need not have")


# --- passwords --------------------------------------------------------------------------------------------------


def basic_auth_of(owner: Owner, given: Annotations, find: Find) -> BasicAuth | None:
    """``auth-type: basic`` with users of a Secret."""
    kind, name = given.text("auth-type"), given.text("auth-secret")
    form, realm = given.text("auth-secret-type") or "auth-file", given.text("auth-realm") or ""
    if kind is None:
        return None
    if kind != "basic":
        given.denied("auth-type", f'"{kind}": only "basic" is emulated')
        return None
    try:
        lines = _lines(_secret(owner, name, find), form)
    except ValueError as error:
        given.denied("auth-secret", str(error))
        return None
    return BasicAuth(realm, tuple(_users(given, lines)))


class _Line(NamedTuple):
    user: str
    hash: str


def _secret(owner: Owner, name: str | None, find: Find) -> Object:
    namespace, _, own = (name or "").rpartition("/")
    key = Key(namespace or owner.namespace, own)
    if not own:
        raise ValueError("is missing: name a Secret")
    if key.namespace != owner.namespace:
        raise ValueError(f'"{name}": Secrets of other namespaces are out of reach')
    found = find(SECRETS, key)
    if found is None:
        raise ValueError(f"there is no Secret {key}")
    return found


def _lines(secret: Object, form: str) -> list[_Line]:
    """Users and their hashes, of a file as ``htpasswd`` writes it, or of a key for each user."""
    data = secret.get("data") or {}
    try:
        texts = {key: base64.b64decode(value).decode() for key, value in data.items()}
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"data of the Secret: {error}") from None
    if form == "auth-map":
        return [_Line(user, text.strip()) for user, text in sorted(texts.items())]
    if form != "auth-file":
        raise ValueError(f'auth-secret-type is "{form}": must be auth-file or auth-map')
    if "auth" not in texts:
        raise ValueError("the Secret has no key auth")
    parts = [line.strip().partition(":") for line in texts["auth"].splitlines() if ":" in line]
    return [_Line(user, text.partition(":")[0]) for user, _, text in parts]


def _users(given: Annotations, lines: list[_Line]) -> list[tuple[str, str]]:
    found, others = [], []
    for line in lines:
        if line.user and PASSWORD_HASH.fullmatch(line.hash):
            found.append((line.user, line.hash))
        else:
            others.append(line.user)
    if others:
        why = f"user {', '.join(others)}: only hashes by MD5 and SHA-1 can be compared (htpasswd -m, -s): no login"
        given.not_emulated("auth-secret", why)
    return found


# --- somebody else's opinion ------------------------------------------------------------------------------------


def authorization_of(given: Annotations, find: Find) -> Authorization | None:
    """``auth-url``."""
    url = given.text("auth-url")
    forwarded = given.several("auth-response-headers")
    if url is None:
        return None
    try:
        upstream, path = service_of_url(url, find)
    except ValueError as error:
        given.denied("auth-url", f'"{url}": {error}')
        return None
    return Authorization(upstream, path or "/", forwarded)


# --- limits -----------------------------------------------------------------------------------------------------


def rate_limits_of(given: Annotations, code: int) -> tuple[RateLimit, ...]:
    """``limit-rps`` and ``limit-rpm``; at once there may be one more than the burst."""
    times = given.number("limit-burst-multiplier", 1) or _BURST
    wanted = ((given.number("limit-rpm"), 60), (given.number("limit-rps"), 1))
    return tuple(RateLimit(count, seconds, count * times + 1, code) for count, seconds in wanted if count)


# --- other origins ----------------------------------------------------------------------------------------------


def cors_of(given: Annotations) -> Cors | None:
    """``enable-cors`` and those with ``cors-`` at the beginning."""
    origins = [origin for text in given.several("cors-allow-origin") or ("*",) if (origin := _origin(given, text))]
    methods = given.matching("cors-allow-methods", r"([A-Za-z]+,?\s?)+", "must be methods, with commas between")
    headers = given.matching("cors-allow-headers", r"[-A-Za-z0-9_, ]*", "must be headers, with commas between")
    exposed = given.matching("cors-expose-headers", r"(([-A-Za-z0-9_]+|\*),?\s?)+", "must be headers, with commas")
    credentials = given.flag("cors-allow-credentials", default=True)
    max_age = given.number("cors-max-age")
    if not given.flag("enable-cors") or not origins:
        return None
    everybody = [origin for origin in origins if origin.how is How.PRESENT]
    return Cors(
        tuple(everybody or origins), methods or _METHODS, headers or _HEADERS, exposed or "", credentials,
        _MAX_AGE if max_age is None else max_age,
    )  # fmt: skip


def _origin(given: Annotations, text: str) -> Text | None:
    if _ORIGIN.fullmatch(text) is None:
        given.invalid("cors-allow-origin", f"{text}: must be SCHEME://HOST, with *. before the host if need be")
        return None
    if text == "*":
        return Text(How.PRESENT)
    return Text(How.REGEX, re.escape(text).replace(r"\*", "[A-Za-z0-9-]+"), ignore_case=True)
