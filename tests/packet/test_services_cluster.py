"""Services on a whole cluster: what the control plane, the kubelet and the controller do together."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from kmn import Cluster

pytestmark = [pytest.mark.packet, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

NAME = f"hmsvc{os.getpid()}"
FILE = {
    "apiVersion": "kmn.io/v1",
    "kind": "Cluster",
    "metadata": {"name": NAME},
    "spec": {
        "nodes": [
            {"name": name, "labels": {"topology.kubernetes.io/zone": zone}}
            for name, zone in (("n1", "a"), ("n2", "b"), ("n3", "b"))
        ]
    },
}


def pod(name: str, node: str, *ports: dict[str, Any], app: str = "web") -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": app}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "example.com/x", "ports": list(ports)}]},
    }


def service(name: str, **spec: Any) -> dict[str, Any]:
    ports = [{"port": 80, "targetPort": 8080}]
    meta = {"name": name, "namespace": "default"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta,
        "spec": {"selector": {"app": "web"}, "ports": ports, **spec},
    }


MANIFESTS = [
    pod("w1", "n1", {"containerPort": 8080, "hostPort": 31999}),
    pod("w2", "n2", {"containerPort": 8080}),
    pod("w3", "n2", {"containerPort": 8080}),
    *(pod(f"c{n}", f"n{n}", app="client") for n in (1, 2, 3)),
    service("everywhere", type="NodePort"),
    service("same-zone", trafficDistribution="PreferSameZone"),
    service("same-node", trafficDistribution="PreferSameNode"),
    service("balanced", type="LoadBalancer", externalTrafficPolicy="Local"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(FILE, manifests=MANIFESTS) as running:
        running.wait_ready()
        yield running


def spec(cluster: Cluster, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cluster.kubectl("get", "service", name, "-o", "json"))["spec"]
    return found


def served(cluster: Cluster, client: str, url: str, times: int = 20) -> set[str]:
    place = cluster.node(client) if client.startswith("n") else cluster.pod(client)
    output = place.cmd(f"for i in $(seq {times}); do curl -s -m 3 {url}; echo; done")
    return {json.loads(line)["pod"] for line in output.split("\n") if line.strip()}


def test_node_ports_from_nodes_and_pods(cluster: Cluster) -> None:
    """Also a node's own port, which its kernel would look for at home."""
    port = spec(cluster, "everywhere")["ports"][0]["nodePort"]
    for client in ("n1", "n3", "c1"):
        for node in ("n1", "n3"):
            assert served(cluster, client, f"http://{cluster.node(node).ip}:{port}/") == {"w1", "w2", "w3"}


def test_host_port(cluster: Cluster) -> None:
    for client in ("n1", "n2", "c1", "c2"):
        assert served(cluster, client, f"http://{cluster.node('n1').ip}:31999/", 2) == {"w1"}


def test_traffic_distribution(cluster: Cluster) -> None:
    same_zone = f"http://{spec(cluster, 'same-zone')['clusterIP']}/"
    assert served(cluster, "c1", same_zone) == {"w1"}
    assert served(cluster, "c2", same_zone) == {"w2", "w3"}
    assert served(cluster, "c3", same_zone) == {"w2", "w3"}
    same_node = f"http://{spec(cluster, 'same-node')['clusterIP']}/"
    assert served(cluster, "c1", same_node) == {"w1"}
    assert served(cluster, "c2", same_node) == {"w2", "w3"}
    assert served(cluster, "c3", same_node) == {"w2", "w3"}, "none on the node: those of its zone"


def test_health_check_node_port(cluster: Cluster) -> None:
    """What kube-proxy tells a load balancer on each node."""
    port = spec(cluster, "balanced")["healthCheckNodePort"]
    for node, count in (("n1", 1), ("n2", 2), ("n3", 0)):
        for client in (cluster.pod("c1"), cluster.node(node)):
            url = f"http://{cluster.node(node).ip}:{port}/healthz"
            body, _, status = client.cmd(f"curl -s -m 3 -w ' %{{http_code}}' {url}").strip().rpartition(" ")
            assert int(status) == (200 if count else 503)
            assert json.loads(body) == {
                "service": {"namespace": "default", "name": "balanced"},
                "localEndpoints": count,
                "serviceProxyHealthy": True,
            }
