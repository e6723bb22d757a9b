"""The Service cases, one test each, against a running emulation."""

from __future__ import annotations

import json

import pytest
from actions import STEP_WORDS, Actions
from casefiles import Case, parametrize
from checks import Checks
from missing import services

pytestmark = pytest.mark.packet


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, "case", "services/cases.json", "cases", services)


def test_service(case: Case, actions: Actions) -> None:
    checks = Checks(actions)
    try:
        for number, step in enumerate(case["steps"], 1):
            unknown = set(step) - {*STEP_WORDS, "checks"}
            assert not unknown, f"unknown words of a step: {sorted(unknown)}"
            where = f"{case['id']} ({case['title']}), step {number}"
            try:
                actions.run(step)
            except AssertionError as error:
                raise AssertionError(f"{where}: {error}") from error
            for check in step.get("checks", ()):
                try:
                    checks.run(check)
                except AssertionError as error:
                    raise AssertionError(f"{where}, {json.dumps(check)}:\n{error}") from error
    finally:
        checks.close()
