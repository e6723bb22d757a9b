"""Published manifests, as their authors wrote them: which the API takes, and which it refuses and why."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from published import APPS, NOT_MANIFESTS, REFUSED, SHARED, TOPOLOGIES, files

from kmn.apiserver.admission import ClusterAdmission
from kmn.cluster_spec import ClusterSpec
from kmn.k8s.errors import Invalid
from kmn.k8s.manifests import ManifestError, load, load_manifests
from kmn.k8s.objects import Object, resource_of

SPEC = ClusterSpec.default("test")


def admit(obj: Object, admission: ClusterAdmission | None = None, old: Object | None = None) -> Object:
    admission = admission or ClusterAdmission(SPEC)
    operation: Any = "UPDATE" if old else "CREATE"
    return admission.admit(operation, resource_of(obj), copy.deepcopy(obj), old, trusted=False)[0]


def test_the_published_manifests_are_there() -> None:
    if not APPS.is_dir():
        pytest.skip(f"{APPS} is not here: no published manifest was tried")
    assert len(files()) > 80


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(APPS)))
def test_published_file(path: Path) -> None:
    if path.name in NOT_MANIFESTS:
        with pytest.raises(ManifestError) as not_one:
            load([path])
        assert NOT_MANIFESTS[path.name] in str(not_one.value)
        assert str(path) in str(not_one.value)
        return
    admission = ClusterAdmission(SPEC)
    refusals = []
    for manifest in load_manifests([path], namespace="default"):
        try:
            once = admit(manifest.object, admission)
        except Invalid as error:
            refusals.append(str(error))
            continue
        again = admit(once, ClusterAdmission(SPEC))
        assert again == once, "defaulting is idempotent"
        assert admit(once, admission, once) == once, "an update that changes nothing changes nothing"
    if path.name in REFUSED:
        assert any(REFUSED[path.name] in refusal for refusal in refusals)
    else:
        assert refusals == []


def _netpol_cases() -> Iterator[tuple[str, Object]]:
    path = SHARED / "conformance" / "netpol" / "cases.json"
    for case in json.loads(path.read_text())["cases"] if path.exists() else ():
        for step in case["steps"]:
            if step.get("refused"):
                yield case["id"], step["apply"][0]


def _service_cases() -> Iterator[tuple[str, bool, Object]]:
    path = SHARED / "conformance" / "services" / "cases.json"
    for case in json.loads(path.read_text())["cases"] if path.exists() else ():
        for step in case["steps"]:
            for check in step.get("checks", ()):
                for verdict in ("refused", "accepted"):
                    if verdict in check and "${" not in json.dumps(check):
                        yield case["id"], verdict == "accepted", check[verdict]


@pytest.mark.parametrize(("name", "policy"), [pytest.param(n, p, id=n) for n, p in _netpol_cases()])
def test_policies_that_must_be_refused(name: str, policy: Object) -> None:
    with pytest.raises(Invalid):
        admit(policy)


@pytest.mark.parametrize(("name", "good", "service"), [pytest.param(*c, id=c[0]) for c in _service_cases()])
def test_services_that_must_be_refused_or_taken(name: str, good: bool, service: Object) -> None:
    if good:
        assert admit(service)["spec"]
    else:
        with pytest.raises(Invalid):
            admit(service)


def _objects() -> list[Object]:
    shipped = [path for path in sorted(TOPOLOGIES.glob("*.yaml")) if "\nkind: Cluster\n" not in path.read_text()]
    found: list[Object] = []
    for path in [*shipped, *files()]:
        try:
            found += load([path], namespace="default")
        except ManifestError:
            continue
    return found


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of an object."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items):
        yield value, key
        yield from _places(item)


def test_nothing_that_a_client_sends_is_more_than_refused() -> None:
    """Objects broken at random places: admitted or Invalid, never another error."""
    odd: list[Any] = [
        None,
        "",
        0,
        -1,
        70000,
        "x",
        "A_b",
        "10.1.2.3",
        True,
        1.5,
        [],
        {},
        [None],
        {"a": None},
        ["x"],
        "a" * 300,
    ]
    chance = random.Random(1)
    objects = _objects()
    verdicts = {"admitted": 0, "refused": 0}
    for _ in range(6000):
        obj = copy.deepcopy(chance.choice(objects))
        for _ in range(chance.choice((1, 1, 2))):
            places = [place for place in _places(obj) if place[1] not in ("apiVersion", "kind", "metadata")]
            if not places:
                continue
            container, key = chance.choice(places)
            if isinstance(container, dict) and (chance.random() < 0.3 or key not in container):
                container.pop(key, None)
            elif isinstance(container, list) and key >= len(container):
                continue
            else:
                container[key] = copy.deepcopy(chance.choice(odd))
        try:
            admit(obj)
            verdicts["admitted"] += 1
        except Invalid:
            verdicts["refused"] += 1
    assert min(verdicts.values()) > 500
