"""Input that cannot be, through the command line: one clear message, an exit code, and nothing that was begun.

What each rule says is tested where the rules are; here is whether it reaches the person at the keyboard, and what is on
the machine afterwards.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from faultlab import ROOT, kmn, traces, wait_for

from kmn import Cluster
from kmn.cluster_spec import ClusterSpec, Link, NodeSpec
from kmn.emulator import features
from kmn.emulator.purge import purge
from kmn.k8s.objects import name_of
from kmn.k8s.resources import EVENTS, PODS
from kmn.naming import RUN_ROOT, Paths

pytestmark = pytest.mark.packet

NAME = f"hjbad{os.getpid()}"
HEAD = f"apiVersion: kmn.io/v1\nkind: Cluster\nmetadata: {{name: {NAME}}}\n"


@pytest.fixture(autouse=True)
def cleaned() -> Iterator[None]:
    yield
    purge(NAME)
    Paths(NAME).lock.unlink(missing_ok=True)


def pod(containers: str, name: str = "client", **spec: str) -> str:
    fields = "".join(f"{key}: {value}, " for key, value in spec.items())
    return f"apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{{fields}containers: [{containers}]}}\n"


CONTAINER = "{name: c, image: example.com/c:1}"


def with_ports(*ports: str, name: str = "c") -> str:
    return f"{{name: {name}, image: example.com/c:1, ports: [{', '.join(ports)}]}}"


def refused(*args: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """What ``kmn up`` says when it refuses; nothing is left then."""
    done = kmn("up", *args, "--detach", "--timeout", "3", env=env, cwd=cwd)
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert done.stdout == ""
    assert done.stderr.startswith("kmn: ")
    assert "Traceback" not in done.stderr
    assert "bug in kmn" not in done.stderr
    assert traces(NAME) == []
    return done.stderr.removeprefix("kmn: ").strip()


# --- cluster files ----------------------------------------------------------------------------------------------------

CLUSTER_FILES = {
    "no YAML": (
        HEAD + "spec:\n  nodes:\n  - {name: n1\n",
        "cluster.yaml: line 7, column 1: while parsing a flow mapping from line 6 on, did not find expected ',' or '}'",
    ),
    "unknown fields": (
        HEAD + "spec: {fabrik: {}, nodes: [{name: n1, rooter: x}]}",
        (
            'cluster.yaml: spec.fabrik: unknown field, did you mean "fabric"?\n'
            'cluster.yaml: spec.nodes[0].rooter: unknown field, did you mean "router"?'
        ),
    ),
    "overlapping networks": (
        HEAD + "spec: {podCIDR: 10.96.0.0/16}",
        (
            "cluster.yaml: spec.podCIDR: 10.96.0.0/16 overlaps spec.serviceCIDR 10.96.0.0/12: "
            "every network needs addresses of its own"
        ),
    ),
    "unknown router": (
        HEAD + "spec: {nodes: [{name: n1, router: leef1}], fabric: {routers: [leaf1, leaf2], "
        "links: [{ends: [leaf1, leaf2]}]}}",
        (
            'cluster.yaml: spec.nodes[0].router: no router "leef1" in spec.fabric.routers (leaf1, leaf2), '
            'did you mean "leaf1"?'
        ),
    ),
    "name that is no DNS label": (
        HEAD.replace(NAME, "Big_One"),
        (
            "cluster.yaml: metadata.name: must be a DNS label (a-z, 0-9 and -, at most 40 characters, beginning and "
            'ending with a letter or digit), is "Big_One"'
        ),
    ),
    "manifest that is not there": (
        HEAD + "spec: {manifests: [shop.yaml]}",
        "cluster.yaml: spec.manifests[0]: shop.yaml: no such file or directory (FOLDER/shop.yaml)",
    ),
    "too few node networks": (
        HEAD + "spec: {podCIDR: 10.244.0.0/24, nodes: [{count: 3}]}",
        (
            "cluster.yaml: spec.podCIDR: 10.244.0.0/24 holds 1 node networks of /24, there are 3 nodes: "
            "use a larger podCIDR or a larger nodeCIDRMaskSize"
        ),
    ),
}


@pytest.mark.parametrize("case", CLUSTER_FILES)
def test_cluster_file(case: str, tmp_path: Path) -> None:
    text, message = CLUSTER_FILES[case]
    (tmp_path / "cluster.yaml").write_text(text)
    assert refused("cluster.yaml", cwd=tmp_path).replace(str(tmp_path.resolve()), "FOLDER") == message


def test_cluster_file_that_is_not_there() -> None:
    assert refused("/no/cluster.yaml") == "/no/cluster.yaml: file: cannot be read: No such file or directory"


def test_name_that_is_no_dns_label() -> None:
    for name in ("Big_One", "a" * 41, "-a", "a.b", ""):
        message = refused("--name", name)
        assert message.startswith("cluster name: must be a DNS label (a-z, 0-9 and -, at most 40 characters, beginning")


# --- manifests --------------------------------------------------------------------------------------------------------

MANIFESTS = {
    "no YAML": (
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: client\n   labels: {a: b}\n",
        "FILE: line 5, column 10: mapping values are not allowed in this context",
    ),
    "unknown kind": (
        pod(CONTAINER).replace("kind: Pod", "kind: Pood"),
        'FILE: document 1 (line 1): no matches for kind "Pood" in version "v1", did you mean "Pod"?',
    ),
    "old version": (
        "apiVersion: extensions/v1beta1\nkind: Deployment\nmetadata: {name: web}\n",
        (
            'FILE: document 1 (line 1): no matches for kind "Deployment" in version "extensions/v1beta1"; '
            "kmn serves Deployment as apps/v1"
        ),
    ),
    "the same object twice": (
        pod(CONTAINER) + "---\n" + pod(CONTAINER),
        "FILE: document 2 (line 6): Pod default/client is there twice, first in FILE: document 1 (line 1)",
    ),
    "unknown fields": (
        pod("{name: c, image: i, imagePulPolicy: Never}", restartPolcy="Never"),
        (
            'Pod default/client: spec.restartPolcy: unknown field, did you mean "restartPolicy"?; '
            'spec.containers[0].imagePulPolicy: unknown field, did you mean "imagePullPolicy"?'
        ),
    ),
    "wrong type": (
        pod(with_ports('{containerPort: "80"}')),
        'Pod default/client: spec.containers[0].ports[0].containerPort: must be an integer, is "80"',
    ),
    "bad name": (
        pod(CONTAINER, name="Client_1"),
        (
            "Pod default/Client_1: metadata.name: must be at most 253 characters a-z, 0-9, - and ., beginning and "
            'ending with a letter or digit (a DNS name such as "example.com"), is "Client_1"'
        ),
    ),
    "a port name twice": (
        pod(with_ports("{name: web, containerPort: 80}", "{name: web, containerPort: 81}")),
        (
            'Pod default/client: spec.containers[0].ports[1].name: "web" is used twice, here and in '
            "spec.containers[0].ports[0].name: use another"
        ),
    ),
    "a host port twice in a pod": (
        pod(
            with_ports("{containerPort: 80, hostPort: 8080}")
            + ", "
            + with_ports("{containerPort: 81, hostPort: 8080}", name="d")
        ),
        (
            "Pod default/client: spec.containers[1].ports[0].hostPort: 8080 is used twice, here and in "
            "spec.containers[0].ports[0].hostPort: use another"
        ),
    ),
    "Service port without a name": (
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{name: a, port: 80}, {port: 81}]}\n",
        "Service default/web: spec.ports[1].name: required when there is more than one port",
    ),
    "Service port twice": (
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n"
            "spec: {ports: [{name: a, port: 80}, {name: b, port: 80}]}\n"
        ),
        'Service default/web: spec.ports[1]: "TCP 80" is used twice, here and in spec.ports[0]: use another',
    ),
    "Service address outside": (
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {clusterIP: 10.0.0.1, ports: [{port: 80}]}\n",
        None,
    ),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_manifest(case: str, tmp_path: Path) -> None:
    text, message = MANIFESTS[case]
    file = tmp_path / "manifest.yaml"
    file.write_text(text)
    said = refused("--name", NAME, "-f", str(file)).replace(str(file), "FILE")
    if message is None:
        assert "spec.clusterIP" in said
        assert "10.96.0.0/12" in said
    else:
        assert said == message


def test_manifest_that_is_not_there() -> None:
    assert refused("--name", NAME, "-f", "/no/shop.yaml") == "/no/shop.yaml: no such file or directory"


def test_one_bad_object_among_good_ones_starts_none(tmp_path: Path) -> None:
    """``up`` brings everything up or nothing; ``apply`` on a running cluster does what it can, as kubectl does."""
    file = tmp_path / "manifest.yaml"
    file.write_text(pod(CONTAINER, name="good") + "---\n" + pod(CONTAINER, name="bad", hostNetwrk="true"))
    message = 'Pod default/bad: spec.hostNetwrk: unknown field, did you mean "hostNetwork"?'
    assert refused("--name", NAME, "-f", str(file)) == message
    with Cluster(name=NAME) as cluster:
        done = kmn("apply", "--name", NAME, "-f", str(file))
        assert (done.returncode, done.stdout, done.stderr) == (1, "pod/good created\n", f"kmn: {message}\n")
        assert [name_of(found) for found in cluster.client.list(PODS, "default").items] == ["good"]


# --- what fits into no cluster ----------------------------------------------------------------------------------------


def unready(done: Callable[[str], bool], *args: str) -> str:
    """What ``kmn up`` says of a cluster that cannot get ready; it gets the time that all else in it needs here."""
    for seconds in ("2", "8", "30"):
        up = kmn("up", "--name", NAME, *args, "--detach", "--timeout", seconds)
        assert up.returncode == 1, up.stdout
        if done(up.stderr):
            break
        assert kmn("down", NAME).returncode == 0
    return up.stderr


def problems_of(said: str) -> dict[str, list[str]]:
    """Reason and message of each pod in the table of what is not ready."""
    return {line.split()[1]: line.split(maxsplit=3)[2:] for line in said.splitlines() if line.startswith("pod ")}


def test_a_full_pod_network_is_said_and_room_is_used(tmp_path: Path) -> None:
    """A /28 has 13 addresses for pods: 16, less network, gateway and broadcast."""
    (tmp_path / "cluster.yaml").write_text(HEAD + "spec: {nodeCIDRMaskSize: 28, nodes: [{count: 1}]}")
    manifest = tmp_path / "web.yaml"
    text = (
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n"
        "spec: {replicas: 20, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, "
        f"spec: {{containers: [{CONTAINER}]}}}}}}\n"
    )
    manifest.write_text(text)
    expected = ["Unschedulable", "0/1 nodes are available: 1 Too many pods (a node's podCIDR has addresses for 13)."]

    def complete(said: str) -> bool:
        return all(told == expected for told in problems_of(said).values())

    said = unready(complete, str(tmp_path / "cluster.yaml"), "-f", str(manifest))
    with Cluster.attach(NAME) as cluster:
        pods = cluster.client.list(PODS).items
        waiting = {f"{p['metadata']['namespace']}/{name_of(p)}" for p in pods if not p["spec"].get("nodeName")}
        assert len(waiting) == len(pods) - 13
        assert problems_of(said) == dict.fromkeys(waiting, expected)
        assert f"{len(waiting)} problems" in said
        manifest.write_text(text.replace("20", "9"))
        assert kmn("apply", "--name", NAME, "-f", str(manifest)).returncode == 0
        cluster.wait_ready(30)
        assert len(cluster.client.list(PODS).items) < 13
    assert kmn("down", NAME).returncode == 0


def test_a_port_that_two_containers_of_a_pod_want(tmp_path: Path) -> None:
    """Kubernetes takes it; the second program then cannot listen."""
    file = tmp_path / "pod.yaml"
    port = "{containerPort: 80}"
    file.write_text(pod(with_ports(port) + ", " + with_ports(port, name="d")))
    said = unready(lambda said: "back-off" in said, "-f", str(file))
    assert (
        "Warning: Pod default/client: spec.containers[1].ports[0]: TCP port 80 is given twice, here and in "
        "spec.containers[0].ports[0]: only one can listen there\n"
    ) in said
    assert "container d: listen tcp :80: bind: address already in use (back-off" in said
    assert kmn("down", NAME).returncode == 0
    assert traces(NAME) == []


def test_a_host_port_that_two_pods_of_a_node_want(tmp_path: Path) -> None:
    file = tmp_path / "pods.yaml"
    port = with_ports("{containerPort: 80, hostPort: 8080}")
    selector = "{kubernetes.io/hostname: n1}"
    file.write_text(pod(port, "a", nodeSelector=selector) + "---\n" + pod(port, "b", nodeSelector=selector))
    said = unready(lambda said: "1 problem\n" in said, "-f", str(file))
    assert "1 node(s) didn't have free ports for the requested pod ports (hostPort TCP 8080)" in said
    with Cluster.attach(NAME) as cluster:
        bound = next(p for p in cluster.client.list(PODS, "default").items if p["spec"].get("nodeName"))
        cluster.client.delete(PODS, "default", name_of(bound), grace_seconds=0)
        cluster.wait_ready(30)


def test_a_host_port_that_two_pods_bound_to_a_node_want(tmp_path: Path) -> None:
    """The scheduler is not asked; the kubelet refuses the second."""
    file = tmp_path / "pods.yaml"
    port = with_ports("{containerPort: 80, hostPort: 8080}")
    file.write_text(pod(port, "a", nodeName="n1") + "---\n" + pod(port, "b", nodeName="n1"))
    said = unready(lambda said: "1 problem\n" in said, "-f", str(file))
    why = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
    assert list(problems_of(said).values()) == [["NodePorts", f"Pod was rejected: {why}"]]
    with Cluster.attach(NAME) as cluster:
        pods = cluster.client.list(PODS, "default").items
        runs, refused = sorted(pods, key=lambda each: str(each["status"]["phase"]), reverse=True)
        assert (runs["status"]["phase"], refused["status"]["phase"]) == ("Running", "Failed")
        shown = kmn("get", "pods", "--name", NAME, "--no-headers").stdout
        assert {line.split()[0]: line.split()[2] for line in shown.splitlines()} == {
            name_of(runs): "Running",
            name_of(refused): "NodePorts",
        }
        there = f"exec 3<>/dev/tcp/{runs['status']['hostIP']}/8080"
        assert cluster.node("n2").run(["bash", "-c", there], timeout=10).returncode == 0
        cluster.client.delete(PODS, "default", name_of(refused))
        cluster.wait_ready(30)


# --- what the machine cannot do ---------------------------------------------------------------------------------------

SLOW = HEAD + (
    "spec: {nodes: [{name: n1, uplink: {delay: 25ms, loss: 0.001}}, {name: n2, podLink: {jitter: 1ms}}], "
    "internet: {hosts: []}}"
)


def test_delay_jitter_and_loss_are_refused_where_the_kernel_cannot(tmp_path: Path) -> None:
    if has_netem():
        pytest.skip("this kernel can")
    (tmp_path / "cluster.yaml").write_text(SLOW)
    said = refused("cluster.yaml", cwd=tmp_path)
    assert said.startswith(
        "cluster.yaml: spec.nodes[n1].uplink.delay, spec.nodes[n1].uplink.loss, spec.nodes[n2].podLink.jitter: "
        "this kernel cannot do it (sch_netem: "
    )
    assert said.endswith("or leave it out")


def test_delay_is_there_where_the_kernel_can(tmp_path: Path) -> None:
    if not has_netem():
        pytest.skip("this kernel has no sch_netem")
    (tmp_path / "cluster.yaml").write_text(SLOW)
    with Cluster(tmp_path / "cluster.yaml") as cluster:
        cluster.wait_ready()
        shown = cluster.node("n2").run(["ping", "-c", "3", "-i", "0.2", "-q", cluster.node("n1").ip]).stdout
    fastest = float(shown.rpartition("= ")[2].split("/")[0])
    assert 50 <= fastest < 80, shown


def has_netem() -> bool:
    default = ClusterSpec.default("a")
    nodes = tuple(NodeSpec(node.name, node.address, uplink=Link(delay=0.001)) for node in default.nodes)
    return not features.problems(ClusterSpec("a", nodes))


def test_the_kernels_datapath_is_refused_where_there_is_none(tmp_path: Path) -> None:
    if features.kernel_datapath():
        pytest.skip("this kernel has the module")
    (tmp_path / "cluster.yaml").write_text(HEAD + "spec: {datapath: system}")
    message = "spec.datapath: system: the kernel has no openvswitch module; use auto or netdev"
    assert refused("cluster.yaml", cwd=tmp_path) == f"cluster.yaml: {message}"


def test_open_vswitch_is_missing(tmp_path: Path) -> None:
    for program in ("ip", "sh", "unshare", "hostname", "env"):
        found = shutil.which(program)
        assert found is not None
        (tmp_path / program).symlink_to(found)
    message = refused("--name", NAME, env={**os.environ, "PATH": str(tmp_path)})
    assert message == (
        f"cluster {NAME}: Open vSwitch: ovsdb-server, ovsdb-tool, ovs-vswitchd: not found; "
        "install the package openvswitch-switch"
    )


@pytest.mark.parametrize(
    "command", [["up"], ["down"], ["clean"], ["list"], ["get", "pods"], ["apply", "-f", "topologies/web.yaml"]]
)
def test_not_root(command: list[str]) -> None:
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all")
    if subprocess.run([*nobody, sys.executable, "-c", "import kmn.cli.main"], cwd=ROOT, check=False).returncode:
        pytest.skip("the folder of the project is not readable for others")
    done = kmn(*command, before=nobody, cwd=ROOT)
    assert done.returncode == 1
    assert "needs root" in done.stderr
    assert "put sudo in front of the command" in done.stderr
    assert traces(NAME) == []


def test_a_name_in_use_disturbs_nobody() -> None:
    assert kmn("up", "--name", NAME, "--detach").returncode == 0
    before = json.loads(kmn("list", "-o", "json").stdout)
    again = kmn("up", "--name", NAME, "-f", "/dev/null")
    again_well = kmn("up", "--name", NAME, "--detach")
    assert (again.returncode, again.stderr) == (1, "kmn: /dev/null: holds no object\n")
    assert again_well.returncode == 1
    assert again_well.stderr == (
        f"kmn: cluster {NAME}: the name is in use by a running cluster\n"
        f"     kmn down {NAME} ends it; kmn up --name OTHER starts another one beside it\n"
    )
    mine = [entry for entry in before if entry["name"] == NAME]
    assert [entry for entry in json.loads(kmn("list", "-o", "json").stdout) if entry["name"] == NAME] == mine
    with Cluster.attach(NAME) as cluster:
        wait_for(lambda: cluster.client.list(EVENTS).items, "events")
        cluster.wait_ready(30)
    assert kmn("down", NAME).returncode == 0
    assert not list(RUN_ROOT.glob(f"{NAME}*"))
