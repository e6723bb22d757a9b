"""Numbers are handed out in order and used again as late as possible."""

from __future__ import annotations

import pytest

from kmn.controlplane.pools import Exhausted, Pool


def test_in_order_then_the_one_free_for_the_longest_time() -> None:
    pool = Pool(2, 5)
    assert [pool.take() for _ in range(3)] == [2, 3, 4]
    pool.give_back(3)
    pool.give_back(2)
    assert [pool.take() for _ in range(3)] == [5, 3, 2]


def test_exhausted_until_something_is_given_back() -> None:
    pool = Pool(1, 2)
    pool.take()
    pool.take()
    with pytest.raises(Exhausted):
        pool.take()
    pool.give_back(2)
    assert pool.take() == 2


def test_reserved_numbers_are_not_handed_out_and_what_lies_below_goes_last() -> None:
    pool = Pool(2, 8)
    assert pool.reserve(5)
    assert pool.reserve(3)
    assert not pool.reserve(5), "taken"
    assert not pool.reserve(9), "not of this pool"
    assert [pool.take() for _ in range(5)] == [6, 7, 8, 2, 4]


def test_giving_back_twice_counts_once() -> None:
    pool = Pool(1, 3)
    pool.take()
    pool.give_back(1)
    pool.give_back(1)
    assert len(pool) == 0
    assert [pool.take() for _ in range(3)] == [2, 3, 1]
