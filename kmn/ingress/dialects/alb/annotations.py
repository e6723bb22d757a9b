"""Annotations of class ``alb``: their names, and their values as what they are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network
from typing import Any

from kmn.ingress.model import Owner, Problem
from kmn.k8s import objects
from kmn.k8s.objects import Object, key_of

__all__ = ["PREFIX", "Notes", "Wrong", "case_folded", "networks", "not_emulated", "owner_of", "visible"]

PREFIX = "alb.ingress.kubernetes.io/"
_FAILED = "FailedBuildModel"  # upstream's reason for whatever it cannot make sense of

_EMULATED = frozenset(
    f"{PREFIX}{name}"
    for name in (
        "backend-protocol", "backend-protocol-version", "certificate-arn", "group.name", "group.order",
        "healthcheck-interval-seconds", "healthcheck-path", "healthcheck-port", "healthcheck-protocol",
        "healthcheck-timeout-seconds", "healthy-threshold-count", "inbound-cidrs", "listen-ports",
        "load-balancer-attributes", "load-balancer-name", "scheme", "ssl-redirect", "success-codes",
        "target-group-attributes", "target-type", "unhealthy-threshold-count",
    )
)  # fmt: skip
_WITH_NAMES = (f"{PREFIX}actions.", f"{PREFIX}conditions.")
# What these say is nothing for packets, or what is done anyway.
_HARMLESS = frozenset((f"{PREFIX}tags", f"{PREFIX}manage-backend-security-group-rules"))
_AS_IT_IS = {(f"{PREFIX}ip-address-type", "ipv4"), (f"{PREFIX}auth-type", "none")}


class Wrong(ValueError):
    """A value that cannot be used; the message says what it should be."""


def owner_of(obj: Object) -> Owner:
    """As problems name it."""
    key = key_of(obj)
    return Owner(obj.get("kind") or "Ingress", key.namespace, key.name)


def not_emulated(ingress: Object) -> Iterator[Problem]:
    """Annotations that have no effect, each by its name."""
    owner = owner_of(ingress)
    for name, value in sorted(objects.annotations(ingress).items()):
        known = name in _EMULATED or name in _HARMLESS or name.startswith(_WITH_NAMES) or (name, value) in _AS_IT_IS
        if name.startswith(PREFIX) and not known:
            yield Problem(owner, "NotEmulated", f"{owner}: annotation {name} is not emulated: it has no effect")


class Notes:
    """The annotations of an Ingress, or those of one of its Services (which go before) and its own.

    What cannot be used is as if it were not there, and is told in ``problems``.
    """

    def __init__(self, ingress: Object, service: Object | None = None) -> None:
        self.owner = owner_of(ingress)
        self._values = {**objects.annotations(ingress), **(objects.annotations(service) if service else {})}
        self.problems: list[Problem] = []

    def text(self, name: str, *, among: Iterable[str] = ()) -> str | None:
        """``among``: what it may be; case does not count then, and the answer is as it stands there."""
        value = self._values.get(PREFIX + name)
        if value is None or not (known := tuple(among)):
            return value
        found = next((each for each in known if each.lower() == value.strip().lower()), None)
        if found is None:
            self.wrong(name, f'"{value}" should be {" or ".join(known)}')
        return found

    def number(self, name: str, least: int, most: int) -> int | None:
        value = self._values.get(PREFIX + name)
        if value is None:
            return None
        try:
            found = int(value)
        except ValueError:
            found = least - 1
        if not least <= found <= most:
            self.wrong(name, f'"{value}" should be a whole number from {least} to {most}')
            return None
        return found

    def json(self, name: str) -> Any:
        """None without it, and for what is no JSON."""
        value = self._values.get(PREFIX + name)
        if value is None:
            return None
        try:
            return json.loads(value)
        except ValueError as error:
            self.wrong(name, f"it should be JSON: {error}")
            return None

    def attributes(self, name: str) -> dict[str, str]:
        """Of the form ``key=value,key=value``."""
        found = {}
        for part in filter(None, (part.strip() for part in (self._values.get(PREFIX + name) or "").split(","))):
            key, equals, value = part.partition("=")
            if equals:
                found[key.strip()] = value.strip()
            else:
                self.wrong(name, f'"{part}" should be key=value')
        return found

    def wrong(self, name: str, message: str) -> None:
        """Tell of a value that has no effect as it cannot be used."""
        self.problems.append(Problem(self.owner, _FAILED, f"{self.owner}: annotation {PREFIX}{name}: {message}"))

    def ignored(self, what: str) -> None:
        """Tell of something that is not emulated."""
        self.problems.append(Problem(self.owner, "NotEmulated", f"{self.owner}: {what}"))

    def failed(self, message: str) -> None:
        """Tell of something that upstream does not build a load balancer of."""
        self.problems.append(Problem(self.owner, _FAILED, f"{self.owner}: {message}"))


def networks(texts: Iterable[str]) -> tuple[IPv4Network, ...]:
    """Those of IPv4, each once. Raises Wrong."""
    found: dict[IPv4Network, None] = {}
    for text in filter(None, (each.strip() for each in texts)):
        if ":" in text:
            continue  # IPv6 clients do not exist here
        try:
            found[IPv4Network(text, strict=False)] = None
        except ValueError:
            raise Wrong(f'"{text}" should be a network such as 203.0.113.0/24') from None
    return tuple(found)


def visible(text: str) -> str:
    """The same, of printable ASCII characters: others would be no part of a URL or header. Raises Wrong."""
    if not re.fullmatch("[ -~]*", text):
        raise Wrong(f"{text!r} should have printable ASCII characters only")
    return text


def case_folded(value: Any) -> Any:
    """JSON with the keys of its objects in lower case: upstream reads them without regard to case."""
    if isinstance(value, dict):
        return {str(key).lower(): case_folded(each) for key, each in value.items()}
    return [case_folded(each) for each in value] if isinstance(value, list) else value
