"""The cluster files that ship with kmn: they load, and the API takes their manifests."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmn.apiserver.admission import ClusterAdmission
from kmn.cluster_spec import ClusterSpec
from kmn.k8s.manifests import load
from kmn.k8s.objects import resource_of

FOLDER = Path(__file__).parents[3] / "topologies"
FILES = sorted(path for path in FOLDER.glob("*.yaml") if "\nkind: Cluster\n" in path.read_text())


def test_there_are_enough_of_them() -> None:
    assert len(FILES) >= 7


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_cluster_file_and_manifests(path: Path) -> None:
    spec = ClusterSpec.load(path)
    assert spec.name == path.stem
    assert path.read_text().startswith("#"), "says on top what to look at"
    assert "Look at:" in path.read_text()
    assert ClusterSpec.from_object(spec.to_object()) == spec
    admission = ClusterAdmission(spec)
    for obj in load(spec.manifests, namespace="default"):
        admitted, warnings = admission.admit("CREATE", resource_of(obj), obj, None, trusted=False)
        assert admitted["metadata"]["name"]
        assert [warning for warning in warnings if "yet" not in warning] == []


def test_every_manifest_is_used() -> None:
    used = {Path(manifest).name for path in FILES for manifest in ClusterSpec.load(path).manifests}
    assert {path.name for path in FOLDER.glob("*.yaml")} - {path.name for path in FILES} == used
