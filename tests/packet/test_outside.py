"""A cluster and its outside: the way in by load balancers, the way out by the NAT gateway, the internet's DNS."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kmn import Cluster
from kmn.k8s.resources import EDGES, EVENTS, SERVICES
from kmn.machine import Machine

pytestmark = [pytest.mark.packet, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

PORTS = 4
FILE = {
    "apiVersion": "kmn.io/v1",
    "kind": "Cluster",
    "metadata": {"name": f"hnout{os.getpid()}"},
    "spec": {
        "nodes": [{"count": 2}],
        "internet": {"nat": {"ports": "2000-2003"}, "hosts": [{"name": "e1"}, {"name": "e2"}]},
    },
}
MANIFEST = """\
apiVersion: v1
kind: Namespace
metadata: {name: partners, annotations: {kmn.io/egress-address: 198.51.100.200}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: example.com/web:1, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web-ip, annotations: {kmn.io/lb-target: ip}}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: host}
spec:
  selector: {matchLabels: {app: host}}
  template:
    metadata: {labels: {app: host}}
    spec:
      hostNetwork: true
      containers: [{name: web, image: example.com/web:1, ports: [{containerPort: 30080}, {containerPort: 9090}]}]
---
apiVersion: v1
kind: Service
metadata: {name: instance}
spec:
  type: LoadBalancer
  loadBalancerIP: 192.0.2.99
  externalTrafficPolicy: Local
  selector: {app: host}
  ports: [{port: 80, targetPort: 30080, nodePort: 30080}]
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {nodeName: n1, containers: [{name: c, image: example.com/client:1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: partners}
spec: {nodeName: n2, containers: [{name: c, image: example.com/client:1}]}
"""
# Opens so many connections one after the other, keeps them, says how many there are, and whether the first still works.
CONNECT = """\
import socket, sys
made = []
for _ in range(int(sys.argv[2])):
    try:
        made.append(socket.create_connection((sys.argv[1], 7), timeout=1))
    except OSError:
        break
made[0].sendall(b"still")
print(len(made), made[0].recv(10).decode(), flush=True)
sys.stdin.read()
"""
# Asks a server for a name of a type, by UDP or TCP.
LOOKUP = """\
import dnslib, sys
server, name, kind, how = sys.argv[1:]
reply = dnslib.DNSRecord.parse(dnslib.DNSRecord.question(name, kind).send(server, 53, tcp=how == "tcp", timeout=2))
print(dnslib.RCODE[reply.header.rcode], *[record.rdata for record in reply.rr])
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(FILE, manifests=[MANIFEST]) as running:
        running.wait_ready()
        yield running


def until(condition: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + 20
    while not (value := condition()):
        assert time.monotonic() < end, what
        time.sleep(0.02)
    return value


def asked(client: Machine, url: str) -> dict[str, Any]:
    done = client.run(["curl", "-s", "--max-time", "5", url])
    assert done.returncode == 0, f"{client.name} curl {url}: {done.returncode} {done.stderr}"
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def answers(client: Machine, url: str) -> bool:
    return client.run(["curl", "-s", "--max-time", "1", url]).returncode == 0


def address(cluster: Cluster, service: str) -> str:
    def given() -> str:
        status = cluster.client.get(SERVICES, "default", service)["status"]
        return next((entry["ip"] for entry in status["loadBalancer"].get("ingress") or ()), "")

    return str(until(given, f"{service} has no address"))


@pytest.mark.parametrize(("service", "app"), [("web-ip", "web-"), ("instance", "host-")])
def test_the_way_in(cluster: Cluster, service: str, app: str) -> None:
    """IP mode and instance mode: pods on both nodes, which see the host outside itself."""
    e1, vip = cluster.host("e1"), address(cluster, service)
    seen = [asked(e1, f"http://{vip}/") for _ in range(20)]
    assert {answer["node"] for answer in seen} == {"n1", "n2"}
    assert {answer["client"] for answer in seen} == {"203.0.113.10"}
    assert all(answer["pod"].startswith(app) for answer in seen)


def test_a_load_balancer_goes_with_its_type(cluster: Cluster) -> None:
    e1, vip = cluster.host("e1"), address(cluster, "web-ip")
    assert answers(e1, f"http://{vip}/")
    service = cluster.client.get(SERVICES, "default", "web-ip")
    plain = {**service, "spec": {**service["spec"], "type": "ClusterIP"}}
    for field in ("externalTrafficPolicy", "allocateLoadBalancerNodePorts"):
        plain["spec"].pop(field, None)
    for port in plain["spec"]["ports"]:
        port.pop("nodePort", None)
    cluster.client.update(plain)
    until(lambda: not answers(e1, f"http://{vip}/"), "the address still answers")
    service = cluster.client.get(SERVICES, "default", "web-ip")
    cluster.client.update({**service, "spec": {**service["spec"], "type": "LoadBalancer"}})
    vip = address(cluster, "web-ip")
    until(lambda: answers(e1, f"http://{vip}/"), "the new address does not answer")


def test_the_way_out(cluster: Cluster) -> None:
    """Public addresses: the gateway's, and one of their own for pods of an annotated namespace."""
    e1 = cluster.host("e1")
    assert asked(cluster.pod("default/client"), f"http://{e1.ip}/")["client"] == "198.51.100.1"
    assert asked(cluster.node("n1"), f"http://{e1.ip}/")["client"] == "198.51.100.1"
    assert asked(cluster.pod("partners/client"), f"http://{e1.ip}/")["client"] == "198.51.100.200"
    for target in (e1.ip, "203.0.113.1"):
        assert cluster.pod("default/client").run(["ping", "-c1", "-W2", target]).returncode == 0, target


def test_nothing_unasked(cluster: Cluster) -> None:
    e1, client = cluster.host("e1"), cluster.pod("default/client")
    assert not answers(e1, f"http://{client.ip}:8080/")
    assert answers(e1, "http://172.18.0.2:30080/"), "node ports are open"
    assert not answers(e1, "http://172.18.0.2:9090/")
    assert not answers(e1, "http://198.51.100.1:30080/")
    assert e1.run(["ping", "-c1", "-W1", client.ip]).returncode != 0


def test_the_internet_has_a_dns(cluster: Cluster) -> None:
    e1, e2, pod = cluster.host("e1"), cluster.host("e2"), cluster.pod("default/client")

    def lookup(asking: Machine, name: str, kind: str = "A", how: str = "udp") -> str:
        done = asking.run([sys.executable, "-c", LOOKUP, e1.ip, name, kind, how])
        return done.stdout.strip()

    until(lambda: lookup(e2, "e2.internet.test") == "NOERROR 203.0.113.11", "e1 does not answer")
    assert lookup(e2, "e1.internet.test", how="tcp") == f"NOERROR {e1.ip}"
    assert lookup(e2, "11.113.0.203.in-addr.arpa", "PTR") == "NOERROR e2.internet.test."
    assert lookup(pod, "nobody.example.org") == "NXDOMAIN"


def test_exhaustion(cluster: Cluster) -> None:
    """Four ports: the fifth connection is dropped, the others live, and the Edge's Events say why."""
    pod, e2 = cluster.pod("default/client"), cluster.host("e2")
    command = ["python3", "-c", CONNECT, e2.ip, str(PORTS + 1)]
    with pod.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline() == f"{PORTS} still\n"
        process.stdin.close()

    def told() -> list[str]:
        events = cluster.client.list(EVENTS, "default").items
        return [event["message"] for event in events if event["reason"] == "NATPortsExhausted"]

    [message] = until(told, "no Event tells of it")
    name = cluster.client.list(EDGES).items[0]["metadata"]["name"]
    assert message.startswith(
        f"Edge {name}: packets of new connections are dropped, as all ports 2000-2003 of 1 address"
    )
