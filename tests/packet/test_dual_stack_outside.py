"""IPv6 between a dual-stack cluster and its outside: hosts, the way out, load balancers, node ports."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from clusterlab import appctl, assert_flows_as_printed, eventually, running

from kmn import Cluster
from kmn.k8s.objects import Object
from kmn.k8s.resources import EVENTS, INGRESSES, NETWORKPOLICIES, NODES, PODS, SERVICES
from kmn.machine import Machine

pytestmark = [pytest.mark.packet, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

E1, E2, EDGE = "2001:db8:203::a", "2001:db8:203::b", "2001:db8:203::1"
EGRESS = "2001:db8:198::c8"
INTERNET = {"hosts": [{"name": "e1"}, {"name": "e2"}]}
BOTH = {"ipFamilyPolicy": "RequireDualStack"}
AWS = "service.beta.kubernetes.io/aws-load-balancer-"
# Asks a server for a name of a type, by UDP or TCP.
LOOKUP = """\
import dnslib, sys
server, name, kind, how = sys.argv[1:]
question = dnslib.DNSRecord.question(name, kind)
reply = dnslib.DNSRecord.parse(question.send(server, 53, tcp=how == "tcp", timeout=2, ipv6=":" in server))
print(dnslib.RCODE[reply.header.rcode], *[record.rdata for record in reply.rr])
"""


def pod(name: str, node: str, *, app: str = "", notes: dict[str, str] | None = None, **spec: Any) -> Object:
    ports = [{"containerPort": 8080}, {"containerPort": 8080, "protocol": "UDP"}]
    meta = {"name": name, "namespace": "default", "labels": {"app": app or name}, "annotations": notes or {}}
    body = {"nodeName": node, "containers": [{"name": "c", "image": "example.com/x", "ports": ports}], **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": body}


def service(name: str, notes: dict[str, str] | None = None, **spec: Any) -> Object:
    ports = [
        {"name": protocol.lower(), "protocol": protocol, "port": 80, "targetPort": 8080} for protocol in ("TCP", "UDP")
    ]
    meta = {"name": name, "namespace": "default", "annotations": notes or {}}
    fields = {"type": "LoadBalancer", "selector": {"app": "web"}, "ports": ports, **BOTH, **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": fields}


IP, DSR = {"kmn.io/lb-target": "ip"}, {"kmn.io/lb-forwarding": "dsr"}
LOCAL = {"externalTrafficPolicy": "Local"}
MANIFESTS = [
    pod("w1", "n1", app="web"),
    pod("w2", "n2", app="web"),
    pod("client", "n1"),
    pod("partner", "n2", notes={"kmn.io/egress-address": f"198.51.100.200,{EGRESS}"}),
    pod("host", "n1", hostNetwork=True),
    service("instance"),
    service("local", **LOCAL),
    service("ip", IP),
    service("ip-local", IP, **LOCAL),
    service("direct", DSR),
    service("direct-local", DSR, **LOCAL),
    service("six", ipFamilyPolicy="SingleStack", ipFamilies=["IPv6"]),
    service("ranges", IP, loadBalancerSourceRanges=["203.0.113.10/32", f"{E1}/128"]),
    service("ranges-of-ipv4", IP, loadBalancerSourceRanges=["0.0.0.0/0"]),
    service("internal", {"kmn.io/lb-scheme": "internal"}),
    service("proxied", IP | {AWS + "target-group-attributes": "preserve_client_ip.enabled=false"}),
    service("sticky", IP, sessionAffinity="ClientIP"),
    service("wished", {"kmn.io/lb-address": "192.0.2.99,2001:db8:192::99"}),
    service("ports", type="NodePort", externalIPs=["192.168.77.1", "fd77::1"]),
    service("ports-local", type="NodePort", **LOCAL),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running("six", ipFamily="dual", nodes=[{"count": 2}], internet=INTERNET) as made:
        made.apply(*MANIFESTS)
        made.wait_ready()
        yield made


def place(cluster: Cluster, name: str) -> Machine:
    kinds = {"e": cluster.host, "n": cluster.node}
    return kinds[name[0]](name) if name[1:].isdecimal() and name[0] in kinds else cluster.pod(name)


def url(address: str, port: int) -> str:
    return f"http://[{address}]:{port}/" if ":" in address else f"http://{address}:{port}/"


def asked(client: Machine, address: str, port: int = 80, timeout: int = 5) -> dict[str, Any] | None:
    """What the server says of itself and of the client; None: it cannot be reached."""
    done = client.run(["curl", "-g", "-s", "-m", str(timeout), url(address, port)])
    return json.loads(done.stdout) if done.returncode == 0 else None


def seen(client: Machine, address: str, port: int = 80, times: int = 16) -> set[tuple[str, str]]:
    """Which pods answered, and which addresses they saw."""
    command = f"for i in $(seq {times}); do curl -g -s -m 3 '{url(address, port)}'; echo; done"
    answers = [json.loads(line) for line in client.cmd(command).split("\n") if line.strip()]
    assert len(answers) == times, f"{address}: {len(answers)} answers"
    return {(answer["pod"], answer["client"]) for answer in answers}


def refused(client: Machine, address: str) -> bool:
    """A closed port of UDP: whether the ICMP error finds its way back."""
    script = "import socket,sys; a=sys.argv[1]; f=socket.AF_INET6 if ':' in a else socket.AF_INET\n"
    script += "s=socket.socket(f,socket.SOCK_DGRAM); s.settimeout(3); s.connect((a,9999)); s.send(b'x')\n"
    script += "try: s.recv(9)\nexcept ConnectionRefusedError: print('refused')"
    return client.run([sys.executable, "-c", script, address]).stdout == "refused\n"


def node_ip(cluster: Cluster, name: str) -> str:
    addresses = cluster.client.get(NODES, "", name)["status"]["addresses"]
    return str(next(entry["address"] for entry in addresses if ":" in entry["address"]))


def pod_ip(cluster: Cluster, name: str) -> str:
    return str(cluster.client.get(PODS, "default", name)["status"]["podIPs"][1]["ip"])


def ingress(cluster: Cluster, name: str) -> list[str]:
    status = cluster.client.get(SERVICES, "default", name)["status"]
    return [entry["ip"] for entry in status["loadBalancer"].get("ingress") or ()]


def vip(cluster: Cluster, name: str) -> str:
    eventually(lambda: any(":" in ip for ip in ingress(cluster, name)), f"{name} has an IPv6 address")
    return next(ip for ip in ingress(cluster, name) if ":" in ip)


def test_hosts_outside_have_both_families(cluster: Cluster) -> None:
    e1, e2 = cluster.host("e1"), cluster.host("e2")
    for address, client in (("203.0.113.11", "203.0.113.10"), (E2, E1)):
        answer = asked(e1, address)
        assert answer
        assert answer["client"] == client
    assert e1.run(["ping", "-6", "-c1", "-W2", EDGE]).returncode == 0
    assert "fe80:" not in e2.cmd("ip -6 address show dev eth0")


def test_the_internets_dns_has_both_families(cluster: Cluster) -> None:
    def lookup(client: str, name: str, kind: str, server: str = E1, how: str = "udp") -> str:
        return place(cluster, client).run([sys.executable, "-c", LOOKUP, server, name, kind, how]).stdout.strip()

    eventually(lambda: lookup("e2", "e2.internet.test", "AAAA") == f"NOERROR {E2}", "e1 answers")
    for client in ("client", "n2", "e2"):
        assert lookup(client, "e1.internet.test", "AAAA", how="tcp") == f"NOERROR {E1}"
        assert lookup(client, "e1.internet.test", "A") == "NOERROR 203.0.113.10"
        assert lookup(client, "e1.internet.test", "AAAA", "203.0.113.10") == f"NOERROR {E1}"
    assert lookup("client", "a.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.3.0.2.0.8.b.d.0.1.0.0.2.ip6.arpa", "PTR") == (
        "NOERROR e1.internet.test."
    )
    # By the cluster's DNS, and a name's IPv6 address is taken.
    assert cluster.pod("client").run(["curl", "-6", "-s", "-m", "5", "e1.internet.test"]).returncode == 0


def test_out_go_true_addresses_and_egress_addresses(cluster: Cluster) -> None:
    """No NAT for IPv6, as with clouds; with IPv4 for comparison."""
    for name, ipv4, ipv6 in (
        ("client", "198.51.100.1", pod_ip(cluster, "client")),
        ("host", "198.51.100.1", node_ip(cluster, "n1")),
        ("n2", "198.51.100.1", node_ip(cluster, "n2")),
        ("partner", "198.51.100.200", EGRESS),
    ):
        for address, client in (("203.0.113.10", ipv4), (E1, ipv6)):
            answer = asked(place(cluster, name), address)
            assert answer
            assert answer["client"] == client, f"{name} to {address}"
            assert refused(place(cluster, name), address), f"{name} to {address}"
        assert place(cluster, name).run(["ping", "-6", "-c1", "-W2", E1]).returncode == 0, name


def test_nothing_comes_in_unasked(cluster: Cluster) -> None:
    e1 = cluster.host("e1")
    for address, port in ((pod_ip(cluster, "w1"), 8080), (node_ip(cluster, "n1"), 8080), (EGRESS, 8080)):
        assert asked(e1, address, port, 1) is None, f"{address}:{port}"
    for address in (pod_ip(cluster, "w1"), node_ip(cluster, "n1")):
        assert e1.run(["ping", "-6", "-c1", "-W1", address]).returncode != 0
    assert asked(e1, cluster.client.get(SERVICES, "default", "ip")["spec"]["clusterIPs"][1], 80, 1) is None


def test_load_balancers_have_addresses_of_their_services_families(cluster: Cluster) -> None:
    for name in ("instance", "ip", "direct"):
        assert ":" in vip(cluster, name)
        assert [":" in ip for ip in ingress(cluster, name)] == [False, True]
    assert ingress(cluster, "six") == [vip(cluster, "six")]
    assert ingress(cluster, "wished") == ["192.0.2.99", "2001:db8:192::99"]
    told = [event["message"] for event in cluster.client.list(EVENTS, "default").items]
    assert not [text for text in told if "IPv6" in text]


@pytest.mark.parametrize(
    ("name", "client"),
    [
        ("instance", "node"),  # the node that the load balancer chose stands for the client
        ("six", "node"),
        ("local", E1),
        ("ip", E1),
        ("ip-local", E1),
        ("direct", E1),
        ("direct-local", E1),
        ("ranges", E1),
        ("proxied", EDGE),
    ],
)
def test_the_way_in(cluster: Cluster, name: str, client: str) -> None:
    """To pods of both nodes; TCP, and UDP where it is easily told."""
    address = vip(cluster, name)
    answers = seen(cluster.host("e1"), address, times=24)
    assert {who for who, _ in answers} == {"w1", "w2"}
    nodes = {node_ip(cluster, "n1"), node_ip(cluster, "n2")}
    assert {saw for _, saw in answers} == (nodes if client == "node" else {client})
    udp = "import socket,sys; s=socket.socket(socket.AF_INET6,socket.SOCK_DGRAM); s.settimeout(3)\n"
    udp += "s.connect((sys.argv[1],80)); s.send(b'hello'); print(s.recv(9).decode())"
    assert cluster.host("e1").run([sys.executable, "-c", udp, address]).stdout == "hello\n"


def test_who_may_not_come_in(cluster: Cluster) -> None:
    """Other sources and ports, internal load balancers; ranges of the other family alone let nobody in."""
    e1, e2 = cluster.host("e1"), cluster.host("e2")
    assert asked(e2, ingress(cluster, "ranges")[0], 80, 1) is None
    for client, name, port in ((e2, "ranges", 80), (e1, "ranges-of-ipv4", 80), (e1, "internal", 80), (e1, "ip", 81)):
        assert asked(client, vip(cluster, name), port, 1) is None, f"{client.name} to {name}:{port}"
    assert asked(e1, ingress(cluster, "ranges-of-ipv4")[0])
    assert asked(cluster.pod("client"), vip(cluster, "internal"))


def test_a_client_stays_with_its_pod(cluster: Cluster) -> None:
    for host in ("e1", "e2"):
        assert len(seen(cluster.host(host), vip(cluster, "sticky"))) == 1


def test_clients_inside_are_served_by_their_nodes(cluster: Cluster) -> None:
    for name in ("client", "n2"):
        for balancer in ("instance", "ip", "direct"):
            assert {who for who, _ in seen(place(cluster, name), vip(cluster, balancer))} == {"w1", "w2"}
    assert {client for _, client in seen(cluster.pod("client"), vip(cluster, "local"))} == {pod_ip(cluster, "client")}


def test_direct_return_leaves_no_connection_at_the_edge(cluster: Cluster) -> None:
    def tracked(name: str) -> bool:
        address = vip(cluster, name)
        seen(cluster.host("e1"), address, times=4)
        return f"={address}," in appctl(cluster, "default", "dpctl/dump-conntrack")

    assert tracked("ip"), "for comparison"
    assert not tracked("direct")
    # The address that the edge writes is nobody's to ask for.
    port = cluster.client.get(SERVICES, "default", "direct")["spec"]["ports"][0]["nodePort"]
    assert asked(cluster.host("e1"), "fd00:10:244::1", port, 1) is None


def test_node_ports_are_open_to_the_outside(cluster: Cluster) -> None:
    e1 = cluster.host("e1")
    for name, clients in (("ports", {"n1": None, "n2": None}), ("ports-local", {"n1": "w1", "n2": "w2"})):
        port = cluster.client.get(SERVICES, "default", name)["spec"]["ports"][0]["nodePort"]
        for node, only in clients.items():
            address = node_ip(cluster, node)
            answers = seen(e1, address, port)
            assert {who for who, _ in answers} == ({only} if only else {"w1", "w2"})
            assert {client for _, client in answers} == {E1 if only else address}


def test_external_ips(cluster: Cluster) -> None:
    """From inside; outside nothing leads there."""
    for address in ("192.168.77.1", "fd77::1"):
        assert {who for who, _ in seen(cluster.pod("client"), address)} == {"w1", "w2"}
    assert asked(cluster.host("e1"), "fd77::1", 80, 1) is None


def test_policies_know_hosts_outside_by_their_ipv6_addresses(cluster: Cluster) -> None:
    """In by a load balancer that keeps the client, and out."""
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "guarded", "namespace": "default"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "guarded"}},
            "ingress": [{"from": [{"ipBlock": {"cidr": f"{E1}/128"}}]}],
            "egress": [{"to": [{"ipBlock": {"cidr": "2001:db8:203::/64", "except": [f"{E1}/128"]}}]}],
            "policyTypes": ["Ingress", "Egress"],
        },
    }
    cluster.apply(pod("guarded", "n2"), service("guarded", IP, selector={"app": "guarded"}), policy)
    cluster.wait_ready()
    address, guarded = vip(cluster, "guarded"), cluster.pod("guarded")
    eventually(lambda: asked(cluster.host("e1"), address) is not None, "e1 may come")
    assert asked(cluster.host("e2"), address, 80, 1) is None
    assert asked(guarded, E2)
    assert asked(guarded, E1, 80, 1) is None
    cluster.client.delete(NETWORKPOLICIES, "default", "guarded")


def test_requests_come_to_an_ingress_by_both_families(cluster: Cluster) -> None:
    """Its controller sees the client's address, and tells the backend."""
    backend = {"service": {"name": "instance", "port": {"number": 80}}}
    spec = {"ingressClassName": "nginx", "defaultBackend": backend}
    meta = {"name": "all", "namespace": "default"}
    cluster.apply({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": meta, "spec": spec})
    cluster.wait_ready()
    status = cluster.client.get(INGRESSES, "default", "all")["status"]
    e1 = cluster.host("e1")
    found = {}
    for entry in status["loadBalancer"]["ingress"]:
        answer = asked(e1, entry["ip"])
        assert answer is not None
        found[":" in entry["ip"]] = answer["headers"]["x-forwarded-for"]
    assert found == {False: str(e1.ip), True: E1}
    cluster.client.delete(INGRESSES, "default", "all")


def test_targets_go_and_come(cluster: Cluster) -> None:
    """A pod that goes is sent nothing more, in any mode; UDP, too."""
    names = ("instance", "local", "ip", "direct")
    e1 = cluster.host("e1")
    addresses = {name: vip(cluster, name) for name in names}
    cluster.client.delete(PODS, "default", "w2")
    for name, address in addresses.items():
        eventually(lambda a=address: {who for who, _ in seen_or_not(e1, a)} == {"w1"}, f"only w1 serves {name}")
    cluster.apply(pod("w2", "n2", app="web"))
    cluster.wait_ready()
    for name, address in addresses.items():
        eventually(lambda a=address: {who for who, _ in seen_or_not(e1, a)} == {"w1", "w2"}, f"w2 serves {name}")


def seen_or_not(client: Machine, address: str) -> set[tuple[str, str]]:
    try:
        return seen(client, address)
    except AssertionError:
        return set()


def test_a_family_that_goes_gives_its_address_back(cluster: Cluster) -> None:
    cluster.apply(service("changing", **BOTH))
    address = vip(cluster, "changing")
    eventually(lambda: bool(asked(cluster.host("e1"), address, 80, 1)), "it answers")
    found = cluster.client.get(SERVICES, "default", "changing")
    single = {**found["spec"], "ipFamilyPolicy": "SingleStack"}
    cluster.client.update({**found, "spec": single})
    eventually(lambda: not any(":" in ip for ip in ingress(cluster, "changing")), "the IPv6 address goes")
    eventually(lambda: asked(cluster.host("e1"), address, 80, 1) is None, "it answers no more")
    assert asked(cluster.host("e1"), ingress(cluster, "changing")[0])
    cluster.client.delete(SERVICES, "default", "changing")


def test_switches_have_the_flows_as_the_controller_prints_them(cluster: Cluster) -> None:
    assert_flows_as_printed(cluster, "n1", "n2", "default")


def test_translated_as_ipv4_is() -> None:
    """A gateway that has IPv6 addresses, and nodes that masquerade: both translate both families."""
    nat = {"cidr": "198.51.100.0/24,2001:db8:198::/64", "count": 2, "ports": "2000-2003"}
    internet = {**INTERNET, "nat": nat}
    wanted = [each for each in MANIFESTS if each["metadata"]["name"] in ("client", "partner")]
    with running("six-nat", ipFamily="dual", nodes=[{"count": 2}], internet=internet) as cluster:
        cluster.apply(*wanted)
        cluster.wait_ready()
        public = {"2001:db8:198::1", "2001:db8:198::2"}
        for name, expected in (("client", public), ("n2", public), ("partner", {EGRESS})):
            answer = asked(place(cluster, name), E1)
            assert answer
            assert answer["client"] in expected, name
            assert place(cluster, name).run(["ping", "-6", "-c1", "-W2", E1]).returncode == 0, name
            assert refused(place(cluster, name), E1), name
        assert_flows_as_printed(cluster, "n1", "default")
        exhausted(cluster)
    masquerade = {"nonMasqueradeCIDRs": [f"{E2}/128"]}
    with running(
        "six-masq", ipFamily="dual", nodes=[{"count": 2}], internet=INTERNET, masquerade=masquerade
    ) as cluster:
        cluster.apply(*wanted, pod("w2", "n2"))
        cluster.wait_ready()
        own = pod_ip(cluster, "client")
        for name, address, expected in (
            ("client", E1, node_ip(cluster, "n1")),
            ("client", E2, own),
            ("partner", E1, EGRESS),
        ):
            answer = asked(place(cluster, name), address)
            assert answer
            assert answer["client"] == expected, f"{name} to {address}"
        assert seen(cluster.pod("client"), pod_ip(cluster, "w2"), 8080, 1) == {("w2", own)}
        assert_flows_as_printed(cluster, "n1", "default")


def exhausted(cluster: Cluster) -> None:
    """Four ports of two addresses carry eight connections to one destination; what gets an address that is full (Open
    vSwitch chooses it first, then the port) is dropped, which is told."""
    script = (
        "import socket,sys\nmade=[]\n"
        "for _ in range(9):\n"
        " try: made.append(socket.create_connection((sys.argv[1],7),timeout=1))\n"
        " except OSError: break\n"
        "print(len(made))"
    )
    assert 4 <= int(cluster.pod("client").run([sys.executable, "-c", script, E2], timeout=30).stdout) <= 8

    def told() -> bool:
        events = cluster.client.list(EVENTS, "default").items
        return any(event["reason"] == "NATPortsExhausted" for event in events)

    eventually(told, "an Event tells of it")
