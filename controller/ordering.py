"""Places for policies whose rules are in an order: which priority each rule has in its table. Pure.

The lowest number of a tier speaks first, OpenFlow's highest priority does. A policy that comes in between others gets
room between them, so that they can stay where they are; when there is none, all are placed anew.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

__all__ = ["arrange"]

K = TypeVar("K", bound=Hashable)


def arrange(old: Mapping[K, int], order: Sequence[tuple[K, int]], top: int) -> dict[K, int]:
    """The priority of each policy's first rule, its others following downwards, within ``top`` to 1.

    ``order``: who speaks first is first, with the number of rules, not more than ``top`` together. ``old`` are places
    to keep if possible: of policies whose number of rules and whose order among each other have not changed.
    """
    if sum(size for _, size in order) > top:
        raise ValueError(f"more than {top} rules")
    placed: dict[K, int] = {}
    ceiling, waiting = top, list[tuple[K, int]]()
    for key, size in order:
        waiting.append((key, size))
        if key in old:
            new = waiting[:-1]
            if not _fill(placed, new, ceiling, old[key]):
                return arrange({}, order, top)
            placed[key] = old[key]
            ceiling, waiting = old[key] - size, []
    if not _fill(placed, waiting, ceiling, 0):
        return arrange({}, order, top)
    return placed


def _fill(placed: dict[K, int], new: Sequence[tuple[K, int]], ceiling: int, floor: int) -> bool:
    """Spread policies over what is free below and including ``ceiling``, and above ``floor``."""
    spare = ceiling - floor - sum(size for _, size in new)
    if spare < 0:
        return False
    gap = spare // (len(new) + 1)
    for key, size in new:
        ceiling -= gap
        placed[key] = ceiling
        ceiling -= size
    return True
