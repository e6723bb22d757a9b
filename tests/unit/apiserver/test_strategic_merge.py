"""Strategic merge patches: current object, patch, result."""

from __future__ import annotations

from typing import Any

import pytest

from kmn.apiserver.patch import merge_patch
from kmn.apiserver.strategic import strategic_merge
from kmn.k8s.errors import ApiError
from kmn.k8s.objects import Object, draft


def pod(**spec: Any) -> Object:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "default"}, "spec": spec}


def service(*ports: dict[str, Any]) -> Object:
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"ports": list(ports)}}


A, B, C = ({"name": name, "image": f"{name}:1"} for name in "abc")

CASES: dict[str, tuple[Object, Object, Object]] = {
    "containers merge by name": (
        pod(containers=[A, B]),
        {"spec": {"containers": [{"name": "b", "image": "b:2"}, C]}},
        pod(containers=[A, {"name": "b", "image": "b:2"}, C]),
    ),
    "environment within a container": (
        pod(containers=[{"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]}]),
        {"spec": {"containers": [
            {"name": "a", "env": [{"name": "X", "$patch": "delete"}, {"name": "Z", "value": "3"}]}]}},
        pod(containers=[{"name": "a", "env": [{"name": "Y", "value": "2"}, {"name": "Z", "value": "3"}]}]),
    ),
    "an element deleted": (
        pod(containers=[A, B]),
        {"spec": {"containers": [{"$patch": "delete", "name": "a"}]}},
        pod(containers=[B]),
    ),
    "a list replaced": (
        pod(containers=[A, B]),
        {"spec": {"containers": [{"$patch": "replace"}, C]}},
        pod(containers=[C]),
    ),
    "a map replaced": (
        pod(containers=[A], nodeSelector={"x": "y"}),
        {"spec": {"$patch": "replace", "containers": [C]}},
        pod(containers=[C]),
    ),
    "order as the patch has it": (
        pod(containers=[A, B]),
        {"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "b"}, {"name": "a"}], "containers": [C]}},
        pod(containers=[C, B, A]),
    ),
    "what the order does not name keeps its place": (
        pod(containers=[A, {"name": "sidecar"}, B]),
        {"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}},
        pod(containers=[B, A, {"name": "sidecar"}]),
    ),
    "retained keys only": (
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"},
         "spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}},
        {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"},
         "spec": {"strategy": {"type": "Recreate"}}},
    ),
    "plain values merge as a set and leave it": (
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "finalizers": ["a", "b"]}},
        {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"]}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "finalizers": ["b", "c"]}},
    ),
    "lists without a key are replaced": (
        pod(containers=[A], tolerations=[{"key": "a"}]),
        {"spec": {"tolerations": [{"key": "b"}]}},
        pod(containers=[A], tolerations=[{"key": "b"}]),
    ),
    "null removes": (
        pod(containers=[A], nodeName="n1"),
        {"spec": {"nodeName": None, "hostname": None}},
        pod(containers=[A]),
    ),
    "one port for two protocols": (
        service({"port": 53, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}),
        {"spec": {"ports": [{"port": 53, "protocol": "UDP", "targetPort": 5353}]}},
        service({"port": 53, "protocol": "TCP"}, {"port": 53, "protocol": "UDP", "targetPort": 5353}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_strategic_merge(case: str) -> None:
    current, patch, expected = CASES[case]
    before = draft(current)
    assert strategic_merge(current, patch) == expected
    assert current == before, "the current object is not touched"


def test_what_cannot_be_merged() -> None:
    with pytest.raises(ApiError, match="without its merge key 'name'"):
        strategic_merge(pod(containers=[A]), {"spec": {"containers": [{"image": "x"}]}})
    with pytest.raises(ApiError, match="merge and JSON patches only"):
        strategic_merge({"apiVersion": "kmn.io/v1", "kind": "Edge", "metadata": {"name": "x"}}, {})


def test_merge_patch_is_rfc_7396() -> None:
    assert merge_patch({"a": "b", "c": {"d": "e", "f": "g"}}, {"a": "z", "c": {"f": None}}) == {
        "a": "z",
        "c": {"d": "e"},
    }
    assert merge_patch({"a": [{"b": "c"}]}, {"a": [1]}) == {"a": [1]}
    assert merge_patch({}, {"a": {"bb": {"ccc": None}}}) == {"a": {"bb": {}}}
