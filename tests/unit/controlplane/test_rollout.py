"""Sizes of ReplicaSets during a rollout, against upstream's own test tables."""

from __future__ import annotations

import pytest

from kmn.controlplane.workloads.rollout import Set, fenceposts, proportional, rolling_step

# maxSurge, maxUnavailable, replicas -> numbers. From TestResolveFenceposts, and the boundaries.
FENCEPOSTS: list[tuple[int | str, int | str, int, tuple[int, int]]] = [
    ("0%", "0%", 0, (0, 1)),
    ("39%", "39%", 10, (4, 3)),
    ("25%", "25%", 1, (1, 0)),
    ("25%", "25%", 10, (3, 2)),
    (0, "10%", 5, (0, 1)),
    (2, 1, 10, (2, 1)),
    (0, 0, 10, (0, 1)),
]


@pytest.mark.parametrize(("surge", "unavailable", "desired", "expected"), FENCEPOSTS)
def test_fenceposts(surge: int | str, unavailable: int | str, desired: int, expected: tuple[int, int]) -> None:
    assert fenceposts(surge, unavailable, desired) == expected


# name, desired, surge, unavailable, (new replicas, available), [(old replicas, available)...], expected plan
STEPS = [
    ("first set", 10, 3, 2, (0, 0), [], {"new": 10}),
    ("new set goes up by the surge", 10, 3, 2, (0, 0), [(10, 10)], {"new": 3}),
    ("then old ones go down", 10, 3, 2, (3, 0), [(10, 10)], {"old0": 8}),
    ("the room is used by the new set", 10, 3, 2, (3, 0), [(8, 8)], {"new": 5}),
    ("nothing moves before new pods are available", 10, 3, 2, (5, 0), [(8, 8)], {}),
    ("available new pods let old ones go", 10, 3, 2, (5, 5), [(8, 8)], {"old0": 3}),
    ("pods that serve nobody go first", 10, 0, 2, (2, 0), [(8, 6)], {}),
    ("unhealthy old pods go whatever is available", 10, 0, 5, (5, 5), [(5, 0)], {"old0": 0}),
    ("oldest set first", 10, 5, 0, (10, 10), [(3, 3), (2, 2)], {"old0": 0, "old1": 0}),
    ("shrunk", 4, 1, 1, (10, 10), [], {"new": 4}),
    ("done", 10, 3, 2, (10, 10), [], {}),
]


@pytest.mark.parametrize(("name", "desired", "surge", "unavailable", "new", "old", "expected"), STEPS)
def test_rolling_step(
    name: str, desired: int, surge: int, unavailable: int, new: tuple[int, int], old: list[tuple[int, int]],
    expected: dict[str, int],
) -> None:  # fmt: skip
    olds = [Set(f"old{i}", *numbers, created=str(i)) for i, numbers in enumerate(old)]
    plan = rolling_step(desired, surge, unavailable, Set("new", *new), olds)
    changed = {uid: size for uid, size in plan.items() if (uid, size) != ("new", new[0])}
    assert changed == expected, name


@pytest.mark.parametrize("seed", range(20))
def test_a_rollout_ends_and_keeps_its_bounds(seed: int) -> None:
    """Walk whole rollouts: never more pods than desired + surge, never fewer available than desired - unavailable."""
    desired, surge, unavailable = 1 + seed % 11, seed % 4, (seed * 7) % 3 or (0 if seed % 4 else 1)
    replicas, available = {"old": desired, "new": 0}, {"old": desired, "new": 0}
    for _ in range(200):
        new = Set("new", replicas["new"], available["new"], "1")
        plan = rolling_step(desired, surge, unavailable, new, [Set("old", replicas["old"], available["old"], "0")])
        replicas |= plan
        available = {name: min(available[name], replicas[name]) for name in available}
        assert sum(replicas.values()) <= desired + surge
        assert sum(available.values()) >= desired - unavailable
        if not plan:
            if available == replicas:
                break
            available["new"] = min(replicas["new"], available["new"] + 1)  # pods become available one by one
    assert replicas == {"old": 0, "new": desired}


# name, desired, surge, sets (replicas, max-replicas annotation), expected. From TestScale.
SCALES = [
    ("up, one share each", 20, 0, {"a": (5, 10), "b": (5, 10)}, {"a": 10, "b": 10}),
    ("down", 5, 0, {"a": (6, 10), "b": (4, 10)}, {"a": 3, "b": 2}),
    ("to nothing", 0, 0, {"a": (6, 10), "b": (4, 10)}, {"a": 0, "b": 0}),
    ("with surge", 20, 2, {"a": (8, 12), "b": (4, 12)}, {"a": 15, "b": 7}),
    ("as it was", 10, 0, {"a": (6, 10), "b": (4, 10)}, {}),
]


@pytest.mark.parametrize(("name", "desired", "surge", "sets", "expected"), SCALES)
def test_proportional(
    name: str, desired: int, surge: int, sets: dict[str, tuple[int, int]], expected: dict[str, int]
) -> None:
    objects = [Set(uid, size, size, uid, most) for uid, (size, most) in sets.items()]
    plan = proportional(desired, surge, objects, "b", 10)
    assert plan == expected, name
    if desired and plan:
        assert sum(plan.values()) == desired + surge
