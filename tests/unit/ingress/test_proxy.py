"""The files of a proxy: what is no more is not written again."""

from __future__ import annotations

import asyncio
from pathlib import Path

from kmn.ingress.certificates import self_signed
from kmn.ingress.envoy.config import Config, config_of
from kmn.ingress.model import Answer, Entrance, Host, Match, Owner, Routing, Rule, Table
from kmn.ingress.proxy import PodProxy
from kmn.programs.placement import Place

PAIR = self_signed("x")


def answering(status: int) -> Config:
    rule = Rule(Match(), Answer(status), Owner("Ingress", "default", "x"), "spec")
    routing = Routing((Entrance(80, "t"),), {"t": Table((Host("", (rule,)),))})
    return config_of(routing, {}, {}, PAIR)


def test_a_change_that_comes_too_late_writes_no_file(tmp_path: Path) -> None:
    async def end_and_change() -> None:
        folder = tmp_path / "proxy"
        proxy = PodProxy(Place("uid", "nowhere", ()), folder, tmp_path / "log", answering(404), lambda lines: None)
        await proxy.stop()
        await proxy.update(answering(503))
        assert not folder.exists()

    asyncio.run(end_and_change())
