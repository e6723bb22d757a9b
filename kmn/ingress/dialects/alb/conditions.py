"""Conditions of rules of class ``alb``: hosts and paths of an Ingress, and ``conditions.NAME`` of a Service of its.

A ``*`` in a pattern stands for any characters, a ``?`` for one; both of a host, too. Values of one condition are
alternatives, conditions must all be fulfilled; hosts and paths of an annotation are alternatives to those of the rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Network
from typing import Any

from kmn.ingress.dialects.alb.annotations import Notes, Wrong, case_folded, networks
from kmn.ingress.model import Condition, How, Match, Text

__all__ = ["match_of", "path_patterns", "source_pattern"]

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_WILD = re.compile(r"[*?]")
_ANY_PATH = Text(How.PREFIX)


def path_patterns(path: str, kind: str) -> tuple[str, ...]:
    """What an Ingress's path is as patterns. Raises Wrong."""
    if not path:
        return ()
    if kind != "ImplementationSpecific" and _WILD.search(path):
        raise Wrong(f'"{path}": a path of type {kind} has no "*" or "?": use ImplementationSpecific')
    if kind == "Prefix":
        whole = path.removesuffix("/")
        return (whole, f"{whole}/*") if whole else ("/*",)
    return (path,)


def match_of(host: str, paths: Sequence[str], notes: Notes, name: str) -> Match | None:
    """The requests of a rule: with its host, its path's patterns, and the conditions for the Service ``name``.

    None: the annotation cannot be used, which ``notes`` is told; nobody knows which requests are meant.
    """
    hosts, patterns = [host] if host else [], list(paths)
    headers: list[Condition] = []
    methods: tuple[str, ...] = ()
    annotation = f"conditions.{name}"
    before = len(notes.problems)
    for given in _list(notes, annotation):
        try:
            field = str(given.get("field", "")).lower()
            config = given.get(f"{field.replace('-', '')}config") or {}
            if "regexvalues" in config:
                notes.ignored(f"annotation {annotation}: regexValues is not emulated: the rule has no effect")
                return None
            values = config.get("values")
            if not isinstance(values, list) or not values:
                raise Wrong(f"{field or 'a condition'}: values should be a list")
            match field:
                case "host-header":
                    hosts += values
                case "path-pattern":
                    patterns += values
                case "http-header":
                    headers.append(_header(config.get("httpheadername"), values))
                case "http-request-method":
                    methods = tuple(str(value) for value in values)
                case "query-string":
                    headers.append(_query(values))
                case "source-ip":
                    headers.append(_source(networks(values)))
                case _:
                    raise Wrong(f'field "{given.get("field")}" is not one of host-header, path-pattern, …')
        except (Wrong, KeyError, TypeError, AttributeError) as error:
            notes.wrong(annotation, str(error) if isinstance(error, Wrong) else f"{given}: cannot be read: {error!r}")
    if len(notes.problems) > before:
        return None
    if hosts:
        headers.insert(0, _host(hosts))
    return Match(path=_path(patterns), methods=methods, headers=tuple(headers))


def source_pattern(network: IPv4Network) -> str:
    """A regular expression that the addresses of a network match, as they are written."""
    octets = []
    first, last = network.network_address.packed, network.broadcast_address.packed
    for low, high in zip(first, last, strict=True):
        if (low, high) == (0, 255):
            octets.append("[0-9]+")
        else:
            numbers = [str(number) for number in range(low, high + 1)]
            octets.append(numbers[0] if len(numbers) == 1 else f"({'|'.join(numbers)})")
    return r"\.".join(octets)


def _list(notes: Notes, annotation: str) -> Iterator[dict[str, Any]]:
    found = case_folded(notes.json(annotation)) or []
    for each in found if isinstance(found, list) else [found]:
        if isinstance(each, dict):
            yield each
        else:
            notes.wrong(annotation, "it should be a list of conditions, each with a field")


def _pattern(wildcards: str) -> str:
    """The regular expression of a text with wildcards."""
    return "".join({"*": ".*", "?": "."}.get(char) or re.escape(char) for char in wildcards)


def _any_of(patterns: Iterable[str]) -> str:
    alternatives = list(dict.fromkeys(patterns))
    return alternatives[0] if len(alternatives) == 1 else f"({'|'.join(alternatives)})"


def _path(patterns: Sequence[str]) -> Text:
    """The plainest form that says it."""
    if not patterns or "/*" in patterns or "*" in patterns:
        return _ANY_PATH
    if len(patterns) == 1 and not _WILD.search(patterns[0]):
        return Text(How.EXACT, patterns[0])
    if len(patterns) == 2 and patterns[1] == f"{patterns[0]}/*" and not _WILD.search(patterns[0]):
        return Text(How.PREFIX, patterns[0])
    return Text(How.REGEX, _any_of(map(_pattern, patterns)))


def _host(hosts: Iterable[str]) -> Condition:
    pattern = _any_of(_pattern(host.lower()) for host in hosts)
    return Condition(":authority", Text(How.REGEX, rf"{pattern}\.?(:[0-9]+)?", ignore_case=True))


def _header(name: str | None, values: Iterable[str]) -> Condition:
    if not name:
        raise Wrong("http-header: httpHeaderName is missing")
    if not _TOKEN.fullmatch(name):
        raise Wrong(f'http-header: httpHeaderName "{name}" is no name of a header')
    return Condition(name.lower(), Text(How.REGEX, _any_of(map(_pattern, values)), ignore_case=True))


def _query(values: Iterable[dict[str, str]]) -> Condition:
    """One of these parameters is in the query; without a key, one with this value is."""
    pairs = [f"{_part(each['key']) if each.get('key') else '[^&=]*'}={_part(each['value'])}" for each in values]
    return Condition(":path", Text(How.REGEX, rf"[^?]*\?(.*&)?{_any_of(pairs)}(&.*)?", ignore_case=True))


def _part(wildcards: str) -> str:
    """As :func:`_pattern`, for what is between two ``&``."""
    return "".join({"*": "[^&]*", "?": "[^&]"}.get(char) or re.escape(char) for char in wildcards)


def _source(sources: Iterable[IPv4Network]) -> Condition:
    """The address that a connection comes from is the last one in X-Forwarded-For."""
    pattern = _any_of(map(source_pattern, sources))
    return Condition("x-forwarded-for", Text(How.REGEX, rf"(.*,\s*)?{pattern}"))
