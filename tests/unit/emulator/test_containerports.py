"""Which ports containers listen on, from manifests and Services."""

from __future__ import annotations

from typing import Any

from kmn.emulator.containerports import ServiceIndex, named_port, port_sets, target_ports
from kmn.k8s.objects import Key


def pod(labels: dict[str, str] | None = None) -> dict[str, Any]:
    return {
        "metadata": {"name": "web", "namespace": "default", "labels": labels or {"app": "web", "tier": "a"}},
        "spec": {
            "initContainers": [
                {"name": "init", "ports": [{"containerPort": 1}]},
                {"name": "side", "restartPolicy": "Always", "ports": [{"containerPort": 15001}]},
            ],
            "containers": [
                {"name": "a", "ports": [{"containerPort": 80, "name": "http"}]},
                {"name": "b", "ports": [{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 80}]},
            ],
        },
    }


def service(name: str, selector: dict[str, str] | None, *ports: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "default"}, "spec": {"selector": selector, "ports": list(ports)}}


def test_port_sets() -> None:
    services = [service("s", {}, {"port": 1, "targetPort": 9090}, {"port": 53}, {"port": 2, "targetPort": "http"})]
    assert port_sets(pod(), services) == {
        "side": (("TCP", 15001),),
        "a": (("TCP", 80), ("TCP", 9090), ("TCP", 53)),  # 53 is declared for UDP only
        "b": (("UDP", 53), ("TCP", 80)),
    }


def test_a_container_listens_where_its_probes_ask() -> None:
    web = pod()
    web["spec"]["containers"][1] |= {
        "readinessProbe": {"httpGet": {"port": 10254, "path": "/healthz"}},
        "livenessProbe": {"tcpSocket": {"port": "80"}},  # "a" has it
        "startupProbe": {"httpGet": {"port": 9, "host": "10.0.0.1"}},  # not here
    }
    web["spec"]["containers"][0]["readinessProbe"] = {"grpc": {"port": 9000}}
    assert port_sets(web, [])["a"] == (("TCP", 80), ("TCP", 9000))
    assert port_sets(web, [])["b"] == (("UDP", 53), ("TCP", 80), ("TCP", 10254))


def test_a_headless_service_may_have_no_ports() -> None:
    assert target_ports({"spec": {"clusterIP": "None", "selector": {"app": "web"}}}) == []


def test_ports_of_real_programs_are_left_to_them() -> None:
    web = pod()
    web["metadata"]["annotations"] = {"kmn.io/program": "dns"}
    assert port_sets(web, [])["b"] == (("TCP", 80),)
    web["metadata"]["annotations"] = {"kmn.io/program": "ingress"}
    assert ("TCP", 80) not in port_sets(web, [])["b"]
    web["metadata"]["annotations"] = {"kmn.io/program": "none"}
    assert port_sets(web, []) == {"side": (), "a": (), "b": ()}


def test_named_port() -> None:
    container = pod()["spec"]["containers"][0]
    assert [named_port(container, p) for p in ("http", 81, "82", "nope")] == [80, 81, 82, None]


def test_index_finds_services_of_pods_and_pods_of_services() -> None:
    index = ServiceIndex()
    assert index.put_service(service("one", {"app": "web"}, {"port": 1})) == set()
    index.put_service(service("both", {"app": "web", "tier": "b"}, {"port": 1}))
    index.put_service(service("none", None, {"port": 1}))
    web = pod()
    assert index.put_pod("u", web)
    assert not index.put_pod("u", web)
    assert [s["metadata"]["name"] for s in index.services_of(web)] == ["one"]
    assert index.put_service(service("one", {"app": "other"}, {"port": 1})) == {"u"}
    assert index.services_of(web) == []
    moved = pod({"app": "web", "tier": "b"})
    assert index.put_pod("u", moved)
    assert index.drop_service(Key("default", "both")) == {"u"}
    index.drop_pod("u")
    assert index.put_service(service("one", {"app": "web"}, {"port": 1})) == set()
