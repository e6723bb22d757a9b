"""``kmn.Cluster`` and the ``kmn_cluster`` fixture, on a real cluster."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusterlab import WEB

from kmn import Cluster
from kmn.emulator.purge import clusters
from kmn.errors import NameInUse, NotRunning, UserError
from kmn.k8s.resources import PODS
from kmn.ready import NotReady

pytestmark = pytest.mark.packet

NAME = f"hgapi{os.getpid()}"

FILE = {
    "apiVersion": "kmn.io/v1",
    "kind": "Cluster",
    "metadata": {"name": NAME},
    "spec": {"nodes": [{"count": 2}], "internet": {"hosts": [{"name": "e1"}]}},
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(FILE, manifests=[WEB]) as running:
        running.wait_ready()
        yield running
    assert NAME not in clusters()


def test_a_service_answers_in_a_pod(cluster: Cluster) -> None:
    answer = json.loads(cluster.pod("default/client").cmd("curl -s --max-time 5 web"))
    assert answer["pod"].startswith("web-")
    assert answer["client"] == cluster.pod("client").ip


def test_programs_in_pods_nodes_and_outside(cluster: Cluster) -> None:
    done = cluster.pod("client").run(["sh", "-c", "cat; echo error >&2; exit 4"], input="in")
    assert (done.stdout, done.stderr, done.returncode) == ("in", "error\n", 4)
    assert "172.18.0.2" in cluster.node("n1").cmd("ip -br addr show eth0")
    assert cluster.host("e1").run(["hostname"], check=True).stdout == "e1\n"
    assert cluster.find("deploy/web").name.startswith("default/web-")
    with cluster.pod("client").popen(["sleep", "60"]) as process:
        process.terminate()
        assert process.wait(5) == -15


def test_apply_wait_delete(cluster: Cluster) -> None:
    extra = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "extra"}}
    extra["spec"] = {"containers": [{"name": "c", "image": "example.com/c:1"}]}  # type: ignore[assignment]
    assert [str(change) for change in cluster.apply(extra)] == ["pod/extra created"]
    cluster.wait_ready()
    assert cluster.pod("extra").cmd("hostname") == "extra\n"
    assert "extra" in cluster.net
    assert [str(change) for change in cluster.delete(extra)] == ['pod "extra" deleted']


def test_not_ready_says_why(cluster: Cluster) -> None:
    stuck = WEB.split("---")[2].replace("client", "stuck").replace("spec: {", "spec: {nodeSelector: {no: such}, ")
    cluster.apply(stuck)
    with pytest.raises(NotReady) as caught:
        cluster.wait_ready(1)
    (problem,) = caught.value.problems
    assert (problem.what, problem.reason) == ("pod default/stuck", "Unschedulable")
    cluster.client.delete(PODS, "default", "stuck", grace_seconds=0)
    cluster.wait_ready()


def test_mininet_works_on_it(cluster: Cluster) -> None:
    client, server = cluster.net.get("client"), cluster.net.get("n2")
    assert cluster.net.ping([client, server]) == 0
    assert "eth0" in client.cmd("ip a")
    assert cluster.net["n1-br0"].connected()
    assert "table=" in cluster.net["n1-br0"].dpctl("dump-flows")


def test_attach_leaves_the_cluster_running(cluster: Cluster) -> None:
    with Cluster.attach(NAME) as same:
        assert same.pod("client").ip == cluster.pod("client").ip
    assert cluster.pod("client").cmd("echo still") == "still\n"
    with pytest.raises(NotRunning, match="no-such"):
        Cluster.attach("no-such")


def test_a_name_in_use_is_refused_and_the_cluster_unharmed(cluster: Cluster) -> None:
    with pytest.raises(NameInUse), Cluster(FILE):
        pass
    assert cluster.pod("client").cmd("echo unharmed") == "unharmed\n"


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl on this machine")
def test_kubectl(cluster: Cluster) -> None:
    assert "client" in cluster.kubectl("get", "pods", "-o", "name")
    with pytest.raises(UserError, match="NotFound"):
        cluster.kubectl("get", "pod", "nothing")


def test_the_fixture_of_the_plugin(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(WEB)
    (tmp_path / "test_shop.py").write_text(f"""
import pytest
pytestmark = pytest.mark.kmn_cluster(name="{NAME}-fix", manifests=["shop.yaml"])

def test_web(kmn_cluster):
    assert '"pod":"web-' in kmn_cluster.pod("client").cmd("curl -s --max-time 5 web")

def test_same_cluster(kmn_cluster):
    assert kmn_cluster.name == "{NAME}-fix"
""")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    assert f"{NAME}-fix" not in clusters()
