"""What writes and deletions do to the store, through the client inside the process."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kmn.apiserver.admission_api import NullAdmission
from kmn.apiserver.local import LocalClient
from kmn.apiserver.store import Store
from kmn.k8s.client import WatchEvent
from kmn.k8s.errors import AlreadyExists, ApiError, Conflict, Invalid, NotFound
from kmn.k8s.objects import Object, draft, owner_reference
from kmn.k8s.resources import CONFIGMAPS, DEPLOYMENTS, NAMESPACES, PODS, REPLICASETS, Resource


def config(name: str, **metadata: Any) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default", **metadata}}


def pod(name: str, node: str | None = None, **metadata: Any) -> Object:
    spec: dict[str, Any] = {"containers": [{"name": "c", "image": "i"}]}
    if node:
        spec["nodeName"] = node
    meta = {"name": name, "namespace": "default", **metadata}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def workload(kind: str, name: str, **metadata: Any) -> Object:
    meta = {"name": name, "namespace": "default", **metadata}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": meta, "spec": {"replicas": 1}}


def names(client: LocalClient, resource: Resource) -> list[str]:
    return [obj["metadata"]["name"] for obj in client.list(resource).items]


def test_create_fills_in_the_servers_fields(local: LocalClient) -> None:
    given = pod("web")
    stored = local.create(given)
    meta = stored["metadata"]
    assert meta["uid"]
    assert meta["creationTimestamp"].endswith("Z")
    assert meta["generation"] == 1
    assert int(meta["resourceVersion"]) == local.store.version
    assert stored["status"]["phase"] == "Pending"
    assert "uid" not in given["metadata"], "the caller's object is not touched"
    assert local.get(PODS, "default", "web") is stored


def test_create_refuses_what_cannot_be(local: LocalClient) -> None:
    local.create(config("a"))
    version = local.store.version
    with pytest.raises(AlreadyExists, match='configmaps "a" already exists'):
        local.create(config("a"))
    with pytest.raises(NotFound, match='namespaces "nowhere" not found'):
        local.create(config("b", namespace="nowhere"))
    with pytest.raises(Invalid, match=r"metadata\.name: name or generateName is required"):
        local.create(config(""))
    with pytest.raises(ApiError, match="must not be set on an object to be created"):
        local.create(config("b", resourceVersion="1"))
    with pytest.raises(ApiError, match="no matches for kind"):
        local.create({"apiVersion": "v1", "kind": "Frob", "metadata": {"name": "x"}})
    with pytest.raises(ApiError, match="ConfigMap default/b: not representable as JSON"):
        local.create({**config("b"), "data": {"x": object()}})
    assert local.store.version == version, "nothing that was refused changed anything"


def test_generate_name(local: LocalClient) -> None:
    made = {local.create(pod("", generateName="web-"))["metadata"]["name"] for _ in range(50)}
    assert len(made) == 50
    assert all(name.startswith("web-") and len(name) == 9 for name in made)


def test_generation_counts_changes_of_the_spec_only(local: LocalClient) -> None:
    local.create(workload("Deployment", "web"))
    local.patch(DEPLOYMENTS, "default", "web", {"metadata": {"labels": {"a": "b"}}})
    local.patch(DEPLOYMENTS, "default", "web", {"status": {"replicas": 1}}, subresource="status")
    assert local.get(DEPLOYMENTS, "default", "web")["metadata"]["generation"] == 1
    local.patch(DEPLOYMENTS, "default", "web", {"spec": {"replicas": 2}})
    assert local.get(DEPLOYMENTS, "default", "web")["metadata"]["generation"] == 2


def test_status_and_spec_are_written_apart(local: LocalClient) -> None:
    local.create(pod("web"))
    obj = draft(local.get(PODS, "default", "web"))
    obj["spec"]["nodeName"] = "n1"
    obj["status"]["podIP"] = "10.0.0.1"
    obj["metadata"]["annotations"] = {"a": "b"}
    local.update(obj)
    assert "podIP" not in local.get(PODS, "default", "web")["status"]
    obj = draft(local.get(PODS, "default", "web"))
    obj["spec"]["nodeName"] = "n2"
    obj["status"]["podIP"] = "10.0.0.2"
    obj["metadata"]["annotations"] = {"a": "c"}
    obj["metadata"]["finalizers"] = ["x/y"]
    stored = local.update(obj, subresource="status")
    assert stored["status"]["podIP"] == "10.0.0.2"
    assert stored["spec"]["nodeName"] == "n1"
    assert stored["metadata"]["annotations"] == {"a": "c"}
    assert "finalizers" not in stored["metadata"]


def test_update_checks_version_and_uid(local: LocalClient) -> None:
    first = local.create(config("a"))
    local.patch(CONFIGMAPS, "default", "a", {"data": {"k": "v"}})
    with pytest.raises(Conflict, match="the object has been modified"):
        local.update({**first, "data": {"k": "w"}})
    stale = draft(local.get(CONFIGMAPS, "default", "a"))
    stale["metadata"]["uid"] = "another"
    with pytest.raises(Conflict, match="UID in precondition: another"):
        local.update(stale)


def test_a_write_that_changes_nothing_is_no_event(local: LocalClient) -> None:
    stored = local.create(config("a"))
    assert local.update(draft(stored)) is stored
    assert local.patch(CONFIGMAPS, "default", "a", {"metadata": {"labels": None}}) is stored
    assert local.list(CONFIGMAPS).resource_version == stored["metadata"]["resourceVersion"]


def test_the_version_of_a_list_is_that_of_its_resource(local: LocalClient) -> None:
    local.create(config("a"))
    version = local.create(config("b"))["metadata"]["resourceVersion"]
    local.create(pod("other"))
    assert local.list(CONFIGMAPS).resource_version == version
    local.delete(CONFIGMAPS, "default", "a")
    assert local.list(CONFIGMAPS).resource_version == str(local.store.version)


@pytest.mark.parametrize("node", [None, "n1"])
def test_only_bound_pods_are_given_time_to_end(local: LocalClient, node: str | None) -> None:
    local.create(pod("web", node))
    local.delete(PODS, "default", "web")
    if node is None:
        assert names(local, PODS) == []
        return
    meta = local.get(PODS, "default", "web")["metadata"]
    assert meta["deletionGracePeriodSeconds"] == 30
    assert meta["deletionTimestamp"] > meta["creationTimestamp"]
    version = meta["resourceVersion"]
    local.delete(PODS, "default", "web")
    assert local.get(PODS, "default", "web")["metadata"]["resourceVersion"] == version, "a repetition changes nothing"
    local.delete(PODS, "default", "web", grace_seconds=5)
    assert local.get(PODS, "default", "web")["metadata"]["deletionGracePeriodSeconds"] == 5
    local.delete(PODS, "default", "web", grace_seconds=0)
    assert names(local, PODS) == []


def test_finalizers_hold_an_object(local: LocalClient) -> None:
    local.create(config("a", finalizers=["kmn.io/x"]))
    local.delete(CONFIGMAPS, "default", "a")
    assert "deletionTimestamp" in local.get(CONFIGMAPS, "default", "a")["metadata"]
    with pytest.raises(Invalid, match="no new finalizers can be added"):
        local.patch(CONFIGMAPS, "default", "a", {"metadata": {"finalizers": ["kmn.io/x", "kmn.io/y"]}})
    local.patch(CONFIGMAPS, "default", "a", {"metadata": {"finalizers": None}})
    assert names(local, CONFIGMAPS) == []


def test_delete_with_the_uid_of_another(local: LocalClient) -> None:
    local.create(config("a"))
    with pytest.raises(Conflict):
        local.delete(CONFIGMAPS, "default", "a", uid="another")
    assert names(local, CONFIGMAPS) == ["a"]


def _family(local: LocalClient) -> Object:
    deployment = local.create(workload("Deployment", "web"))
    replicas = local.create(workload("ReplicaSet", "web-1", ownerReferences=[owner_reference(deployment)]))
    for number in range(3):
        local.create(pod(f"web-1-{number}", ownerReferences=[owner_reference(replicas)]))
    local.store.drain()
    return deployment


def test_background_deletion_takes_the_dependents(local: LocalClient) -> None:
    deployment = _family(local)
    assert [obj["metadata"]["name"] for obj in local.owned_by(deployment["metadata"]["uid"])] == ["web-1"]
    local.delete(DEPLOYMENTS, "default", "web")
    assert names(local, DEPLOYMENTS) == []
    assert len(names(local, PODS)) == 3, "dependents go later"
    local.store.drain()
    assert names(local, REPLICASETS) == names(local, PODS) == []


def test_foreground_deletion_waits_for_the_dependents(local: LocalClient) -> None:
    _family(local)
    local.create(pod("slow", "n1", ownerReferences=[owner_reference(local.get(REPLICASETS, "default", "web-1"))]))
    local.delete(DEPLOYMENTS, "default", "web", propagation="Foreground")
    local.store.drain()
    assert names(local, DEPLOYMENTS) == ["web"]
    assert names(local, REPLICASETS) == ["web-1"]
    assert names(local, PODS) == ["slow"]
    local.delete(PODS, "default", "slow", grace_seconds=0)
    local.store.drain()
    assert names(local, DEPLOYMENTS) == names(local, REPLICASETS) == []


def test_orphans_stay(local: LocalClient) -> None:
    _family(local)
    local.delete(DEPLOYMENTS, "default", "web", propagation="Orphan")
    local.store.drain()
    assert names(local, DEPLOYMENTS) == []
    assert "ownerReferences" not in local.get(REPLICASETS, "default", "web-1")["metadata"]
    assert len(names(local, PODS)) == 3


def test_an_object_goes_with_its_last_owner(local: LocalClient) -> None:
    a, b = local.create(config("a")), local.create(config("b"))
    local.create(config("c", ownerReferences=[owner_reference(a, controller=False), owner_reference(b)]))
    local.delete(CONFIGMAPS, "default", "a")
    local.store.drain()
    assert [r["name"] for r in local.get(CONFIGMAPS, "default", "c")["metadata"]["ownerReferences"]] == ["b"]
    local.delete(CONFIGMAPS, "default", "b")
    local.store.drain()
    assert names(local, CONFIGMAPS) == []


def test_an_object_of_an_owner_that_never_was_goes(local: LocalClient) -> None:
    ghost = {"apiVersion": "v1", "kind": "ConfigMap", "name": "ghost", "uid": "none"}
    local.create(config("a", ownerReferences=[ghost]))
    local.store.drain()
    assert names(local, CONFIGMAPS) == []


def test_a_namespace_goes_after_its_contents(local: LocalClient) -> None:
    local.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
    local.create(config("a", namespace="shop"))
    local.create(pod("web", "n1", namespace="shop"))
    local.delete(NAMESPACES, "", "shop")
    local.store.drain()
    namespace = local.get(NAMESPACES, "", "shop")
    assert namespace["status"]["phase"] == "Terminating"
    assert names(local, CONFIGMAPS) == []
    assert "deletionTimestamp" in local.get(PODS, "shop", "web")["metadata"]
    with pytest.raises(ApiError, match="because it is being terminated"):
        local.create(config("b", namespace="shop"))
    local.delete(PODS, "shop", "web", grace_seconds=0)
    local.store.drain()
    assert names(local, NAMESPACES) == ["default"]


def test_an_empty_namespace_goes_and_the_default_one_never(local: LocalClient) -> None:
    local.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
    local.delete(NAMESPACES, "", "shop")
    assert names(local, NAMESPACES) == ["default"]
    with pytest.raises(ApiError, match="this namespace may not be deleted"):
        local.delete(NAMESPACES, "", "default")


def test_subscribers_see_everything_in_order_and_not_within_writes(local: LocalClient) -> None:
    seen: list[tuple[str, str]] = []
    writing = False

    def note(event: WatchEvent) -> None:
        assert not writing
        seen.append((event.type, event.object["metadata"]["name"]))

    async def settled() -> None:
        done = asyncio.Event()
        local.store.defer(done.set)  # runs after everything that was deferred before
        await done.wait()

    async def run() -> None:
        nonlocal writing
        local.create(config("a"))
        cancel = local.subscribe(CONFIGMAPS, note)
        local.subscribe(PODS, note)
        writing = True
        local.create(pod("p"))
        local.create(config("b"))
        local.patch(CONFIGMAPS, "default", "b", {"data": {"k": "v"}})
        local.delete(CONFIGMAPS, "default", "a")
        writing = False
        await settled()
        cancel()
        local.create(config("c"))
        local.create(pod("q"))
        await settled()

    asyncio.run(run())
    assert seen == [
        ("ADDED", "a"), ("ADDED", "p"), ("ADDED", "b"), ("MODIFIED", "b"), ("DELETED", "a"), ("ADDED", "q"),
    ]  # fmt: skip


def test_stored_objects_never_change(local: LocalClient) -> None:
    first = local.create(workload("Deployment", "web", labels={"a": "b"}, finalizers=["kmn.io/x"]))
    before = draft(first)
    local.patch(DEPLOYMENTS, "default", "web", {"spec": {"replicas": 5}, "metadata": {"labels": {"a": "c"}}})
    local.patch(DEPLOYMENTS, "default", "web", {"status": {"replicas": 5}}, subresource="status")
    local.delete(DEPLOYMENTS, "default", "web")
    assert first == before


def test_the_log_ends_somewhere() -> None:
    local = LocalClient(Store(log_size=10), NullAdmission())
    local.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}})
    collection = local.store.collections[CONFIGMAPS]
    start = collection.version
    for number in range(100):
        local.create(config(f"c{number}"))
    with pytest.raises(ApiError, match="too old resource version") as caught:
        collection.since(start)
    assert (caught.value.code, caught.value.reason) == (410, "Expired")
    newest = [event.record.object["metadata"]["name"] for event in collection.since(collection.version - 10)]
    assert newest == [f"c{number}" for number in range(90, 100)]


class _Refusing(NullAdmission):
    def __init__(self) -> None:
        self.released_names: list[str] = []

    def admit(self, operation: Any, resource: Resource, new: Object, old: Object | None, **_: Any) -> Any:
        if new.get("data", {}).get("bad"):
            raise Invalid("ConfigMap", "default/a", [])
        new.setdefault("data", {})["admitted"] = operation
        return new, ["watch out"]

    def released(self, resource: Resource, obj: Object) -> None:
        self.released_names.append(obj["metadata"]["name"])


def test_admission_decides_and_hears_of_the_end() -> None:
    admission = _Refusing()
    local = LocalClient(Store(), admission)
    local.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}})
    with pytest.raises(Invalid):
        local.create({**config("a"), "data": {"bad": "1"}})
    assert names(local, CONFIGMAPS) == []
    assert local.create(config("a"))["data"] == {"admitted": "CREATE"}
    reply = local.registry.create(config("b"), trusted=False, dry_run=True)
    assert reply.warnings == ["watch out"]
    assert names(local, CONFIGMAPS) == ["a"]
    local.delete(CONFIGMAPS, "default", "a")
    assert admission.released_names == ["b", "a"]
