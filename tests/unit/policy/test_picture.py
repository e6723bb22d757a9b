"""What pictures show: each cell in words, shapes and a legend; and what is said when they cannot be drawn."""

from __future__ import annotations

import datetime as dt
import sys
from xml.etree import ElementTree

import pytest
from tenants import OWN, ask, judge, policy, tenants

from kmn.errors import UserError
from kmn.policy.answers import Port
from kmn.policy.legend import Kind, legend_of, legend_of_change, with_differences
from kmn.policy.matrix import Matrix, fold
from kmn.policy.picture import draw

WHEN = dt.datetime(2026, 11, 21, 8, 30, tzinfo=dt.UTC)
WEB, DNS = Port(80, "TCP"), Port(53, "UDP")
SVG = "{http://www.w3.org/2000/svg}"
STORE = policy("t00", "store", podSelector={"matchLabels": {"app": "store"}}, ingress=[{"ports": [{"port": 80}]}])


def world() -> Matrix:
    return fold(ask(judge([*tenants(4), STORE, *(policy(f"t{n:02}", **OWN) for n in (1, 2, 3))]), WEB, DNS))


def texts(svg: bytes) -> str:
    return " | ".join("".join(node.itertext()) for node in ElementTree.fromstring(svg).iter(f"{SVG}text"))


@pytest.fixture(autouse=True)
def matplotlib() -> None:
    pytest.importorskip("matplotlib")


def test_an_svg_says_what_each_cell_is() -> None:
    matrix = world()
    svg = draw(matrix, legend_of(matrix), "svg", title="shop: <8 pods>", when=WHEN)
    root = ElementTree.fromstring(svg)
    titles = [node.text for node in root.iter(f"{SVG}title") if node.text]
    size = len(matrix.parties)
    assert size == 3
    assert len([title for title in titles if " → " in title]) == size**2
    row = "t01 and 2 more namespaces (18 pods)"
    assert f"{row} → t00/store (2 pods): allowed at 80/TCP, denied at 53/UDP" in titles
    both = "80/TCP, 53/UDP"
    assert f"{row} → {row}: within its own namespace allowed at {both}; to other namespaces denied at {both}" in titles
    assert root.get("role") == "img"
    assert "shop: <8 pods>" in (root.get("aria-label") or "")


def test_legend_title_time_and_names_are_text() -> None:
    matrix = world()
    shown = texts(draw(matrix, legend_of(matrix), "svg", title="shop", when=WHEN))
    for wanted in (
        "shop", "rows connect to columns; 2026-11-21 08:30:00 UTC", "t00", "t01 and 2 more", "store (2)", "all (18)",
        "allowed within a namespace, denied to others", "allowed at 80/TCP, denied at 53/UDP", "denied",
    ):  # fmt: skip
        assert wanted in shown


def test_the_same_picture_twice() -> None:
    matrix = world()
    assert len({draw(matrix, legend_of(matrix), "svg", title="shop", when=WHEN) for _ in range(2)}) == 1


def test_a_png() -> None:
    matrix = world()
    assert draw(matrix, legend_of(matrix), "png", title="shop", when=WHEN).startswith(b"\x89PNG\r\n")


def test_a_page_needs_nothing_else_and_has_a_table() -> None:
    matrix = world()
    page = draw(matrix, legend_of(matrix), "html", title="shop & more", when=WHEN).decode()
    assert page.startswith("<!DOCTYPE html>")
    assert "<title>shop &amp; more</title>" in page
    assert page.count('<th scope="row">') == len(matrix.parties)
    assert "<td>allowed within a namespace, denied to others</td>" in page
    assert "<script" not in page
    assert "@import" not in page
    assert "<?xml" not in page


def test_a_change_has_signs() -> None:
    before, after = (ask(judge([*tenants(1), *policies]), WEB) for policies in ([STORE], [policy("t00", **OWN)]))
    matrix = fold(before.followed_by(after))
    assert [symbol.kind for symbol in legend_of_change(matrix).symbols] == [Kind.KEPT]
    matrix = fold(ask(judge(tenants(1)), DNS).followed_by(ask(judge([*tenants(1), STORE]), DNS)))
    legend = legend_of_change(matrix)
    assert [symbol.kind for symbol in legend.symbols] == [Kind.CLOSES, Kind.KEPT]
    svg = draw(matrix, legend, "svg", title="shop", when=WHEN)
    assert "closes" in texts(svg)
    assert "\N{MINUS SIGN}" in texts(svg)
    assert "denied at 53/UDP; before: allowed at 53/UDP" in svg.decode()


def test_where_packets_differ() -> None:
    matrix = world()
    legend = with_differences(legend_of(matrix), {(0, 1)})
    assert legend.cells[0][1].sign == "!"
    assert legend.cells[1][0].sign == legend_of(matrix).cells[1][0].sign
    assert "packets do otherwise" in texts(draw(matrix, legend, "svg", title="shop", when=WHEN))


def test_many_rows_stay_small() -> None:
    policies = [
        policy(f"t{n:02}", podSelector={"matchLabels": {"app": "cart"}}, ingress=[{"from": [{"ipBlock": {
            "cidr": f"10.{(n + 1) % 45}.0.0/16"}}]}]) for n in range(45)
    ]  # fmt: skip
    matrix = fold(ask(judge([*tenants(45), *policies]), WEB))
    assert len(matrix.parties) == 90
    svg = draw(matrix, legend_of(matrix), "svg", title="shop", when=WHEN)
    assert len(svg) < 1_500_000
    assert b'id="cells"' not in svg


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"drawn by Matplotlib, which is not installed.*pip install"):
        draw(world(), legend_of(world()), "svg", title="shop", when=WHEN)
