"""What the tests of all folders share."""

from __future__ import annotations

from pathlib import Path

import pytest
from published import SHARED


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cases", metavar="DIR", help="folder of the conformance cases (services/cases.json, dns/…)")
    parser.addoption(
        "--write-docs", action="store_true", help="write the pages of docs that are measured, then compare"
    )


@pytest.fixture(scope="session")
def apps() -> Path:
    """The folder of published applications, or a skip that says what was not tried."""
    folder = SHARED / "apps"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here: no published manifest was tried")
    return folder
