"""YAML as kubectl reads it."""

from __future__ import annotations

from typing import Any

import pytest

from kmn.k8s.yaml import YamlError, parse_documents


def value(text: str) -> Any:
    (document,) = parse_documents(text, "x.yaml")
    return document.value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("on", True),
        ("yes", True),
        ("y", "y"),
        ("22:22", "22:22"),
        ("1e3", 1000),
        ("3.0", 3),
        ("1.5", 1.5),
        ("0o17", 15),
        ("017", 15),
        ("0x1F", 31),
        ("1_000", 1000),
        ("2024-01-01", "2024-01-01"),
        ('"80"', "80"),
        ("~", None),
        ("=", "="),
    ],
)
def test_scalars(text: str, expected: object) -> None:
    read = value(f"a: {text}")["a"]
    assert (read, type(read)) == (expected, type(expected))


def test_keys_become_strings() -> None:
    assert value("1: a\ntrue: b\n1.5: c") == {"1": "a", "true": "b", "1.5": "c"}


def test_merge_keys_and_anchors() -> None:
    assert value("a: &a {p: 1, q: 2}\nb:\n  <<: *a\n  p: 3")["b"] == {"p": 3, "q": 2}


def test_kyaml_and_json() -> None:
    assert value('{\n  "a": [1, 2],\n  b: {c: "d",},\n}\n') == {"a": [1, 2], "b": {"c": "d"}}


def test_documents_have_number_and_line() -> None:
    found = list(parse_documents("a: 1\n---\n# nothing\n---\nb: 2\n", "x.yaml"))
    assert [(doc.number, doc.line, doc.value) for doc in found] == [(1, 1, {"a": 1}), (2, 4, None), (3, 5, {"b": 2})]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2\n", 'x.yaml: line 4, column 3: key "c" is given twice'),
        ("a:\n\tb: 1", "a tab: YAML is indented with spaces"),
        ("a: b: c", "x.yaml: line 1, column 5: mapping values are not allowed"),
        ("a: [1", "line 2, column 1: while parsing a flow sequence from line 1 on, did not find expected"),
        ("? [1]\n: 2", "a key must be a string"),
        ("a: !!python/object:x {}", "could not determine a constructor"),
        ("a: \x01", "a character that YAML does not allow"),
    ],
)
def test_errors_name_the_place(text: str, told: str) -> None:
    with pytest.raises(YamlError) as refused:
        value(text)
    assert told in str(refused.value)
