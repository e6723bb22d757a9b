"""``kmn ingress log``, ``counters`` and ``explain`` of what is no pod of an ingress controller, or no Ingress: load
balancers, Gateways, Istio's gateway.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from clusterlab import eventually, running
from faultlab import kmn

from kmn import Cluster
from kmn.k8s.errors import NotFound
from kmn.k8s.objects import Object, name_of
from kmn.k8s.resources import APPLICATIONLOADBALANCERS, SERVICES

pytestmark = [pytest.mark.packet, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

OBJECTS = """\
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec: {containers: [{name: web, image: example.com/web:1, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: inst, annotations: {alb.ingress.kubernetes.io/scheme: internet-facing}}
spec: {ingressClassName: alb, defaultBackend: {service: {name: web, port: {number: 80}}}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: ip
  annotations: {alb.ingress.kubernetes.io/scheme: internet-facing, alb.ingress.kubernetes.io/target-type: ip}
spec: {ingressClassName: alb, defaultBackend: {service: {name: web, port: {number: 80}}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gate}
spec: {gatewayClassName: kmn, listeners: [{name: http, port: 80, protocol: HTTP}, {name: raw, port: 90, protocol: TCP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: http}
spec: {parentRefs: [{name: gate, sectionName: http}], rules: [{backendRefs: [{name: web, port: 80}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: raw}
spec: {parentRefs: [{name: gate, sectionName: raw}], rules: [{backendRefs: [{name: web, port: 80}]}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: door}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop}
spec: {hosts: ["*"], gateways: [door], http: [{route: [{destination: {host: web, port: {number: 80}}}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: proxied, annotations: {service.beta.kubernetes.io/aws-load-balancer-proxy-protocol: "*"}}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
"""


class Way(NamedTuple):
    """A way in: the controller's name, the rule, and who has the request as log and counters say."""

    controller: str
    rule: str
    end: str
    of: str  # the Service, or group, that has its address
    port: int = 80
    backend: str = "default/web:80"


POD = "pod default/web"
WAYS = [
    Way("ingress.k8s.aws/alb default/inst", "Ingress default/inst spec.defaultBackend", "node n", "default/inst"),
    Way("ingress.k8s.aws/alb default/ip", "Ingress default/ip spec.defaultBackend", POD, "default/ip"),
    Way("Gateway default/gate", "HTTPRoute default/http spec.rules[0].matches[0]", POD, "gate-kmn"),
    Way("Gateway default/gate", "TCPRoute default/raw spec.rules[0]", POD, "gate-kmn", 90),
    Way("istio-ingressgateway", "VirtualService default/shop spec.http[0]", POD, "istio-ingressgateway"),
    # The pod does not understand what such a connection begins with, and ends it.
    Way(
        "service.k8s.aws/nlb default/proxied",
        "Service default/proxied spec.ports[0]",
        "node n",
        "proxied",
        80,
        "default/proxied:80",
    ),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running("ise") as cluster:
        cluster.apply(OBJECTS)
        cluster.wait_ready()
        yield cluster


def address(cluster: Cluster, of: str) -> str | None:
    """None: not yet."""
    for each in cluster.client.list(APPLICATIONLOADBALANCERS).items:
        if each["spec"]["group"] == of:
            found: str | None = (each.get("status") or {}).get("address")
            return found
    namespace = "istio-system" if of.startswith("istio") else "default"
    try:
        status = cluster.client.get(SERVICES, namespace, of).get("status") or {}
    except NotFound:
        return None
    entries = (status.get("loadBalancer") or {}).get("ingress") or [{}]
    return entries[0].get("ip")


def ask(cluster: Cluster, way: Way) -> None:
    url = f"http://{address(cluster, way.of)}:{way.port}/"
    cluster.host("e1").run(["curl", "-s", "-m", "2", "-o", "/dev/null", url])


def names(line: str, way: Way) -> bool:
    """Whether a line of the log has the rule and who was asked."""
    return f": {way.rule} -> {way.backend}, {way.end}" in line


def rule_name(row: Object) -> str:
    """Of counters, as the log says it."""
    owner = row["owner"]
    return f"{owner['kind']} {owner['namespace']}/{owner['name']} {row['rule']}"


def test_each_way_in_is_told_by_its_names(cluster: Cluster) -> None:
    for way in WAYS:
        eventually(lambda of=way.of: address(cluster, of) is not None, f"an address of {way.of}")

    def logged() -> bool:
        for way in WAYS:
            ask(cluster, way)
        lines = kmn("ingress", "log", "--no-follow", "--tail", "1000", "--name", cluster.name).stdout.splitlines()
        return all(any(names(line, way) for line in lines) for way in WAYS)

    eventually(logged, "a line of each way in")
    lines = kmn("ingress", "log", "--no-follow", "--tail", "1000", "--name", cluster.name).stdout.splitlines()
    proxies = {line.split()[1] for line in lines}
    assert {proxy.partition("-")[0].rstrip(":") for proxy in proxies} == {"default/gate", "istio", "k8s"}

    counted = json.loads(kmn("ingress", "counters", "-o", "json", "--name", cluster.name).stdout)
    rows = {(row["controller"], rule_name(row)): row for row in counted if "owner" in row}
    assert rows.keys() == {(way.controller, way.rule) for way in WAYS}
    for way in WAYS:
        ends = rows[way.controller, way.rule]["by"]
        assert any(end.get("pod", "").startswith(way.end.removeprefix("pod ")) for end in ends), (way, ends)


def test_an_address_or_a_class_says_who_is_asked(cluster: Cluster) -> None:
    def explained(url: str, *options: str) -> Object:
        found: Object = json.loads(
            kmn("ingress", "explain", url, "-o", "json", *options, "--name", cluster.name).stdout
        )
        return found

    for way in WAYS:
        found = explained(f"http://{address(cluster, way.of)}:{way.port}/")
        assert (found["controller"], found["verdict"]) == (way.controller, "forwarded")
        assert way.rule in (found["rule"], found.get("reason", "").partition(" passes")[0])
        (backend,) = found["backends"]
        assert any(end.startswith(way.end) for end in backend["endpoints"])
    balancer = next(each for each in cluster.client.list(APPLICATIONLOADBALANCERS).items if "-inst-" in name_of(each))
    assert explained(f"http://{balancer['spec']['hostname']}/")["controller"] == "ingress.k8s.aws/alb default/inst"
    assert explained("http://x/", "--class", "kmn")["controller"] == "Gateway default/gate"
    network = explained("http://x/", "--controller", "service.k8s.aws/nlb")
    assert network["controller"] == "service.k8s.aws/nlb default/proxied"
    wrong = kmn("ingress", "explain", "http://x/", "--class", "eg", "--name", cluster.name)
    assert (wrong.returncode, "there are: alb, kmn" in wrong.stderr) == (2, True)
