"""Numbers of groups: which stay, which are free again, what happens when two names ask for one."""

from __future__ import annotations

from controller.numbering import Numbering
from kmn.k8s.objects import Key

A, B = Key("default", "a"), Key("default", "b")
# Two names with one CRC-32, which numbers follow from.
FIRST, SECOND = "plumless", "buckeroo"


def test_a_number_follows_from_the_name() -> None:
    wanted = dict(Numbering().assign(A, ["x", "y"]))
    assert wanted["x"] != wanted["y"]
    assert dict(Numbering().assign(B, ["y", "x"])) == wanted


def test_names_that_want_one_number_get_two() -> None:
    numbers = Numbering()
    first = numbers.assign(A, [FIRST])[FIRST]
    assert numbers.assign(B, [SECOND])[SECOND] == first + 1


def test_a_number_stays_as_long_as_its_group_and_is_free_then() -> None:
    numbers = Numbering()
    first = numbers.assign(A, [FIRST])[FIRST]
    numbers.assign(B, [SECOND])
    numbers.assign(A, ())
    assert numbers.assign(B, [SECOND, "x"])[SECOND] == first + 1
    assert numbers.assign(B, ["x"]).keys() == {"x"}
    assert numbers.assign(B, ["x", SECOND])[SECOND] == first
