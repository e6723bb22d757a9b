"""Who may talk to whom at several ports at once, and what pods are called."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from policy_worlds import cluster_policies, judge_of, namespaces, pods, policies
from tenants import OWN, ask, judge, policy, tenants

from kmn.k8s.objects import Key, Object
from kmn.policy.answers import ANY_PORT, Port, Subject, answers, bits, workload_of
from kmn.policy.reach import reach

PORTS = tuple(Port(number, protocol) for protocol in ("TCP", "UDP") for number in (79, 80, 81, 84))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.one_of(pods(), namespaces(), policies(), cluster_policies()), max_size=12))
def test_each_port_is_computed_as_if_it_were_alone(objects: list[Object]) -> None:
    of = judge_of(*objects)
    found = ask(of, *PORTS)
    for number, port in enumerate(found.ports):
        assert found.layers[number] == reach(of, port.protocol, port.number).rows


def test_some_pods_only() -> None:
    of = judge([*tenants(3), policy("t00", **OWN)])
    every, some = ask(of, PORTS[0]), [Key("t02", "store-5"), Key("t00", "cart-0")]
    found = answers(of, [Subject(key, "w", frozenset(PORTS[:1])) for key in some])
    assert [subject.key for subject in found.subjects] == sorted(some)
    places = [next(i for i, subject in enumerate(every.subjects) if subject.key == key) for key in sorted(some)]
    assert [[found.of(i, j) for j in range(2)] for i in range(2)] == [[every.of(i, j) for j in places] for i in places]
    assert (found.of(0, 1), found.of(1, 0)) == (1, 0)


def test_each_pod_at_its_own_ports() -> None:
    web, dns = Port(80, "TCP"), Port(53, "UDP")
    of = judge(tenants(1, 3))
    found = ask(of, own={"frontend": {web}, "store": {web, dns}})
    assert found.ports == (web, dns)
    assert found.named(found.asked[1]) == (web,)
    assert found.named(found.asked[0]) == (web, dns), "who declares none is asked at all"
    assert [found.of(0, place) for place in range(3)] == [0b11, 0b01, 0b11]


def test_where_nobody_declares_a_port() -> None:
    assert ask(judge(tenants(1)), own={}).ports == (ANY_PORT,)


def test_bits() -> None:
    assert list(bits(0b101001)) == [0, 3, 5]


def test_names_of_workloads() -> None:
    def pod(kind: str, owner: str, name: str, **labels: str) -> Object:
        owners = [{"kind": kind, "name": owner, "controller": True}] if kind else []
        return {"kind": "Pod", "metadata": {"name": name, "labels": labels, "ownerReferences": owners}}

    template = {"pod-template-hash": "85cf66d497"}
    assert workload_of(pod("ReplicaSet", "cart-85cf66d497", "cart-85cf66d497-2mgf5", **template)) == "cart"
    assert workload_of(pod("ReplicaSet", "cart-2", "cart-2-2mgf5")) == "cart-2"
    assert workload_of(pod("StatefulSet", "store", "store-0")) == "store"
    assert workload_of(pod("", "", "load")) == "load"
