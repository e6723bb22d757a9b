"""ingress-nginx' annotations: their names, how values are read, and what is told of those that are not followed.

Values are read as upstream reads them (``internal/ingress/annotations``). One that cannot be read is told, and as if it
were not there, but where upstream refuses the Ingress (:class:`Refused`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from ipaddress import ip_network

from kmn.ingress.model import Problem
from kmn.ingress.reading import Reading

__all__ = ["DOMAIN", "Annotations", "Refused", "size_of"]

DOMAIN = "nginx.ingress.kubernetes.io"

_TRUE, _FALSE = {"1", "t", "T", "TRUE", "true", "True"}, {"0", "f", "F", "FALSE", "false", "False"}
_SIZE = re.compile(r"(\d+)([bkmg]?)", re.IGNORECASE)
_UNITS = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30}

# What they say is about nginx' inside: nothing of it can be seen from outside (or it is so anyway).
_WITHOUT_EFFECT = frozenset({
    "client-body-buffer-size", "proxy-buffering", "proxy-buffer-size", "proxy-buffers-number",
    "proxy-busy-buffers-size", "proxy-max-temp-file-size", "enable-access-log", "enable-rewrite-log",
    "http2-push-preload", "connection-proxy-header", "auth-cache-key", "auth-cache-duration", "auth-keepalive",
    "auth-keepalive-requests", "auth-keepalive-share-vars", "auth-keepalive-timeout", "enable-global-auth",
    "use-port-in-redirects", "ssl-prefer-server-ciphers", "websocket-services", "proxy-next-upstream-timeout",
    "proxy-send-timeout",
})  # fmt: skip
# … with these values alone.
_AS_IT_IS = {
    "proxy-http-version": "1.1",
    "proxy-ssl-verify": "off",
    "proxy-redirect-from": "off",
    "proxy-redirect-to": "off",
    "proxy-cookie-path": "off",
    "proxy-cookie-domain": "off",
    "satisfy": "all",
    "auth-tls-verify-client": "off",
    "enable-modsecurity": "false",
    "enable-owasp-core-rules": "false",
    "enable-opentelemetry": "false",
    "session-cookie-change-on-failure": "false",
    "session-cookie-conditional-samesite-none": "false",
    "upstream-hash-by-subset": "false",
    "auth-always-set-cookie": "false",
    "disable-proxy-intercept-errors": "false",
    "relative-redirects": "false",
    "mirror-request-body": "on",
}
_SNIPPETS = (
    "configuration-snippet", "server-snippet", "stream-snippet", "auth-snippet", "modsecurity-snippet",
)  # fmt: skip


class Refused(Exception):
    """The Ingress is not taken at all: no rule of it counts. Says which annotation is wrong."""


class Annotations:
    """Of one Ingress. Those that are asked for count as followed; ``problems`` gathers what is wrong with them."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._values = {
            name.partition("/")[2]: value
            for name, value in reading.annotations.items()
            if name.startswith(f"{DOMAIN}/")
        }  # fmt: skip
        self._asked: set[str] = set()
        self.denies = False  # requests are answered 503
        self.problems: list[Problem] = []

    def __bool__(self) -> bool:
        return bool(self._values)

    def text(self, *names: str) -> str | None:
        """The first one's that is there; None for none, or where it is empty."""
        self._asked.update(names)
        for name in names:
            if value := self._values.get(name, "").strip():
                return value
        return None

    def matching(self, name: str, pattern: str, right: str) -> str | None:
        """One that is of this form, all of it; ``right`` says what would be."""
        value = self.text(name)
        if value is not None and re.fullmatch(pattern, value) is None:
            self.invalid(name, right)
            return None
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """As Go's ``strconv.ParseBool`` reads it."""
        value = self.text(name)
        if value is None:
            return default
        if value not in _TRUE | _FALSE:
            self.invalid(name, 'must be "true" or "false"')
            return default
        return value in _TRUE

    def number(self, name: str, least: int = 0) -> int | None:
        """A whole one."""
        value = self.text(name)
        if value is None:
            return None
        if re.fullmatch(r"-?\d{1,9}", value) is None or int(value) < least:
            self.invalid(name, f"must be a whole number of {least} or more")
            return None
        return int(value)

    def choice(self, name: str, *options: str) -> str | None:
        """One of the options."""
        return self.matching(name, "|".join(map(re.escape, options)), f"must be one of {', '.join(options)}")

    def several(self, *names: str) -> tuple[str, ...]:
        """Parts between commas."""
        return tuple(part for each in (self.text(*names) or "").split(",") if (part := each.strip()))

    def networks(self, *names: str) -> tuple[str, ...]:
        """CIDRs, or addresses. Raises ValueError for what is none."""
        found = self.several(*names)
        for network in found:
            ip_network(network, strict=False)
        return found

    def invalid(self, name: str, right: str) -> None:
        """Tell that a value is not followed."""
        message = f'annotation {DOMAIN}/{name}: "{self._values.get(name)}": {right}; it is ignored'
        self.problems.append(self._reading.problem("InvalidAnnotation", message))

    def not_emulated(self, name: str, why: str) -> None:
        """Tell that a value has no effect here, as it would have upstream."""
        message = f'annotation {DOMAIN}/{name}: "{self._values.get(name)}" is not emulated: {why}'
        self.problems.append(self._reading.problem("NotEmulated", message))

    def denied(self, name: str, why: str) -> None:
        """Tell that requests are answered 503 (upstream: location denied)."""
        self.denies = True
        message = f"annotation {DOMAIN}/{name}: {why}: requests are answered 503"
        self.problems.append(self._reading.problem("Denied", message))

    def refuse(self, name: str, why: str) -> Refused:
        """To be raised."""
        return Refused(f"annotation {DOMAIN}/{name}: {why}: the Ingress is not taken")

    def check_snippets(self, *, allowed: bool) -> None:
        """Raises Refused where there is one, unless the controller's ConfigMap allows them: then they are told."""
        for name in _SNIPPETS:
            if self.text(name) is None:
                continue
            if not allowed:
                why = "snippets are refused, as upstream by default (allow-snippet-annotations): use other annotations"
                raise self.refuse(name, why)
            message = f"annotation {DOMAIN}/{name} is not emulated: there is no nginx that it could be configuration of"
            self.problems.append(self._reading.problem("NotEmulated", message))

    def rest(self) -> Iterator[Problem]:
        """Those that nobody has asked for."""
        for name in sorted(self._values.keys() - self._asked - _WITHOUT_EFFECT):
            if _AS_IT_IS.get(name) != self._values[name].strip():
                message = f"annotation {DOMAIN}/{name} is not emulated: it has no effect"
                yield self._reading.problem("NotEmulated", message)

    def has(self, names: Iterable[str]) -> str | None:
        """The first of them that is there."""
        return next((name for name in names if name in self._values), None)


def size_of(text: str) -> int:
    """Bytes of nginx' notation: ``8m``. Raises ValueError."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ValueError('must be a size: a whole number, and "k", "m" or "g" behind it if need be')
    return int(found[1]) * _UNITS[found[2].lower()]
