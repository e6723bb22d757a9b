"""Load balancers of Services that begin connections with PROXY protocol: clients' addresses get through node ports."""

from __future__ import annotations

import http.client
import json
import os
import socket
import struct
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import IPv4Address

import pytest
from clusterlab import WEB, eventually, running

from kmn import Cluster
from kmn.emulator import netns
from kmn.k8s.errors import NotFound
from kmn.k8s.objects import Object
from kmn.k8s.resources import EVENTS, INGRESSES, NETWORKLOADBALANCERS, SERVICES
from kmn.naming import NETNS_DIR, netns_prefix

pytestmark = [pytest.mark.packet, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

AWS = "service.beta.kubernetes.io/aws-load-balancer-"
CLB = {AWS + "proxy-protocol": "*"}
NLB = {**CLB, AWS + "type": "nlb"}
CONTROLLER = ("ingress-nginx", "ingress-nginx-controller")
INGRESS = """\
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  ingressClassName: nginx
  defaultBackend: {service: {name: web, port: {number: 80}}}
"""
RAW = """\
apiVersion: v1
kind: Pod
metadata: {name: raw-1, labels: {app: raw}, annotations: {kmn.io/program: none}}
spec: {containers: [{name: raw, image: example.com/idle:1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: raw-2, labels: {app: raw}, annotations: {kmn.io/program: none}}
spec: {containers: [{name: raw, image: example.com/idle:1}]}
"""
PORT = 9000  # nobody listens there in pods but these tests
SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")


def change(cluster: Cluster, key: tuple[str, str], notes: Mapping[str, str], **fields: object) -> None:
    """Annotations and fields of a Service from now on."""
    service = cluster.client.get(SERVICES, *key)
    meta = {**service["metadata"], "annotations": dict(notes)}
    cluster.client.update({**service, "metadata": meta, "spec": {**service["spec"], **fields}})


def seen_client(space: str, address: str) -> str | None:
    """X-Forwarded-For, as the pod behind the controller has it; None: there is no answer."""
    with netns.entered(space):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    connection = http.client.HTTPConnection(address)
    try:
        sock.settimeout(2)
        sock.connect((address, 80))
        connection.sock = sock
        connection.request("GET", "/", headers={"Host": "any.example"})
        response = connection.getresponse()
        headers: dict[str, str] = json.loads(response.read())["headers"] if response.status == 200 else {}
        return {name.lower(): value for name, value in headers.items()}.get("x-forwarded-for")
    except OSError:
        return None
    finally:
        connection.close()
        sock.close()


def balancers(cluster: Cluster) -> dict[str, Object]:
    """By Service."""
    return {each["spec"]["service"]: each for each in cluster.client.list(NETWORKLOADBALANCERS).items}


def events(cluster: Cluster, name: str) -> list[str]:
    found = cluster.client.list(EVENTS).items
    return [each["message"] for each in found if each["involvedObject"]["name"] == name]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running("prx") as cluster:
        cluster.apply(WEB, INGRESS, RAW)
        cluster.wait_ready()
        yield cluster


def address_of(cluster: Cluster, key: tuple[str, str]) -> str:
    def entries() -> list[dict[str, str]]:
        try:
            status = cluster.client.get(SERVICES, *key).get("status") or {}
        except NotFound:
            return []
        return (status.get("loadBalancer") or {}).get("ingress") or []

    eventually(lambda: bool(entries()), "an address")
    return entries()[0]["ip"]


def test_an_ingress_controller_sees_clients_whatever_the_policy(cluster: Cluster) -> None:
    client, e1 = cluster.client, cluster.host("e1")
    address = address_of(cluster, CONTROLLER)
    eventually(lambda: seen_client(e1.netns, address) == e1.ip, "policy Local keeps the client's address")
    change(cluster, CONTROLLER, {}, externalTrafficPolicy="Cluster")
    eventually(lambda: seen_client(e1.netns, address) not in (None, e1.ip), "policy Cluster")
    nodes = {node.ip for node in (cluster.node(f"n{number}") for number in (1, 2, 3))}

    assert {seen_client(e1.netns, address) for _ in range(10)} <= nodes

    config = {"name": "ingress-nginx-controller", "namespace": "ingress-nginx"}
    data = {"use-proxy-protocol": "true"}
    cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": config, "data": data})
    change(cluster, CONTROLLER, NLB)
    eventually(lambda: seen_client(e1.netns, address) == e1.ip, "the client's address is told")
    assert {seen_client(e1.netns, address) for _ in range(10)} == {e1.ip}
    service = client.get(SERVICES, *CONTROLLER)
    assert service["status"]["loadBalancer"] == {"ingress": [{"ip": address, "ipMode": "Proxy"}]}
    assert client.get(INGRESSES, "default", "web")["status"]["loadBalancer"] == {"ingress": [{"ip": address}]}
    [found] = balancers(cluster).values()
    assert found["status"]["address"] == address
    assert [each["port"] for each in found["spec"]["listeners"]] == [80, 443]
    # Pods have no short cut: they come by the NAT gateway, as to any address outside.
    eventually(lambda: seen_client(cluster.pod("client").netns, address) == "198.51.100.1", "a pod's way")

    change(cluster, CONTROLLER, NLB, externalTrafficPolicy="Local")
    eventually(lambda: seen_client(e1.netns, address) == e1.ip, "to the one node that has the controller")
    assert {seen_client(e1.netns, address) for _ in range(10)} == {e1.ip}
    change(cluster, CONTROLLER, CLB, externalTrafficPolicy="Cluster", loadBalancerSourceRanges=["198.51.100.0/24"])
    eventually(lambda: seen_client(e1.netns, address) is None, "not from this network")
    change(cluster, CONTROLLER, CLB, loadBalancerSourceRanges=[])
    eventually(lambda: seen_client(e1.netns, address) == e1.ip, "version 1 tells, too")
    change(cluster, CONTROLLER, {})
    eventually(lambda: not balancers(cluster), "no proxy any more")
    eventually(lambda: seen_client(e1.netns, address) in nodes, "policy Cluster as before")


@contextmanager
def listening(cluster: Cluster, pod: str) -> Iterator[socket.socket]:
    with netns.entered(cluster.pod(pod).netns), socket.create_server(("0.0.0.0", PORT)) as server:
        server.settimeout(5)
        yield server


def connected(cluster: Cluster, server: socket.socket, address: str, port: int) -> tuple[bytes, int] | None:
    """What a connection of e1 begins with at the server, and the port that e1 had; health checks say nothing else."""
    with netns.entered(cluster.host("e1").netns):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with sock:
        sock.settimeout(2)
        try:
            sock.connect((address, port))
            sock.sendall(b"hello")
            while True:
                accepted, _ = server.accept()
                with accepted, accepted.makefile("rb") as stream:
                    accepted.settimeout(2)
                    got = b""
                    while not got.endswith(b"hello") and (more := stream.read1()):
                        got += more
                    if got.endswith(b"hello"):
                        return got.removesuffix(b"hello"), sock.getsockname()[1]
        except OSError:
            return None


def raw_service(name: str, annotations: Mapping[str, str]) -> Object:
    spec = {
        "type": "LoadBalancer",
        "selector": {"app": "raw"},
        "ports": [
            {"name": "tcp", "port": 90, "targetPort": PORT},
            {"name": "udp", "port": 90, "targetPort": PORT, "protocol": "UDP"},
        ],
    }
    meta = {"name": name, "namespace": "default", "annotations": {"kmn.io/lb-target": "ip", **annotations}}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}


def test_both_versions_as_they_are_on_the_wire(cluster: Cluster) -> None:
    """To pods, of which one is well: the other one gets no connections."""
    e1 = cluster.host("e1")
    cluster.apply(raw_service("two", NLB))
    cluster.apply(raw_service("one", CLB))
    two, one = address_of(cluster, ("default", "two")), address_of(cluster, ("default", "one"))
    with listening(cluster, "raw-1") as server:
        eventually(lambda: connected(cluster, server, two, 90) is not None, "a connection")
        for _ in range(8):
            found = connected(cluster, server, two, 90)
            assert found is not None
            begin, port = found
            addresses = IPv4Address(e1.ip).packed + IPv4Address(two).packed + struct.pack("!HH", port, 90)
            assert begin == SIGNATURE + b"\x21\x11\x00\x0c" + addresses
        eventually(lambda: connected(cluster, server, one, 90) is not None, "a connection")
        found = connected(cluster, server, one, 90)
        assert found is not None
        assert found[0] == f"PROXY TCP4 {e1.ip} {one} {found[1]} 90\r\n".encode()
    for name in ("one", "two"):
        assert any("port 90/UDP gets no answer" in text for text in events(cluster, name))


def test_what_is_deleted_leaves_nothing(cluster: Cluster) -> None:
    cluster.apply(raw_service("gone", NLB))
    address_of(cluster, ("default", "gone"))
    eventually(lambda: bool(balancers(cluster).get("default/gone", {}).get("status")), "a place")
    status = balancers(cluster)["default/gone"]["status"]
    eventually(lambda: (NETNS_DIR / status["netns"]).exists(), "its namespace")
    for name in ("gone", "one", "two"):
        if name in {each["metadata"]["name"] for each in cluster.client.list(SERVICES).items}:
            cluster.client.delete(SERVICES, "default", name)
    eventually(lambda: not balancers(cluster), "the objects are gone")
    prefix = f"{netns_prefix(cluster.name)}nlb"
    eventually(lambda: not list(NETNS_DIR.glob(f"{prefix}*")), "the namespaces are gone")
    folder = cluster.paths.root / "ingress"
    eventually(lambda: len(list(folder.iterdir())) == 1, "files of the controller alone are left")
    devices = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    assert "nlb " not in devices
