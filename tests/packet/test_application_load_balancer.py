"""Ingresses of class ``alb``: a load balancer outside the cluster, asked by a host of the internet and by pods."""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from clusterlab import eventually, running

from kmn import Cluster
from kmn.emulator import netns
from kmn.ingress.certificates import KeyPair, self_signed
from kmn.k8s.objects import Object
from kmn.k8s.resources import APPLICATIONLOADBALANCERS, EVENTS, INGRESSES, PODS
from kmn.naming import NETNS_DIR

pytestmark = [pytest.mark.packet, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

PREFIX = "alb.ingress.kubernetes.io/"
WEB = """\
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec: {{containers: [{{name: web, image: example.com/web:1, ports: [{{containerPort: 8080}}]}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{type: {type}, selector: {{app: {name}}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}
"""
ACTIONS = {
    "away": {"type": "redirect", "redirectConfig": {"host": "www.#{host}", "protocol": "HTTPS", "port": "443",
             "statusCode": "HTTP_301"}},
    "moved": {"type": "redirect", "redirectConfig": {"path": "/new/#{path}", "query": "a=b&#{query}",
              "statusCode": "HTTP_302"}},
    "closed": {"type": "fixed-response", "fixedResponseConfig": {"contentType": "text/plain", "statusCode": "503",
               "messageBody": "later"}},
    "both": {"type": "forward", "forwardConfig": {"targetGroups": [
             {"serviceName": "red", "servicePort": "http", "weight": 1},
             {"serviceName": "blue", "servicePort": 80, "weight": 1}]}},
}  # fmt: skip
CONDITIONS = {
    "blue": [
        {"field": "http-header", "httpHeaderConfig": {"httpHeaderName": "X-Tier", "values": ["gold*"]}},
        {"field": "http-request-method", "httpRequestMethodConfig": {"values": ["GET"]}},
        {"field": "query-string", "queryStringConfig": {"values": [{"key": "v", "value": "2"}]}},
        {"field": "source-ip", "sourceIpConfig": {"values": ["203.0.113.0/24"]}},
    ]
}


def ingress(name: str, paths: Mapping[str, str], host: str = "", **annotations: Any) -> Object:
    """``paths`` lead to Services, or to what an annotation says where that has the name."""
    notes = {key.replace("__", ".").replace("_", "-"): value for key, value in annotations.items()}
    entries = []
    for path, backend in paths.items():
        port = {"name": "use-annotation"} if f"actions.{backend}" in notes else {"number": 80}
        service = {"service": {"name": backend, "port": port}}
        entries.append({"path": path, "pathType": "ImplementationSpecific", "backend": service})
    texts = {PREFIX + key: value if isinstance(value, str) else json.dumps(value) for key, value in notes.items()}
    rule = {"http": {"paths": entries}, **({"host": host} if host else {})}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": name, "namespace": "default", "annotations": texts},
        "spec": {"ingressClassName": "alb", "rules": [rule]},
    }


class Reply:
    """Of a load balancer, or of the pod behind it."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.location = response.status, response.getheader("location")
        self.cookie = (response.getheader("set-cookie") or "").partition(";")[0]
        self.body = response.read().decode()

    @property
    def told(self) -> Object:
        """What a pod tells of the request."""
        found: Object = json.loads(self.body) if self.status == 200 else {"pod": None}
        return found

    @property
    def headers(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self.told["headers"].items()}


def ask(
    space: str, address: str, path: str = "/", *, port: int = 80, host: str = "any.example", tls: bool = False,
    **headers: str,
) -> Reply | None:  # fmt: skip
    """None: there is no answer."""
    with netns.entered(space):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    connection = http.client.HTTPConnection(address)
    try:
        sock.settimeout(2)
        sock.connect((address, port))
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            sock = context.wrap_socket(sock, server_hostname=host)
        connection.sock = sock
        connection.request("GET", path, headers={"Host": host, **{k.replace("_", "-"): v for k, v in headers.items()}})
        return Reply(connection.getresponse())
    except OSError:
        return None
    finally:
        connection.close()
        sock.close()


class World:
    """A cluster with Services red (node ports) and blue (none), and host e1."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.e1 = cluster.host("e1")

    def pod(self, name: str) -> str:
        found: str = self.cluster.client.get(PODS, "default", name)["status"]["podIP"]
        return found

    def name_of(self, name: str) -> str:
        """On the status of an Ingress."""
        status = self.cluster.client.get(INGRESSES, "default", name).get("status") or {}
        entries = (status.get("loadBalancer") or {}).get("ingress") or [{}]
        return str(entries[0].get("hostname") or "")

    def balancer(self, group: str) -> Object:
        found = self.cluster.client.list(APPLICATIONLOADBALANCERS).items
        return next(each for each in found if each["spec"]["group"] == group)

    def apply(self, *ingresses: Object) -> str:
        """The address of the load balancer that they share, once it serves them; with others that they need."""
        self.cluster.apply(*ingresses)
        names = [each["metadata"]["name"] for each in ingresses if each["kind"] == "Ingress"]
        eventually(lambda: all(self.name_of(name) for name in names), "names of load balancers")
        (hostname,) = {self.name_of(name) for name in names}
        found = self.cluster.client.list(APPLICATIONLOADBALANCERS).items
        address: str = next(each["status"]["address"] for each in found if each["spec"]["hostname"] == hostname)
        return address

    def remove(self, *names: str) -> None:
        for name in names:
            self.cluster.client.delete(INGRESSES, "default", name)

    def ask(self, address: str, path: str = "/", **options: Any) -> Reply | None:
        return ask(self.e1.netns, address, path, **options)

    def until(self, look: Callable[[], Reply | None], good: Callable[[Reply], Any]) -> Reply:
        """The first answer that is good."""
        deadline = time.monotonic() + 15
        while True:
            reply = look()
            if reply is not None and good(reply):
                return reply
            assert time.monotonic() < deadline, (reply and reply.status, reply and reply.body)
            time.sleep(0.02)

    def events(self, reason: str) -> list[str]:
        return [event["message"] for event in self.cluster.client.list(EVENTS).items if event["reason"] == reason]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with running("alb") as cluster:
        cluster.apply(WEB.format(name="red", type="NodePort"), WEB.format(name="blue", type="ClusterIP"))
        cluster.wait_ready()
        yield World(cluster)


def test_targets_are_node_ports_or_pods(world: World) -> None:
    public = {"scheme": "internet-facing"}
    instance = world.apply(ingress("instance", {"/*": "red"}, **public))
    ip = world.apply(ingress("ip", {"/*": "blue"}, target_type="ip", healthcheck_path="/well", **public))
    assert instance != ip
    nodes = {str(node.ip) for node in (world.cluster.node(f"n{number}") for number in (1, 2, 3))}
    reply = world.until(lambda: world.ask(instance, "/x"), lambda reply: reply.status == 200)
    assert reply.told["pod"] == "red"
    assert reply.told["client"] in {*nodes, instance}  # as the node port has it
    reply = world.until(
        lambda: world.ask(ip, "/x?y=z", X_Forwarded_For="192.0.2.99"), lambda reply: reply.status == 200
    )
    assert (reply.told["pod"], reply.told["client"]) == ("blue", ip)
    assert reply.headers["x-forwarded-for"].replace(" ", "") == f"192.0.2.99,{world.e1.ip}"
    assert (reply.headers["x-forwarded-proto"], reply.headers["x-forwarded-port"]) == ("http", "80")
    # Pods of the cluster come by the NAT gateway, as to any address of the internet.
    reply = world.until(lambda: ask(world.cluster.pod("red").netns, ip), lambda reply: reply.status == 200)
    assert reply.headers["x-forwarded-for"] == "198.51.100.1"
    world.remove("instance", "ip")


def test_its_name_is_known_outside(world: World) -> None:
    world.apply(ingress("named", {"/*": "blue"}, target_type="ip", scheme="internet-facing"))
    url = f"http://{world.name_of('named')}/x"
    eventually(lambda: '"pod":"blue"' in world.e1.run(["curl", "-sm", "2", url]).stdout, "an answer by name")
    assert world.name_of("named").endswith(".us-east-1.elb.amazonaws.com")
    world.remove("named")


def test_targets_of_type_instance_need_node_ports(world: World) -> None:
    address = world.apply(ingress("plain", {"/*": "blue"}, scheme="internet-facing"))
    assert world.until(lambda: world.ask(address), lambda reply: reply.status == 503)
    eventually(
        lambda: any("must be either 'NodePort'" in text for text in world.events("FailedBuildModel")), "the Event"
    )
    world.remove("plain")


def test_a_group_shares_rules_in_order(world: World) -> None:
    group = {"group__name": "shop", "target_type": "ip"}
    first = ingress("first", {"/a": "blue"}, group__order="1", scheme="internet-facing", **group)
    second = ingress("second", {"/*": "red"}, "*.shop.example", group__order="2", **group)
    address = world.apply(first, second)

    def pod(path: str, host: str = "any.example") -> str | None:
        reply = world.ask(address, path, host=host)
        return reply and reply.told["pod"]

    eventually(lambda: pod("/a") == "blue", "the first Ingress")
    eventually(lambda: pod("/a", "x.shop.example") == "blue", "the first one's rule before the second one's")
    eventually(lambda: pod("/b", "x.y.shop.example") == "red", "the second Ingress")
    assert world.until(lambda: world.ask(address, "/b"), lambda reply: reply.status == 404)
    world.cluster.apply(ingress("first", {"/a": "blue"}, group__order="3", scheme="internet-facing", **group))
    eventually(lambda: pod("/a", "x.shop.example") == "red", "another order")
    world.remove("first")
    # Without it the group's load balancer is an internal one, as by default: another one.
    eventually(lambda: world.balancer("shop")["spec"]["scheme"] == "internal", "another scheme")
    eventually(lambda: world.ask(address, "/b", host="x.shop.example") is None, "the old one gone")
    world.remove("second")


def test_actions_and_conditions(world: World) -> None:
    actions = {f"actions__{name}": action for name, action in ACTIONS.items()}
    conditions = {f"conditions__{name}": of for name, of in CONDITIONS.items()}
    paths = {"/away*": "away", "/moved": "moved", "/closed": "closed", "/both": "both", "/if": "blue", "/*": "red"}
    notes = {**actions, **conditions, "target_type": "ip", "scheme": "internet-facing"}
    address = world.apply(ingress("acts", paths, **notes))
    reply = world.until(lambda: world.ask(address, "/away/x?q=1"), lambda reply: reply.status == 301)
    assert reply.location == "https://www.any.example:443/away/x?q=1"
    reply = world.until(lambda: world.ask(address, "/moved?q=1"), lambda reply: reply.status == 302)
    assert reply.location == "http://any.example:80/new/moved?a=b&q=1"
    reply = world.until(lambda: world.ask(address, "/closed"), lambda reply: reply.status == 503)
    assert reply.body == "later"
    seen = Counter(reply.told["pod"] for _ in range(200) if (reply := world.ask(address, "/both")) is not None)
    assert 50 < seen["red"] < 150, seen
    assert seen["red"] + seen["blue"] == 200
    fits = world.until(lambda: world.ask(address, "/if?a=1&v=2", X_Tier="Golden"), lambda reply: reply.status == 200)
    assert fits.told["pod"] == "blue"
    for path, tier in (("/if?v=3", "gold"), ("/if?v=2", "silver"), ("/if", "gold")):
        other = world.ask(address, path, X_Tier=tier)
        assert other is not None
        assert other.told["pod"] == "red", (path, tier)
    world.remove("acts")


def test_only_listeners_and_networks_that_are_named_are_open(world: World) -> None:
    notes = {"target_type": "ip", "scheme": "internet-facing", "listen_ports": [{"HTTP": 8080}]}
    address = world.apply(ingress("ports", {"/*": "blue"}, inbound_cidrs=f"{world.e1.ip}/32", **notes))
    world.until(lambda: world.ask(address, port=8080), lambda reply: reply.status == 200)
    assert world.ask(address, port=80) is None
    assert ask(world.cluster.pod("red").netns, address, port=8080) is None
    world.cluster.apply(ingress("ports", {"/*": "blue"}, inbound_cidrs="10.0.0.0/8,198.51.100.0/24", **notes))
    eventually(lambda: world.ask(address, port=8080) is None, "host e1 shut out")
    assert world.until(lambda: ask(world.cluster.pod("red").netns, address, port=8080), lambda r: r.status == 200)
    world.remove("ports")


def test_what_the_class_says_goes_before_annotations(world: World) -> None:
    reference = {"apiGroup": "elbv2.k8s.aws", "kind": "IngressClassParams", "name": "public"}
    of_class = {"controller": "ingress.k8s.aws/alb", "parameters": reference}
    params = {"group": {"name": "all"}, "scheme": "internet-facing", "targetType": "ip"}
    made = ingress("ruled", {"/*": "blue"}, scheme="internal")
    made["spec"]["ingressClassName"] = "public"
    address = world.apply(
        {"apiVersion": "elbv2.k8s.aws/v1beta1", "kind": "IngressClassParams", "metadata": {"name": "public"},
         "spec": params},
        {"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": "public"},
         "spec": of_class},
        made,
    )  # fmt: skip
    assert world.until(lambda: world.ask(address), lambda reply: reply.status == 200).told["pod"] == "blue"
    assert world.balancer("all")["spec"]["scheme"] == "internet-facing"
    world.remove("ruled")


def test_an_internal_one_is_for_the_cluster(world: World) -> None:
    address = world.apply(ingress("inside", {"/*": "blue"}, target_type="ip"))
    pod = world.cluster.pod("red")
    reply = world.until(lambda: ask(pod.netns, address), lambda reply: reply.status == 200)
    assert reply.headers["x-forwarded-for"] == str(pod.ip)
    assert world.ask(address) is None
    world.remove("inside")


def secret(pair: KeyPair) -> Object:
    texts = {"tls.crt": pair.certificate, "tls.key": pair.key}
    data = {name: base64.b64encode(text.encode()).decode() for name, text in texts.items()}
    meta = {"name": "cert", "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "kubernetes.io/tls", "data": data}


def test_https_with_a_redirect(world: World) -> None:
    world.cluster.apply(secret(self_signed("shop.example")))
    made = ingress("tls", {"/*": "blue"}, "shop.example", target_type="ip", scheme="internet-facing",
                   listen_ports=[{"HTTP": 80}, {"HTTPS": 443}], ssl_redirect="443")  # fmt: skip
    made["spec"]["tls"] = [{"hosts": ["shop.example"], "secretName": "cert"}]
    address = world.apply(made)
    reply = world.until(lambda: world.ask(address, "/x", host="shop.example"), lambda reply: reply.status == 301)
    assert reply.location == "https://shop.example:443/x"
    secure = {"host": "shop.example", "port": 443, "tls": True}
    reply = world.until(lambda: world.ask(address, "/x", **secure), lambda reply: reply.status == 200)
    assert reply.headers["x-forwarded-proto"] == "https"
    world.remove("tls")


def test_targets_that_are_not_well_get_no_requests(world: World) -> None:
    """A health check that only one of two pods passes, on a port that the other one does not have."""
    pod, _, _ = WEB.format(name="green", type="ClusterIP").partition("---")
    ports = "{containerPort: 8080}, {containerPort: 9090}"
    world.cluster.apply(pod.replace("{containerPort: 8080}", ports).replace("app: green", "app: blue"))
    world.cluster.wait_ready()
    try:
        notes = {"target_type": "ip", "scheme": "internet-facing"}
        address = world.apply(ingress("well", {"/*": "blue"}, healthcheck_port="9090", **notes))
        world.until(lambda: world.ask(address), lambda reply: reply.status == 200)
        pods = [reply.told["pod"] for _ in range(20) if (reply := world.ask(address)) is not None]
        assert pods == ["green"] * 20
        # A client stays with a target where the target group says so.
        sticky = "stickiness.enabled=true"
        world.cluster.apply(ingress("well", {"/*": "blue"}, target_group_attributes=sticky, **notes))
        first = world.until(lambda: world.ask(address), lambda reply: reply.cookie.startswith("AWSALB="))
        stay = [reply.told["pod"] for _ in range(20) if (reply := world.ask(address, Cookie=first.cookie)) is not None]
        assert stay == [first.told["pod"]] * 20
        # Where none is well all get requests.
        world.cluster.apply(ingress("well", {"/*": "blue"}, success_codes="404", **notes))
        for name in ("blue", "green"):
            world.until(lambda: world.ask(address), lambda reply, name=name: reply.told["pod"] == name)
    finally:
        world.cluster.client.delete(PODS, "default", "green")
        world.remove("well")


def test_deletion_leaves_nothing_behind(world: World) -> None:
    def spaces() -> list[str]:
        return [path.name for path in NETNS_DIR.glob(f"kmn.{world.cluster.name}.alb.*")]

    def devices() -> set[str]:
        """At the edge."""
        with netns.entered(f"kmn.{world.cluster.name}.edge"):
            return {name for _, name in socket.if_nameindex()}

    eventually(lambda: not spaces(), "none left of other tests")  # its device goes before
    before = devices()
    address = world.apply(ingress("brief", {"/*": "blue"}, target_type="ip", scheme="internet-facing"))
    world.until(lambda: world.ask(address), lambda reply: reply.status == 200)
    assert len(spaces()) == len(devices() - before) == 1
    folder = world.cluster.paths.root / "ingress"
    assert list(folder.iterdir())
    world.remove("brief")
    eventually(lambda: not spaces() and devices() == before and not list(folder.iterdir()), "nothing left")
    assert world.ask(address) is None
    again = world.apply(ingress("brief", {"/*": "blue"}, target_type="ip", scheme="internet-facing"))
    world.until(lambda: world.ask(again), lambda reply: reply.status == 200)
    world.remove("brief")
