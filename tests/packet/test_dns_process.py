"""``python -m kmn.dns`` as the cluster's daemon starts it, against an API of canned lists and live watches."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import dnslib
import pytest
import yaml

from kmn.dns.sockets import in_netns
from kmn.emulator import netns
from kmn.k8s.dataplane import NETNS, PROGRAM
from kmn.k8s.objects import Object
from kmn.naming import netns as netns_name

pytestmark = [pytest.mark.packet, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

CLUSTER = f"hhdns{os.getpid()}"
SPACE = netns_name(CLUSTER, "pod", "kube-system", "coredns-1")
POD = "127.0.0.53"  # an address that a namespace has without any device


class Api:
    """Lists and watches, by path. ``send`` gives a watch an event."""

    def __init__(self) -> None:
        self.lists: dict[str, list[Object]] = {}
        self.watches: dict[str, queue.Queue[dict[str, Any]]] = {}
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                url = urlparse(self.path)
                plural = url.path.rsplit("/", 1)[-1]
                self.send_response(200)
                if "watch" not in parse_qs(url.query):
                    body = {"items": api.lists.get(plural, []), "metadata": {"resourceVersion": "1"}}
                    data = json.dumps(body).encode()
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                    return
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                kind = ""
                while kind != "ERROR":  # after which a server ends the watch
                    event = api.events(plural).get()
                    kind, data = event["type"], json.dumps(event).encode() + b"\n"
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                self.wfile.write(b"0\r\n\r\n")

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def events(self, plural: str) -> queue.Queue[Any]:
        return self.watches.setdefault(plural, queue.Queue())

    def send(self, plural: str, kind: str, obj: Object) -> None:
        self.events(plural).put({"type": kind, "object": obj})

    def kubeconfig(self, path: Path) -> Path:
        url = f"http://127.0.0.1:{self.server.server_address[1]}"
        config = {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
            "clusters": [{"name": "c", "cluster": {"server": url}}],
            "users": [{"name": "c", "user": {"token": "t"}}],
        }
        path.write_text(yaml.safe_dump(config))
        return path


def obj(name: str, namespace: str = "shop", version: str = "2", **fields: Any) -> Object:
    meta = {"name": name, "namespace": namespace, "uid": f"{namespace}/{name}", "resourceVersion": version}
    return {"metadata": {**meta, **fields.pop("metadata", {})}, **fields}


def dns_pod() -> Object:
    meta = {"annotations": {PROGRAM: "dns", NETNS: SPACE}}
    return obj("coredns-1", "kube-system", metadata=meta, status={"podIPs": [{"ip": POD}]})


@pytest.fixture
def api() -> Iterator[Api]:
    api = Api()
    api.lists["clusters"] = [obj("c", "", spec={"clusterDomain": "emulated.test", "podCIDR": "10.244.0.0/16"})]
    api.lists["services"] = [obj("web", spec={"clusterIP": "10.96.0.7"})]
    api.lists["pods"] = [dns_pod(), obj("other", status={})]
    yield api
    api.server.shutdown()
    api.server.server_close()


@pytest.fixture
def process(api: Api, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-m", "kmn.dns", "--kubeconfig", str(api.kubeconfig(tmp_path / "kubeconfig"))]
    with subprocess.Popen(argv, env={**os.environ, "KMN_CLUSTER": CLUSTER}, stderr=subprocess.PIPE, text=True) as child:
        yield child
        child.kill()
    netns.delete(SPACE)


def resolve(name: str) -> tuple[str, list[str]] | None:
    """One question from inside the pod's namespace; None when nobody listens."""
    packet = bytes(dnslib.DNSRecord.question(name).pack())
    with in_netns(SPACE, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        sock.settimeout(5)
        sock.connect((POD, 53))
        try:
            sock.send(packet)
            reply = dnslib.DNSRecord.parse(sock.recv(4096))
        except ConnectionRefusedError:
            return None
    return dnslib.RCODE.get(reply.header.rcode), [str(record.rdata) for record in reply.rr]


def resolves_to(name: str, *addresses: str) -> bool:
    """Ask until the answer is right, for 10 seconds at most."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = resolve(name)
        if found == (("NOERROR" if addresses else "NXDOMAIN"), list(addresses)):
            return True
        time.sleep(0.01)
    return False


def test_from_start_to_end(api: Api, process: subprocess.Popen[str]) -> None:
    web = "web.shop.svc.emulated.test"
    with netns.restored():
        netns.create(SPACE)  # after the pod was bound, as the kubelet does
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    assert resolves_to(web, "10.96.0.7")
    api.send("services", "MODIFIED", obj("web", spec={"clusterIP": "10.96.0.8"}, version="3"))
    assert resolves_to(web, "10.96.0.8")
    api.send("services", "DELETED", obj("web", spec={"clusterIP": "10.96.0.8"}, version="4"))
    assert resolves_to(web)
    # The API forgets what was in between: the list counts.
    api.lists["services"] = [obj("new", spec={"clusterIP": "10.96.0.9"}, version="9")]
    api.send("services", "ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"})
    assert resolves_to("new.shop.svc.emulated.test", "10.96.0.9")
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0


def test_without_a_cluster_it_says_so(api: Api, tmp_path: Path) -> None:
    api.lists["clusters"] = []
    argv = [sys.executable, "-m", "kmn.dns", "--kubeconfig", str(api.kubeconfig(tmp_path / "kubeconfig"))]
    ended = subprocess.run(argv, env={**os.environ, "KMN_CLUSTER": CLUSTER}, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 1
    assert "0 Cluster objects in the API: exactly one is expected" in ended.stderr
