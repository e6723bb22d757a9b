"""A thousand Ingresses, each with a host and a Service of its own.

How long one change takes from the API's answer until a request sees it, whether any request fails while rules and
certificates change, what it all weighs, and how long a killed Envoy is missed.
"""

from __future__ import annotations

import base64
import os
import signal
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from http.client import HTTPConnection, HTTPException

from benchmarks import http, workload
from benchmarks.memory import Memory, processes
from benchmarks.report import Row
from benchmarks.rounds import percentile
from kmn import Cluster
from kmn.dns.sockets import in_netns
from kmn.ingress.certificates import KeyPair, self_signed
from kmn.k8s.objects import Object
from kmn.k8s.resources import INGRESSES, Resource

__all__ = ["Asker", "address_of", "envoy_of", "measure", "until"]

_STEADY = 11.0  # seconds after which a process that is killed is started again as fast as for the first time
_PORT = 80
_SECURE = "secure.example"
_TIMEOUT = 5.0  # seconds for one request
_PATIENCE = 30.0  # seconds for anything to come into force
_PAUSE = 0.001  # seconds between two looks


def measure(few: int, many: int, changes: int, kills: int) -> list[Row]:
    """Memory with few and many Ingresses, changes of one, killed Envoys."""
    name = f"ings{os.getpid()}"
    rows: list[Row] = []
    with Cluster(workload.cluster(name, 2, {"hosts": [{"name": "e1"}]})) as cluster, ExitStack() as stack:
        cluster.apply(
            workload.place("red", "n1"), workload.place("blue", "n2"), workload.service("blue", "blue", _PORT)
        )
        cluster.apply(workload.service("red", "red", _PORT), _secret(self_signed("first")))
        cluster.apply(workload.ingress("secure", _SECURE, "red", secret="secure"))
        cluster.wait_ready()
        for pod in ("red", "blue"):
            stack.enter_context(http.serving(cluster.pod(pod).netns, [_PORT], answer=pod))
        world = _World(cluster, cluster.host("e1").netns, address_of(cluster, INGRESSES, "secure"))
        for total in (few, many):
            world.grow(total)
            memory = Memory.of(name).rss
            rows += [
                Row(f"{total:,} Ingresses: Envoy, RSS", memory["envoy"] / 1024, "MB"),
                Row(f"{total:,} Ingresses: the controllers' process, RSS", memory["ingress controllers"] / 1024, "MB"),
            ]
        times = [world.change(index * many // changes) for index in range(changes)]
        rows += _times(f"one of {many:,} changed, until a request sees it", times, wanted="< 200 ms")
        rows += world.changes_under_load(changes)
        killed = world.kills(name, kills, few)
        rows.append(
            Row(f"Envoy killed, until {few} hosts answer as before: most of {kills}", max(killed), "s", wanted="< 1")
        )
    return rows


class _World:
    """Hosts of a running cluster, each with an Ingress and a Service; all lead to the pod red."""

    def __init__(self, cluster: Cluster, client: str, address: str) -> None:
        self._cluster = cluster
        self._client = client
        self._address = address
        self._hosts = 0

    def grow(self, total: int) -> None:
        """Until all of them answer."""
        red = [self._cluster.pod("red").ip]
        for index in range(self._hosts, total):
            service = f"s{index}"
            for obj in (workload.selectorless_service(service), workload.slice_of(service, red)):
                self._cluster.client.create(obj)
            self._cluster.client.create(workload.ingress(f"i{index}", _host(index), service))
        self._hosts = total
        asker = Asker(self._client, self._address)
        for index in (*range(0, total, max(1, total // 10)), total - 1):
            until(partial(asker.tells, {_host(index): "red"}))

    def change(self, index: int) -> float:
        """Seconds from the API's answer until a request to a host goes to the other Service."""
        asker = Asker(self._client, self._address)
        assert asker.ask(_host(index)) == "red"
        self._turn(f"i{index}", _host(index), "blue")
        answered = time.perf_counter()
        until(lambda: asker.ask(_host(index)) == "blue")
        return time.perf_counter() - answered

    def changes_under_load(self, changes: int) -> list[Row]:
        """A host is asked without pause, over HTTPS and otherwise, while its rule and its certificate change."""
        asker = Asker(self._client, self._address)
        running = partial(http.running, self._client, hosts={_SECURE: self._address})
        with ExitStack() as stack:
            ways = {
                "HTTP, 4 connections kept": running(f"http://{_SECURE}/", close=False, connections=4),
                "HTTPS, 4 connections kept": running(f"https://{_SECURE}/", close=False, connections=4),
                "HTTPS, a connection a request": running(f"https://{_SECURE}/", close=True, connections=1),
            }
            stops = {what: stack.enter_context(load) for what, load in ways.items()}
            times = []
            for index in range(changes):
                backend = ("blue", "red")[index % 2]
                self._turn("secure", _SECURE, backend)
                answered = time.perf_counter()
                until(partial(asker.tells, {_SECURE: backend}))
                times.append(time.perf_counter() - answered)
                if index % 10 == 9:
                    self._rotate(self_signed(f"number-{index}"))
            found = {what: stop() for what, stop in stops.items()}
        what = f"{changes} changes and {changes // 10} certificates"
        return [
            *_times("one changed under load, until a request sees it", times),
            *(Row(f"{what}: requests, {kind}", load.requests, "") for kind, load in found.items()),
            *(Row(f"{what}: failed, {kind}", load.errors, "", wanted="0") for kind, load in found.items()),
        ]

    def _turn(self, name: str, host: str, service: str) -> None:
        """Have another Service behind an Ingress."""
        rules = workload.ingress(name, host, service)["spec"]["rules"]
        self._cluster.client.patch(INGRESSES, "default", name, {"spec": {"rules": rules}})

    def _rotate(self, pair: KeyPair) -> None:
        """Until new connections are shown it."""
        self._cluster.apply(_secret(pair))
        wanted = ssl.PEM_cert_to_DER_cert(pair.certificate)
        until(lambda: _certificate(self._client, self._address, _SECURE) == wanted)

    def kills(self, cluster: str, times: int, hosts: int) -> list[float]:
        """Seconds from the end of Envoy until hosts answer again as before."""
        found = []
        asker = Asker(self._client, self._address)
        sample = [_host(index * self._hosts // hosts) for index in range(hosts)]
        for _ in range(times):
            time.sleep(_STEADY)
            before = {host: asker.ask(host) for host in sample}
            os.kill(envoy_of(cluster), signal.SIGKILL)
            killed = time.perf_counter()
            until(partial(asker.tells, before))
            found.append(time.perf_counter() - killed)
        return found


def _times(what: str, seconds: list[float], wanted: str = "") -> list[Row]:
    return [
        Row(f"{what}: p50 of {len(seconds)}", percentile(seconds, 50) * 1e3, "ms"),
        Row(f"{what}: p99", percentile(seconds, 99) * 1e3, "ms", wanted=wanted),
    ]


# --- what is asked ----------------------------------------------------------------------------------------------------


class Asker:
    """A client in a namespace, with one connection that it keeps as long as it lasts."""

    def __init__(self, netns: str, address: str) -> None:
        self._netns = netns
        self._address = address
        self._connection: HTTPConnection | None = None

    def ask(self, host: str) -> str:
        """The answer of a host, "" when there is none or it tells of a failure."""
        try:
            if self._connection is None:
                self._connection = HTTPConnection(self._address)
                self._connection.sock = _connect(self._netns, self._address, _PORT)
            self._connection.request("GET", "/", headers={"Host": host})
            response = self._connection.getresponse()
            text = response.read().decode().strip()
        except (OSError, HTTPException):
            if self._connection is not None:
                self._connection.close()
            self._connection = None
            return ""
        return text if response.status == 200 else ""

    def tells(self, answers: Mapping[str, str]) -> bool:
        """Whether each of these hosts answers so."""
        return all(self.ask(host) == text for host, text in answers.items())


def _connect(netns: str, address: str, port: int) -> socket.socket:
    return in_netns(netns, lambda: socket.create_connection((address, port), timeout=_TIMEOUT))


def _certificate(netns: str, address: str, host: str) -> bytes | None:
    """The one that a new connection for a host is shown (DER)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with context.wrap_socket(_connect(netns, address, 443), server_hostname=host) as secure:
        return secure.getpeercert(binary_form=True)


def until(look: Callable[[], object]) -> None:
    """Look until it is so. Raises RuntimeError when that takes too long."""
    end = time.monotonic() + _PATIENCE
    while not look():
        if time.monotonic() > end:
            raise RuntimeError(f"not so after {_PATIENCE:.0f} s: see the cluster's log/ingress.log")
        time.sleep(_PAUSE)


def envoy_of(cluster: str) -> int:
    """The process of a cluster's only Envoy."""
    (found,) = (int(folder.name) for folder, program in processes(cluster) if program == "envoy")
    return found


def address_of(cluster: Cluster, resource: Resource, name: str) -> str:
    """The first load balancer's address of a Service or Ingress."""
    obj = cluster.client.get(resource, "default", name)
    address: str = obj["status"]["loadBalancer"]["ingress"][0]["ip"]
    return address


# --- objects ----------------------------------------------------------------------------------------------------------


def _host(index: int) -> str:
    return f"host-{index}.example"


def _secret(pair: KeyPair) -> Object:
    texts = {"tls.crt": pair.certificate, "tls.key": pair.key}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "secure", "namespace": "default"},
        "type": "kubernetes.io/tls",
        "data": {name: base64.b64encode(text.encode()).decode() for name, text in texts.items()},
    }
