"""Load balancers of Services that send PROXY protocol: what their proxies pass on, and how."""

from __future__ import annotations

from typing import Any

from kmn.ingress.certificates import self_signed
from kmn.ingress.envoy.config import Config
from kmn.ingress.state import State
from kmn.ingress.streams import streams_of
from kmn.k8s.objects import Key, Object
from kmn.k8s.resources import ENDPOINTSLICES, NETWORKLOADBALANCERS, NODES, SERVICES

AWS = "service.beta.kubernetes.io/aws-load-balancer-"
NAME = "service.k8s.aws/nlb default/web"


def service(annotations: dict[str, str], **spec: Any) -> Object:
    ports = [
        {"name": "web", "port": 80, "nodePort": 30080},
        {"name": "dns", "protocol": "UDP", "port": 53, "nodePort": 30053},
        {"name": "own", "port": 10254, "nodePort": 30054},
    ]
    meta = {"namespace": "default", "name": "web", "annotations": annotations}
    return {"kind": "Service", "metadata": meta, "spec": {"type": "LoadBalancer", "ports": ports, **spec}}


NLB = {AWS + "proxy-protocol": "*", AWS + "type": "nlb"}


def node(number: int, *, ready: bool = True) -> Object:
    addresses = [{"type": "InternalIP", "address": f"172.18.0.{number}"}]
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {"metadata": {"name": f"n{number}"}, "status": {"addresses": addresses, "conditions": conditions}}


SLICE = {
    "metadata": {
        "name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"},
    },
    "addressType": "IPv4",
    "endpoints": [
        {"addresses": ["10.244.3.3"], "nodeName": "n3", "conditions": {"ready": True}},
        {"addresses": ["10.244.2.2"], "nodeName": "n2", "conditions": {"ready": False}},
    ],
    "ports": [{"name": "web", "port": 8080, "protocol": "TCP"}],
}  # fmt: skip


def configured(service: Object) -> Config:
    """Of a load balancer with a place, in a cluster of three nodes, one of which is not ready."""
    state = State(self_signed("x"))
    for number in (2, 3, 4):
        state.update(NODES, Key("", f"n{number}"), node(number, ready=number != 4))
    state.update(ENDPOINTSLICES, Key("default", "web-1"), SLICE)
    state.update(SERVICES, Key("default", "web"), service)
    placed = {"spec": {"service": "default/web"}, "status": {"netns": "n", "address": "192.0.2.1"}}
    state.update(NETWORKLOADBALANCERS, Key("", "k8s-web"), placed)
    (name,) = state.views()
    assert (name, state.addresses(name)) == (NAME, ("192.0.2.1",))
    view = state.view(name)
    assert not view.problems
    return view.config


def targets(service: Object) -> list[tuple[str, int]]:
    (cluster,) = configured(service).clusters.values()
    ends = (
        each["endpoint"]["address"]["socket_address"]
        for each in cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    )
    return [(end["address"], end["port_value"]) for end in ends]


def test_its_targets() -> None:
    assert targets(service(NLB)) == [("172.18.0.2", 30080), ("172.18.0.3", 30080)]
    assert targets(service(NLB, externalTrafficPolicy="Local")) == [("172.18.0.3", 30080)]
    assert targets(service(NLB | {AWS + "nlb-target-type": "ip"})) == [("10.244.3.3", 8080)]


def test_connections_begin_with_the_clients_address_and_targets_are_asked() -> None:
    for notes, version in ((NLB, "V2"), ({AWS + "proxy-protocol": "*"}, "V1")):
        ((name, cluster),) = configured(service(notes)).clusters.items()
        socket = cluster["transport_socket"]
        assert socket["name"] == "envoy.transport_sockets.upstream_proxy_protocol"
        assert socket["typed_config"]["config"] == {"version": version}
        assert socket["typed_config"]["transport_socket"]["name"] == "envoy.transport_sockets.raw_buffer"
        [check] = cluster["health_checks"]
        assert (check["tcp_health_check"], check["interval"]) == ({}, "10s")
        assert name.startswith("default/web:80 tcp ")
        assert name.endswith(f"proxy_protocol={version[1]}")


def test_a_listener_for_each_tcp_port() -> None:
    [listener] = configured(service(NLB)).listeners
    assert listener["address"]["socket_address"]["port_value"] == 80
    [chain] = listener["filter_chains"]
    assert chain["name"] == "Service default/web spec.ports[0]"  # in the access log
    [proxy] = chain["filters"]
    assert proxy["name"] == "envoy.filters.network.tcp_proxy"


def test_services_that_do_not_ask_have_none() -> None:
    for other in (service({}), service(NLB, type="NodePort"), service(NLB, loadBalancerClass="example.com/x")):
        assert streams_of(other).entrances == ()
