"""Endpoints into slices so that a change touches as few slices as possible. Pure.

As upstream's ``endpointslice/reconciler.go``: what is in a slice stays there, changes are made in place, what is new
goes first where something changes anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kmn.controlplane.endpoints.compute import Desired, Ports
from kmn.k8s.objects import Object

__all__ = ["Changes", "pack"]

_MOST = 100  # endpoints of one slice


@dataclass(slots=True)
class Changes:
    """What to write. ``create`` and ``update`` come with the endpoints that the slice shall have."""

    create: list[tuple[Ports, list[dict[str, Any]]]] = field(default_factory=list)
    update: list[tuple[Object, list[dict[str, Any]]]] = field(default_factory=list)
    unchanged: list[Object] = field(default_factory=list)
    delete: list[Object] = field(default_factory=list)


def pack(existing: Iterable[Object], desired: Desired, *, most: int = _MOST) -> Changes:
    """The changes that lead from the slices that are there to the endpoints that shall be.

    A Service without endpoints keeps one empty slice without ports, so that readers can tell "none" from "not yet".
    """
    changes = Changes()
    by_ports: dict[Ports, list[Object]] = {}
    for piece in existing:
        by_ports.setdefault(_ports(piece), []).append(piece)
    wanted = {ports: endpoints for ports, endpoints in desired.items() if endpoints} or {(): []}
    for ports, slices in by_ports.items():
        if ports not in wanted:
            changes.delete.extend(slices)
    for ports, endpoints in wanted.items():
        _pack_ports(changes, ports, by_ports.get(ports, []), endpoints, most)
    return changes


def _pack_ports(
    changes: Changes, ports: Ports, slices: list[Object], endpoints: list[dict[str, Any]], most: int
) -> None:
    left = {_identity(endpoint): endpoint for endpoint in endpoints}
    same: list[tuple[Object, list[dict[str, Any]]]] = []
    touched: list[tuple[Object, list[dict[str, Any]]]] = []
    for piece in slices:
        before = piece.get("endpoints") or []
        after = [left.pop(i) for e in before if (i := _identity(e)) in left]
        (same if after == before else touched).append((piece, after))
    new = list(left.values())
    for _, held in touched:
        _move(new, held, most)
    # Of slices that would not be written otherwise, the fullest that takes all the rest; else new ones.
    roomy = [(piece, held) for piece, held in same if held and len(held) + len(new) <= most]
    if new and roomy:
        chosen = max(roomy, key=lambda pair: len(pair[1]))
        same = [pair for pair in same if pair[0] is not chosen[0]]
        touched.append((chosen[0], [*chosen[1], *new]))
        new = []
    while new:
        fresh: list[dict[str, Any]] = []
        _move(new, fresh, most)
        changes.create.append((ports, fresh))
    # Empty slices go, but for one where nothing else tells that there are no endpoints.
    placeholder = not ports and not endpoints
    for piece, held in (*same, *touched):
        if not held and not placeholder:
            changes.delete.append(piece)
        elif held == (piece.get("endpoints") or []):
            changes.unchanged.append(piece)
            placeholder = False
        else:
            changes.update.append((piece, held))
            placeholder = False
    if placeholder:
        changes.create.append(((), []))


def _move(source: list[dict[str, Any]], target: list[dict[str, Any]], most: int) -> None:
    room = max(0, most - len(target))
    target.extend(source[:room])
    del source[:room]


def _identity(endpoint: Mapping[str, Any]) -> tuple[str, ...]:
    return (*endpoint["addresses"], (endpoint.get("targetRef") or {}).get("uid", ""))


def _ports(piece: Object) -> Ports:
    return tuple(
        (p.get("name") or "", p.get("protocol") or "TCP", p["port"], p.get("appProtocol") or "")
        for p in piece.get("ports") or ()
    )
