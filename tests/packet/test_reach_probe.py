"""``kmn reach --probe``: packets beside policies, on a cluster with both, and what is said where they differ."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clusterlab import eventually, running
from published import TOPOLOGIES

from kmn import Cluster
from kmn.cli.main import main
from kmn.cli.policy import judge_of
from kmn.cli.reach import subjects_of
from kmn.cli.reachprobe import probe
from kmn.k8s.objects import key_of
from kmn.k8s.resources import PODS
from kmn.policy.answers import Port, answers, workload_of
from kmn.policy.matrix import fold
from kmn.policy.model import network_policy

pytestmark = pytest.mark.packet

# Servers of TCP and UDP that only the client may ask, and not at all ports; a pod where nobody answers UDP; and pods
# that have no part in it.
WORLD = """\
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: server, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: server}}
  template:
    metadata: {labels: {app: server}}
    spec:
      containers:
      - name: c
        image: example.com/server:1
        ports: [{containerPort: 8080}, {containerPort: 9090}, {containerPort: 5353, protocol: UDP}]
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop, labels: {app: client}}
spec: {containers: [{name: c, image: example.com/client:1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: quiet, annotations: {kmn.io/program: none}}
spec: {containers: [{name: c, image: example.com/quiet:1, ports: [{containerPort: 7, protocol: UDP}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: host}
spec: {hostNetwork: true, containers: [{name: c, image: example.com/host:1}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: server, namespace: shop}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: client}}}]
    ports: [{port: 8080}, {port: 5353, protocol: UDP}]
"""
DENY_ALL = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "all", "namespace": "default"},
    "spec": {"podSelector": {}},
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running("reach") as made:
        made.apply(WORLD)
        made.wait_ready()
        yield made


def reach(cluster: Cluster, *args: str) -> int:
    return main(["reach", "--name", cluster.name, *args])


def connections(cluster: Cluster) -> str:
    """Of TCP, in all pods of the shop and in the quiet one."""
    names = [key_of(pod) for pod in cluster.client.list(PODS, "shop").items]
    return "".join(cluster.pod(str(key)).cmd("ss -Htan | grep -v LISTEN") for key in names)


def test_packets_do_what_policies_say(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    files = os.listdir("/proc/self/fd")
    assert reach(cluster, "--probe") == 0
    out, err = capsys.readouterr()
    assert "all as computed" in out
    assert "left out: 1 pod on their node's network" in err
    assert len(os.listdir("/proc/self/fd")) == len(files)
    assert connections(cluster) == ""


def test_closed_ports_and_datagrams_without_an_answer(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    ports = ["8080", "9090", "5353/udp", "7/UDP", "7/TCP", "99/SCTP"]
    assert reach(cluster, "--probe", "-o", "json", *(arg for port in ports for arg in ("--port", port))) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    pods = len(found["reach"][0]["pods"])
    assert found["probe"]["tried"] == found["probe"]["total"] == 5 * pods * (pods - 1)
    assert found["probe"]["differences"] == []
    assert "not probed: 99/SCTP" in err
    web = {each["port"]: each["pods"] for each in found["reach"]}["8080/TCP"]
    assert len([name for name in web["shop/client"] if name.startswith("shop/server")]) == 2
    assert not [name for name in web["default/quiet"] if name.startswith("shop/server")]


def test_of_many_a_sample(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert reach(cluster, "--probe", "--max-probes", "7", "--port", "8080") == 0
    assert "tried 7 connections (a sample of " in capsys.readouterr().out


def test_what_does_not_arrive_is_told(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    quiet = cluster.pod("quiet")
    cluster.pod("shop/client").cmd(f"ip route add unreachable {quiet.ip}")
    try:
        assert reach(cluster, "--probe", "-l", "app!=server", "--port", "7/UDP", "--port", "7", "-n", "shop") == 0
        assert reach(cluster, "--probe", "-l", "app!=server", "--port", "7/UDP", "--port", "7") == 1
    finally:
        cluster.pod("shop/client").cmd(f"ip route del unreachable {quiet.ip}")
    out = capsys.readouterr().out
    for port in ("7/TCP", "7/UDP"):
        assert f"differs: shop/client -> default/quiet, {port}: allowed by policies, but no route to host" in out
    assert "! packets do otherwise" in out


def test_what_arrives_and_should_not_is_told(cluster: Cluster) -> None:
    """Beside a policy that only we know of."""
    judge = judge_of(cluster.client)
    judge.set_policy(network_policy(DENY_ALL))
    pods = sorted((p for p in cluster.client.list(PODS).items if key_of(p) in judge.selection.members), key=key_of)
    matrix = fold(answers(judge, subjects_of(pods, [], frozenset({Port(7, "UDP"), Port(7, "TCP")}))))
    report = probe(matrix, judge.selection.members, pods, 1000)
    subjects = matrix.answers.subjects
    assert report.tried == report.total
    assert {str(subjects[each.trial.destination].key) for each in report.differences} == {"default/quiet"}
    assert {each.how for each in report.differences} == {"refused", "arrived"}
    assert len(report.differences) == 2 * (len(pods) - 1)


def test_an_end_in_between_leaves_nothing(cluster: Cluster) -> None:
    command = [sys.executable, "-m", "kmn.cli", "reach", "--name", cluster.name, "--probe", "--port", "9090"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    files = Path(f"/proc/{process.pid}/fd")
    try:
        # Ten connections that nobody answers are open for more than a second.
        eventually(lambda: _sockets(files) > 10, "probes under way")
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
    finally:
        process.kill()
        process.communicate()
    assert connections(cluster) == ""


def _sockets(files: Path) -> int:
    def is_socket(file: Path) -> bool:
        try:
            return os.readlink(file).startswith("socket:")
        except FileNotFoundError:
            return False

    return sum(map(is_socket, files.iterdir()))


def test_a_change_before_it_is_made(cluster: Cluster, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    new: dict[str, Any] = {**DENY_ALL, "metadata": {"name": "server", "namespace": "shop"}}
    (tmp_path / "new.json").write_text(json.dumps(new))
    at = ["--port", "8080"]
    assert reach(cluster, *at, "--diff", str(tmp_path / "new.json")) == 1
    out = capsys.readouterr().out
    assert out.splitlines() == [
        "closes default, kube-system (3 pods) -> shop/client, 8080/TCP",
        "closes shop/client -> shop/server (2 pods), 8080/TCP",
        "closes shop/server (2 pods) -> shop/client, 8080/TCP",
    ]
    assert reach(cluster, *at, "--without", "shop/server", "-n", "shop") == 1
    assert capsys.readouterr().out.splitlines() == ["opens  shop/server (2 pods) -> shop/server (2 pods), 8080/TCP"]
    assert reach(cluster, *at, "--diff", str(tmp_path / "new.json"), "-l", "app=none") == 0
    assert reach(cluster, *at, "--without", "nobody") == 2


# Whom the shop's workloads ask, by the drawing in topologies/shop.yaml.
SHOP = {
    "load": {"frontend", "metrics"},
    "frontend": {"catalog", "cart", "checkout", "metrics"},
    "cart": {"store", "metrics"},
    "checkout": {"payment", "metrics"},
    "catalog": {"metrics"},
    "payment": {"metrics"},
    "store": {"metrics"},
    "metrics": {"metrics"},
}


def test_the_shop_with_policies(capsys: pytest.CaptureFixture[str]) -> None:
    name = f"hishop{os.getpid()}"
    with Cluster(TOPOLOGIES / "guarded-shop.yaml", name=name) as shop:
        shop.wait_ready()
        assert reach(shop, "-n", "default", "--probe", "-o", "json") == 0
        found = json.loads(capsys.readouterr().out)
        assert found["probe"]["tried"] == found["probe"]["total"]
        workloads = {str(key_of(pod)): workload_of(pod) for pod in shop.client.list(PODS, "default").items}
        edges: dict[str, set[str]] = {"metrics": {"metrics"}}  # one pod, which may ask itself
        for each in found["reach"]:
            for source, destinations in each["pods"].items():
                edges.setdefault(workloads[source], set()).update(workloads[each] for each in destinations)
        assert edges == SHOP
        assert "frontend" in shop.pod("load").cmd("curl -s --max-time 5 frontend")


def test_nobody(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert reach(cluster, "-n", "nowhere", "--probe") == 0
    assert "No pods found in nowhere namespace." in capsys.readouterr().err
    assert reach(cluster, "-l", "app=none", "-o", "json", "--without", "shop/server") == 0
    assert json.loads(capsys.readouterr().out) == {"changes": []}


def test_a_picture_in_a_file(cluster: Cluster, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert reach(cluster, "-o", f"svg={tmp_path}/reach.svg") == 0
    assert "shop/client → shop/server (2 pods)" in (tmp_path / "reach.svg").read_text()
