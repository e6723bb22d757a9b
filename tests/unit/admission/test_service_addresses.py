"""Who gets which cluster address and node port, and when they are free again."""

from __future__ import annotations

import copy
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from kmn.apiserver.admission import ClusterAdmission
from kmn.apiserver.admission.services import Range
from kmn.cluster_spec import ClusterSpec
from kmn.k8s.errors import Invalid
from kmn.k8s.objects import Object
from kmn.k8s.resources import SERVICES


def cluster(network: str = "10.96.0.0/12") -> ClusterAdmission:
    spec = {"serviceCIDR": network}
    return ClusterAdmission(
        ClusterSpec.parse({"apiVersion": "kmn.io/v1", "kind": "Cluster", "metadata": {"name": "a"}, "spec": spec})
    )


def service(name: str, **spec: Any) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"ports": [{"port": 80}], **copy.deepcopy(spec)},
    }


def create(admission: ClusterAdmission, obj: Object) -> Object:
    return admission.admit("CREATE", SERVICES, copy.deepcopy(obj), None, trusted=False)[0]


def update(admission: ClusterAdmission, old: Object, obj: Object) -> Object:
    return admission.admit("UPDATE", SERVICES, copy.deepcopy(obj), old, trusted=False)[0]


def test_addresses_come_from_the_upper_band_and_differ() -> None:
    admission = cluster()
    addresses = {create(admission, service(f"s{i}"))["spec"]["clusterIP"] for i in range(200)}
    assert len(addresses) == 200
    assert all(IPv4Address(a) in IPv4Network("10.96.0.0/12") for a in addresses)
    assert all(IPv4Address(a) >= IPv4Address("10.96.1.0") for a in addresses), "the lower 256 are for those who ask"


def test_a_small_network_is_used_up_to_the_last_address() -> None:
    admission = cluster("10.96.0.0/27")
    given = [create(admission, service(f"s{i}")) for i in range(30)]
    assert {s["spec"]["clusterIP"] for s in given} == {f"10.96.0.{i}" for i in range(1, 31)}
    with pytest.raises(Invalid, match=r"spec.clusterIP: no address is left in serviceCIDR 10.96.0.0/27"):
        create(admission, service("late"))
    admission.released(SERVICES, given[7])
    assert create(admission, service("late"))["spec"]["clusterIP"] == given[7]["spec"]["clusterIP"]


def test_an_address_asked_for() -> None:
    admission = cluster()
    first = create(admission, service("a", clusterIP="10.96.0.77"))
    assert first["spec"]["clusterIPs"] == ["10.96.0.77"]
    with pytest.raises(Invalid, match=r"10.96.0.77 is the address of Service default/a already"):
        create(admission, service("b", clusterIP="10.96.0.77"))
    with pytest.raises(Invalid, match=r"192.0.2.9 is not in serviceCIDR 10.96.0.0/12: must be between 10.96.0.1 and"):
        create(admission, service("b", clusterIP="192.0.2.9"))
    admission.released(SERVICES, first)
    assert create(admission, service("b", clusterIP="10.96.0.77"))["spec"]["clusterIP"] == "10.96.0.77"


def test_headless_and_external_names_have_none() -> None:
    admission = cluster()
    assert create(admission, service("a", clusterIP="None"))["spec"]["clusterIPs"] == ["None"]
    assert "clusterIP" not in create(admission, service("b", type="ExternalName", externalName="a.b"))["spec"]


def test_node_ports() -> None:
    admission = cluster()
    ports = [{"name": "a", "port": 53}, {"name": "b", "port": 53, "protocol": "UDP"}, {"name": "c", "port": 80}]
    given = [
        port["nodePort"] for port in create(admission, service("a", type="NodePort", ports=ports))["spec"]["ports"]
    ]
    assert given[0] == given[1] != given[2]
    assert all(30086 <= port <= 32767 for port in given)
    with pytest.raises(Invalid, match=rf"{given[0]} is a node port of Service default/a already"):
        create(admission, service("b", type="NodePort", ports=[{"port": 1, "nodePort": given[0]}]))
    with pytest.raises(Invalid, match=r"spec.ports\[0\].nodePort: 80: must be between 30000 and 32767"):
        create(admission, service("b", type="NodePort", ports=[{"port": 1, "nodePort": 80}]))


def test_load_balancers() -> None:
    admission = cluster()
    local = create(admission, service("a", type="LoadBalancer", externalTrafficPolicy="Local"))["spec"]
    assert 30000 <= local["healthCheckNodePort"] <= 32767
    assert local["healthCheckNodePort"] != local["ports"][0]["nodePort"]
    without = create(admission, service("b", type="LoadBalancer", allocateLoadBalancerNodePorts=False))["spec"]
    assert "nodePort" not in without["ports"][0]


def test_an_update_keeps_what_it_does_not_mention() -> None:
    admission = cluster()
    old = create(admission, service("a", type="NodePort"))
    new = update(admission, old, service("a", type="NodePort", ports=[{"port": 80, "targetPort": 8080}]))
    assert new["spec"]["clusterIP"] == old["spec"]["clusterIP"]
    assert new["spec"]["ports"][0]["nodePort"] == old["spec"]["ports"][0]["nodePort"]


def test_a_type_change_gives_back_what_the_new_type_cannot_have() -> None:
    admission = cluster()
    old = create(
        admission, service("a", type="NodePort", ports=[{"port": 80, "nodePort": 30080}], clusterIP="10.96.0.9")
    )
    changed = copy.deepcopy(old)
    changed["spec"]["type"] = "ClusterIP"  # as kubectl sends it: with everything that was allocated
    plain = update(admission, old, changed)
    assert "nodePort" not in plain["spec"]["ports"][0]
    assert "externalTrafficPolicy" not in plain["spec"]
    assert create(admission, service("b", type="NodePort", ports=[{"port": 80, "nodePort": 30080}]))
    changed = copy.deepcopy(plain)
    changed["spec"].update(type="ExternalName", externalName="a.b")
    external = update(admission, plain, changed)
    assert "clusterIP" not in external["spec"]
    assert create(admission, service("c", clusterIP="10.96.0.9"))
    back = update(admission, external, service("a"))
    assert back["spec"]["clusterIP"] not in ("", "10.96.0.9")


def test_a_refused_service_takes_nothing() -> None:
    admission = cluster()
    create(admission, service("a", type="NodePort", ports=[{"port": 1, "nodePort": 30001}]))
    bad = service("b", type="NodePort", clusterIP="10.96.0.50", ports=[
        {"name": "x", "port": 1, "nodePort": 30002}, {"name": "y", "port": 2, "nodePort": 30001}])  # fmt: skip
    with pytest.raises(Invalid):
        create(admission, bad)
    good = [{"port": 1, "nodePort": 30002}]
    assert create(admission, service("c", type="NodePort", clusterIP="10.96.0.50", ports=good))


def test_trusted_services_get_addresses_too() -> None:
    admission = cluster()
    stored = admission.admit("CREATE", SERVICES, service("a"), None, trusted=True)[0]
    assert IPv4Address(stored["spec"]["clusterIP"]) in IPv4Network("10.96.0.0/12")


def test_range_prefers_the_upper_band_then_the_lower() -> None:
    numbers = Range(1, 10, static=4)
    taken = []
    while (number := numbers.free_number(set())) is not None:
        numbers.take(number, "x")
        taken.append(number)
    assert set(taken[:6]) == set(range(5, 11))
    assert set(taken[6:]) == set(range(1, 5))
    numbers.give_back(3, "somebody else")
    assert numbers.owner(3) == "x"
