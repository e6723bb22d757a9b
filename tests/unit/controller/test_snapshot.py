"""What the controller's parts know of objects: what counts as a change, and slices by Service."""

from __future__ import annotations

from typing import NamedTuple

from controller.snapshot import Snapshot
from kmn.k8s.objects import Key

WEB, DB, SLICE = Key("default", "web"), Key("default", "db"), Key("default", "web-abc")


class Piece(NamedTuple):
    service: Key
    address: str = ""


def test_what_stays_alike_is_no_change() -> None:
    known = Snapshot[Piece](["pods"])
    assert known.put("pods", WEB, "view")
    assert known.take_changed() == [("pods", WEB)]
    assert not known.put("pods", WEB, "view")
    assert not known.put("pods", DB, None)
    assert known.take_changed() == []
    assert known.put("pods", WEB, None)
    assert known.views["pods"] == {}


def test_a_slice_is_a_change_of_its_service_and_of_the_one_it_leaves() -> None:
    known = Snapshot[Piece](["services", "endpointslices"])
    known.put("endpointslices", SLICE, Piece(WEB, "10.244.1.2"))
    known.put("endpointslices", SLICE, Piece(WEB, "10.244.1.3"))
    assert known.take_changed() == [("services", WEB)]
    assert known.slices_of(WEB) == (Piece(WEB, "10.244.1.3"),)
    known.put("endpointslices", SLICE, Piece(DB))
    assert known.take_changed() == [("services", WEB), ("services", DB)]
    assert known.slices_of(WEB) == ()
    known.put("endpointslices", SLICE, None)
    assert known.slices == {}
