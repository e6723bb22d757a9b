"""The table of a port: hosts of its listeners and routes, and their rules in the order in which they are tried.

Precedence is that of the API reference (``HTTPRouteSpec.hostnames``, ``HTTPRouteRule.matches``, likewise of GRPCRoute):
the most specific hostname; exact paths, then regular expressions, then the longest prefix; a method; more headers; more
query parameters; the older route, by name; the order within the route. Each host belongs to the listener whose hostname
is the most specific one that covers it, and to no other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from kmn.ingress.gateway.hostnames import covering
from kmn.ingress.gateway.listeners import Listener
from kmn.ingress.model import ANY_HOST, Host, How, Redirect, Rule, Table

__all__ = ["Attached", "table_of"]

_PATHS = {How.EXACT: 0, How.REGEX: 1, How.PREFIX: 2}
_WELL_KNOWN = {"http": 80, "https": 443}


class Attached(NamedTuple):
    """The rules of a route that come in by a listener for some hosts. ``age`` sorts routes."""

    listener: Listener
    hosts: tuple[str, ...]
    rules: Sequence[Rule]
    age: tuple[str, str, str]


def table_of(listeners: Iterable[Listener], attached: Sequence[Attached]) -> Table:
    """``listeners`` are all good ones of a port, ``attached`` what comes in by them."""
    served = {listener.hostname: listener for listener in listeners}
    by_host: defaultdict[tuple[str, str], list[Attached]] = defaultdict(list)  # by listener and host
    for each in attached:
        for host in each.hosts:
            by_host[each.listener.name, host].append(each)
    names = {*served, *(host for _, host in by_host), ANY_HOST}
    return Table(tuple(_host(name, served, by_host) for name in sorted(names)))


def _host(name: str, listeners: Mapping[str, Listener], attached: Mapping[tuple[str, str], Sequence[Attached]]) -> Host:
    listener = next((listeners[wide] for wide in covering(name) if wide in listeners), None)
    if listener is None:
        return Host(name, (), deep=True)
    found: list[tuple[tuple[object, ...], Rule]] = []
    taken: set[int] = set()  # a route may have several hostnames that cover this one: by the identity of its entry
    for level, wide in enumerate(covering(name)):
        for each in attached.get((listener.name, wide), ()):
            if id(each) not in taken:
                for index, rule in enumerate(each.rules):
                    order = (level, *_precedence(rule), *each.age, index)
                    found.append((order, _at_listener(rule, listener, name)))
        taken.update(id(each) for each in attached.get((listener.name, wide), ()))
    return Host(name, tuple(rule for _, rule in sorted(found, key=lambda pair: pair[0])), deep=True)


def _precedence(rule: Rule) -> Iterator[object]:
    match = rule.match
    yield _PATHS[match.path.how]
    yield -len(match.path.value)
    yield not match.methods
    yield -len(match.headers)
    yield -len(match.query)


def _at_listener(rule: Rule, listener: Listener, host: str) -> Rule:
    """A redirect without a port leads to the usual one of its scheme, without a scheme to that of the listener; a port
    that goes without saying is left out."""
    redirect = rule.action
    if not isinstance(redirect, Redirect):
        return rule
    scheme = redirect.scheme or ("https" if listener.terminates else "http")
    port = redirect.port or (_WELL_KNOWN[scheme] if redirect.scheme else listener.port)
    known = host if host != ANY_HOST and not host.startswith("*.") else None
    if port == _WELL_KNOWN[scheme] and (redirect.host or known or listener.port in _WELL_KNOWN.values()):
        shown = None
    else:
        shown = port  # it has to be said, or that of the request would stay
    return rule._replace(action=redirect._replace(host=redirect.host or known, port=shown))
