"""How many pods each ReplicaSet of a Deployment shall have. Pure functions on plain numbers.

Rules: upstream's ``pkg/controller/deployment`` (``rolling.go``, ``sync.go``) and its ``util/deployment_util.go``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kmn.controlplane.workloads.replicas import scaled

__all__ = ["Plan", "Set", "fenceposts", "proportional", "rolling_step"]

Plan = dict[str, int]  # uid of a ReplicaSet -> replicas that it shall have; those not named stay


@dataclass(frozen=True, slots=True)
class Set:
    """A ReplicaSet in numbers. ``max_replicas``: the Deployment's size with surge when the set was last scaled."""

    uid: str
    replicas: int
    available: int
    created: str = ""
    max_replicas: int | None = None


def fenceposts(max_surge: int | str, max_unavailable: int | str, desired: int) -> tuple[int, int]:
    """``maxSurge`` (rounded up) and ``maxUnavailable`` (down) as numbers; never both 0, or nothing could move."""
    surge = scaled(max_surge, desired, round_up=True)
    unavailable = scaled(max_unavailable, desired, round_up=False)
    return (surge, unavailable) if surge or unavailable else (0, 1)


def rolling_step(desired: int, surge: int, unavailable: int, new: Set, old: Sequence[Set]) -> Plan:
    """The next step of a rolling update: the new set up as far as the surge allows, else old ones down."""
    total = new.replicas + sum(s.replicas for s in old)
    up = _new_replicas(desired, surge, new, total)
    if up != new.replicas:
        return {new.uid: up}
    return _old_down(desired, unavailable, new, old, total)


def _new_replicas(desired: int, surge: int, new: Set, total: int) -> int:
    if new.replicas >= desired:
        return desired
    room = desired + surge - total
    return new.replicas + max(0, min(room, desired - new.replicas))


def _old_down(desired: int, unavailable: int, new: Set, old: Sequence[Set], total: int) -> Plan:
    old = sorted((s for s in old if s.replicas), key=lambda s: s.created)
    at_least = desired - unavailable
    # New pods that are not available yet must not let available old ones go.
    most = total - at_least - (new.replicas - new.available)
    if not old or most <= 0:
        return {}
    plan: Plan = {}
    budget = most
    for s in old:  # pods that serve nobody anyway go first
        unhealthy = min(budget, s.replicas - s.available)
        if unhealthy > 0:
            plan[s.uid] = s.replicas - unhealthy
            budget -= unhealthy
    budget = new.available + sum(s.available for s in old) - at_least
    for s in old:
        left = plan.get(s.uid, s.replicas)
        down = min(left, budget)
        if down > 0:
            plan[s.uid] = left - down
            budget -= down
    return plan


def proportional(desired: int, surge: int, sets: Sequence[Set], newest: str, deployed: int) -> Plan:
    """A Deployment scaled in the middle of a rolling update: each set gets its share (``scale`` upstream).

    ``newest`` is the uid of the set of the current template; ``deployed`` is the Deployment's last known size.
    """
    allowed = desired + surge if desired else 0
    total = sum(s.replicas for s in sets)
    add = allowed - total
    # Larger sets first; of equal ones the newer when scaling up, the older when scaling down.
    ordered = sorted(sets, key=lambda s: s.created, reverse=add > 0)
    ordered.sort(key=lambda s: s.replicas, reverse=True)
    plan: Plan = {}
    added = 0
    for s in ordered:
        share = _share(s, allowed, deployed, desired)
        rest = add - added
        step = max(min(share, rest), 0) if add > 0 else min(max(share, rest), 0)
        plan[s.uid] = s.replicas + step
        added += step
    if ordered:
        largest = ordered[0]
        plan[largest.uid] = max(0, plan[largest.uid] + add - added)
    return {s.uid: plan[s.uid] for s in ordered if plan[s.uid] != s.replicas}


def _share(s: Set, allowed: int, deployed: int, desired: int) -> int:
    if not desired:
        return -s.replicas
    before = s.max_replicas or deployed
    if not before:
        return 0
    return int(s.replicas * allowed / before + 0.5) - s.replicas
