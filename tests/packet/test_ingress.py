"""Ingress from outside to pods, through a real Envoy: what published manifests get, and what happens to it in life."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clusterlab import running

from kmn import Cluster
from kmn.emulator import netns
from kmn.ingress.certificates import KeyPair, self_signed
from kmn.k8s.objects import Object
from kmn.k8s.resources import EVENTS, INGRESSES, NAMESPACES, PODS, SECRETS

pytestmark = [pytest.mark.packet, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

HOST = "shop.example"
BACKEND = """\
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      containers:
      - name: web
        image: example.com/web:1
        ports: [{{name: web, containerPort: 8080}}]
        # Without it requests are lost when pods go, as in any cluster.
        lifecycle: {{preStop: {{sleep: {{seconds: 1}}}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{selector: {{app: {name}}}, ports: [{{name: http, port: 80, targetPort: web}}]}}
"""
SHOP = """\
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: shop
  annotations:
    nginx.ingress.kubernetes.io/ssl-redirect: "false"
    nginx.ingress.kubernetes.io/enable-modsecurity: "true"
spec:
  ingressClassName: nginx
  tls: [{hosts: [shop.example], secretName: shop-tls}]
  rules:
  - host: shop.example
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: red, port: {name: http}}}}]}
"""


def secret(pair: KeyPair) -> Object:
    texts = {"tls.crt": pair.certificate, "tls.key": pair.key}
    data = {name: base64.b64encode(text.encode()).decode() for name, text in texts.items()}
    meta = {"name": "shop-tls", "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "kubernetes.io/tls", "data": data}


def until(look: Callable[[], Any], timeout: float = 15.0) -> Any:
    deadline = time.monotonic() + timeout
    while not (found := look()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.005)
    return found


def told_address(cluster: Cluster, ingress: str) -> str | None:
    """What is on its status."""
    status = cluster.client.get(INGRESSES, "default", ingress).get("status") or {}
    entries = (status.get("loadBalancer") or {}).get("ingress") or [{}]
    found: str | None = entries[0].get("ip")
    return found


class Client:
    """Host e1, and the address that an Ingress tells it."""

    def __init__(self, cluster: Cluster, ingress: str = "shop") -> None:
        self._netns = cluster.host("e1").netns
        self.ip = str(cluster.host("e1").ip)
        self.address = until(lambda: told_address(cluster, ingress))

    def connect(self, *, tls: bool = False) -> http.client.HTTPConnection:
        """A connection that stays open between requests."""
        with netns.entered(self._netns):
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.settimeout(5)
            sock.connect((self.address, 443 if tls else 80))
            if tls:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                sock = context.wrap_socket(sock, server_hostname=HOST)
        except OSError:
            sock.close()
            raise
        connection = http.client.HTTPConnection(self.address)
        connection.sock = sock
        return connection

    def get(self, host: str = HOST, *, connection: http.client.HTTPConnection | None = None) -> tuple[int, Object]:
        """Status, and what the pod tells; (0, {}) when there is no answer."""
        used = connection
        try:
            used = used or self.connect()
            used.request("GET", "/x", headers={"Host": host, "X-Forwarded-For": "192.0.2.99"})
            response = used.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException):
            return 0, {}
        finally:
            if used is not None and connection is None:
                used.close()
        return response.status, json.loads(body) if response.status == 200 else {}

    def certificate(self) -> bytes:
        """The one shown now, DER."""
        connection = self.connect(tls=True)
        found: bytes = connection.sock.getpeercert(binary_form=True)
        connection.close()
        return found


def rotate(cluster: Cluster, client: Client, pair: KeyPair) -> None:
    """Until new connections are shown the new certificate."""
    cluster.apply(secret(pair))
    wanted = ssl.PEM_cert_to_DER_cert(pair.certificate)
    until(lambda: client.certificate() == wanted)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running("ing") as cluster:
        cluster.wait_ready()
        names = {each["metadata"]["name"] for each in cluster.client.list(NAMESPACES).items}
        assert "ingress-nginx" not in names  # nothing is there that nobody asked for
        cluster.apply(BACKEND.format(name="red"), BACKEND.format(name="blue"), secret(self_signed("first")), SHOP)
        assert cluster.wait_ready() == []
        assert told_address(cluster, "shop")  # ready means that, too
        yield cluster


@pytest.fixture
def client(cluster: Cluster) -> Client:
    client = Client(cluster)
    until(lambda: client.get()[0] == 200)
    return client


def envoys(cluster: Cluster) -> list[int]:
    """Processes of this cluster's Envoys."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "comm").read_text().startswith("envoy"):
                ours = f"KMN_CLUSTER={cluster.name}\0".encode() in (process / "environ").read_bytes()
                found += [int(process.name)] if ours else []
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_a_published_manifest_just_works(cluster: Cluster, client: Client) -> None:
    status, told = client.get()
    assert (status, told["namespace"], told["path"]) == (200, "default", "/x")
    assert told["pod"].startswith("red-")
    headers = {name.lower(): value for name, value in told["headers"].items()}
    assert headers["host"] == headers["x-forwarded-host"] == HOST
    assert headers["x-forwarded-for"] == headers["x-real-ip"] == client.ip  # whatever the client says
    assert (headers["x-forwarded-proto"], headers["x-forwarded-port"]) == ("http", "80")
    (pod,) = cluster.client.list(PODS, "ingress-nginx").items
    assert told["client"] == pod["status"]["podIP"]  # the backend sees the controller
    assert client.get("nobody.example")[0] == 404
    messages = {event["message"] for event in cluster.client.list(EVENTS).items if event["reason"] == "NotEmulated"}
    assert (
        "Ingress default/shop: annotation nginx.ingress.kubernetes.io/enable-modsecurity "
        "is not emulated: it has no effect" in messages
    )


def test_a_new_certificate_leaves_connections_open(cluster: Cluster, client: Client) -> None:
    old = client.connect(tls=True)
    assert client.get(connection=old)[0] == 200
    for number in range(3):
        rotate(cluster, client, self_signed(f"new-{number}"))
        assert client.get(connection=old)[0] == 200
    old.close()


def test_a_broken_certificate_harms_nobody(cluster: Cluster, client: Client) -> None:
    before = client.certificate()
    good = cluster.client.get(SECRETS, "default", "shop-tls")["data"]
    broken = {**secret(self_signed("x")), "data": {**good, "tls.key": secret(self_signed("y"))["data"]["tls.key"]}}
    cluster.apply(broken)
    until(lambda: any(event["reason"] == "BadCertificate" for event in cluster.client.list(EVENTS).items))
    until(lambda: client.certificate() != before)  # the default one
    assert client.get()[0] == 200
    rotate(cluster, client, self_signed("again"))


def test_no_request_fails_while_rules_certificates_and_pods_change(cluster: Cluster, client: Client) -> None:
    """Over HTTP and HTTPS, on connections that are kept and on new ones."""
    seen: dict[tuple[str, int], int] = {}
    done = threading.Event()

    def load() -> None:
        kept = {"HTTP": client.connect(), "HTTPS": client.connect(tls=True)}
        while not done.is_set():
            fresh = {"new, HTTP": client.connect(), "new, HTTPS": client.connect(tls=True)}
            for way, connection in (kept | fresh).items():
                status, _ = client.get(connection=connection)
                seen[way, status] = seen.get((way, status), 0) + 1
            for connection in fresh.values():
                connection.close()
        for connection in kept.values():
            connection.close()

    worker = threading.Thread(target=load)
    worker.start()
    try:
        for number in range(100):
            backend = ("blue", "red")[number % 2]
            cluster.apply(SHOP.replace("name: red", f"name: {backend}"))
            until(lambda wanted=backend: client.get()[1].get("pod", "").startswith(wanted))
            if number % 10 == 0:
                rotate(cluster, client, self_signed(f"under-load-{number}"))
        for replicas in (4, 1, 2):
            cluster.apply(BACKEND.format(name="red").replace("replicas: 2", f"replicas: {replicas}"))
            cluster.wait_ready()
            until(lambda wanted=replicas: len({client.get()[1].get("pod") for _ in range(20)}) == wanted)
    finally:
        done.set()
        worker.join()
    assert {status for _, status in seen} == {200}, seen
    assert len(seen) == 4
    assert min(seen.values()) > 25


def served(cluster: Cluster) -> set[str]:
    """Services that the only Envoy knows, as it tells itself."""
    (socket_file,) = (cluster.paths.root / "ingress").glob("*/admin.sock")
    argv = ["curl", "-sS", "--max-time", "5", "--unix-socket", str(socket_file), "http://envoy/clusters?format=json"]
    told = json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
    return {word for each in told["cluster_statuses"] for word in ("red", "blue") if f"/{word}:" in each["name"]}


def test_a_backend_that_no_rule_names_any_more_is_forgotten(cluster: Cluster, client: Client) -> None:
    """Not at once: what is changed soon after should not wait for it."""
    until(lambda: served(cluster) == {"red"})
    cluster.apply(SHOP.replace("name: red", "name: blue"))
    until(lambda: client.get()[1].get("pod", "").startswith("blue"))
    until(lambda: served(cluster) == {"blue"})
    cluster.apply(SHOP)
    until(lambda: client.get()[1].get("pod", "").startswith("red"))
    until(lambda: served(cluster) == {"red"})


def test_a_killed_envoy_is_back_with_the_same_routes(cluster: Cluster, client: Client) -> None:
    certificate = client.certificate()
    (before,) = envoys(cluster)
    os.kill(before, signal.SIGKILL)
    until(lambda: before not in envoys(cluster))
    until(lambda: client.get()[0])
    status, told = client.get()
    assert (status, told["pod"].partition("-")[0]) == (200, "red")
    assert client.get("nobody.example")[0] == 404
    assert client.certificate() == certificate
    (after,) = envoys(cluster)
    assert after != before


def test_a_killed_controller_process_is_back_and_leaves_no_envoy(cluster: Cluster, client: Client) -> None:
    (before,) = envoys(cluster)
    parent = int(Path(f"/proc/{before}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGKILL)
    until(lambda: before not in envoys(cluster))
    until(lambda: client.get()[0] == 200)
    assert len(envoys(cluster)) == 1


def test_a_change_of_class_takes_the_address_back(cluster: Cluster, client: Client) -> None:
    cluster.apply(SHOP.replace("ingressClassName: nginx", "ingressClassName: other"))
    until(lambda: not told_address(cluster, "shop"))
    until(lambda: client.get()[0] == 404)
    until(lambda: any(event["reason"] == "NoController" for event in cluster.client.list(EVENTS).items))
    (remark,) = cluster.wait_ready()  # not for an address, which will not come
    assert (remark.what, remark.reason) == ("ingress default/shop", "NoController")
    cluster.apply(SHOP)
    until(lambda: told_address(cluster, "shop") == client.address)
    until(lambda: client.get()[0] == 200)


def test_two_controllers_side_by_side() -> None:
    """One host for both: each serves what its own classes say, at its own address."""
    controllers = ["nginx", {"name": "own", "controller": "example.com/own", "default": True}]
    with running("two", ingress={"controllers": controllers}) as cluster:
        cluster.wait_ready()
        plain = SHOP.replace("  tls: [{hosts: [shop.example], secretName: shop-tls}]\n", "")
        other = plain.replace("name: shop\n", "name: other\n").replace("name: red", "name: blue")
        cluster.apply(BACKEND.format(name="red"), BACKEND.format(name="blue"), plain)
        cluster.apply(other.replace("  ingressClassName: nginx\n", ""))  # the default class is the other one's
        cluster.wait_ready()
        clients = {name: Client(cluster, name) for name in ("shop", "other")}
        assert clients["shop"].address != clients["other"].address
        for name, backend in (("shop", "red-"), ("other", "blue-")):
            until(lambda name=name, backend=backend: clients[name].get()[1].get("pod", "").startswith(backend))
