"""What the words of ``kmn get`` ask for, and how tables are printed."""

from __future__ import annotations

import pytest

from kmn.cli.get import Query, requests_of, table_lines
from kmn.cli.output import print_rows
from kmn.errors import UserError


def paths(query: Query) -> list[str]:
    return [request.resource.path(request.namespace, request.name) for request in requests_of(query)]


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        (Query(["pods"], []), ["/api/v1/namespaces/default/pods"]),
        (Query(["po,svc"], []), ["/api/v1/namespaces/default/pods", "/api/v1/namespaces/default/services"]),
        (Query(["Deployment"], [], all_namespaces=True), ["/apis/apps/v1/deployments"]),
        (Query(["deploy", "web"], [], "shop"), ["/apis/apps/v1/namespaces/shop/deployments/web"]),
        (Query(["node/n1", "svc/web"], []), ["/api/v1/nodes/n1", "/api/v1/namespaces/default/services/web"]),
        (Query(["hpa"], []), ["/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers"]),
    ],
)
def test_words(query: Query, wanted: list[str]) -> None:
    assert paths(query) == wanted


def test_all_is_the_category() -> None:
    plurals = {request.resource.plural for request in requests_of(Query(["all"], []))}
    assert {"pods", "services", "deployments"} <= plurals
    assert "configmaps" not in plurals


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (Query(["pdos"], []), 'no resource type "pdos".*did you mean pods'),
        (Query([], []), "nothing was asked for"),
        (Query(["pod", "web"], [], all_namespaces=True), "names do not go with -A"),
        (Query(["pod/a", "b"], []), "b: not TYPE/NAME"),
    ],
)
def test_words_that_mean_nothing(query: Query, message: str) -> None:
    with pytest.raises(UserError, match=message):
        requests_of(query)


COLUMNS = (("Name", 0), ("Ready", 0), ("IP", 1))
TABLE = {
    "columnDefinitions": [{"name": name, "priority": priority} for name, priority in COLUMNS],
    "rows": [
        {"cells": ["web-1", "1/1", "10.244.0.2"], "object": {"metadata": {"namespace": "default"}}},
        {"cells": ["a-much-longer-name", "0/1", None], "object": {"metadata": {"namespace": "shop"}}},
    ],
}


def test_table_columns_by_priority(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(*table_lines(TABLE, wide=False, with_namespace=False))
    assert capsys.readouterr().out == (
        "NAME                 READY\nweb-1                1/1\na-much-longer-name   0/1\n"
    )
    header, rows = table_lines(TABLE, wide=True, with_namespace=True, prefix="pod/")
    assert header == ["NAMESPACE", "NAME", "READY", "IP"]
    assert rows[1] == ["shop", "pod/a-much-longer-name", "0/1", "<none>"]
