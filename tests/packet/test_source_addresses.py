"""Who sees whose address: every path of a small cluster is asked, and docs/source-addresses.md is what was seen."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from clusterlab import eventually
from source_addresses import ASKERS, LEAVERS, LEAVING, PATHS, Cells, Leaving, differences, page
from traffic import Answer, Question, ask

from kmn import Cluster
from kmn.k8s.families import FAMILIES, host_ips, internal_ips, pod_ips
from kmn.k8s.objects import name_of
from kmn.k8s.resources import EDGES, NODES, PODS, SERVICES
from kmn.machine import Machine

pytestmark = [pytest.mark.packet, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

PAGE = Path(__file__).parents[2] / "docs" / "source-addresses.md"
TIMES = 16  # a choice between two nodes does not fall on the same one so often
EGRESS = {4: "198.51.100.200", 6: "2001:db8:198::c8"}  # by version of IP
KNOWN = {
    4: {"10.244.0.1": "gateway (n1)", "10.244.1.1": "gateway (n2)", "203.0.113.1": "edge"},
    6: {"fd00:10:244::1": "gateway (n1)", "fd00:10:244:1::1": "gateway (n2)", "2001:db8:203::1": "edge"},
}
NAME = f"wdsrc{os.getpid()}"


def pod(name: str, node: str, ports: list[dict[str, Any]] | None = None, **spec: Any) -> dict[str, Any]:
    container = {"name": "c", "image": "example.com/x", "ports": ports or []}
    meta: dict[str, Any] = {"name": name, "namespace": "default", "labels": {"app": name}}
    if name == "egress":
        meta["annotations"] = {"kmn.io/egress-address": ",".join(EGRESS.values())}
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
        "spec": {"selector": {"app": "server"}, "ports": ports, "ipFamilyPolicy": "RequireDualStack", **spec},
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
    service("external-cluster", externalIPs=["192.168.77.1", "fd77::1"]),
    service("external-local", type="NodePort", externalTrafficPolicy="Local", externalIPs=["192.168.77.2", "fd77::2"]),
]


LEAVERS_PODS = [each for each in MANIFESTS if each["metadata"]["name"] in LEAVERS]


@contextlib.contextmanager
def started(name: str, manifests: list[dict[str, Any]], setting: Leaving) -> Iterator[Cluster]:
    """A cluster of two nodes and one host outside, with a setting of the way out."""
    spec = {
        "ipFamily": "dual",
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


def own_addresses(cluster: Cluster) -> dict[str, list[str]]:
    """Of pods, nodes and hosts by name: one of each family, IPv4 first."""
    client = cluster.client
    found = {name_of(each): list(pod_ips(each)) for each in client.list(PODS, "default").items}
    found |= {name_of(each): list(internal_ips(each)) for each in client.list(NODES).items}
    return found | {host["name"]: list(host_ips(host)) for host in client.list(EDGES).items[0]["spec"]["hosts"]}


def addresses(cluster: Cluster, host: str) -> list[str]:
    """Of a path: a Service's, a node's, or the server's; IPv4 first."""
    if host in ("pod", "n1", "n2"):
        return own_addresses(cluster)["server" if host == "pod" else host]
    found = cluster.client.get(SERVICES, "default", host)["spec"]
    if found.get("externalIPs"):
        return list(found["externalIPs"])
    if found["type"] != "LoadBalancer":
        return list(found["clusterIPs"])

    def given() -> list[str]:
        status = cluster.client.get(SERVICES, "default", host)["status"]
        return [entry["ip"] for entry in status["loadBalancer"].get("ingress") or ()]

    eventually(lambda: len(given()) == len(FAMILIES), f"{host} has addresses")
    return given()


class Measuring:
    """Asks in one family, and names the addresses that were seen."""

    def __init__(self, cluster: Cluster, version: int) -> None:
        self.cluster, self.version = cluster, version
        self.places = machines(cluster)
        self.own = {name: self.of_family(own) for name, own in own_addresses(cluster).items()}
        self.names = {self.own["n1"]: "node (n1)", self.own["n2"]: "node (n2)", **KNOWN[version]}
        self.names |= {"198.51.100.1": "public address", EGRESS[version]: "egress address"}

    def of_family(self, addresses: Sequence[str]) -> str:
        return addresses[self.version == 6]

    def ways(self) -> Cells:
        """All paths to the server."""
        asked = {
            (path.name, asker): (self.of_family(addresses(self.cluster, path.host)), path.port)
            for path in PATHS
            for asker in ASKERS
        }
        return self.cells(asked, [path.name for path in PATHS if path.varies])

    def leaving(self, setting: Leaving) -> Cells:
        """The way out."""
        return self.cells({(setting.name, asker): (self.own["e1"], 80) for asker in LEAVERS})

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
        if answer.client == self.own[asker]:
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


def test_the_page_is_what_is_measured(cluster: Cluster, pytestconfig: pytest.Config) -> None:
    ways, ways_ipv6 = (Measuring(cluster, version).ways() for version in (4, 6))
    assert ways == ways_ipv6
    outs: dict[int, dict[str, Mapping[str, str]]] = {4: {}, 6: {}}
    for version, out in outs.items():
        out |= Measuring(cluster, version).leaving(LEAVING[0])
    for number, setting in enumerate(LEAVING[1:], 1):
        with started(f"{NAME}-{number}", LEAVERS_PODS, setting) as other:
            for version, out in outs.items():
                out |= Measuring(other, version).leaving(setting)
    text = page(ways, outs[4], outs[6])
    if pytestconfig.getoption("--write-docs"):
        PAGE.write_text(text)
    wrong = differences(ways, *outs.values())
    assert not wrong, "\n".join(wrong)
    assert PAGE.read_text() == text, "run it with --write-docs, and look at what has changed"
