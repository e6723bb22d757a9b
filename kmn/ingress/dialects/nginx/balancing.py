"""How an endpoint is chosen: by turns, by what a request has, or always the same one for a client."""

from __future__ import annotations

import re
from typing import NamedTuple

from kmn.ingress.dialects.nginx.annotations import Annotations
from kmn.ingress.model import Balance, Cookie, HashKey, Keyed

__all__ = ["Balancing", "balancing_of"]

_COOKIE = "INGRESSCOOKIE"
_AGE = r"0|-?[1-9]\d*"
_VARIABLE = re.compile(r"\$\{?(\w+)\}?")
_VARIABLES = {
    "remote_addr": HashKey(Keyed.ADDRESS),
    "binary_remote_addr": HashKey(Keyed.ADDRESS),
    "the_real_ip": HashKey(Keyed.ADDRESS),
    "request_uri": HashKey(Keyed.HEADER, ":path"),
    "uri": HashKey(Keyed.HEADER, ":path"),
    "host": HashKey(Keyed.HEADER, ":authority"),
    "http_host": HashKey(Keyed.HEADER, ":authority"),
    "request_method": HashKey(Keyed.HEADER, ":method"),
    "scheme": HashKey(Keyed.HEADER, "x-forwarded-proto"),
}
_FAMILIES = {"http_": Keyed.HEADER, "cookie_": Keyed.COOKIE, "arg_": Keyed.QUERY}


class Balancing(NamedTuple):
    """Cookies have the path "" when none is named."""

    balance: Balance = Balance.ROUND_ROBIN
    hash_on: tuple[HashKey, ...] = ()
    session: Cookie | None = None
    keeps_canaries: bool = True  # clients with a cookie stay with a canary, or without it

    @property
    def cookie(self) -> Cookie | None:
        """What clients are known again by."""
        return self.session or next((key.given for key in self.hash_on if key.given), None)


def balancing_of(given: Annotations) -> Balancing:
    """``affinity`` goes before ``upstream-hash-by``, and that before ``load-balance``."""
    algorithm = given.choice("load-balance", "round_robin", "ewma")
    hashed = _hash(given)
    keeps = given.choice("affinity-canary-behavior", "sticky", "legacy") != "legacy"
    found = _affinity(given)
    if found is None and hashed:
        found = Balancing(Balance.HASH, hashed)
    if found is None:
        found = Balancing(Balance.LEAST_REQUESTS if algorithm == "ewma" else Balance.ROUND_ROBIN)
    return found._replace(keeps_canaries=keeps)


def _hash(given: Annotations) -> tuple[HashKey, ...]:
    """Text between variables is the same for all requests: it says nothing."""
    text = given.text("upstream-hash-by")
    if text is None:
        return ()
    found = []
    for name in _VARIABLE.findall(text):
        family = next((prefix for prefix in _FAMILIES if name.startswith(prefix)), None)
        if name in _VARIABLES:
            found.append(_VARIABLES[name])
        elif family is not None:
            own = name.removeprefix(family)
            found.append(HashKey(_FAMILIES[family], own.replace("_", "-") if family == "http_" else own))
        else:
            given.not_emulated("upstream-hash-by", f"${name}: known are {', '.join(sorted(_VARIABLES))}, "
                               "http_HEADER, cookie_NAME and arg_NAME")  # fmt: skip
    if not found:
        given.not_emulated("upstream-hash-by", "without a variable all requests would go to one endpoint")
    return tuple(found)


def _affinity(given: Annotations) -> Balancing | None:
    kind = given.text("affinity")
    mode = given.choice("affinity-mode", "balanced", "persistent") or "balanced"
    cookie = _cookie(given)
    if kind is None:
        return None
    if kind != "cookie":
        given.invalid("affinity", 'must be "cookie"')
        return None
    if mode == "persistent":
        return Balancing(session=cookie)
    key = HashKey(Keyed.COOKIE, cookie.name, cookie)
    return Balancing(Balance.HASH, (key,))


def _cookie(given: Annotations) -> Cookie:
    name = given.matching("session-cookie-name", r"[-.~\w:/]+", "must be a name of letters, digits and -._~") or _COOKIE
    path = given.text("session-cookie-path") or ""
    ages = [
        given.matching(f"session-cookie-{age}", _AGE, "must be a number of seconds") for age in ("max-age", "expires")
    ]
    age = next((int(each) for each in ages if each is not None), None)
    attributes = []
    if domain := given.text("session-cookie-domain"):
        attributes.append(("Domain", domain))
    if same_site := given.choice("session-cookie-samesite", "None", "Lax", "Strict"):
        attributes.append(("SameSite", same_site))
    if given.flag("session-cookie-secure"):
        attributes.append(("Secure", ""))
    return Cookie(name, path, age if age is not None and age > 0 else None, tuple(attributes))
