"""Hostnames of listeners and routes: a wildcard ``*.`` stands for any number of labels, no hostname for all hosts."""

from __future__ import annotations

from collections.abc import Iterable

from kmn.ingress.model import ANY_HOST

__all__ = ["common", "covers", "specific"]


def covers(wide: str, narrow: str) -> bool:
    """Whether every host of ``narrow`` is one of ``wide``."""
    if wide in (ANY_HOST, narrow):
        return True
    return wide.startswith("*.") and narrow.removeprefix("*").endswith(wide[1:])


def common(listener: str, routes: Iterable[str]) -> list[str]:
    """The hostnames of a route that come in by a listener, as narrow as the narrower of both; none: all of it does."""
    found: dict[str, None] = {}
    names = list(routes)
    for name in names:
        if covers(listener, name):
            found[name] = None
        elif covers(name, listener):
            found[listener] = None
    return list(found) if names else [listener]


def specific(hostname: str) -> tuple[int, int]:
    """Sorts hostnames: the most specific one is the greatest."""
    exact = bool(hostname) and not hostname.startswith("*.")
    return (len(hostname) if exact else 0), len(hostname)
