"""The class of an Ingress that names none."""

from __future__ import annotations

import pytest

from kmn.apiserver.admission import ClusterAdmission
from kmn.apiserver.local import LocalClient
from kmn.apiserver.store import Store
from kmn.cluster_spec import ClusterSpec
from kmn.k8s.objects import Object, draft
from kmn.k8s.resources import INGRESSES


@pytest.fixture
def client() -> LocalClient:
    store = Store()
    client = LocalClient(store, ClusterAdmission(ClusterSpec("a", ()), store))
    client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}})
    return client


def add_class(client: LocalClient, name: str, default: str = "true") -> None:
    meta = {"name": name, "annotations": {"ingressclass.kubernetes.io/is-default-class": default}}
    spec = {"controller": "example.com/c"}
    kind = {"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass"}
    client.create({**kind, "metadata": meta, "spec": spec})


def created(client: LocalClient, annotations: dict[str, str] | None = None, **spec: str) -> Object:
    meta = {"name": "i", "namespace": "default", "annotations": annotations or {}}
    backend = {"service": {"name": "s", "port": {"number": 80}}}
    kind = {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress"}
    return client.create({**kind, "metadata": meta, "spec": {"defaultBackend": backend, **spec}})


def class_name(ingress: Object) -> str | None:
    found: str | None = ingress["spec"].get("ingressClassName")
    return found


def test_without_a_default_there_is_none(client: LocalClient) -> None:
    add_class(client, "a", default="false")
    assert class_name(created(client)) is None


def test_the_default_is_filled_in_when_it_is_created(client: LocalClient) -> None:
    add_class(client, "b")
    add_class(client, "c")
    ingress = created(client)
    assert class_name(ingress) == "b"  # made in the same second: the first by name
    without = draft(ingress)
    del without["spec"]["ingressClassName"]
    assert class_name(client.update(without)) is None
    assert class_name(client.get(INGRESSES, "default", "i")) is None


def test_who_names_a_class_keeps_it(client: LocalClient) -> None:
    add_class(client, "b")
    assert class_name(created(client, ingressClassName="other")) == "other"
    client.delete(INGRESSES, "default", "i")
    assert class_name(created(client, {"kubernetes.io/ingress.class": "old"})) is None
