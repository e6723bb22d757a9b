"""Next hops between routers."""

from __future__ import annotations

from kmn.cluster_spec import FabricLink, Link
from kmn.emulator.fabric import Way, ways


def test_a_single_router_has_nowhere_to_go() -> None:
    assert ways(["fabric"], []) == {"fabric": {}}


def test_only_shortest_paths_count() -> None:
    """A triangle with a tail: c reaches d by b, never by a and b."""
    links = [FabricLink("a", "b"), FabricLink("b", "c"), FabricLink("a", "c"), FabricLink("b", "d")]
    found = ways(["a", "b", "c", "d"], links)
    assert found["c"]["d"] == (Way(1, "b", 1),)
    assert found["d"] == {"a": (Way(3, "b", 1),), "b": (Way(3, "b", 1),), "c": (Way(3, "b", 1),)}


def test_equal_paths_share_in_proportion_to_bandwidth() -> None:
    gigabit = 1_000_000_000
    links = [
        FabricLink("l1", "s1", Link(bandwidth=10 * gigabit)),
        FabricLink("l1", "s2", Link(bandwidth=4 * gigabit)),
        FabricLink("l2", "s1", Link(bandwidth=10 * gigabit)),
        FabricLink("l2", "s2"),
    ]
    found = ways(["l1", "l2", "s1", "s2"], links)
    assert found["l1"]["l2"] == (Way(0, "s1", 5), Way(1, "s2", 2))
    assert found["l2"]["l1"] == (Way(2, "s1", 1), Way(3, "s2", 1)), "a link without a bandwidth: alike"


def test_weights_fit_the_kernel() -> None:
    links = [
        FabricLink("a", "b", Link(bandwidth=1)),
        FabricLink("a", "c", Link(bandwidth=10_000_000_000)),
        FabricLink("b", "d", Link(bandwidth=1)),
        FabricLink("c", "d", Link(bandwidth=1)),
    ]
    assert [way.weight for way in ways(["a", "b", "c", "d"], links)["a"]["d"]] == [1, 256]


def test_what_cannot_be_reached_has_no_way() -> None:
    assert ways(["a", "b", "c"], [FabricLink("a", "b")])["a"] == {"b": (Way(0, "b", 1),)}
