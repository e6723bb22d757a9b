"""What ``-f`` takes: files, directories, stdin, lists; and what it says of files that are no manifests."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from kmn.k8s.manifests import ManifestError, load, load_manifests, parse

POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\n"


def refusal(text: str) -> str:
    with pytest.raises(ManifestError) as refused:
        parse(text, "x.yaml")
    return str(refused.value)


def test_documents_lists_and_places(tmp_path: Path) -> None:
    path = tmp_path / "all.yaml"
    path.write_text(
        POD % "a" + "---\n---\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: b}}\n"
        "- {apiVersion: v1, kind: Service, metadata: {name: b}}\n---\n"
        "apiVersion: v1\nkind: PodList\nitems:\n- metadata: {name: c}\n"
    )
    found = load_manifests([path])
    assert [str(manifest) for manifest in found] == [
        f"{path}: document 1 (line 1): Pod a",
        f"{path}: document 3 (line 6): Pod b",
        f"{path}: document 3 (line 6): Service b",
        f"{path}: document 4 (line 12): Pod c",
    ]


def test_directories_are_read_sorted(tmp_path: Path) -> None:
    (tmp_path / "b.yml").write_text(POD % "b")
    (tmp_path / "a.yaml").write_text(POD % "a")
    (tmp_path / "c.json").write_text(json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "c"}}))
    (tmp_path / "README.md").write_text("no manifest")
    (tmp_path / "kustomization.yaml").write_text("resources: [a.yaml]")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "d.yaml").write_text(POD % "d")
    warnings: list[str] = []
    names = [obj["metadata"]["name"] for obj in load([tmp_path], warn=warnings.append)]
    assert names == ["a", "b", "c"]
    assert warnings == [
        f"{tmp_path}/kustomization.yaml: skipped, kustomizations are not built: `kubectl kustomize {tmp_path}` does"
    ]
    deep = load([tmp_path], recursive=True, warn=warnings.append)
    assert [obj["metadata"]["name"] for obj in deep] == ["a", "b", "c", "d"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match=r"no \*.json, \*.yaml, \*.yml in this directory; -R reads"):
        load([tmp_path / "empty"])


def test_stdin_and_namespace() -> None:
    (obj,) = load(["-"], io.StringIO(POD % "a"), namespace="x")
    assert obj["metadata"]["namespace"] == "x"
    (node,) = load(["-"], io.StringIO("apiVersion: v1\nkind: Node\nmetadata: {name: n}\n"), namespace="x")
    assert "namespace" not in node["metadata"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1", "x.yaml: document 1 (line 1): not a Kubernetes object: apiVersion and kind missing"),
        ("- 1", "not a Kubernetes object: must be a mapping with apiVersion, kind and metadata, is [1]"),
        ("apiVersion: v1\nkind: Pod", "Pod: metadata: required, with a name in it"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {}", "Pod: metadata.name: required"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: 5}", "Pod: metadata.name: must be a string, is 5: quote it"),
        ("apiVersion: v1\nkind: Pot\nmetadata: {name: a}", 'no matches for kind "Pot" in version "v1"'),
        (
            "apiVersion: extensions/v1beta1\nkind: Ingress\nmetadata: {name: a}",
            "kmn serves Ingress as networking.k8s.io/v1",
        ),
        (
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: []",
            "kustomizations are not built",
        ),
        ("", "x.yaml: holds no object"),
        (
            POD % "a" + "---\n" + POD % "a",
            "document 2 (line 5): Pod a is there twice, first in x.yaml: document 1 (line 1)",
        ),
        (POD % "a" + "---\n" + POD % "a}}", "x.yaml: line 7"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, told: str) -> None:
    assert told in refusal(text)


def test_all_problems_are_told(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ManifestError) as refused:
        load([tmp_path / "absent.yaml", tmp_path / "bad.yaml", "https://example.com/x.yaml"])
    assert len(refused.value.problems) == 3


def test_the_same_name_in_two_namespaces_or_kinds_is_no_duplicate() -> None:
    other = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: b}\n---\napiVersion: v1\nkind: Service\n"
    assert len(parse(POD % "a" + other + "metadata: {name: a}\n")) == 3
    assert "twice" in refusal(POD % "a" + "---\napiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: default}\n")


def test_what_can_be_used_when_problems_are_told_one_by_one() -> None:
    told: list[str] = []
    text = POD % "a" + "---\napiVersion: example.com/v1\nkind: Odd\nmetadata: {name: x}\n---\n" + POD % "b"
    found = load(["-"], io.StringIO(text), on_problem=told.append)
    assert [obj["metadata"]["name"] for obj in found] == ["a", "b"]
    (problem,) = told
    assert problem.startswith("stdin: document 2")
    assert "Odd" in problem


def test_a_cluster_file_is_no_manifest() -> None:
    told = refusal("apiVersion: kmn.io/v1\nkind: Cluster\nmetadata: {name: demo}\n")
    assert told == "x.yaml: document 1 (line 1): this is a cluster file: `kmn up x.yaml`, without -f"
