"""The pytest plugin: ``kmn_cluster``, a running cluster for the tests of a module. See ``docs/python.md``.

Nothing is imported, and no option takes effect, in runs that do not use the fixture.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from kmn.cluster import Cluster

__all__ = ["kmn_cluster", "pytest_addoption", "pytest_configure"]

_MARKER = "kmn_cluster(file=None, *, name=None, manifests=(), timeout=60): the cluster of the kmn_cluster fixture"
_WORDS = frozenset({"file", "name", "manifests", "timeout"})


def pytest_addoption(parser: pytest.Parser) -> None:
    """``kmn_cluster_file`` in pytest.ini or pyproject.toml: the cluster file where a module names none."""
    parser.addini("kmn_cluster_file", "Cluster file for the kmn_cluster fixture (default: two nodes).", default="")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)


@pytest.fixture(scope="module")
def kmn_cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A ready cluster for the tests of a module, gone afterwards.

    The file is that of an indirect parameter, of the module's ``pytestmark = pytest.mark.kmn_cluster(FILE, …)``, of the
    ini option ``kmn_cluster_file``, or the default cluster; relative to the test's folder (the ini's: to the root).
    Skipped where tests do not run as root.
    """
    wanted = _wanted(request)
    if os.geteuid() != 0:
        pytest.skip("kmn_cluster needs root")
    from kmn.cluster import Cluster

    timeout = wanted.get("timeout", 60)
    name = wanted.get("name") or f"pytest-{os.getpid()}"
    with Cluster(wanted.get("file"), name=name, manifests=wanted.get("manifests", ())) as cluster:
        cluster.wait_ready(timeout)
        yield cluster


def _wanted(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Arguments for the cluster, with paths resolved. Raises UsageError for words that mean nothing here."""
    folder = request.path.parent
    marker = request.node.get_closest_marker("kmn_cluster")
    parameter = getattr(request, "param", None)
    if isinstance(parameter, dict):
        wanted = dict(parameter)
    elif parameter is not None:
        wanted = {"file": parameter}
    elif marker is not None:
        wanted = {**marker.kwargs, **({"file": marker.args[0]} if marker.args else {})}
    else:
        file = request.config.getini("kmn_cluster_file")
        wanted = {"file": request.config.rootpath / file if file else None}
    unknown = wanted.keys() - _WORDS
    if unknown:
        raise pytest.UsageError(f"kmn_cluster: {', '.join(sorted(unknown))}: not one of {', '.join(sorted(_WORDS))}")
    if isinstance(wanted.get("file"), str | os.PathLike):
        wanted["file"] = folder / wanted["file"]
    wanted["manifests"] = [_resolved(folder, manifest) for manifest in wanted.get("manifests", ())]
    return wanted


def _resolved(folder: os.PathLike[str], manifest: Any) -> Any:
    """Paths are relative to the test's folder; texts (of several lines) and dictionaries stay."""
    if isinstance(manifest, os.PathLike) or (isinstance(manifest, str) and "\n" not in manifest):
        return os.path.join(folder, manifest)
    return manifest
