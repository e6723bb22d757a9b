"""Which expressions RE2 takes: those that it does not must never reach Envoy."""

from __future__ import annotations

import re

import pytest

from kmn.ingress.regexes import at_start, checked, found_in, groups_of


@pytest.mark.parametrize(
    "pattern",
    [
        "/api(/|$)(.*)",
        r"/v\d+/(?:a|b)",
        "/x{2,3}",
        "/[^/]+?/y",
        r"/a\.b",
        "/(?i)x",
        "/(?P<name>x)",
        r"/a\\1",
        "/a+",
    ],
)
def test_taken(pattern: str) -> None:
    assert checked(pattern) == pattern


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("/(?!admin).*", "(?!"),
        ("/(?<=a)b", "(?<"),
        (r"/(a)\1", r"\1"),
        ("/(?>a)b", "(?>"),
        ("/a++", "++"),
        ("/a{2000}", "{2000}"),
        ("/(a", "missing )"),
        ("/[a", "unterminated"),
        (r"/a\Z", r"\Z"),
    ],
)
def test_refused(pattern: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        checked(pattern)


def test_what_is_matched_as_a_whole() -> None:
    start = re.compile(at_start("/a(/|$)(.*)"))
    assert [bool(start.fullmatch(text)) for text in ("/a", "/a/b", "/ab", "/x/a")] == [True, True, False, False]
    assert start.fullmatch("/a/b")[2] == "b"  # type: ignore[index]
    assert re.fullmatch(found_in("^b|c"), "abc")
    assert not re.fullmatch(found_in("^b"), "ab")
    assert groups_of("/a(/|$)(?:x)(.*)") == 2
