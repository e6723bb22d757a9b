"""Shell completion: what is offered, from the cluster that ``--name`` says."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from kmn.apiserver.admission_api import NullAdmission
from kmn.apiserver.local import LocalClient
from kmn.apiserver.store import Store
from kmn.cli import complete
from kmn.cluster import Cluster
from kmn.errors import UserError


@pytest.fixture(autouse=True)
def clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two running clusters, so that one has to be named."""

    def client(*pods: tuple[str, str]) -> LocalClient:
        local = LocalClient(Store(), NullAdmission())
        for namespace in ("default", "shop"):
            local.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        local.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}})
        for namespace, name in pods:
            local.create({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace}})
        return local

    known = {"one": client(("default", "web-1"), ("shop", "cart")), "two": client(("default", "store-0"))}

    def attach(name: str | None = None) -> Any:
        if name is None:
            raise UserError("several clusters are running")
        return SimpleNamespace(client=known[name])

    monkeypatch.setattr(Cluster, "attach", attach)


@pytest.mark.parametrize(
    ("completer", "params", "incomplete", "offered"),
    [
        (complete.objects, {"name": "one"}, "servicea", ["serviceaccounts"]),
        (complete.objects, {"name": "one", "what": ["pods"]}, "", ["web-1"]),
        (complete.objects, {"name": "two", "what": ["po"]}, "st", ["store-0"]),
        (complete.objects, {"name": "one", "what": ["po"], "namespace": "shop"}, "", ["cart"]),
        (complete.objects, {"name": "one", "what": ["nodes"], "namespace": "shop"}, "", ["n1"]),
        (complete.objects, {"name": "one"}, "pod/w", ["pod/web-1"]),
        (complete.objects, {"name": "one", "what": ["nonsense"]}, "", []),
        (complete.objects, {"what": ["pods"]}, "", []),
        (complete.pods, {"name": "one"}, "", ["web-1", "shop/cart", "node/n1"]),
        (complete.nodes, {"name": "two"}, "", ["n1"]),
        (complete.namespaces, {"name": "two"}, "s", ["shop"]),
    ],
)
def test_what_is_offered(
    completer: Callable[[Any, str], list[str]], params: dict[str, Any], incomplete: str, offered: list[str]
) -> None:
    assert sorted(completer(SimpleNamespace(params=params), incomplete)) == sorted(offered)
