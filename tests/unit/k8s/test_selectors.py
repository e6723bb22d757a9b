"""Selectors: text or object, labels, whether they match."""

from __future__ import annotations

from typing import Any

import pytest

from kmn.k8s.errors import ApiError
from kmn.k8s.selectors import NOTHING, Requirement, parse_fields, parse_labels, selector_of_map, selector_of_object

WEB = {"app": "web", "tier": "front"}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("app=web", True),
        ("app==web,tier=front", True),
        ("app=db", False),
        ("app!=db", True),
        ("missing!=x", True),
        ("app in (db, web)", True),
        ("app in (db),tier", False),
        ("app notin (db,cache),tier in (front,back)", True),
        ("missing notin (x)", True),
        ("tier", True),
        ("!tier", False),
        ("!missing", True),
        ("missing", False),
    ],
)
def test_label_selector_text(text: str, matches: bool) -> None:
    selector = parse_labels(text)
    assert selector.matches(WEB) is matches
    assert parse_labels(str(selector)) == selector, "what it prints means the same"


@pytest.mark.parametrize("text", ["app=web=x", "a b", "app in web", "=x"])
def test_label_selector_nonsense(text: str) -> None:
    with pytest.raises(ApiError, match="unable to parse label selector") as caught:
        parse_labels(text)
    assert caught.value.code == 400


@pytest.mark.parametrize(
    ("spec", "matches"),
    [
        (None, False),
        ({}, True),
        ({"matchLabels": {"app": "web"}}, True),
        ({"matchLabels": {"app": "db"}}, False),
        ({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["front"]}]}, False),
        ({"matchExpressions": [{"key": "tier", "operator": "Exists"}, {"key": "x", "operator": "DoesNotExist"}]}, True),
    ],
)
def test_label_selector_object(spec: dict[str, Any] | None, matches: bool) -> None:
    assert selector_of_object(spec).matches(WEB) is matches


def test_an_empty_map_selects_nothing() -> None:
    assert selector_of_map({}) is NOTHING
    assert not selector_of_map(None).matches(WEB)
    assert selector_of_map({"app": "web"}).matches(WEB)


@pytest.mark.parametrize(("value", "matches"), [("3", True), ("2", False), ("x", False), (None, False)])
def test_greater_than(value: str | None, matches: bool) -> None:
    labels = {} if value is None else {"cores": value}
    assert Requirement("cores", "Gt", frozenset(("2",))).matches(labels) is matches


def test_field_selector() -> None:
    pod = {"metadata": {"name": "web"}, "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}}
    assert parse_fields("spec.nodeName=n1,status.phase!=Pending", "Pod").matches(pod)
    assert not parse_fields("metadata.name=db", "Pod").matches(pod)
    assert parse_fields("metadata.name=db", "Pod").name == "db"
    with pytest.raises(ApiError, match=r"'spec.image'; Pod can be selected by metadata.name"):
        parse_fields("spec.image=x", "Pod")
