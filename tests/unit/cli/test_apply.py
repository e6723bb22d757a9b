"""kubectl's three-way merge, and what ``apply`` and ``delete`` make of it on a store."""

from __future__ import annotations

from typing import Any

import pytest

from kmn.apiserver.admission_api import NullAdmission
from kmn.apiserver.local import LocalClient
from kmn.apiserver.store import Store
from kmn.apply import LAST_APPLIED, apply, delete, three_way
from kmn.errors import UserError
from kmn.k8s.objects import draft
from kmn.k8s.resources import CONFIGMAPS, DEPLOYMENTS


def port(number: int, **fields: Any) -> dict[str, Any]:
    return {"port": number, **fields}


@pytest.mark.parametrize(
    ("last", "wanted", "current", "merged"),
    [
        pytest.param({"a": 1}, {"a": 2}, {"a": 1}, {"a": 2}, id="changed"),
        pytest.param({"a": 1, "b": 1}, {"a": 1}, {"a": 1, "b": 1}, {"a": 1}, id="no longer set: removed"),
        pytest.param({"a": 1}, {"a": 1}, {"a": 1, "d": 9}, {"a": 1, "d": 9}, id="set by others: kept"),
        pytest.param({"m": {"x": 1}}, {"m": {}}, {"m": {"x": 1, "y": 2}}, {"m": {"y": 2}}, id="nested"),
        pytest.param({}, {"a": None}, {"a": 1}, {}, id="null removes"),
        pytest.param({"args": [1]}, {"args": [2, 3]}, {"args": [1]}, {"args": [2, 3]}, id="plain lists are replaced"),
        pytest.param(
            {"ports": [port(80)]},
            {"ports": [port(80), port(443)]},
            {"ports": [port(80, protocol="TCP", nodePort=30001)]},
            {"ports": [port(80, protocol="TCP", nodePort=30001), port(443)]},
            id="allocated fields of list items are kept",
        ),
        pytest.param(
            {"ports": [port(80), port(443)]},
            {"ports": [port(443)]},
            {"ports": [port(80, protocol="TCP"), port(443, protocol="TCP")]},
            {"ports": [port(443, protocol="TCP")]},
            id="list item no longer set: removed",
        ),
        pytest.param(
            {"ports": [port(53, protocol="UDP")]},
            {"ports": [port(53, protocol="UDP", name="dns"), port(53, name="dns-tcp")]},
            {"ports": [port(53, protocol="UDP", nodePort=30053)]},
            {"ports": [port(53, protocol="UDP", nodePort=30053, name="dns"), port(53, name="dns-tcp")]},
            id="same number, other protocol: another item",
        ),
        pytest.param(
            {"containers": [{"name": "a", "image": "x:1"}]},
            {"containers": [{"name": "a", "image": "x:2"}]},
            {"containers": [{"name": "a", "image": "x:1", "imagePullPolicy": "Always"}, {"name": "sidecar"}]},
            {"containers": [{"name": "a", "image": "x:2", "imagePullPolicy": "Always"}, {"name": "sidecar"}]},
            id="containers by name; one that was injected stays",
        ),
    ],
)
def test_three_way(last: Any, wanted: Any, current: Any, merged: Any) -> None:
    assert three_way(last, wanted, current) == merged


@pytest.fixture
def client() -> LocalClient:
    local = LocalClient(Store(), NullAdmission())
    for name in ("default", "shop"):
        local.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return local


def config(data: dict[str, str], **metadata: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", **metadata}, "data": data}


def deployment(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec}


def lines(client: LocalClient, *objects: dict[str, Any], namespace: str | None = None) -> list[str]:
    return [str(change) for change in apply(client, objects, namespace)]


def test_created_unchanged_configured(client: LocalClient) -> None:
    assert lines(client, config({"a": "1"}), deployment(replicas=1)) == [
        "configmap/c created",
        "deployment.apps/web created",
    ]
    assert lines(client, config({"a": "1"}), deployment(replicas=1)) == [
        "configmap/c unchanged",
        "deployment.apps/web unchanged",
    ]
    assert lines(client, config({"b": "2"})) == ["configmap/c configured"]
    assert client.get(CONFIGMAPS, "default", "c")["data"] == {"b": "2"}


def test_what_others_wrote_survives(client: LocalClient) -> None:
    lines(client, deployment(replicas=1))
    scaled = draft(client.get(DEPLOYMENTS, "default", "web"))
    scaled["spec"]["paused"] = True
    client.update(scaled)
    lines(client, deployment(replicas=2))
    assert client.get(DEPLOYMENTS, "default", "web")["spec"] == {"replicas": 2, "paused": True}


def test_an_object_that_kubectl_applied_is_taken_over(client: LocalClient) -> None:
    theirs = config({"a": "1", "b": "1"})
    theirs["metadata"]["annotations"] = {
        LAST_APPLIED: '{"apiVersion":"v1","data":{"a":"1","b":"1"},"kind":"ConfigMap","metadata":{"name":"c"}}\n'
    }
    theirs["metadata"]["namespace"] = "default"
    client.create(theirs)
    lines(client, config({"a": "1"}))
    assert client.get(CONFIGMAPS, "default", "c")["data"] == {"a": "1"}


def test_namespace_of_objects_that_name_none(client: LocalClient) -> None:
    lines(client, config({}), namespace="shop")
    assert client.get(CONFIGMAPS, "shop", "c")["metadata"]["namespace"] == "shop"
    with pytest.raises(UserError, match="is in namespace shop, not in default"):
        lines(client, config({}, namespace="shop"), namespace="default")


def test_a_refused_object_does_not_stop_the_others(client: LocalClient) -> None:
    seen = []
    with pytest.raises(UserError, match='namespaces "nowhere" not found'):
        seen.extend(str(c) for c in apply(client, [config({}, namespace="nowhere")]))
    changes = apply(client, [config({}, namespace="nowhere"), deployment(replicas=1)])
    assert str(next(changes)) == "deployment.apps/web created"
    with pytest.raises(UserError, match="ConfigMap nowhere/c"):
        next(changes)


def test_delete_goes_backwards_and_names_what_is_missing(client: LocalClient) -> None:
    lines(client, config({}), deployment(replicas=1))
    gone = [str(change) for change in delete(client, [config({}), deployment()])]
    assert gone == ['deployment.apps "web" deleted', 'configmap "c" deleted']
    assert list(delete(client, [config({})], ignore_missing=True)) == []
    with pytest.raises(UserError, match='configmaps "c" not found'):
        list(delete(client, [config({})]))
