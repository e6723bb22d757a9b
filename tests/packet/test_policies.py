"""Policies on real packets beyond the conformance cases: tiers, policies that are tried out, known connections."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import permutations
from typing import Any

import pytest
from clusterlab import eventually, running
from faultlab import kmn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from policy_worlds import NAMESPACES, cluster_policies, policies
from traffic import Question, ask

from kmn import Cluster
from kmn.cli.policy import judge_of
from kmn.emulator import netns
from kmn.k8s.objects import Key, Object, key_of
from kmn.k8s.resources import PODS, POLICIES
from kmn.ovstools import argv as ovs_argv

pytestmark = [pytest.mark.packet, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

PORT = 8080
CLIENTS = {"podSelector": {"matchLabels": {"app": "client"}}}
EVERY_NAMESPACE: Object = {"namespaces": {}}


def pod(name: str, node: str) -> Object:
    probe = {"tcpSocket": {"port": PORT}, "periodSeconds": 1, "failureThreshold": 1}
    container = {"name": "c", "image": "i", "ports": [{"containerPort": PORT}], "readinessProbe": probe}
    metadata = {"name": name, "labels": {"app": name}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"nodeName": node, "containers": [container]},
    }


def policy(name: str, app: str = "web", *, staged: bool = False, **spec: Any) -> Object:
    metadata: Object = {"name": name, "annotations": {"kmn.io/policy-staged": "true"} if staged else {}}
    spec = {"podSelector": {"matchLabels": {"app": app}}, **spec}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


def admin(name: str, action: str, *, priority: int = 10, **rule: Any) -> Object:
    """A rule for connections to web."""
    metadata, rule = {"name": name}, {"action": action, "from": [EVERY_NAMESPACE], **rule}
    subject = {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "web"}}}}
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha1",
        "kind": "AdminNetworkPolicy",
        "metadata": metadata,
        "spec": {"priority": priority, "subject": subject, "ingress": [rule]},
    }


def baseline(action: str) -> Object:
    made = admin("default", action)
    made["kind"] = "BaselineAdminNetworkPolicy"
    del made["spec"]["priority"]
    return made


@contextmanager
def world(suffix: str, **spec: Any) -> Iterator[Cluster]:
    """Pods client and other on n1, web on n2."""
    with running(suffix, nodes=[{"count": 2}], **spec) as cluster:
        cluster.apply(pod("client", "n1"), pod("other", "n1"), pod("web", "n2"))
        cluster.wait_ready()
        yield cluster


@pytest.fixture(scope="module")
def net() -> Iterator[Cluster]:
    with world("pol") as cluster:
        yield cluster


@pytest.fixture
def cluster(net: Cluster) -> Iterator[Cluster]:
    yield net
    for resource in POLICIES:
        for obj in net.client.list(resource).items:
            net.client.delete(resource, obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
    net.wait_ready()


def put(cluster: Cluster, *objects: Object) -> None:
    cluster.apply(*objects)
    cluster.wait_ready()


def reached(cluster: Cluster, client: str = "client") -> bool:
    """Whether a pod gets an answer of web."""
    (answer,) = ask([Question(cluster.pod(client), cluster.pod("web").ip, PORT)], timeout=1)
    return not isinstance(answer, Exception)


def test_administrators_speak_first_and_in_their_order(cluster: Cluster) -> None:
    put(cluster, policy("allow", ingress=[{"from": [CLIENTS]}]))
    assert (reached(cluster), reached(cluster, "other")) == (True, False)
    put(cluster, admin("deny", "Deny"))
    assert not reached(cluster)
    put(cluster, admin("exempt", "Allow", priority=5))
    assert (reached(cluster), reached(cluster, "other")) == (True, True)
    put(cluster, admin("ask-owners", "Pass", priority=1))
    assert (reached(cluster), reached(cluster, "other")) == (True, False)
    put(cluster, admin("ask-owners", "Pass", priority=1000))
    assert (reached(cluster), reached(cluster, "other")) == (True, True)


def test_the_baseline_holds_where_nobody_isolates(cluster: Cluster) -> None:
    put(cluster, baseline("Deny"))
    assert (reached(cluster), reached(cluster, "other")) == (False, False)
    put(cluster, policy("allow", ingress=[{"from": [CLIENTS]}]))
    assert (reached(cluster), reached(cluster, "other")) == (True, False)


def test_ports_and_nodes_of_cluster_wide_policies(cluster: Cluster) -> None:
    put(cluster, admin("deny", "Deny", ports=[{"portRange": {"start": PORT + 1, "end": 9000, "protocol": "TCP"}}]))
    assert reached(cluster)
    put(cluster, admin("deny", "Deny", ports=[{"portNumber": {"port": PORT, "protocol": "TCP"}}]))
    assert not reached(cluster)
    cluster.client.delete(POLICIES[1], "", "deny")
    subject = {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "client"}}}}
    nodes = {"nodes": {"matchLabels": {"kubernetes.io/hostname": "n2"}}}
    put(
        cluster,
        {
            "apiVersion": "policy.networking.k8s.io/v1alpha2",
            "kind": "ClusterNetworkPolicy",
            "metadata": {"name": "no-n2"},
            "spec": {
                "tier": "Admin",
                "priority": 3,
                "subject": subject,
                "egress": [{"action": "Deny", "to": [nodes]}],
            },
        },
    )
    assert reached(cluster)
    questions = {name: cluster.node(name).ip for name in ("n1", "n2")}
    assert {name: pings(cluster, ip) for name, ip in questions.items()} == {"n1": True, "n2": False}


def pings(cluster: Cluster, address: str) -> bool:
    command = ["ip", "netns", "exec", cluster.pod("client").netns, "ping", "-c1", "-W1", "-q", address]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_nodes_probe_their_pods_whatever_policies_say(cluster: Cluster) -> None:
    put(cluster, admin("deny", "Deny"), baseline("Deny"), policy("none", policyTypes=["Ingress"]))
    web = cluster.pod("web")
    with netns.entered(cluster.node("n2").netns):
        probe = socket.create_connection((web.ip, PORT), timeout=5)
    probe.close()


def test_staged_policies_count_and_let_pass(cluster: Cluster) -> None:
    put(cluster, policy("try", ingress=[{"from": [CLIENTS]}], staged=True))
    assert (reached(cluster), reached(cluster, "other")) == (True, True)
    staged = [flow for flow in flows(cluster, "n2") if "table=57," in flow and "n_packets=0" not in flow]
    assert any("conj_id=" in flow for flow in staged), "client would be allowed"
    assert any("priority=10," in flow for flow in staged), "other would be denied"
    put(cluster, policy("try", ingress=[{"from": [CLIENTS]}]))
    assert (reached(cluster), reached(cluster, "other")) == (True, False)
    assert not [flow for flow in flows(cluster, "n2") if "table=57," in flow and "priority=0 " not in flow]


def test_packets_of_both_directions_count_for_the_rule(cluster: Cluster) -> None:
    put(cluster, policy("allow", ingress=[{"from": [CLIENTS]}]))
    assert reached(cluster)

    def packets() -> int:
        (flow,) = [flow for flow in flows(cluster, "n2") if "table=80," in flow and "reg11=" in flow]
        return int(flow.split("n_packets=")[1].split(",")[0])

    eventually(lambda: packets() >= 6, "both ends' packets: two shakes of hands, and what was said")


def flows(cluster: Cluster, node: str) -> list[str]:
    command = ovs_argv(cluster.paths.ovs(node), "ofctl", ["dump-flows", "br0"])
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def conversation(cluster: Cluster) -> socket.socket:
    with netns.entered(cluster.pod("client").netns):
        return socket.create_connection((cluster.pod("web").ip, PORT), timeout=2)


def said(connection: socket.socket) -> bool:
    """Ask once more over a connection that is there."""
    try:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")
        return connection.recv(4096).startswith(b"HTTP/1.1 200")
    except TimeoutError:
        return False


def test_kmn_wait_tells_when_policies_are_in_force(cluster: Cluster) -> None:
    cluster.apply(policy("none", policyTypes=["Ingress"]))
    done = kmn("wait", "--name", cluster.name)
    assert (done.returncode, done.stdout.count("all of it in force")) == (0, 1), done.stderr
    assert not reached(cluster)
    late = pod("late", "n1")
    late["spec"]["nodeName"] = ""
    late["spec"]["nodeSelector"] = {"no": "such"}
    cluster.apply(late)
    done = kmn("wait", "--name", cluster.name, "--timeout", "1")
    assert done.returncode == 1
    assert "late" in done.stdout + done.stderr
    cluster.client.delete(PODS, "default", "late")


def test_known_connections_are_kept(cluster: Cluster) -> None:
    with conversation(cluster) as connection:
        assert said(connection)
        put(cluster, policy("none", policyTypes=["Ingress"]), admin("deny", "Deny"))
        assert said(connection)
        assert not reached(cluster)


def test_known_connections_are_cut_where_that_is_asked_for() -> None:
    with (
        world("cut", policy={"establishedConnections": "cut"}) as cluster,
        conversation(cluster) as connection,
        conversation(cluster) as other,
    ):
        assert said(connection)
        put(cluster, policy("allow", ingress=[{"from": [CLIENTS]}]))
        assert said(connection), "this one is allowed"
        put(cluster, policy("allow", ingress=[]))
        assert not said(connection)
        put(cluster, policy("allow", ingress=[{"from": [CLIENTS]}]))
        eventually(lambda: said(other), "allowed again, before its client gave up")


# Pods of a small world with what random policies select by, and on which node they are.
_RANDOM_PODS = {
    ("x", "a"): ("n1", {"app": "a", "tier": "b"}),
    ("x", "b"): ("n2", {"app": "b"}),
    ("y", "a"): ("n1", {"app": "a"}),
    ("z", "a"): ("n2", {"tier": "c"}),
}


@pytest.fixture(scope="module")
def random_world() -> Iterator[Cluster]:
    with running("rnd", nodes=[{"count": 2}], policy={"log": "none"}) as cluster:
        for name in NAMESPACES:
            labels = {"app": name.translate(str.maketrans("xyz", "abc"))}
            cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        for (namespace, name), (node, labels) in _RANDOM_PODS.items():
            made = pod(name, node)
            made["metadata"] |= {"namespace": namespace, "labels": labels}
            made["spec"]["containers"][0]["ports"] = [{"name": "web", "containerPort": 80}]
            del made["spec"]["containers"][0]["readinessProbe"]
            cluster.apply(made)
        cluster.wait_ready()
        yield cluster


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.one_of(policies(), cluster_policies()), min_size=2, max_size=8))
def test_packets_go_where_the_evaluator_says(random_world: Cluster, objects: list[Object]) -> None:
    cluster = random_world
    for resource in POLICIES:
        for obj in cluster.client.list(resource).items:
            cluster.client.delete(resource, obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
    put(cluster, *{(each["kind"], key_of(each)): each for each in objects}.values())
    judge = judge_of(cluster.client)
    pairs = list(permutations(_RANDOM_PODS, 2))
    machines = {key: cluster.pod(key[1], namespace=key[0]) for key in _RANDOM_PODS}
    answers = ask([Question(machines[source], machines[target].ip, 80) for source, target in pairs], timeout=1)
    for (source, target), answer in zip(pairs, answers, strict=True):
        members = judge.selection.members
        verdict = judge.judge(members[Key(*source)], members[Key(*target)], "TCP", 80)
        assert verdict.allowed == (not isinstance(answer, Exception)), (source, target, verdict, objects)
