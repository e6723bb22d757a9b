"""Hostnames of listeners and routes: a wildcard ``*.`` stands for any number of labels, no hostname for all hosts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kmn.ingress.model import ANY_HOST

__all__ = ["common", "covering", "covers"]


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


def covering(hostname: str) -> Iterator[str]:
    """All hostnames that cover this one, the most specific first."""
    yield hostname
    labels = hostname.removeprefix("*.").split(".") if hostname else []
    start = 0 if hostname.startswith("*.") else 1
    names = (f"*.{'.'.join(labels[index:])}" for index in range(start, len(labels)))
    yield from (name for name in names if name != hostname)
    if hostname != ANY_HOST:
        yield ANY_HOST
