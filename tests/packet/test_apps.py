"""Published applications, unmodified, on three nodes: every Service answers everywhere, and nobody is mistaken.

All applications run beside each other, each in a namespace of its own; what is asked, is asked from all pods of all.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest
from clusterlab import Census, ServicePort, make_namespace, running
from published import SHARED, TOPOLOGIES
from traffic import Answer, Question, ask, ping_all, wrong

from kmn import Cluster
from kmn.k8s.manifests import load
from kmn.machine import Machine

pytestmark = pytest.mark.packet

APPS = {
    "boutique": SHARED / "apps/online-boutique/release/kubernetes-manifests.yaml",
    "bookinfo": SHARED / "apps/istio-bookinfo/samples/bookinfo/platform/kube/bookinfo.yaml",
    "guestbook": SHARED / "apps/k8s-examples/web/guestbook/all-in-one/guestbook-all-in-one.yaml",
    "shop": TOPOLOGIES / "shop.yaml",
}
ZONES = [{"name": f"n{i}", "labels": {"topology.kubernetes.io/zone": zone}} for i, zone in enumerate("abc", 1)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running("apps", nodes=ZONES) as cluster:
        for name, file in APPS.items():
            if file.exists():
                make_namespace(cluster, name)
                cluster.apply(file, namespace=name)
        cluster.wait_ready()
        yield cluster


@pytest.fixture(scope="module")
def census(cluster: Cluster) -> Census:
    return Census(cluster)


@pytest.fixture(params=APPS)
def app(request: pytest.FixtureRequest) -> str:
    """Each application that is there."""
    if not APPS[request.param].exists():
        pytest.skip(f"{APPS[request.param]} is not here")
    return str(request.param)


def _ports(cluster: Cluster, app: str) -> list[ServicePort]:
    """The ports of an application's Services, those with pods behind them."""
    return [port for port in Census(cluster, app).service_ports() if port.pods]


def _wrong(ports: list[ServicePort], askers: list[Machine], names: bool) -> list[str]:
    """Ask every port from everywhere, by address or by name."""
    expected: dict[Question, ServicePort] = {}
    for port in ports:
        for asker in askers:
            near = asker.name.startswith(f"{port.namespace}/")
            host = (port.name if near else f"{port.name}.{port.namespace}") if names else port.address
            expected[Question(asker, host, port.port, port.protocol)] = port
    return wrong(list(expected), lambda question: expected[question].pods, _seen)


def _seen(question: Question, answer: Answer) -> str:
    """The asker's own address, but for a connection that comes back to the asker: that has its gateway's."""
    asker = question.asker
    return f"{asker.ip.rpartition('.')[0]}.1" if answer.pod == asker.hostname else asker.ip


def test_all_pods_come_up(cluster: Cluster, app: str) -> None:
    wanted = 0
    for manifest in load([APPS[app]]):
        if manifest["kind"] in ("Deployment", "StatefulSet"):
            wanted += manifest["spec"].get("replicas", 1)
        elif manifest["kind"] == "Pod":
            wanted += 1
    assert len(Census(cluster, app).pods) == wanted


def test_every_service_answers_every_pod_by_address(cluster: Cluster, census: Census, app: str) -> None:
    ports = _ports(cluster, app)
    assert ports
    assert _wrong(ports, census.pods, names=False) == []


def test_every_service_answers_every_pod_by_name(cluster: Cluster, census: Census, app: str) -> None:
    askers = [pod for pod in census.pods if not pod.name.startswith("kube-system/")]  # dnsPolicy of these is Default
    assert _wrong(_ports(cluster, app), askers, names=True) == []


def test_every_service_answers_every_node(cluster: Cluster, census: Census, app: str) -> None:
    assert len(census.nodes) == 3
    assert _wrong(_ports(cluster, app), census.nodes, names=False) == []


def test_connections_arrive_at_the_target_port(cluster: Cluster, census: Census, app: str) -> None:
    ports = [port for port in _ports(cluster, app) if port.protocol == "TCP"]
    answers = ask([Question(census.pods[0], port.address, port.port) for port in ports])
    arrived = {port: getattr(answer, "port", answer) for port, answer in zip(ports, answers, strict=True)}
    assert {port: at for port, at in arrived.items() if at not in port.targets} == {}


def test_programs_find_services_by_name(cluster: Cluster, app: str) -> None:
    """The system's own resolver and a real client, in one pod of each application."""
    urls = [f"http://{port.name}:{port.port}/" for port in _ports(cluster, app) if port.protocol == "TCP"]
    done = Census(cluster, app).pods[0].run(["curl", "-sS", "--max-time", "5", *urls])
    assert done.returncode == 0, done.stderr
    assert len([json.loads(line)["pod"] for line in done.stdout.splitlines()]) == len(urls)


def test_every_pod_and_node_pings_every_other(census: Census) -> None:
    assert ping_all([*census.pods, *census.nodes]) == []


def test_no_pod_has_to_ask_for_neighbours(census: Census) -> None:
    """The kernel has room for 1,024 such entries on the whole machine; all pairs of a few clusters would be more."""
    for pod in census.pods:
        shown = subprocess.run(["ip", "-n", pod.netns, "neigh"], capture_output=True, text=True, check=True).stdout
        assert [line.split()[-1] for line in shown.splitlines()] == ["PERMANENT"], pod


def test_every_pod_talks_to_every_pod_without_a_service(census: Census) -> None:
    """Frontends of all applications listen on numbers of their own: asked directly, from everywhere."""
    port_of = {}
    for pod in census.objects:
        for container in pod["spec"]["containers"]:
            for port in container.get("ports") or ():
                if port.get("protocol", "TCP") == "TCP" and pod["metadata"]["namespace"] != "kube-system":
                    port_of[pod["status"]["podIP"]] = (port["containerPort"], pod["metadata"]["name"])
    questions = [
        Question(asker, address, port)
        for asker in (*census.pods, *census.nodes)
        for address, (port, _) in port_of.items()
    ]
    assert wrong(questions, lambda q: (port_of[q.host][1],)) == []


def test_all_pods_reach_the_outside_under_the_public_address(cluster: Cluster, census: Census) -> None:
    host = cluster.host("e1")
    questions = [Question(asker, host.ip, 80, p) for asker in (*census.pods, *census.nodes) for p in ("TCP", "UDP")]
    assert wrong(questions, lambda _: ("e1",), lambda *_: "198.51.100.1") == []


def test_nothing_inside_is_reached_from_outside(cluster: Cluster, census: Census) -> None:
    outside = cluster.host("e1")
    asked = [(machine.ip, 80) for machine in (*census.pods, *census.nodes)]
    asked += [(port.address, port.port) for port in census.service_ports()]
    answers = ask([Question(outside, address, port) for address, port in asked], timeout=1.5)
    assert {type(answer) for answer in answers} == {TimeoutError}
