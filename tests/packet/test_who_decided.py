"""Who decided, by packets: ``kmn policy log`` and ``kmn policy counters`` beside a running cluster."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from clusterlab import eventually, running
from faultlab import kmn, switch_pid
from logreader import Log, log_of

from kmn import Cluster
from kmn.emulator import netns
from kmn.k8s.objects import Object
from kmn.k8s.resources import PODS
from kmn.policy.model import STAGED

pytestmark = [pytest.mark.packet, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

KINDS = {"TCP": socket.SOCK_STREAM, "UDP": socket.SOCK_DGRAM}
FROM_CLIENT = {"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}


def pod(name: str, node: str) -> Object:
    ports = [{"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}]
    meta = {"name": name, "namespace": "default", "labels": {"app": name}}
    spec = {"nodeName": node, "containers": [{"name": "c", "image": "example.com/x", "ports": ports}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def policy(name: str, app: str, *, staged: bool = False, **spec: Any) -> Object:
    meta = {"name": name, "namespace": "default", "annotations": {STAGED: str(staged).lower()}}
    spec = {"podSelector": {"matchLabels": {"app": app}}, **spec}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta, "spec": spec}


PODS_AND_SERVICE = [
    pod("client", "n1"),
    pod("other", "n2"),
    pod("web", "n2"),
    {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 8080, "targetPort": 80}]},
    },
]  # fmt: skip
WEB = policy("web", "web", ingress=[{**FROM_CLIENT, "ports": [{"port": 80}]}])
DNS = policy("dns", "web", ingress=[{**FROM_CLIENT, "ports": [{"port": 53, "protocol": "UDP"}]}])


@pytest.fixture(scope="module")
def made() -> Iterator[Cluster]:
    with running("log", nodes=[{"count": 2}], ipFamily="dual", policy={"log": "all"}) as cluster:
        cluster.apply(*PODS_AND_SERVICE)
        cluster.wait_ready()
        yield cluster


@contextlib.contextmanager
def policies(cluster: Cluster, *objects: Object) -> Iterator[None]:
    """In force until the end of the block."""
    cluster.apply(*objects)
    cluster.wait_ready()
    yield
    cluster.delete(*objects)
    cluster.wait_ready()


def addresses(cluster: Cluster, name: str) -> list[str]:
    """Of a pod, IPv4 first."""
    return [each["ip"] for each in cluster.client.get(PODS, "default", name)["status"]["podIPs"]]


@contextlib.contextmanager
def attempt(cluster: Cluster, client: str, address: str, port: int, protocol: str = "TCP") -> Iterator[int]:
    """One first packet of a connection; the client's port. At the end of the block there is nobody to repeat it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with netns.entered(cluster.find(client).netns):
        sock = socket.socket(family, KINDS[protocol] | socket.SOCK_NONBLOCK)
    with sock:
        sock.connect_ex((address, port))
        if protocol == "UDP":
            sock.send(b"x")
        yield sock.getsockname()[1]


def end(name: str, address: str, port: int, kind: str = "pod") -> dict[str, Any]:
    return {"kind": kind, "name": f"default/{name}" if kind == "pod" else name, "address": address, "port": port}


def counted(cluster: Cluster) -> dict[tuple[str, ...], dict[str, Any]]:
    """Counters by policies and rule (or pod)."""
    done = kmn("policy", "counters", "--name", cluster.name, "-o", "json")
    assert (done.returncode, done.stderr) == (0, "")
    return {(*row["policies"], row.get("rule") or row["pod"]): row for row in json.loads(done.stdout)}


@pytest.mark.parametrize(
    ("port", "protocol", "version"), [(80, "TCP", 4), (80, "TCP", 6), (53, "UDP", 4), (53, "UDP", 6)]
)
def test_a_default_deny_is_of_all_policies_that_isolate_the_pod(
    made: Cluster, port: int, protocol: str, version: int
) -> None:
    here, there = (addresses(made, name)[version == 6] for name in ("other", "web"))
    with policies(made, WEB, DNS), log_of(made, "--json") as log, attempt(made, "other", there, port, protocol) as own:
        (entry,) = log.take()
    del entry["time"]
    assert entry == {
        "node": "n2",
        "verdict": "denied",
        "staged": False,
        "direction": "ingress",
        "source": end("other", here, own),
        "destination": end("web", there, port),
        "protocol": protocol,
        "policies": ["NetworkPolicy default/dns", "NetworkPolicy default/web"],
        "reason": "default deny of policies default/dns, default/web",
    }


def test_what_is_allowed_names_the_rule_that_did(made: Cluster) -> None:
    """Policies overlap: each rule allows what the other does not."""
    there = addresses(made, "web")[0]
    with policies(made, WEB, DNS), log_of(made, "--json") as log:
        for port, protocol, name in ((80, "TCP", "web"), (53, "UDP", "dns"), (80, "TCP", "web")):
            with attempt(made, "client", there, port, protocol):
                (entry,) = log.take()
            decided = entry["verdict"], entry["policies"], entry["rule"]
            assert decided == ("allowed", [f"NetworkPolicy default/{name}"], "ingress[0]")


def test_both_ends_and_the_service_that_was_asked(made: Cluster) -> None:
    """The client's own policy is judged on its node; there it is known what it asked for."""
    service = made.kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
    only_web = policy("only-web", "client", policyTypes=["Egress"], egress=[{"ports": [{"port": 80}]}])
    with policies(made, WEB, only_web), log_of(made, "--json") as log, attempt(made, "client", service, 8080) as own:
        out, in_ = sorted(log.take(2), key=lambda entry: str(entry["node"]))  # they come from two switches
    assert (out["node"], out["direction"], out["reason"]) == (
        "n1",
        "egress",
        "NetworkPolicy default/only-web egress[0]",
    )
    assert out["through"] == {"kind": "service", "name": "default/web", "address": service, "port": 8080}
    assert (in_["node"], in_["direction"], in_["reason"]) == ("n2", "ingress", "NetworkPolicy default/web ingress[0]")
    for entry in (out, in_):
        assert entry["source"]["port"] == own
        assert (entry["destination"]["name"], entry["destination"]["port"]) == ("default/web", 80)


def test_administrators_deny_before_policies_are_asked(made: Cluster) -> None:
    admin: Object = {
        "apiVersion": "policy.networking.k8s.io/v1alpha1",
        "kind": "AdminNetworkPolicy",
        "metadata": {"name": "nobody"},
        "spec": {
            "priority": 5,
            "subject": {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "web"}}}},
            "ingress": [{"action": "Deny", "from": [{"namespaces": {}}]}],
        },
    }
    there = addresses(made, "web")[0]
    with policies(made, WEB, admin), log_of(made, "--json") as log, attempt(made, "client", there, 80):
        (entry,) = log.take()
        rows = counted(made)
    assert (entry["verdict"], entry["reason"]) == ("denied", "AdminNetworkPolicy nobody ingress[0]")
    assert rows["AdminNetworkPolicy nobody", "ingress[0]"]["connections"] == 1
    assert rows["NetworkPolicy default/web", "ingress[0]"]["connections"] == 0


def test_what_would_be_is_told_where_it_is_different(made: Cluster) -> None:
    there = addresses(made, "web")[0]
    tried = policy("web", "web", staged=True, ingress=[{**FROM_CLIENT, "ports": [{"port": 80}]}])
    with policies(made, tried, DNS), log_of(made, "--json") as log:
        with attempt(made, "client", there, 80):
            opened, denied = log.take(2)
        with attempt(made, "other", there, 80):
            (both,) = log.take()
        rows = counted(made)
    assert (opened["staged"], opened["verdict"], opened["policies"]) == (True, "allowed", ["NetworkPolicy default/web"])
    assert (denied["staged"], denied["verdict"], denied["policies"]) == (False, "denied", ["NetworkPolicy default/dns"])
    assert (both["staged"], both["verdict"], both["policies"]) == (False, "denied", ["NetworkPolicy default/dns"])
    assert rows["NetworkPolicy default/web", "ingress[0]"]["staged"]
    assert rows["NetworkPolicy default/web", "ingress[0]"]["connections"] == 1
    with policies(made, tried), log_of(made) as log, attempt(made, "other", there, 80):
        eventually(lambda: bool(log.lines), "what would be denied is told")
    (line,) = log.lines
    reason = "ingress would be denied: default deny of policy default/web"
    assert line.endswith(f"n2: staged: pod default/other -> pod default/web, 80/TCP: {reason}")


def test_counters(made: Cluster) -> None:
    there = addresses(made, "web")[0]
    with policies(made, WEB, DNS), log_of(made, "--json") as log:
        for _ in range(3):
            with attempt(made, "other", there, 81):
                log.take()
        made.pod("client").run(["curl", "-s", "--fail", f"http://{there}/"], check=True)
        log.take()
        rows = counted(made)
    web = rows["NetworkPolicy default/web", "ingress[0]"]
    assert (web["verdict"], web["connections"]) == ("allowed", 1)
    # Three to open and three or four to close it, a question, an answer and who confirms them.
    assert 8 <= web["packets"] <= 16
    assert web["bytes"] > 400
    assert rows["NetworkPolicy default/dns", "ingress[0]"]["packets"] == 0
    denied = rows["NetworkPolicy default/dns", "NetworkPolicy default/web", "default/web"]
    assert (denied["verdict"], denied["connections"], denied["packets"]) == ("denied", 3, 3)


def test_filters(made: Cluster) -> None:
    there = addresses(made, "web")[0]
    options = (("--denied",), ("--pod", "client"), ("-n", "kube-system"))
    with policies(made, WEB), contextlib.ExitStack() as stack:
        everything, denied, of_client, elsewhere = (
            stack.enter_context(log_of(made, "-o", "json", *each)) for each in ((), *options)
        )
        dropped = stack.enter_context(log_of(made, "--drop", "--json", command=("flows",)))
        for name, port in (("client", 80), ("other", 81), ("client", 81)):
            with attempt(made, name, there, port):
                everything.take()
        eventually(lambda: len(denied.lines) == 2 and len(of_client.lines) == 2, "two lines each")
        assert [each["source"]["name"] for each in denied.take(2)] == ["default/other", "default/client"]
        assert [each["verdict"] for each in of_client.take(2)] == ["allowed", "denied"]
        eventually(lambda: len(dropped.lines) == 2, "kmn flows --drop tells two as well")
        assert not elsewhere.lines


def test_a_switch_that_was_killed_is_heard_again(made: Cluster) -> None:
    there = addresses(made, "web")[0]
    with policies(made, WEB), log_of(made, "--json") as log:
        os.kill(switch_pid(made, "n2", "ovs-vswitchd"), signal.SIGKILL)
        eventually(log.noted("n2: its switch cannot be reached"), "its end is noted")
        eventually(log.noted("n2: its switch tells verdicts again"), "it comes back")
        made.wait_ready()
        with attempt(made, "other", there, 80):
            eventually(lambda: bool(log.lines), "its verdicts are told")
        assert log.entries()[-1]["reason"] == "default deny of policy default/web"


def test_it_ends_with_its_cluster_and_says_what_is_not_logged() -> None:
    settings = {"log": "none", "establishedConnections": "cut"}
    with running("mute", nodes=[{"count": 1}], policy=settings) as cluster:
        log = Log(cluster.name)
        cluster.apply(WEB)
        counters = kmn("policy", "counters", "--name", cluster.name, "-o", "json")
    assert log.ended() == 0
    assert log.notes[0] == "kmn: nothing is logged: the cluster file says policy.log: none"
    assert log.notes[-1] == f"kmn: cluster {cluster.name} has ended"
    assert all(note.startswith("kmn: ") for note in log.notes)
    (row,) = json.loads(counters.stdout)
    assert (row["rule"], row["packets"], "connections" in row) == ("ingress[0]", 0, False)
    assert "connections are not counted with policy.establishedConnections: cut" in counters.stderr
