"""Folding: what shares a row is alike, and what is alike shares a row."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_worlds import cluster_policies, judge_of, namespaces, pods, policies
from tenants import OWN, ask, judge, policy, tenants

from kmn.k8s.objects import Object
from kmn.policy.answers import Answers, Port
from kmn.policy.changes import changes
from kmn.policy.matrix import Cell, Matrix, fold

WEB, DNS = Port(80, "TCP"), Port(80, "UDP")
TEAM = {"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "0"}}}]}]}


def names(matrix: Matrix) -> list[str]:
    return [party.name for party in matrix.parties]


def check(answers: Answers) -> Matrix:
    """The folded matrix, whose cells say of each pair what the answers say."""
    matrix = fold(answers)
    party = {place: number for number, each in enumerate(matrix.parties) for place in each.places}
    assert sorted(party) == list(range(len(answers.subjects)))
    for i, source in enumerate(answers.subjects):
        for j, destination in enumerate(answers.subjects):
            cell = matrix.cells[party[i]][party[j]]
            half = cell.near if source.key.namespace == destination.key.namespace else cell.far
            if i != j:
                assert half == answers.of(i, j), (source.key, destination.key)
    for row in range(len(matrix.parties)):
        for column in range(len(matrix.parties)):
            for near, value in ((True, matrix.cells[row][column].near), (False, matrix.cells[row][column].far)):
                pairs = [
                    (i, j)
                    for sources, destinations in matrix.pairs(row, column, near=near)
                    for i in sources
                    for j in destinations
                    if i != j
                ]
                assert len(set(pairs)) == len(pairs)
                assert bool(pairs) == (value is not None)
                assert all(party[i] == row and party[j] == column for i, j in pairs)
    return matrix


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.one_of(pods(), namespaces(), policies(), cluster_policies()), max_size=14), st.booleans())
def test_cells_say_what_each_pair_may(objects: list[Object], own: bool) -> None:
    of = judge_of(*objects)
    check(ask(of, own={"a": {WEB}, "b": {WEB, DNS}}) if own else ask(of, WEB, DNS))


def test_pods_that_are_alike_share_a_row() -> None:
    server = policy("t00", podSelector={"matchLabels": {"app": "store"}}, ingress=[{"from": [
        {"podSelector": {"matchLabels": {"app": "cart"}}}]}])  # fmt: skip
    matrix = check(ask(judge([*tenants(1), server]), WEB))
    assert names(matrix) == ["t00/cart (2 pods)", "t00/frontend (2 pods)", "t00/store (2 pods)"]
    assert [cell.near for cell in matrix.cells[0]] == [1, 1, 1]
    assert [cell.near for cell in matrix.cells[1]] == [1, 1, 0]


def test_without_policies_all_namespaces_are_one_row() -> None:
    matrix = check(ask(judge(tenants(7)), WEB))
    assert names(matrix) == ["t00 and 6 more namespaces (42 pods)"]
    assert matrix.cells == ((Cell(1, 1),),)


def test_tenants_among_themselves_are_one_row() -> None:
    matrix = check(ask(judge([*tenants(7), *(policy(f"t{n:02}", **OWN) for n in range(7))]), WEB))
    assert names(matrix) == ["t00 and 6 more namespaces (42 pods)"]
    assert matrix.cells == ((Cell(1, 0),),)


def test_the_one_that_is_different_has_rows_of_its_own() -> None:
    policies = [policy(f"t{n:02}", **OWN) for n in range(5) if n != 3]
    matrix = check(ask(judge([*tenants(5), *policies]), WEB))
    assert names(matrix) == ["t00 and 3 more namespaces (24 pods)", "t03 (6 pods)"]
    assert matrix.cells == ((Cell(1, 0), Cell(None, 1)), (Cell(None, 0), Cell(1, None)))


def test_teams_of_as_many_namespaces_are_told_apart() -> None:
    """Namespaces of both teams see as many others: only who they are tells them apart."""
    other = {"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "1"}}}]}]}
    policies = [policy(f"t{n:02}", **(other if n % 2 else TEAM)) for n in range(8)]
    matrix = check(ask(judge([*tenants(8), *policies]), WEB))
    assert names(matrix) == ["t00 and 3 more namespaces (24 pods)", "t01 and 3 more namespaces (24 pods)"]
    assert matrix.cells == ((Cell(1, 1), Cell(None, 0)), (Cell(None, 0), Cell(1, 1)))


def test_single_pods() -> None:
    matrix = check(ask(judge([*tenants(2, 1), policy("t00", podSelector={})]), WEB))
    assert names(matrix) == ["t00/cart", "t01/cart"]
    assert matrix.cells == ((Cell(None, None), Cell(None, 1)), (Cell(None, 0), Cell(None, None)))


def test_nobody() -> None:
    assert fold(ask(judge(tenants(2, 0)), WEB)).parties == ()


@pytest.mark.parametrize("every", [1, 7])
def test_a_thousand_pods_take_less_than_a_second(every: int) -> None:
    policies = [
        policy(f"t{n:02}", f"p{m}", **spec)
        for n in range(50)
        for m, spec in enumerate([OWN, TEAM] if n % every == 0 else [OWN])
    ]
    of = judge([*tenants(50, 20), *policies])
    begin = time.process_time()
    matrix = fold(ask(of, WEB, DNS))
    assert time.process_time() - begin < 1
    assert sum(len(party.places) for party in matrix.parties) == 1000
    assert len(matrix.parties) <= 6


def changed(before: list[Object], after: list[Object]) -> tuple[Matrix, list[tuple[bool, str]]]:
    then, now = ask(judge(before), WEB, DNS), ask(judge(after), WEB, DNS)
    check(then.followed_by(now))
    matrix = fold(then.difference(now))
    return matrix, [(change.opens, change.text(matrix)) for change in changes(matrix)]


def test_what_a_policy_closes_and_its_end_opens() -> None:
    before, after = tenants(2, 3), [*tenants(2, 3), policy("t00", podSelector={"matchLabels": {"app": "store"}})]
    closes = [
        "t00/cart, frontend (2 pods) -> t00/store, 80/TCP, 80/UDP",
        "t01 (3 pods) -> t00/store, 80/TCP, 80/UDP",
    ]
    matrix, found = changed(before, after)
    assert found == [(False, text) for text in closes]
    assert changed(after, before)[1] == [(True, text) for text in closes]
    assert changed(after, after)[1] == []
    documents = [document for change in changes(matrix) for document in change.objects(matrix)]
    assert documents[0] == {
        "allowed": False,
        "ports": ["80/TCP", "80/UDP"],
        "sources": ["t00/cart-0", "t00/frontend-1"],
        "destinations": ["t00/store-2"],
    }


def test_a_change_between_namespaces_of_one_row() -> None:
    policies = [policy(f"t{n:02}", **OWN) for n in range(3)]
    matrix, found = changed(tenants(3), [*tenants(3), *policies])
    row = "t00 and 2 more namespaces (18 pods)"
    assert found == [(False, f"{row} -> {row} (to other namespaces), 80/TCP, 80/UDP")]
    documents = [document for change in changes(matrix) for document in change.objects(matrix)]
    assert [len(document["sources"]) for document in documents] == [6, 6, 6]
    assert all({key[:3] for key in d["sources"]}.isdisjoint(key[:3] for key in d["destinations"]) for d in documents)


def test_ports_may_open_and_close_at_once() -> None:
    only = {"podSelector": {}, "ingress": [{"ports": [{"port": 80, "protocol": "UDP"}]}]}
    other = {"podSelector": {}, "ingress": [{"ports": [{"port": 80, "protocol": "TCP"}]}]}
    _, found = changed([*tenants(1), policy("t00", **only)], [*tenants(1), policy("t00", **other)])
    assert found == [
        (True, "t00 (6 pods) -> t00 (6 pods), 80/TCP"),
        (False, "t00 (6 pods) -> t00 (6 pods), 80/UDP"),
    ]


def test_what_stays_as_it_is_tells_nobody_apart() -> None:
    of = [[*tenants(4), policy("t02", "own", **OWN), *more] for more in ([], [policy("t03", **OWN)])]
    own = {"cart": {WEB}, "store": {DNS}}
    then, now = (ask(judge(objects), own=own) for objects in of)
    matrix = fold(then.difference(now))
    assert [change.text(matrix) for change in changes(matrix)] == [
        f"t00 and 2 more namespaces (18 pods) -> t03/{destination}"
        for destination in ("cart (2 pods), 80/TCP", "frontend (2 pods), 80/TCP, 80/UDP", "store (2 pods), 80/UDP")
    ]
