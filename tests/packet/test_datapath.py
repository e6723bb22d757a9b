"""The data path of a whole cluster, case by case: Services, sources, refusals, changes, and the ways in and out."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import socket
import ssl
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from clusterlab import Census, eventually, get, make_namespace, running
from traffic import Question, answered, ask, echo, opened, ping_all, wrong

from kmn import Cluster, ovstools
from kmn.k8s.resources import DEPLOYMENTS, ENDPOINTSLICES, PODS, SERVICES
from kmn.machine import Machine

pytestmark = pytest.mark.packet

NODES = ("n1", "n2", "n3")

WORLD = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule,
         labelSelector: {matchLabels: {app: web}}}
      containers:
      - name: web
        image: example.com/web:1
        ports:
        - {name: http, containerPort: 8080}
        - {name: admin, containerPort: 9090}
        - {name: echo, containerPort: 5300, protocol: UDP}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: http}
  - {name: admin, port: 81, targetPort: 9090}
  - {name: echo, port: 53, targetPort: echo, protocol: UDP}
  - {name: echo-tcp, port: 53, targetPort: http}
---
apiVersion: v1
kind: Pod
metadata: {name: alone, labels: {app: alone}}
spec:
  containers: [{name: c, image: i, ports: [{containerPort: 80}, {containerPort: 5300, protocol: UDP}]}]
---
apiVersion: v1
kind: Service
metadata: {name: alone}
spec: {selector: {app: alone}, ports: [{name: t, port: 80}, {name: u, port: 5300, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {selector: {app: nobody}, ports: [{name: t, port: 80}, {name: u, port: 80, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: host}
spec: {selector: {app: host}, ports: [{name: t, port: 80, targetPort: 9100}, {name: u, port: 80, targetPort: 9101,
       protocol: UDP}]}
---
apiVersion: v1
kind: Pod
metadata: {name: host, labels: {app: host}}
spec:
  hostNetwork: true
  nodeName: n2
  containers: [{name: c, image: i, ports: [{containerPort: 9100}, {containerPort: 9101, protocol: UDP}]}]
"""
CLIENT = """\
apiVersion: v1
kind: Pod
metadata: {{name: client-{0}, labels: {{app: client}}}}
spec: {{nodeName: {0}, containers: [{{name: c, image: i}}]}}
"""
PERF = """\
apiVersion: v1
kind: Service
metadata: {name: perf}
spec: {selector: {app: perf}, ports: [{port: 5201}]}
---
apiVersion: v1
kind: Pod
metadata: {name: perf, labels: {app: perf}, annotations: {kmn.io/program: none}}
spec: {nodeName: n1, containers: [{name: c, image: i}]}
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running("path", internet={"hosts": [{"name": "e1"}, {"name": "e2"}]}) as cluster:
        cluster.apply(WORLD, *(CLIENT.format(node) for node in NODES), PERF)
        cluster.wait_ready()
        yield cluster


@pytest.fixture(scope="module")
def clients(cluster: Cluster) -> list[Machine]:
    """A pod on each node, and the nodes themselves."""
    return [*(cluster.pod(f"client-{name}") for name in NODES), *(cluster.node(name) for name in NODES)]


def address_of(cluster: Cluster, service: str, namespace: str = "default") -> str:
    return str(cluster.client.get(SERVICES, namespace, service)["spec"]["clusterIP"])


def web_pods(cluster: Cluster) -> set[str]:
    return {pod.hostname for pod in Census(cluster, "default").named("web-")}


# --- Services ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("port", "protocol", "target"),
    [
        pytest.param(80, "TCP", 8080, id="named target port"),
        pytest.param(81, "TCP", 9090, id="numeric target port"),
        pytest.param(53, "UDP", 53, id="UDP"),
        pytest.param(53, "TCP", 8080, id="the same port over TCP"),
    ],
)
def test_each_port_leads_to_its_target(
    cluster: Cluster, clients: list[Machine], port: int, protocol: str, target: int
) -> None:
    vip, pods = address_of(cluster, "web"), web_pods(cluster)
    for client in clients:
        answer = get(client, vip, port, protocol)
        assert answer.pod in pods
        assert (answer.client, answer.port) == (client.ip, target)


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_all_endpoints_get_a_share(cluster: Cluster, clients: list[Machine], protocol: str) -> None:
    """300 connections on three endpoints: fewer than 50 for one is a chance of one in billions."""
    question = Question(clients[0], address_of(cluster, "web"), 80 if protocol == "TCP" else 53, protocol)
    shares = Counter(getattr(answer, "pod", repr(answer)) for answer in ask([question] * 300))
    assert shares.keys() == web_pods(cluster)
    assert min(shares.values()) > 50, shares


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_a_pod_reaches_itself_through_its_service(cluster: Cluster, protocol: str) -> None:
    alone = cluster.pod("alone")
    answer = get(alone, address_of(cluster, "alone"), 80 if protocol == "TCP" else 5300, protocol)
    assert answer.pod == "alone"
    assert answer.client == f"{alone.ip.rpartition('.')[0]}.1", "its gateway's address, so that the reply comes back"


def test_a_pod_reaches_itself_without_a_service(cluster: Cluster) -> None:
    alone = cluster.pod("alone")
    assert get(alone, alone.ip, 80).client == alone.ip


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
@pytest.mark.parametrize(("service", "port"), [("nobody", 80), ("web", 8080)], ids=["no endpoints", "not its port"])
def test_what_no_service_serves_is_refused_at_once(
    cluster: Cluster, clients: list[Machine], service: str, port: int, protocol: str
) -> None:
    vip = address_of(cluster, service)
    begin = time.monotonic()
    answers = ask([Question(client, vip, port, protocol) for client in clients])
    assert [getattr(answer, "errno", answer) for answer in answers] == [errno.ECONNREFUSED] * len(clients)
    assert time.monotonic() - begin < 1, "quicker than a packet is sent again"


def test_a_service_address_that_nobody_has_leads_nowhere(cluster: Cluster, clients: list[Machine]) -> None:
    (answer,) = ask([Question(clients[0], "10.111.222.33", 80)], timeout=0.5)
    assert isinstance(answer, TimeoutError)


def test_the_kubernetes_service(cluster: Cluster, clients: list[Machine]) -> None:
    """The API answers pods and nodes, over TLS that its own CA signed, on the Service's address."""
    address = address_of(cluster, "kubernetes")
    context = ssl.create_default_context(cafile=str(cluster.paths.pki / "ca.crt"))

    async def version(client: Machine) -> Any:
        with opened(client) as sock:
            await asyncio.get_running_loop().sock_connect(sock, (address, 443))
            reader, writer = await asyncio.open_connection(sock=sock.dup(), ssl=context, server_hostname=address)
            writer.write(b"GET /version HTTP/1.1\r\nHost: kubernetes\r\nConnection: close\r\n\r\n")
            data = await reader.read()
            writer.close()
            await writer.wait_closed()
            return data

    for client in clients:
        head, _, body = asyncio.run(asyncio.wait_for(version(client), 10)).partition(b"\r\n\r\n")
        assert head.split()[1] in (b"200", b"401"), body


# --- sources ----------------------------------------------------------------------------------------------------------


def test_nodes_and_pods_see_each_other_without_nat(cluster: Cluster, clients: list[Machine]) -> None:
    assert ping_all([*clients, *Census(cluster, "default").named("web-")]) == []


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_a_pod_on_the_host_network(cluster: Cluster, clients: list[Machine], protocol: str) -> None:
    """Through its Service and directly, from its own node and from others, from pods and from nodes."""
    node = cluster.node("n2")
    asked = [(address_of(cluster, "host"), 80), (node.ip, 9100 if protocol == "TCP" else 9101)]
    questions = [Question(client, host, port, protocol) for client in clients for host, port in asked]
    others = [question for question in questions if question.asker.name != "n2"]
    assert wrong(others, lambda _: ("host",)) == []
    for question in questions:
        if question.asker.name == "n2":
            assert answered(question).pod == "host"


def test_a_server_that_binds_no_address_answers_from_the_nodes(cluster: Cluster, clients: list[Machine]) -> None:
    """Over UDP, it leaves the choice to the node's routes: never the pods' gateway, which the node has as well."""
    node = cluster.node("n2")

    async def talk(asker: Machine) -> bytes:
        loop = asyncio.get_running_loop()
        with opened(node, "UDP", ("0.0.0.0", 9999)) as server, opened(asker, "UDP") as client:
            await loop.sock_connect(client, (node.ip, 9999))
            await loop.sock_sendall(client, b"hello")
            await loop.sock_sendto(server, *await loop.sock_recvfrom(server, 100))
            return await loop.sock_recv(client, 100)  # from that address only

    for asker in clients:
        assert asyncio.run(asyncio.wait_for(talk(asker), 5)) == b"hello", asker


def test_traceroute_shows_the_routers_on_the_way(cluster: Cluster) -> None:
    """A packet between nodes is routed three times: by its node, the fabric, the other node."""
    near, far = cluster.pod("client-n1"), cluster.pod("client-n2")
    hops = [cluster.node("n1").ip, "172.18.0.1", cluster.node("n2").ip, far.ip]
    assert _trace(near, far.ip) == hops
    (same_node,) = [pod for pod in Census(cluster, "default").named("web-") if _subnet(pod) == _subnet(near)]
    assert _trace(near, same_node.ip) == [cluster.node("n1").ip, same_node.ip]


def _subnet(pod: Machine) -> str:
    return pod.ip.rpartition(".")[0]


def _trace(asker: Machine, address: str) -> list[str]:
    """Who answers to a datagram of one more hop each."""
    hops: list[str] = []
    while hops[-1:] != [address]:
        assert len(hops) < 8
        with opened(asker, "ICMP") as listener, opened(asker, "UDP") as sender:
            listener.settimeout(3)
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, len(hops) + 1)
            sender.sendto(b"hop", (address, 33434 + len(hops)))
            hops.append(listener.recvfrom(2000)[1][0])
    return hops


# --- changes ----------------------------------------------------------------------------------------------------------


def test_traffic_follows_the_scale(cluster: Cluster, clients: list[Machine]) -> None:
    make_namespace(cluster, "scale")
    cluster.apply(*WORLD.split("---\n")[:2], namespace="scale")
    cluster.wait_ready()
    question = Question(clients[0], address_of(cluster, "web", "scale"), 80)
    for replicas in (5, 1, 0, 2):
        cluster.client.patch(DEPLOYMENTS, "scale", "web", {"spec": {"replicas": replicas}})
        cluster.wait_ready()
        eventually(lambda n=replicas: len(Census(cluster, "scale").pods) == n, "the pods are there")
        cluster.wait_ready()
        answers = ask([question] * 100)
        if replicas:
            pods = {pod.hostname for pod in Census(cluster, "scale").pods}
            assert {getattr(answer, "pod", repr(answer)) for answer in answers} == pods
        else:
            assert {getattr(answer, "errno", answer) for answer in answers} == {errno.ECONNREFUSED}


def test_a_deleted_pod_is_replaced_under_another_address(cluster: Cluster, clients: list[Machine]) -> None:
    before = Census(cluster, "default").named("web-")
    cluster.client.delete(PODS, "default", before[0].hostname)
    eventually(
        lambda: (
            len(now := Census(cluster, "default").named("web-")) == 3
            and before[0].name not in [pod.name for pod in now]
        ),
        "the replacement",
    )
    cluster.wait_ready()
    after = Census(cluster, "default").named("web-")
    (new,) = [pod for pod in after if pod not in before]
    assert new.ip not in [pod.ip for pod in before]
    assert get(clients[0], new.ip, 8080).pod == new.hostname
    answers = ask([Question(client, address_of(cluster, "web"), 80) for client in clients * 20])
    assert {getattr(answer, "pod", repr(answer)) for answer in answers} == {pod.hostname for pod in after}


def test_an_unready_pod_gets_no_new_connections(cluster: Cluster, clients: list[Machine]) -> None:
    first, *others = sorted(web_pods(cluster))

    def mark(ready: str) -> None:
        cluster.client.patch(PODS, "default", first, {"metadata": {"annotations": {"kmn.io/ready": ready}}})

    def endpoints() -> int:
        slices = cluster.client.list(ENDPOINTSLICES, "default", label_selector="kubernetes.io/service-name=web").items
        return sum(e["conditions"]["ready"] for each in slices for e in each["endpoints"] or ())

    question = Question(clients[0], address_of(cluster, "web"), 80)
    mark("false")
    eventually(lambda: endpoints() == 2, "two endpoints are left")
    eventually(lambda: {getattr(a, "pod", "") for a in ask([question] * 30)} == set(others), "traffic avoids it")
    mark("true")
    eventually(lambda: {getattr(a, "pod", "") for a in ask([question] * 30)} == {first, *others}, "traffic is back")


# --- the outside ------------------------------------------------------------------------------------------------------


def test_pods_and_nodes_go_out_under_the_public_address(cluster: Cluster, clients: list[Machine]) -> None:
    for name in ("e1", "e2"):
        host = cluster.host(name)
        for protocol in ("TCP", "UDP"):
            questions = [Question(client, host.ip, 80, protocol) for client in clients]
            assert wrong(questions, lambda _, name=name: (name,), lambda *_: "198.51.100.1") == []


def test_outside_hosts_reach_each_other_and_nothing_inside(cluster: Cluster, clients: list[Machine]) -> None:
    e1, e2 = cluster.host("e1"), cluster.host("e2")
    assert get(e1, e2.ip, 80).client == e1.ip
    assert ping_all([e1, e2]) == []
    inside = [client.ip for client in clients] + [address_of(cluster, "web")]
    answers = ask([Question(e1, address, port) for address in inside for port in (80, 9100)], timeout=1.5)
    assert {type(answer) for answer in answers} == {TimeoutError}


# --- bytes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", ["pod alone", "pod client-n1", "pod client-n2", "node n1", "node n3"])
def test_megabytes_pass_both_ways_through_a_virtual_address(cluster: Cluster, client: str) -> None:
    kind, name = client.split()
    asker = cluster.pod(name) if kind == "pod" else cluster.node(name)
    data = os.urandom(4 << 20)
    assert echo(asker, address_of(cluster, "alone"), 80, data) == data


def test_slow_uplinks_carry_data_both_ways() -> None:
    """They cut packets, which must not come out too large for the next device: not even with SACK blocks."""
    nodes = [{"count": 2, "uplink": {"bandwidth": "200Mbit"}}]
    with running("slow", nodes=nodes) as slow:
        pods = (PERF.split("---\n")[1].replace("{kmn.io/program: none}", "{}"), CLIENT.format("n2"))
        slow.apply(*(text.replace("image: i}", "image: i, ports: [{containerPort: 80}]}") for text in pods))
        slow.wait_ready()
        data = os.urandom(8 << 20)
        begin = time.monotonic()
        assert echo(slow.pod("client-n2"), slow.pod("perf").ip, 80, data) == data
        assert time.monotonic() - begin > 8 * len(data) / 200e6, "both ways at once, at the uplinks' bandwidth"


@pytest.mark.parametrize("size", [1400, 1473, 4000, 20000])
@pytest.mark.parametrize("through", ["service", "pod"])
def test_datagrams_of_several_fragments(cluster: Cluster, clients: list[Machine], through: str, size: int) -> None:
    """The first packet of a "connection" is one in pieces: they must be put together to be translated alike."""
    address = address_of(cluster, "alone") if through == "service" else cluster.pod("alone").ip
    for client in clients:
        data = os.urandom(size)
        assert echo(client, address, 5300, data, protocol="UDP") == data, client


def test_fragments_of_a_known_connection(cluster: Cluster, clients: list[Machine]) -> None:
    """A Service with two UDP ports: fragments do not tell which, the packets before them did."""

    async def talk(client: Machine) -> bytes:
        loop = asyncio.get_running_loop()
        with opened(client, "UDP") as sock:
            await loop.sock_connect(sock, (address_of(cluster, "two"), 5301))
            for data in (b"small", bytes(4000)):
                await loop.sock_sendall(sock, data)
                answer = await loop.sock_recv(sock, 65536)
            return answer

    ports = [{"name": f"u{n}", "port": n, "protocol": "UDP"} for n in (5300, 5301)]
    spec = {"selector": {"app": "alone"}, "ports": ports}
    cluster.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "two"}, "spec": spec})
    cluster.wait_ready()
    for client in clients:
        assert asyncio.run(asyncio.wait_for(talk(client), 5)) == bytes(4000)
        with pytest.raises(ConnectionRefusedError):
            echo(client, address_of(cluster, "two"), 5300, bytes(4000), protocol="UDP")


def test_closed_connections_are_forgotten_soon(cluster: Cluster, clients: list[Machine]) -> None:
    """As long as a switch remembers them, a client cannot have their ports again through the Service."""
    get(clients[0], address_of(cluster, "web"), 80)
    command = ovstools.argv(cluster.paths.ovs("n1"), "dpctl", ["dump-conntrack", "-s"])
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    timeouts = re.findall(r"timeout=(\d+).*state=TIME_WAIT", listed)
    assert timeouts, listed
    assert max(map(int, timeouts)) <= 2


@pytest.mark.parametrize("reverse", [False, True], ids=["to the server", "to the client"])
@pytest.mark.parametrize("client", ["client-n1", "client-n2"], ids=["same node", "across nodes"])
def test_iperf3_through_a_virtual_address(cluster: Cluster, client: str, reverse: bool) -> None:
    with cluster.pod("perf").popen(["iperf3", "-s", "-1", "--forceflush"]) as server:
        assert server.stdout is not None
        while "listening" not in server.stdout.readline():
            pass
        try:
            command = ["iperf3", "-c", "perf", "-t", "1", "-J", *(["-R"] if reverse else [])]
            done = cluster.pod(client).run(command, timeout=20)
            assert done.returncode == 0, done.stdout
            end = json.loads(done.stdout)["end"]
            assert end["sum_received"]["bits_per_second"] > 100e6
        finally:
            server.kill()


def test_a_client_that_goes_away_leaves_the_server_in_peace(cluster: Cluster, clients: list[Machine]) -> None:
    vip = address_of(cluster, "alone")

    async def leave(client: Machine) -> None:
        with opened(client) as sock:
            await asyncio.get_running_loop().sock_connect(sock, (vip, 80))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    for client in clients:
        asyncio.run(leave(client))
    assert wrong([Question(client, vip, 80) for client in clients], lambda _: ("alone",)) == []
