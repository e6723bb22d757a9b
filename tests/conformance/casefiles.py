"""Where the conformance cases are, and reading them. Collecting tests needs this; no cluster is needed for it.

``--cases DIR`` names a folder that holds ``services/cases.json``, ``dns/cases.json``, ``dns/coredns.json``; without it
the folder is ``shared/conformance`` beside the repository. The formats are described by the README of each folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

__all__ = ["DEFAULT_FOLDER", "Case", "folder_of", "load", "parametrize"]

Case = dict[str, Any]
Reasons = Callable[[Case, dict[str, Any]], str | None]

DEFAULT_FOLDER = Path(__file__).parents[3] / "shared" / "conformance"


def folder_of(config: pytest.Config) -> Path:
    return Path(config.getoption("--cases") or DEFAULT_FOLDER)


def load(config: pytest.Config, name: str) -> dict[str, Any]:
    """A case file, {} where there is none."""
    path = folder_of(config) / name
    if not path.exists():
        return {}
    data: dict[str, Any] = json.loads(path.read_text())
    assert data.get("format", 1) == 1, f"{path}: format {data['format']} is not known"
    return data


def parametrize(metafunc: pytest.Metafunc, argument: str, name: str, key: str, reasons: Reasons) -> None:
    """One test for each case of a file; ``reasons(case, data)`` says why a case cannot pass yet, or None.

    Without the file there is one test, which is skipped and says so: cases are never left out in silence.
    """
    data = load(metafunc.config, name)
    if not data:
        why = f"{folder_of(metafunc.config) / name} is not here: its conformance cases were not tried"
        metafunc.parametrize(argument, [pytest.param({}, id="none", marks=pytest.mark.skip(reason=why))])
        return
    found = []
    for case in data.get(key, ()):
        why = reasons(case, data)
        marks = [pytest.mark.xfail(reason=why, strict=True)] if why else []
        found.append(pytest.param(case, id=case["id"], marks=marks))
    metafunc.parametrize(argument, found)
