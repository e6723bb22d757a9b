"""Which connections are tried: all, or of each cell some."""

from __future__ import annotations

from tenants import OWN, ask, judge, policy, tenants

from kmn.policy.answers import Port
from kmn.policy.matrix import Matrix, fold
from kmn.policy.sampling import trials

WEB, DNS, SCTP = Port(80, "TCP"), Port(53, "UDP"), Port(80, "SCTP")


def world(*ports: Port) -> Matrix:
    return fold(ask(judge([*tenants(3, 4), *(policy(f"t{n:02}", **OWN) for n in range(3))]), *ports))


def test_all_of_few() -> None:
    matrix = world(WEB, DNS, SCTP)
    found = trials(matrix, range(12), 1000)
    assert found.total == len(found.chosen) == 12 * 11 * 2, "SCTP is not sent"
    assert len({(each.source, each.destination, each.port) for each in found.chosen}) == found.total
    for each in found.chosen:
        assert each.source != each.destination
        assert each.expected == bool(matrix.answers.of(each.source, each.destination) >> each.port & 1)


def test_of_many_as_many_as_allowed_in_turn() -> None:
    matrix = world(WEB)
    found = trials(matrix, range(12), 10)
    assert (len(found.chosen), found.total) == (10, 12 * 11)
    assert sum(each.expected for each in found.chosen) == 5, "as many of either half of the cell"
    assert len({each.source for each in found.chosen}) > 3


def test_who_is_not_able_is_in_none() -> None:
    found = trials(world(WEB), [0, 1, 5], 1000)
    assert {(each.source, each.destination) for each in found.chosen} == {
        (0, 1),
        (1, 0),
        (0, 5),
        (5, 0),
        (1, 5),
        (5, 1),
    }
    assert found.total == 6
    assert trials(world(WEB), [], 1000).total == 0
