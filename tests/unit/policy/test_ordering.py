"""Priorities of policies whose rules are in an order."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.ordering import arrange

TOP = 100


def test_one_in_between_moves_nobody() -> None:
    old = arrange({}, [("a", 2), ("c", 3)], TOP)
    new = arrange(old, [("a", 2), ("b", 5), ("c", 3)], TOP)
    assert {key: new[key] for key in old} == old
    assert old["a"] - 1 > new["b"]
    assert new["b"] - 4 > old["c"]


def test_without_room_between_all_move() -> None:
    old = {"a": 10, "b": 9}
    new = arrange(old, [("a", 1), ("x", 1), ("b", 1)], TOP)
    assert new["a"] > new["x"] > new["b"]
    assert new != old


def test_there_is_an_end() -> None:
    assert arrange({}, [("a", TOP)], TOP) == {"a": TOP}
    with pytest.raises(ValueError, match="more than 100 rules"):
        arrange({}, [("a", TOP), ("b", 1)], TOP)


_policies = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 4)), max_size=20, unique_by=lambda each: each[0])


@given(st.lists(_policies))
def test_ranges_are_in_order_and_apart(steps: list[list[tuple[int, int]]]) -> None:
    old, sizes = dict[int, int](), dict[int, int]()
    for step in steps:
        order = sorted(step)
        kept = {key: place for key, place in old.items() if dict(order).get(key) == sizes[key]}
        old, sizes = arrange(kept, order, TOP), dict(order)
        spans = [(old[key], old[key] - size + 1) for key, size in order]
        assert all(1 <= last <= first <= TOP for first, last in spans)
        assert all(last > following for (_, last), (following, _) in pairwise(spans))
