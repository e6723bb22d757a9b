"""Finding what a user names, and the command lines that run there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kmn import machine
from kmn.apiserver.admission_api import NullAdmission
from kmn.apiserver.local import LocalClient
from kmn.apiserver.store import Store
from kmn.errors import UserError
from kmn.machine import find
from kmn.ovstools import argv


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalClient:
    monkeypatch.setattr(machine, "NETNS_DIR", tmp_path)
    local = LocalClient(Store(), NullAdmission())
    for namespace in ("default", "shop"):
        local.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    for namespace, name in (("default", "client"), ("default", "web-1"), ("shop", "cart")):
        (tmp_path / f"ns-{name}").touch()
        local.create(_pod(namespace, name))
    local.create(_pod("default", "waiting", netns=False))
    local.create(
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": "n1", "annotations": {"kmn.io/netns": "ns-n1", "kmn.io/mac": "m"}},
            "status": {"addresses": [{"type": "InternalIP", "address": "172.18.0.2"}]},
        }
    )
    local.create(
        {
            "apiVersion": "kmn.io/v1",
            "kind": "Edge",
            "metadata": {"name": "default"},
            "spec": {"hosts": [{"name": "e1", "netns": "ns-e1", "ip": "203.0.113.10", "mac": "m"}]},
        }
    )
    local.create(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": "web-1"}}},
        }
    )
    return local


def _pod(namespace: str, name: str, *, netns: bool = True) -> dict[str, Any]:
    notes = {"kmn.io/netns": f"ns-{name}", "kmn.io/mac": "m"} if netns else {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}, "annotations": notes},
        "spec": {"containers": []},
        "status": {"phase": "Running" if netns else "Pending", "podIP": "10.244.0.2"},
    }


@pytest.mark.parametrize(
    ("target", "namespace", "found"),
    [
        ("client", "default", "pod default/client"),
        ("pod/client", "default", "pod default/client"),
        ("cart", "shop", "pod shop/cart"),
        ("shop/cart", "default", "pod shop/cart"),
        ("deploy/web", "default", "pod default/web-1"),
        ("node/n1", "default", "node n1"),
        ("host/e1", "default", "host e1"),
    ],
)
def test_found(client: LocalClient, target: str, namespace: str, found: str) -> None:
    assert str(find(client, "demo", target, namespace)) == found


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("clinet", "pod default/clinet: not found (did you mean client?)"),
        ("web", "pod default/web: not found (did you mean web-1?)"),
        ("cart", "pod default/cart: not found (there is one in namespace shop)"),
        ("node/n2", "node n2: not found (there are: n1)"),
        ("host/x", "host x: not found (there are: e1)"),
        ("deploy/wbe", "deployments default/wbe: not found (did you mean web?)"),
        ("waiting", "pod default/waiting: has no network namespace (phase Pending) (kmn get pods -o wide"),
    ],
)
def test_not_found(client: LocalClient, target: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        find(client, "demo", target)
    assert str(caught.value).startswith(message)


def test_nothing_of_a_manifest_reaches_the_environment(client: LocalClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/u")
    env = find(client, "demo", "client").env()
    assert (env["KMN_CLUSTER"], env["HOSTNAME"], env["HOME"]) == ("demo", "client", "/home/u")


@pytest.mark.parametrize(
    ("tool", "args", "line"),
    [
        ("ofctl", ["dump-flows", "br0"], "ovs-ofctl -O OpenFlow15 dump-flows br0"),
        ("ovs-vsctl", ["show"], "ovs-vsctl --db=unix:/run/x/db.sock show"),
        ("appctl", ["fdb/show", "br0"], "ovs-appctl fdb/show br0"),
        ("dpctl", ["dump-flows"], "ovs-appctl dpctl/dump-flows"),
        ("ovsdb-client", ["dump", "Bridge"], "ovsdb-client dump unix:/run/x/db.sock Bridge"),
    ],
)
def test_open_vswitch_tools_talk_to_the_node_s_switch(tool: str, args: list[str], line: str) -> None:
    assert argv(Path("/run/x"), tool, args) == ["env", "OVS_RUNDIR=/run/x", *line.split()]


def test_an_unknown_tool_is_refused() -> None:
    with pytest.raises(UserError, match="ovs frobctl show: not known"):
        argv(Path("/run/x"), "frobctl", ["show"])
