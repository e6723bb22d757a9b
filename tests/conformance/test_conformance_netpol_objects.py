"""NetworkPolicy cases answered from the objects alone, by ``kmn.policy``: every cell of every table."""

from __future__ import annotations

from typing import Any

import pytest
from casefiles import Case, load, parametrize
from policyworld import PolicyWorld, differing

FILES = {"case": "netpol/cases.json", "cyclonus": "netpol/cyclonus.json"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for argument, name in FILES.items():
        if argument in metafunc.fixturenames:
            parametrize(metafunc, argument, name, "cases", lambda case, data: None)


def test_case(case: Case, pytestconfig: pytest.Config) -> None:
    _run(case, load(pytestconfig, FILES["case"]))


def test_cyclonus(cyclonus: Case, pytestconfig: pytest.Config) -> None:
    _run(cyclonus, load(pytestconfig, FILES["cyclonus"]))


def _run(case: Case, data: dict[str, Any]) -> None:
    world = PolicyWorld(dict(data["nominal_ips"]), data.get("external_ips", {}))
    if case.get("fixture") != "none":
        for manifest in data["fixture"]:
            assert not world.apply(manifest)
    for step in case["steps"]:
        refusals = world.run(step)
        assert bool(refusals) == bool(step.get("refused")), refusals
        for probe, expected in (step.get("expect") or {}).items():
            protocol, _, port = probe.partition("/")
            ends = list(dict.fromkeys(name for row in expected.values() for name in row))
            table = world.table(protocol, int(port), expected, ends)
            different = differing(table, expected, case)
            assert not different, f"{probe}: found {different}"
