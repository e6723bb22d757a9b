"""The real kubectl on a running cluster: what it changes shows in pods and in packets."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest
from clusterlab import WEB, Census, eventually, get, running
from traffic import Question, ask

from kmn import Cluster
from kmn.errors import UserError
from kmn.k8s.objects import name_of
from kmn.k8s.resources import PODS
from kmn.machine import Machine

pytestmark = [
    pytest.mark.packet,
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running("ctl") as cluster:
        yield cluster


@pytest.fixture
def client(cluster: Cluster) -> Machine:
    """A pod to ask from, beside two web pods as they were in the beginning."""
    cluster.kubectl("apply", "--validate=false", "-f", "-", input=WEB)
    cluster.wait_ready()
    return cluster.pod("client")


def web_pods(cluster: Cluster) -> set[str]:
    return {pod.hostname for pod in Census(cluster).named("web-")}


def answering(client: Machine, port: int = 80) -> set[str]:
    """The pods that answer at the Service, as a program in the client's pod finds it."""
    answers = ask([Question(client, "web", port) for _ in range(40)])
    return {getattr(answer, "pod", type(answer).__name__) for answer in answers}


def settled(client: Machine, pods: set[str]) -> None:
    """Open vSwitch looks through its cached flows some milliseconds after it has taken a change of its tables."""
    eventually(lambda: answering(client) == pods, f"{pods} answer, and no others")


def wait(cluster: Cluster, check: Callable[[], bool], what: str) -> None:
    eventually(check, what)
    cluster.wait_ready()


def test_apply_again_with_changes(cluster: Cluster, client: Machine) -> None:
    apply = ("apply", "--validate=false", "-f", "-")
    unchanged = "deployment.apps/web unchanged\nservice/web unchanged\npod/client unchanged\n"
    assert cluster.kubectl(*apply, input=WEB) == unchanged
    changed = WEB.replace("{port: 80, targetPort: 8080}", "{port: 81, targetPort: 8080}")
    assert "service/web configured" in cluster.kubectl(*apply, input=changed)
    cluster.wait_ready()
    assert answering(client, 81) == web_pods(cluster)
    assert answering(client, 80) == {"ConnectionRefusedError"}


def test_scale(cluster: Cluster, client: Machine) -> None:
    for replicas in ("5", "0", "2"):
        cluster.kubectl("scale", "deployment/web", f"--replicas={replicas}")
        cluster.kubectl("rollout", "status", "deployment/web", "--timeout=20s")
        cluster.wait_ready()
        pods = web_pods(cluster)
        assert len(pods) == int(replicas)
        assert answering(client) == (pods or {"ConnectionRefusedError"})


def test_delete_pod(cluster: Cluster, client: Machine) -> None:
    """The command returns when the pod is gone; another one takes its place."""
    gone, stays = sorted(web_pods(cluster))
    before = cluster.pod(gone)
    assert f'pod "{gone}" deleted' in cluster.kubectl("delete", "pod", gone, "--timeout=20s")
    wait(cluster, lambda: len(web_pods(cluster)) == 2, "the replacement")
    new = cluster.pod((web_pods(cluster) - {stays}).pop())
    assert new.ip != before.ip
    assert answering(client) == {new.hostname, stays}


def test_label_takes_a_pod_out_of_its_service(cluster: Cluster, client: Machine) -> None:
    """And out of its ReplicaSet, which makes another one: the old pod stays for inspection."""
    out, stays = sorted(web_pods(cluster))
    cluster.kubectl("label", "pod", out, "app=debug", "--overwrite")
    wait(cluster, lambda: len(web_pods(cluster)) == 3, "the replacement")
    assert answering(client) == web_pods(cluster) - {out}
    assert stays in answering(client)
    assert get(client, cluster.pod(out).ip, 8080).pod == out
    cluster.kubectl("delete", "pod", out)


def test_rollout_of_a_change_and_back(cluster: Cluster, client: Machine) -> None:
    before = web_pods(cluster)
    cluster.kubectl("set", "image", "deployment/web", "web=example.com/web:2")
    assert "successfully rolled out" in cluster.kubectl("rollout", "status", "deployment/web", "--timeout=20s")
    cluster.wait_ready()
    after = web_pods(cluster)
    assert not before & after
    settled(client, after)
    cluster.kubectl("rollout", "undo", "deployment/web")
    cluster.kubectl("rollout", "status", "deployment/web", "--timeout=20s")
    cluster.wait_ready()
    images = cluster.kubectl("get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].spec.containers[*].image}")
    assert set(images.split()) == {"example.com/web:1"}
    settled(client, web_pods(cluster))


def test_no_connection_fails_while_pods_are_replaced(cluster: Cluster, client: Machine) -> None:
    """As long as old pods serve on for a moment, which is what ``preStop`` hooks are for."""
    hook = '{"lifecycle": {"preStop": {"sleep": {"seconds": 1}}}, "name": "web"}'
    cluster.kubectl(
        "patch", "deployment", "web", "-p", f'{{"spec": {{"template": {{"spec": {{"containers": [{hook}]}}}}}}}}'
    )
    cluster.kubectl("rollout", "status", "deployment/web", "--timeout=20s")
    cluster.wait_ready()
    before = web_pods(cluster)
    cluster.kubectl("rollout", "restart", "deployment/web")
    seen: set[str] = set()
    while before & {name_of(pod) for pod in cluster.client.list(PODS, "default").items}:
        seen |= answering(client)
    after = web_pods(cluster)
    assert seen <= before | after
    eventually(lambda: answering(client) == after, "traffic has moved")


def test_cordon_and_uncordon(cluster: Cluster, client: Machine) -> None:
    cluster.kubectl("cordon", "n1", "n2")
    try:
        cluster.kubectl("scale", "deployment/web", "--replicas=6")
        cluster.kubectl("rollout", "status", "deployment/web", "--timeout=20s")
        nodes = cluster.kubectl("get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].spec.nodeName}").split()
        assert len(nodes) == 6
        assert nodes.count("n3") >= 4, "no new pod on a cordoned node"
        assert "SchedulingDisabled" in cluster.kubectl("get", "node", "n1")
    finally:
        cluster.kubectl("uncordon", "n1", "n2")
    assert "SchedulingDisabled" not in cluster.kubectl("get", "nodes")


def test_delete_a_service_and_make_it_again(cluster: Cluster, client: Machine) -> None:
    cluster.kubectl("delete", "service", "web")
    eventually(lambda: answering(client) == {"LookupError"}, "the name is gone")
    cluster.kubectl("expose", "deployment", "web", "--port=80", "--target-port=8080")
    cluster.wait_ready()
    eventually(lambda: answering(client) == web_pods(cluster), "the name is back")


def test_watch_shows_a_pod_from_pending_to_running(cluster: Cluster, client: Machine) -> None:
    command = ["kubectl", "get", "pods", "-w", "--no-headers", "-o", "custom-columns=:metadata.name,:status.phase"]
    environment = {**os.environ, "KUBECONFIG": cluster.kubeconfig}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        try:
            listed = [watch.stdout.readline().split()[0] for _ in range(3)]
            assert "client" in listed
            cluster.kubectl("run", "watched", "--image=example.com/w:1")
            phases: list[str] = []
            while phases[-1:] != ["Running"]:
                name, phase = watch.stdout.readline().split()
                if name == "watched":
                    phases.append(phase)
            assert phases[0] == "Pending"
        finally:
            watch.kill()
    cluster.kubectl("delete", "pod", "watched")


def test_describe_and_events(cluster: Cluster, client: Machine) -> None:
    pod = sorted(web_pods(cluster))[0]
    text = cluster.kubectl("describe", "pod", pod)
    assert f"IP:               {cluster.pod(pod).ip}" in text
    assert "Started" in text
    endpoints = cluster.kubectl("describe", "service", "web")
    assert f"{cluster.pod(pod).ip}:8080" in endpoints
    cluster.kubectl("run", "stuck", "--image=i", '--overrides={"spec":{"nodeSelector":{"disk":"fast"}}}')
    eventually(lambda: "FailedScheduling" in cluster.kubectl("describe", "pod", "stuck"), "the scheduler says why")
    cluster.kubectl("delete", "pod", "stuck")


def test_wait_and_json_output(cluster: Cluster, client: Machine) -> None:
    cluster.kubectl("wait", "--for=condition=Available", "deployment/web", "--timeout=10s")
    nodes = json.loads(cluster.kubectl("get", "nodes", "-o", "json"))["items"]
    assert [node["metadata"]["name"] for node in nodes] == ["n1", "n2", "n3"]
    assert "web" in cluster.kubectl("get", "all", "-A")
    with pytest.raises(UserError, match="NotFound"):
        cluster.kubectl("get", "pod", "nobody")


def test_delete_namespace_takes_its_pods_along(cluster: Cluster, client: Machine) -> None:
    cluster.kubectl("create", "namespace", "short")
    cluster.kubectl("apply", "-n", "short", "-f", "-", input=WEB)
    cluster.wait_ready()
    pods = Census(cluster, "short").pods
    assert len(pods) == 3
    cluster.kubectl("delete", "namespace", "short", "--timeout=20s")
    assert Census(cluster, "short").pods == []
    answers = ask([Question(client, pod.ip, 8080) for pod in pods], timeout=0.5)
    assert {type(answer) for answer in answers} == {TimeoutError}
