"""Who sees whose address: every path of a small cluster is asked, and docs/source-addresses.md is what was seen."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from clusterlab import eventually
from source_addresses import ASKERS, LEAVERS, LEAVING, PATHS, Cells, Leaving, differences, page
from traffic import Answer, Question, ask

from kmn import Cluster
from kmn.k8s.objects import name_of
from kmn.k8s.resources import PODS, SERVICES
from kmn.machine import Machine

pytestmark = [pytest.mark.packet, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

PAGE = Path(__file__).parents[2] / "docs" / "source-addresses.md"
TIMES = 16  # a choice between two nodes does not fall on the same one so often
EGRESS = "198.51.100.200"
NAME = f"wdsrc{os.getpid()}"


def pod(name: str, node: str, ports: list[dict[str, Any]] | None = None, **spec: Any) -> dict[str, Any]:
    container = {"name": "c", "image": "example.com/x", "ports": ports or []}
    meta: dict[str, Any] = {"name": name, "namespace": "default", "labels": {"app": name}}
    if name == "egress":
        meta["annotations"] = {"kmn.io/egress-address": EGRESS}
    body = {"nodeName": node, "containers": [container], **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": body}


def service(name: str, node_port: int = 0, notes: Mapping[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    ports = [
        {"name": protocol.lower(), "protocol": protocol, "port": 80, "targetPort": 8080}
        | ({"nodePort": node_port} if node_port else {})
        for protocol in ("TCP", "UDP")
    ]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default", "annotations": dict(notes or {})},
        "spec": {"selector": {"app": "server"}, "ports": ports, **spec},
    }


def balancers() -> Iterator[dict[str, Any]]:
    forms = {"lb": {}, "ip": {"kmn.io/lb-target": "ip"}, "dsr": {"kmn.io/lb-forwarding": "dsr"}}
    for form, notes in forms.items():
        for policy in ("Cluster", "Local"):
            name = f"{form}-{policy.lower()}"
            yield service(name, notes=notes, type="LoadBalancer", externalTrafficPolicy=policy)


MANIFESTS = [
    pod("server", "n1", [{"containerPort": 8080, "hostPort": 8081, "protocol": p} for p in ("TCP", "UDP")]),
    pod("near", "n1"),
    pod("far", "n2"),
    pod("egress", "n1"),
    pod("host", "n1", hostNetwork=True),
    service("plain"),
    service("np-cluster", 30080, type="NodePort"),
    service("np-local", 30081, type="NodePort", externalTrafficPolicy="Local"),
    *balancers(),
    service("external-cluster", externalIPs=["192.168.77.1"]),
    service("external-local", type="NodePort", externalTrafficPolicy="Local", externalIPs=["192.168.77.2"]),
]


LEAVERS_PODS = [each for each in MANIFESTS if each["metadata"]["name"] in LEAVERS]


@contextlib.contextmanager
def started(name: str, manifests: list[dict[str, Any]], setting: Leaving) -> Iterator[Cluster]:
    """A cluster of two nodes and one host outside, with a setting of the way out."""
    spec = {
        "nodes": [{"count": 2}],
        "internet": {"hosts": [{"name": "e1"}], "nat": {"outgoing": setting.outgoing}},
        "masquerade": setting.masquerade,
    }
    file = {"apiVersion": "kmn.io/v1", "kind": "Cluster", "metadata": {"name": name}, "spec": spec}
    with Cluster(file, manifests=manifests) as running:
        running.wait_ready()
        yield running


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with started(NAME, MANIFESTS, LEAVING[0]) as running:
        yield running


def machines(cluster: Cluster) -> dict[str, Machine]:
    pods = {name_of(each): cluster.pod(name_of(each)) for each in cluster.client.list(PODS, "default").items}
    return {**pods, **{name: cluster.node(name) for name in ("n1", "n2")}, "e1": cluster.host("e1")}


def address(cluster: Cluster, host: str) -> str:
    """Of a path: a Service's, a node's, the server's, or as it stands there."""
    if host == "pod":
        return cluster.pod("server").ip
    if host in ("n1", "n2"):
        return cluster.node(host).ip
    if host[0].isdecimal():
        return host
    found = cluster.client.get(SERVICES, "default", host)
    if found["spec"]["type"] != "LoadBalancer":
        return str(found["spec"]["clusterIP"])

    def given() -> list[dict[str, str]]:
        status = cluster.client.get(SERVICES, "default", host)["status"]
        return list(status["loadBalancer"].get("ingress") or [])

    eventually(lambda: bool(given()), f"{host} has an address")
    return given()[0]["ip"]


class Measuring:
    """Asks, and names the addresses that were seen."""

    def __init__(self, cluster: Cluster) -> None:
        self.places = machines(cluster)
        self.names = {self.places["n1"].ip: "node (n1)", self.places["n2"].ip: "node (n2)"}
        self.names |= {"10.244.0.1": "gateway (n1)", "10.244.1.1": "gateway (n2)", "203.0.113.1": "edge"}
        self.names |= {"198.51.100.1": "public address", EGRESS: "egress address"}

    def cells(self, questions: Mapping[tuple[str, str], tuple[str, int]], often: Iterable[str] = ()) -> Cells:
        """By path and asker, for addresses and ports to be asked; TCP and UDP must be alike. Paths of ``often`` are
        asked many times, as what is seen varies."""
        listed = [
            (path, asker, protocol, Question(self.places[asker], *where, protocol))
            for (path, asker), where in questions.items()
            for protocol in ("TCP", "UDP")
            for _ in range(TIMES if path in often else 1)
        ]
        seen: dict[tuple[str, str, str], set[str]] = {}
        answers = ask([question for *_, question in listed], timeout=3.0)
        for (path, asker, protocol, _), answer in zip(listed, answers, strict=True):
            seen.setdefault((path, asker, protocol), set()).add(self.cell(asker, answer))
        found: dict[str, dict[str, str]] = {}
        for path, asker in questions:
            tcp, udp = (" or ".join(sorted(seen[path, asker, protocol])) for protocol in ("TCP", "UDP"))
            assert tcp == udp, f"{path} from {asker}: {tcp} over TCP, {udp} over UDP"
            found.setdefault(path, {})[asker] = tcp
        return found

    def cell(self, asker: str, answer: Answer | Exception) -> str:
        if isinstance(answer, ConnectionRefusedError):
            return "refused"
        if isinstance(answer, Exception):
            assert isinstance(answer, TimeoutError), answer
            return "no answer"
        if answer.client == self.places[asker].ip:
            return "kept"
        assert answer.client in self.names, f"{asker} is seen as {answer.client}"
        return self.names[answer.client]


def documented() -> dict[str, dict[str, str]]:
    """Cells as the documentation has them, but for those that a reason is given for."""
    plain = {"kept": "kept", "replaced": "node (n1)", "silent": "no answer", None: "kept"}
    other = {"kept": "no answer", "replaced": "kept", "silent": "kept", None: "kept"}
    return {
        path.name: {
            asker: (other if asker in path.reasons else plain)[path.outside if asker == "e1" else path.inside]
            for asker in ASKERS
        }
        for path in PATHS
    }


def test_what_differs_without_a_reason_is_told() -> None:
    out = {setting.name: {"near": "node (n1)", "host": "kept", "n1": "kept"} for setting in LEAVING}
    assert differences(documented(), out) == []
    ways = documented()
    ways["ClusterIP"]["near"] = "node (n1)"
    ways["NodePort of n1, `Cluster`"]["e1"] = "kept or node (n1)"
    ways["NodePort of n2, `Local`"]["far"] = "no answer"
    out[LEAVING[-1].name]["near"] = "kept"
    assert [line.split(":")[0] for line in differences(ways, out)] == [
        "ClusterIP from pod on n1",
        "NodePort of n1, `Cluster` from host outside",
        "NodePort of n2, `Local` from pod on n2",
        "`outgoing",
    ]


def leaving(setting: Leaving, measuring: Measuring) -> dict[tuple[str, str], tuple[str, int]]:
    return {(setting.name, asker): (measuring.places["e1"].ip, 80) for asker in LEAVERS}


def test_the_page_is_what_is_measured(cluster: Cluster, pytestconfig: pytest.Config) -> None:
    measuring = Measuring(cluster)
    asked = {(path.name, asker): (address(cluster, path.host), path.port) for path in PATHS for asker in ASKERS}
    ways = measuring.cells(asked, [path.name for path in PATHS if path.varies])
    out: dict[str, Mapping[str, str]] = dict(measuring.cells(leaving(LEAVING[0], measuring)))
    for number, setting in enumerate(LEAVING[1:], 1):
        with started(f"{NAME}-{number}", LEAVERS_PODS, setting) as other:
            there = Measuring(other)
            out |= there.cells(leaving(setting, there))
    text = page(ways, out)
    if pytestconfig.getoption("--write-docs"):
        PAGE.write_text(text)
    assert not differences(ways, out), "\n".join(differences(ways, out))
    assert PAGE.read_text() == text, "run it with --write-docs, and look at what has changed"
