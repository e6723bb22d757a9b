"""IPv4 and IPv6 beside each other on a whole cluster: addresses, Services of each policy, DNS, node ports."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
from clusterlab import assert_flows_as_printed, eventually, running

from kmn import Cluster
from kmn.k8s.objects import Object
from kmn.k8s.resources import ENDPOINTSLICES, NODES, PODS, SERVICES
from kmn.machine import Machine

pytestmark = [pytest.mark.packet, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

WEB = ("w1", "w2", "w3")
CURL_REFUSED = 7
PLACES = ("w1", "c1", "c3", "n1", "n3")  # pods and nodes that ask


def pod(name: str, node: str, app: str, **port: Any) -> Object:
    container = {"name": "c", "image": "example.com/x", "ports": [{"containerPort": 8080, **port}]}
    meta = {"name": name, "namespace": "default", "labels": {"app": app}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"nodeName": node, "containers": [container]}}


def service(name: str, **spec: Any) -> Object:
    ports = [{"name": "web", "port": 80, "targetPort": 8080}, {"name": "ask", "port": 80, "protocol": "UDP"}]
    meta = {"name": name, "namespace": "default"}
    fields = {"selector": {"app": "web"}, "ports": ports, **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": fields}


MANIFESTS = [
    *(pod(name, f"n{number}", "web") for number, name in enumerate(WEB, 1)),
    pod("c1", "n1", "client"),
    pod("c3", "n3", "client", hostPort=31999),
    service("single"),
    service("prefer", ipFamilyPolicy="PreferDualStack", type="NodePort"),
    service("require", ipFamilyPolicy="RequireDualStack", ipFamilies=["IPv6", "IPv4"]),
    service("six", ipFamilies=["IPv6"]),
    service("nobody", ipFamilyPolicy="RequireDualStack", selector={"app": "nobody"}),
    service("headless", ipFamilyPolicy="PreferDualStack", clusterIP="None"),
    service("sticky", ipFamilyPolicy="PreferDualStack", sessionAffinity="ClientIP"),
    service("local", ipFamilyPolicy="PreferDualStack", internalTrafficPolicy="Local"),
    service("kept", ipFamilyPolicy="PreferDualStack", type="NodePort", externalTrafficPolicy="Local"),
    service("outside", ipFamilies=["IPv6"], type="LoadBalancer", externalTrafficPolicy="Local"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running("dual", ipFamily="dual", internet={"hosts": []}) as made:
        made.apply(*MANIFESTS)
        made.wait_ready()
        yield made


def place(cluster: Cluster, name: str) -> Machine:
    return cluster.node(name) if name.startswith("n") else cluster.pod(name)


def addresses(cluster: Cluster, name: str) -> list[str]:
    """Of a pod or node, IPv4 first."""
    if name.startswith("n"):
        found = cluster.client.get(NODES, "", name)["status"]["addresses"]
        return [entry["address"] for entry in found if entry["type"] == "InternalIP"]
    return [entry["ip"] for entry in cluster.client.get(PODS, "default", name)["status"]["podIPs"]]


def spec(cluster: Cluster, name: str) -> dict[str, Any]:
    return dict(cluster.client.get(SERVICES, "default", name)["spec"])


def url(address: str, port: int) -> str:
    return f"http://[{address}]:{port}/" if ":" in address else f"http://{address}:{port}/"


def served(cluster: Cluster, client: str, address: str, port: int = 80, times: int = 12) -> set[tuple[str, str]]:
    """Which pods answered, and which addresses they saw the client at."""
    command = f"for i in $(seq {times}); do curl -g -s -m 3 '{url(address, port)}'; echo; done"
    answers = [json.loads(line) for line in place(cluster, client).cmd(command).split("\n") if line.strip()]
    assert len(answers) == times
    return {(answer["pod"], answer["client"]) for answer in answers}


def pods_that_serve(cluster: Cluster, client: str, address: str, port: int = 80, times: int = 12) -> set[str]:
    return {name for name, _ in served(cluster, client, address, port, times)}


def test_nodes_and_pods_have_addresses_of_both_families(cluster: Cluster) -> None:
    node = cluster.client.get(NODES, "", "n2")
    assert node["spec"]["podCIDRs"] == ["10.244.1.0/24", "fd00:10:244:1::/64"]
    assert addresses(cluster, "n2") == ["172.18.0.3", "fd00:172:18::3"]
    status = cluster.client.get(PODS, "default", "w2")["status"]
    first, second = addresses(cluster, "w2")
    assert (status["podIP"], [entry["ip"] for entry in status["hostIPs"]]) == (first, addresses(cluster, "n2"))
    device = cluster.pod("w2").cmd("ip -6 -o address show dev eth0; ip -6 route; ip -6 neigh show dev eth0")
    assert f"inet6 {second}/64 scope global nodad" in device
    assert "fe80:" not in device
    assert "default via fd00:10:244:1::1 dev eth0" in device
    assert "fd00:10:244:1::1 lladdr 0a:58:a9:fe:01:01 PERMANENT" in device
    hosts = cluster.pod("w2").cmd("cat /etc/hosts")
    assert f"{first}\tw2" in hosts
    assert f"{second}\tw2" in hosts


def test_no_other_device_of_a_node_has_ipv6(cluster: Cluster) -> None:
    """The kernel's side of the bridge's ports says nothing."""
    lines = cluster.node("n1").cmd("ip -6 -o address").split("\n")
    assert {line.split()[1] for line in lines if line.strip()} == {"lo", "eth0"}


def test_pods_and_nodes_reach_each_other_with_true_addresses(cluster: Cluster) -> None:
    for client, server in product(PLACES, WEB):
        for own, address in zip(addresses(cluster, client), addresses(cluster, server), strict=True):
            (answer,) = served(cluster, client, address, 8080, times=1)
            gateway = "fd00:10:244:" if ":" in own else "10.244."
            assert answer[0] == server
            assert answer[1] == own or (client.startswith("n") and answer[1].startswith(gateway))
    for client, node in product(PLACES, ("n1", "n2")):
        assert "0% packet loss" in place(cluster, client).cmd(f"ping -6 -c1 -W2 {addresses(cluster, node)[1]}")


def test_who_asks_for_a_neighbour_is_answered_by_a_flow(cluster: Cluster) -> None:
    for name, gateway in (("w1", "fd00:10:244::1"), ("n1", "fe80::a9fe:a9fe")):
        here = place(cluster, name)
        here.cmd(f"ip -6 neigh del {gateway} dev eth0")
        assert "0% packet loss" in here.cmd(f"ping -6 -c1 -W3 {addresses(cluster, 'w3')[1]}")
        assert f"{gateway} lladdr 0a:58:a9:fe:01:01" in here.cmd("ip -6 neigh show dev eth0")


def test_a_hop_limit_that_ends_is_told_by_each_hop(cluster: Cluster) -> None:
    seen = cluster.pod("c1").cmd(f"traceroute -6 -n -q 1 -w 2 -m 6 {addresses(cluster, 'w3')[1]}").split("\n")
    hops = [line.split()[1] for line in seen if line.strip() and line.split()[0].isdigit()]
    assert hops == ["fd00:172:18::2", "fd00:172:18::1", "fd00:172:18::4", addresses(cluster, "w3")[1]]


@pytest.mark.parametrize(
    ("name", "families"),
    [
        ("single", ["IPv4"]),
        ("prefer", ["IPv4", "IPv6"]),
        ("require", ["IPv6", "IPv4"]),
        ("six", ["IPv6"]),
        ("local", ["IPv4", "IPv6"]),
    ],
)
def test_services_of_each_policy(cluster: Cluster, name: str, families: list[str]) -> None:
    own = spec(cluster, name)
    assert own["ipFamilies"] == families
    assert ["IPv6" if ":" in ip else "IPv4" for ip in own["clusterIPs"]] == families
    for client, address in product(("w1", "n1") if name == "local" else PLACES, own["clusterIPs"]):
        expected = {"w1"} if name == "local" else set(WEB)
        eventually(lambda c=client, a=address, e=expected: pods_that_serve(cluster, c, a) == e, f"{client} {address}")


def test_session_affinity(cluster: Cluster) -> None:
    for client, address in product(("w1", "c3", "n2"), spec(cluster, "sticky")["clusterIPs"]):
        assert len(pods_that_serve(cluster, client, address)) == 1
    # Clients are spread.
    ipv6 = spec(cluster, "sticky")["clusterIPs"][1]
    assert len({name for client in (*PLACES, *WEB, "n2") for name in pods_that_serve(cluster, client, ipv6)}) > 1


def test_refused_at_once_without_endpoints(cluster: Cluster) -> None:
    script = (
        "import socket,sys; a=sys.argv[1]; f=socket.AF_INET6 if ':' in a else socket.AF_INET\n"
        "for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):\n"
        " s=socket.socket(f,kind); s.settimeout(3)\n"
        " try: s.connect((a,80)); s.send(b'x'); print(s.recv(9))\n"
        " except Exception as e: print(type(e).__name__)\n"
    )
    for client, address in product(PLACES, spec(cluster, "nobody")["clusterIPs"]):
        output = place(cluster, client).run(["python3", "-c", script, address], timeout=20).stdout
        assert output.split() == ["ConnectionRefusedError"] * 2


def test_node_ports_and_host_ports(cluster: Cluster) -> None:
    port = spec(cluster, "prefer")["ports"][0]["nodePort"]
    for client, node in product(PLACES, ("n1", "n2")):
        for address in addresses(cluster, node):
            eventually(
                lambda c=client, a=address: pods_that_serve(cluster, c, a, port) == set(WEB), f"{client} {address}"
            )
    for client, address in product(PLACES, addresses(cluster, "n3")):
        assert pods_that_serve(cluster, client, address, 31999, 1) == {"c3"}


def test_node_ports_of_policy_local_show_the_client(cluster: Cluster) -> None:
    """To endpoints of the node that is asked, from elsewhere, without masquerade; otherwise the node stands for it."""
    for name, expected in (("kept", addresses(cluster, "c1")), ("prefer", addresses(cluster, "n2"))):
        port = spec(cluster, name)["ports"][0]["nodePort"]
        for node, seen in zip(addresses(cluster, "n2"), expected, strict=True):
            answers = served(cluster, "c1", node, port)
            assert {client for _, client in answers} == {seen}
            assert {pod for pod, _ in answers} <= ({"w2"} if name == "kept" else set(WEB))


def test_health_check_node_port(cluster: Cluster) -> None:
    port = spec(cluster, "outside")["healthCheckNodePort"]
    for address in addresses(cluster, "n2"):
        answer = json.loads(cluster.pod("c1").cmd(f"curl -g -s -m 3 '{url(address, port)}healthz'"))
        assert answer["localEndpoints"] == 1


def test_node_ports_of_a_family_that_the_service_has_not(cluster: Cluster) -> None:
    """As with kube-proxy: nothing listens there."""
    port = spec(cluster, "outside")["ports"][0]["nodePort"]
    own = addresses(cluster, "n2")
    assert pods_that_serve(cluster, "c1", own[1], port, 3) == {"w2"}
    assert cluster.pod("c1").run(["curl", "-s", "-m", "3", f"http://{own[0]}:{port}/"]).returncode == CURL_REFUSED


def test_a_port_used_through_a_service_is_used_for_the_pod_itself(cluster: Cluster) -> None:
    """One connection after the other; to the pod, and to a switch on the way back, both look alike."""
    script = (
        "import socket,sys\n"
        "def open_still(number):\n"
        "  return any(line.split()[1].endswith(f':{number:04X}') for line in open('/proc/net/tcp6'))\n"
        "for number in range(42000, 42020):\n"
        " for target in sys.argv[1:]:\n"
        "  address,port=target.split(',')\n"
        "  s=socket.socket(socket.AF_INET6); s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1); s.settimeout(3)\n"
        "  s.bind(('::',number)); s.connect((address,int(port))); s.send(b'GET / HTTP/1.0\\r\\n\\r\\n')\n"
        "  assert s.recv(4)==b'HTTP'\n"
        "  while s.recv(4096): pass\n"
        "  s.close()\n"
        "  while open_still(number): pass\n"
        "print('all answered')\n"
    )
    targets = [f"{spec(cluster, 'six')['clusterIP']},80", *(f"{addresses(cluster, name)[1]},8080" for name in WEB)]
    assert cluster.pod("c1").run(["python3", "-c", script, *targets], timeout=60).stdout == "all answered\n"


def dig(cluster: Cluster, server: str, *question: str) -> set[str]:
    words = f"dig +short +time=3 +tries=2 @{server} {' '.join(question)}"
    return {line for line in cluster.pod("c1").cmd(words).split() if line}


def test_names_of_both_families_from_servers_of_both(cluster: Cluster) -> None:
    servers = [str(cluster.spec.dns_address), str(cluster.spec.ipv6.dns_address if cluster.spec.ipv6 else "")]
    for server in servers:
        for name in ("prefer", "six", "require"):
            domain, own = f"{name}.default.svc.cluster.local", spec(cluster, name)["clusterIPs"]
            assert dig(cluster, server, domain, "A") == {ip for ip in own if ":" not in ip}
            assert dig(cluster, server, domain, "AAAA") == {ip for ip in own if ":" in ip}
            for address in own:
                assert dig(cluster, server, "-x", address) == {f"{domain}."}
        domain = "headless.default.svc.cluster.local"
        assert dig(cluster, server, domain, "AAAA") == {addresses(cluster, name)[1] for name in WEB}
        assert dig(cluster, server, domain, "A") == {addresses(cluster, name)[0] for name in WEB}


def test_slices_of_both_families(cluster: Cluster) -> None:
    of_service: dict[str, set[str]] = {}
    for piece in cluster.client.list(ENDPOINTSLICES, "default").items:
        if piece["metadata"]["labels"]["kubernetes.io/service-name"] == "headless":
            found = {address for endpoint in piece["endpoints"] for address in endpoint["addresses"]}
            of_service.setdefault(piece["addressType"], set()).update(found)
    assert of_service == {
        kind: {addresses(cluster, name)[number] for name in WEB} for number, kind in enumerate(("IPv4", "IPv6"))
    }


def test_without_an_outside_addresses_there_are_unreachable_at_once(cluster: Cluster) -> None:
    """The fabric says so, so that clients go on to the next address of a name."""
    asked = cluster.pod("c1").cmd("ping -6 -c1 -W3 2001:db8::1")
    assert "From fd00:172:18::1 icmp_seq=1 Destination unreachable: No route" in asked


def test_switches_have_the_flows_as_the_controller_prints_them(cluster: Cluster) -> None:
    """So the golden flows of the unit tests are what is on a switch."""
    assert_flows_as_printed(cluster, "n1", "n2", "n3")


def test_endpoints_of_both_families_in_turn() -> None:
    """As IPVS does it, see test_balancing."""
    with running("rr", ipFamily="dual", kubeProxy={"mode": "ipvs", "ipvs": {"scheduler": "rr"}}) as cluster:
        cluster.apply(
            *(each for each in MANIFESTS if each["kind"] == "Pod"),
            service("prefer", ipFamilyPolicy="PreferDualStack"),
            service("sticky", ipFamilyPolicy="PreferDualStack", sessionAffinity="ClientIP"),
        )
        cluster.wait_ready()
        assert_flows_as_printed(cluster, "n1", "n2", "n3")
        for address in spec(cluster, "prefer")["clusterIPs"]:
            command = f"for i in 1 2 3 4 5 6; do curl -g -s -m 3 '{url(address, 80)}'; echo; done"
            answers = [json.loads(line)["pod"] for line in cluster.pod("c1").cmd(command).split("\n") if line.strip()]
            assert len(answers) == 6
            assert set(answers[:3]) == set(answers[3:]) == set(WEB)
        for address in spec(cluster, "sticky")["clusterIPs"]:
            assert len(pods_that_serve(cluster, "c1", address)) == 1
