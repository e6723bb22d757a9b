"""http routes that a VirtualService leaves to another one, which has no hosts: both ask of requests what they ask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kmn.k8s.objects import Object

__all__ = ["delegated"]

Fields = Mapping[str, Any]

_MAPS = ("headers", "withoutHeaders", "queryParams", "sourceLabels")


def delegated(root: Fields, target: Object) -> Object:
    """``target`` with what the route of the root asks for and does: its own word goes before the root's."""
    inherited = {name: value for name, value in root.items() if name not in ("name", "match", "delegate")}
    routes = []
    for route in target["spec"].get("http") or ():
        matches = list(_both(root.get("match") or [{}], route.get("match") or [{}]))
        if matches:
            routes.append({**inherited, **route, "match": matches})
    return {**target, "spec": {**target["spec"], "http": routes}}


def _both(roots: list[Fields], owns: list[Fields]) -> Iterator[dict[str, Any]]:
    """Each with each, but those that no request can fulfil together."""
    for root in roots:
        for own in owns:
            if _within(own.get("uri") or {}, root.get("uri") or {}):
                merged = {**root, **own}
                merged |= {
                    name: {**(root.get(name) or {}), **(own.get(name) or {})} for name in _MAPS if name in merged
                }
                yield merged


def _within(own: Fields, root: Fields) -> bool:
    """Whether a path that the delegate asks for is one of the root's; regular expressions are taken at their word."""
    if not own or "prefix" not in root:
        return not own or not root or own == root or "regex" in own
    return str(own.get("exact") or own.get("prefix") or root["prefix"]).startswith(root["prefix"])
