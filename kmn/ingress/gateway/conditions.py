"""The conditions of Gateway API's statuses, and how they are written over those that are there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from kmn.k8s.objects import now

__all__ = ["Condition", "merge_conditions"]


_OURS = frozenset(("Accepted", "Programmed", "ResolvedRefs", "Conflicted", "PartiallyInvalid"))


class Condition(NamedTuple):
    """``reason`` is one of those that the API reference names."""

    type: str
    status: bool
    reason: str
    message: str = ""


def merge_conditions(
    present: Iterable[Mapping[str, Any]], wanted: Iterable[Condition], generation: int
) -> list[dict[str, Any]]:
    """``status.conditions``: the wanted ones, each with the time at which its status became what it is, and those of
    types that are somebody else's."""
    earlier = {each["type"]: each for each in present}
    found = []
    for condition in wanted:
        before = earlier.pop(condition.type, {})
        status = "True" if condition.status else "False"
        since = before.get("lastTransitionTime") if before.get("status") == status else None
        found.append(
            {
                "type": condition.type,
                "status": status,
                "reason": condition.reason,
                "message": condition.message,
                "observedGeneration": generation,
                "lastTransitionTime": since or now(),
            }
        )
    return found + [dict(each) for each in earlier.values() if each["type"] not in _OURS]
