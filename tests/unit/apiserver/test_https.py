"""The API over HTTPS, asked by the project's own client: credentials, verbs, watches, forms of answers."""

from __future__ import annotations

import dataclasses
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
import urllib3
import yaml
from conftest import LiveServer

from kmn.apiserver.pki import Pki
from kmn.k8s.client import Listing, WatchEvent
from kmn.k8s.errors import AlreadyExists, ApiError, Conflict, NotFound
from kmn.k8s.objects import Object, draft
from kmn.k8s.reflector import Reflector
from kmn.k8s.resources import CONFIGMAPS, DEPLOYMENTS, PODS, SERVICES
from kmn.k8s.rest import Credentials, RestClient

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


def config(name: str, data: dict[str, str] | None = None, **metadata: Any) -> Object:
    meta = {"name": name, "namespace": "default", **metadata}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data or {}}


def pod(name: str, **spec: Any) -> Object:
    spec = {"containers": [{"name": "c", "image": "i"}], **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


def raw(server: LiveServer, method: str, path: str, body: bytes | None = None, **headers: str) -> Any:
    """A request as other clients make it."""
    with urllib3.PoolManager(ssl_context=Credentials.from_kubeconfig(server.kubeconfig).context()) as pool:
        headers = {
            "Authorization": f"Bearer {server.pki.token}",
            **{k.replace("_", "-"): v for k, v in headers.items()},
        }
        return pool.request(method, server.url + path, body=body, headers=headers, retries=False)


def test_who_may_come_in(server: LiveServer, tmp_path: Path) -> None:
    good = Credentials.from_kubeconfig(server.kubeconfig)
    assert RestClient(dataclasses.replace(good, token=None)).list(PODS).items == [], "the client certificate will do"
    for bad in (dataclasses.replace(good, token="wrong"), dataclasses.replace(good, token=None, certificate=None)):
        with pytest.raises(ApiError, match="Unauthorized") as caught:
            RestClient(bad).list(PODS)
        assert caught.value.code == 401
    assert (
        RestClient(dataclasses.replace(good, token="wrong")).request("GET", "/version")["gitVersion"] == "v1.33.0+kmn"
    )
    stranger = Pki.create(tmp_path / "other")
    theirs = {"certificate": stranger.client_cert.read_text(), "key": stranger.client_key.read_text()}
    with pytest.raises(ApiError, match="cannot be reached"):
        RestClient(dataclasses.replace(good, token=None, **theirs)).list(PODS)
    with pytest.raises(ApiError, match="certificate verify failed"):
        RestClient(dataclasses.replace(good, ca=stranger.ca_cert.read_text())).list(PODS)


def test_kubeconfig(server: LiveServer) -> None:
    assert stat.S_IMODE(server.kubeconfig.stat().st_mode) == 0o600
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in server.pki.folder.iterdir())
    assert yaml.safe_load(server.kubeconfig.read_text())["current-context"] == "kmn-ha"
    server.kubeconfig.write_text("current-context: x")
    with pytest.raises(ValueError, match="contexts: no entry named 'x'"):
        Credentials.from_kubeconfig(server.kubeconfig)


def test_objects(rest: RestClient) -> None:
    created = rest.create(config("a", {"k": "v"}))
    assert rest.get(CONFIGMAPS, "default", "a") == created
    with pytest.raises(AlreadyExists):
        rest.create(config("a"))
    changed = draft(created)
    changed["data"] = {"k": "w"}
    assert rest.update(changed)["data"] == {"k": "w"}
    with pytest.raises(Conflict):
        rest.update(changed)
    assert rest.patch(CONFIGMAPS, "default", "a", {"data": {"x": "y"}})["data"] == {"k": "w", "x": "y"}
    operation = [{"op": "remove", "path": "/data/k"}]
    assert rest.patch(CONFIGMAPS, "default", "a", operation, patch_type="json")["data"] == {"x": "y"}
    with pytest.raises(ApiError, match="the JSON patch does not apply"):
        rest.patch(CONFIGMAPS, "default", "a", operation, patch_type="json")
    with pytest.raises(ApiError, match="cannot change name or namespace"):
        rest.patch(CONFIGMAPS, "default", "a", {"metadata": {"name": "b"}})
    rest.delete(CONFIGMAPS, "default", "a", uid=created["metadata"]["uid"])
    with pytest.raises(NotFound, match='configmaps "a" not found'):
        rest.get(CONFIGMAPS, "default", "a")


def test_status_is_not_taken_from_users_but_by_its_subresource(rest: RestClient) -> None:
    assert rest.create({**pod("web"), "status": {"podIP": "10.0.0.1"}})["status"] == {"phase": "Pending"}
    rest.patch(PODS, "default", "web", {"status": {"podIP": "10.0.0.2"}, "spec": {"x": 1}}, subresource="status")
    stored = rest.get(PODS, "default", "web")
    assert stored["status"] == {"phase": "Pending", "podIP": "10.0.0.2"}
    assert "x" not in stored["spec"]


def test_lists(rest: RestClient, server: LiveServer) -> None:
    for number in range(7):
        rest.create(config(f"c{number}", labels={"odd": str(number % 2)}))
    assert [o["metadata"]["name"] for o in rest.list(CONFIGMAPS, label_selector="odd=1").items] == ["c1", "c3", "c5"]
    assert [o["metadata"]["name"] for o in rest.list(CONFIGMAPS, field_selector="metadata.name=c2").items] == ["c2"]
    assert rest.list(CONFIGMAPS, "elsewhere").items == []
    pages, query = [], {"limit": "3"}
    while True:
        page = rest.request("GET", CONFIGMAPS.path("default"), query=query)
        pages.append([o["metadata"]["name"] for o in page["items"]])
        if "continue" not in page["metadata"]:
            break
        query["continue"] = page["metadata"]["continue"]
    assert pages == [["c0", "c1", "c2"], ["c3", "c4", "c5"], ["c6"]]
    with pytest.raises(ApiError, match="field label not supported"):
        rest.list(CONFIGMAPS, field_selector="data.x=1")


def test_scale_binding_eviction(rest: RestClient) -> None:
    template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": template}
    meta = {"name": "web", "namespace": "default"}
    rest.create({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec})
    path = DEPLOYMENTS.path("default", "web", "scale")
    scale = rest.request("GET", path)
    assert (scale["spec"], scale["status"]) == ({"replicas": 1}, {"replicas": 0, "selector": "app=web"})
    scale["spec"]["replicas"] = 4
    assert rest.request("PUT", path, body=scale)["spec"] == {"replicas": 4}
    with pytest.raises(Conflict):
        rest.request("PUT", path, body=scale)
    with pytest.raises(ApiError, match=r"spec\.replicas: -1 is not a whole number of at least 0"):
        rest.request("PUT", path, body={"spec": {"replicas": -1}})
    assert rest.get(DEPLOYMENTS, "default", "web")["spec"] == {**spec, "replicas": 4}

    rest.create(pod("p"))
    rest.request("POST", PODS.path("default", "p", "binding"), body={"target": {"name": "n1"}})
    assert rest.get(PODS, "default", "p")["spec"]["nodeName"] == "n1"
    with pytest.raises(Conflict, match="already assigned to node 'n1'"):
        rest.request("POST", PODS.path("default", "p", "binding"), body={"target": {"name": "n2"}})
    rest.request("POST", PODS.path("default", "p", "eviction"), body={"deleteOptions": {"gracePeriodSeconds": 0}})
    assert rest.list(PODS).items == []


def test_requests_that_are_wrong(rest: RestClient, server: LiveServer) -> None:
    with pytest.raises(ApiError, match="'b' does not match 'a' in the path"):
        rest.request("PUT", CONFIGMAPS.path("default", "a"), body=config("b"))
    with pytest.raises(ApiError, match="the path takes a ConfigMap of v1"):
        rest.request("POST", CONFIGMAPS.path("default"), body=pod("a"))
    with pytest.raises(ApiError, match="/api/v1/frobs is not served"):
        rest.request("GET", "/api/v1/frobs")
    with pytest.raises(ApiError, match="does not allow this method"):
        rest.request("PUT", CONFIGMAPS.path("default"), body={})
    with pytest.raises(ApiError, match="propagationPolicy: 'Later' is none of"):
        rest.request("DELETE", CONFIGMAPS.path("default", "a"), query={"propagationPolicy": "Later"})
    assert raw(server, "POST", "/api/v1/namespaces", b"{", Content_Type="application/json").status == 400
    assert raw(server, "POST", "/api/v1/namespaces", b"<a/>", Content_Type="application/xml").status == 415
    assert raw(server, "GET", "/api/v1/namespaces", Accept="application/vnd.kubernetes.protobuf").status == 406


def test_dry_run_and_delete_collection(rest: RestClient) -> None:
    rest.request("POST", CONFIGMAPS.path("default"), body=config("a"), query={"dryRun": "All"})
    assert rest.list(CONFIGMAPS).items == []
    for name in "abc":
        rest.create(config(name, labels={"x": name}))
    rest.request("DELETE", CONFIGMAPS.path("default"), query={"labelSelector": "x in (a,b)"})
    assert [o["metadata"]["name"] for o in rest.list(CONFIGMAPS).items] == ["c"]


def test_yaml_apply_and_warnings(server: LiveServer) -> None:
    body = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: y}\ndata: {a: b}\n"
    path = CONFIGMAPS.path("default", "y")
    first = raw(server, "PATCH", path, body, Content_Type="application/apply-patch+yaml")
    assert first.status == 201
    assert "without tracking who owns which field" in first.headers["Warning"]
    second = raw(server, "PATCH", path, body.replace(b"a: b", b"c: d"), Content_Type="application/apply-patch+yaml")
    assert (second.status, second.json()["data"]) == (200, {"a": "b", "c": "d"})
    assert yaml.safe_load(raw(server, "GET", path, Accept="application/yaml").data)["data"] == {"a": "b", "c": "d"}


def test_tables(server: LiveServer, rest: RestClient) -> None:
    rest.create(pod("web", nodeName="n1"))
    table = raw(server, "GET", PODS.path("default"), Accept=TABLE).json()
    assert [c["name"] for c in table["columnDefinitions"]] == [
        "Name", "Ready", "Status", "Restarts", "Age", "IP", "Node", "Nominated Node", "Readiness Gates",
    ]  # fmt: skip
    assert table["rows"][0]["cells"][:4] == ["web", "0/1", "Pending", "0"]
    assert table["rows"][0]["cells"][5:] == ["<none>", "n1", "<none>", "<none>"]
    assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
    lines = raw(server, "GET", PODS.path() + "?watch=1&timeoutSeconds=1&resourceVersion=1", Accept=TABLE).data.split()
    events = [orjson.loads(line) for line in b" ".join(lines).replace(b"} {", b"}\n{").split(b"\n")]
    assert [e["object"]["rows"][0]["cells"][0] for e in events] == ["web"]


def test_watch(rest: RestClient) -> None:
    start = rest.create(config("a", labels={"seen": "yes"}))["metadata"]["resourceVersion"]
    with rest.watch(CONFIGMAPS, start, label_selector="seen=yes") as watch:
        rest.create(config("b"))
        rest.patch(CONFIGMAPS, "default", "b", {"metadata": {"labels": {"seen": "yes"}}})
        rest.patch(CONFIGMAPS, "default", "a", {"metadata": {"labels": {"seen": "no"}}})
        rest.patch(CONFIGMAPS, "default", "b", {"data": {"k": "v"}})
        rest.delete(CONFIGMAPS, "default", "b")
        seen = [(e.type, e.object["metadata"]["name"]) for _, e in zip(range(4), watch, strict=False)]
    assert seen == [("ADDED", "b"), ("DELETED", "a"), ("MODIFIED", "b"), ("DELETED", "b")]
    newest = rest.list(CONFIGMAPS).resource_version
    assert [event.type for event in rest.watch(CONFIGMAPS, newest, timeout=1)] == ["BOOKMARK"]


def test_watch_list(server: LiveServer, rest: RestClient) -> None:
    rest.create(config("a"))
    query = (
        "?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1"
    )
    first, mark, *_ = raw(server, "GET", CONFIGMAPS.path() + query).data.splitlines()
    assert orjson.loads(first)["type"] == "ADDED"
    assert orjson.loads(mark)["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


def test_watch_from_a_version_that_is_not_known(rest: RestClient) -> None:
    with pytest.raises(ApiError) as caught:
        rest.watch(CONFIGMAPS, "999999")
    assert (caught.value.code, caught.value.reason) == (410, "Expired")


def test_a_watch_is_closed_from_another_thread(rest: RestClient) -> None:
    watch = rest.watch(CONFIGMAPS, rest.list(CONFIGMAPS).resource_version)
    seen: list[WatchEvent] = []
    reader = threading.Thread(target=lambda: seen.extend(watch))
    reader.start()
    watch.close()
    reader.join(5)
    assert not reader.is_alive()
    assert seen == []


def test_a_watch_that_is_closed_between_two_events_is_at_its_end(rest: RestClient) -> None:
    watch = rest.watch(CONFIGMAPS, rest.list(CONFIGMAPS).resource_version)
    rest.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "default"}})
    assert next(watch).type == "ADDED"
    watch.close()
    assert list(watch) == []


class Mirror:
    """What a reflector tells, kept as a map, with a way to wait for it."""

    def __init__(self) -> None:
        self.names: dict[str, Object] = {}
        self.lists = 0
        self._changed = threading.Condition()

    def on_list(self, listing: Listing) -> None:
        with self._changed:
            self.lists += 1
            self.names = {o["metadata"]["name"]: o for o in listing.items}
            self._changed.notify_all()

    def on_event(self, event: WatchEvent) -> None:
        with self._changed:
            if event.type == "DELETED":
                del self.names[event.object["metadata"]["name"]]
            else:
                self.names[event.object["metadata"]["name"]] = event.object
            self._changed.notify_all()

    def wait(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, 10), (self.lists, sorted(self.names))


def test_reflector_survives_a_new_server(server: LiveServer, rest: RestClient) -> None:
    mirror = Mirror()
    rest.create(config("a"))
    reflector = Reflector(rest, CONFIGMAPS, mirror.on_list, mirror.on_event)
    reflector.start()
    mirror.wait(lambda: set(mirror.names) == {"a"})
    rest.create(config("b"))
    rest.delete(CONFIGMAPS, "default", "a")
    mirror.wait(lambda: set(mirror.names) == {"b"})
    assert mirror.lists == 1
    for number in range(5):
        rest.create(config(f"more{number}"))
    mirror.wait(lambda: len(mirror.names) == 6)
    server.stop()
    server.start()  # empty, on the same port: the version is from another life
    mirror.wait(lambda: mirror.lists == 2)
    rest.create(config("c"))
    mirror.wait(lambda: set(mirror.names) == {"c"})
    reflector.stop()
    assert not reflector._thread.is_alive()


def test_reflector_keeps_up_through_the_end_of_a_watch(server: LiveServer, rest: RestClient) -> None:
    mirror = Mirror()
    reflector = Reflector(rest, SERVICES, mirror.on_list, mirror.on_event)
    reflector.start()
    assert reflector.synced.wait(5)
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "default"}, "spec": {}}
    rest.create(service)
    mirror.wait(lambda: set(mirror.names) == {"a"})
    cast(Any, reflector)._watch.close()  # as if the connection broke
    rest.create({**service, "metadata": {"name": "b", "namespace": "default"}})
    mirror.wait(lambda: set(mirror.names) == {"a", "b"})
    assert mirror.lists == 1, "nothing was missed, so nothing is listed again"
    reflector.stop()


def test_clients_that_vanish_in_the_middle_of_a_watch_are_nothing_to_report(
    server: LiveServer, rest: RestClient, caplog: pytest.LogCaptureFixture
) -> None:
    """As a killed controller does: its connections end without a word."""
    context = Credentials.from_kubeconfig(server.kubeconfig).context()
    at = urllib3.util.parse_url(server.url)
    lines = [
        "GET /api/v1/namespaces/default/configmaps?watch=1 HTTP/1.1",
        "Host: kmn",
        f"Authorization: Bearer {server.pki.token}",
    ]
    request = "\r\n".join([*lines, "", ""]).encode()
    for number in range(20):
        with socket.create_connection((at.host, at.port)) as plain:
            watch = context.wrap_socket(plain, server_hostname=at.host)
        watch.sendall(request)
        assert b"200 OK" in watch.recv(4096)
        watch.close()
        for each in range(20):
            rest.create(config(f"c{number}-{each}"))
    assert len(rest.list(CONFIGMAPS).items) == 400
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize("stream", ["exec", "attach", "portforward", "log"])
def test_streams_of_pods_name_what_there_is_instead(server: LiveServer, stream: str) -> None:
    answer = raw(server, "GET", f"/api/v1/namespaces/default/pods/web/{stream}")
    assert answer.status == 404
    told = orjson.loads(answer.data)["message"]
    assert told.startswith(f"pods/{stream} is not served yet: ")
    assert "kmn exec" in told
