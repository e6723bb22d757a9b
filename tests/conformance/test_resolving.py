"""Names in pods on a running cluster, beyond the cases: dnsPolicy, dnsConfig, stub domains, large answers, caching."""

from __future__ import annotations

import socket
from typing import Any

import dnslib
import pytest
from actions import Actions
from client import sockets_of
from emulation import Emulation, eventually
from outside import UPSTREAM_NAMES, Servers
from resolve import query

from kmn import Cluster
from kmn.machine import Machine

pytestmark = pytest.mark.packet

_STUB = {"db.corp.test.": "203.0.113.99"}


@pytest.fixture(scope="module")
def stub(running: Cluster, servers: Servers) -> Servers:
    """The second outside host answers for corp.test."""
    servers.serve_dns(running.host("e2").netns, _STUB)
    return servers


def pod(actions: Actions, name: str, **spec: Any) -> Machine:
    containers = [{"name": "c", "image": "example.com/x:1"}]
    metadata = {"name": name, "namespace": "default"}
    actions.apply(
        [{"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": containers, **spec}}]
    )
    actions.settle()
    return actions.emulation.cluster.pod(f"default/{name}")


def resolved(place: Machine, name: str) -> set[str]:
    return {line.split()[0] for line in place.run(["getent", "ahostsv4", name]).stdout.splitlines()}


def server_of(emulation: Emulation) -> str:
    return str(emulation.spec.dns_address)


def test_stub_domains_go_to_their_servers(actions: Actions, stub: Servers) -> None:
    place = pod(actions, "p")
    assert resolved(place, "db.corp.test") == {"203.0.113.99"}
    assert resolved(place, "www.example.com") == {UPSTREAM_NAMES["www.example.com."]}
    assert resolved(place, "www.corp.test") == set()


def test_policy_default_asks_outside(actions: Actions, servers: Servers) -> None:
    place = pod(actions, "p", dnsPolicy="Default")
    files = place.run(["cat", "/etc/resolv.conf"]).stdout
    assert files == f"nameserver {actions.emulation.cluster.host('e1').ip}\n"
    assert resolved(place, "www.example.com") == {UPSTREAM_NAMES["www.example.com."]}
    assert resolved(place, "kubernetes.default.svc.cluster.local") == set()


def test_policy_none_takes_what_dns_config_says(actions: Actions) -> None:
    place = pod(actions, "p", dnsPolicy="None", dnsConfig={"nameservers": [server_of(actions.emulation)],
                "searches": ["svc.cluster.local"], "options": [{"name": "ndots", "value": "2"}]})  # fmt: skip
    kubernetes = actions.emulation.address("service:default/kubernetes")
    assert resolved(place, "kubernetes.default") == {kubernetes}  # one dot: the search list comes first
    assert resolved(place, "kubernetes") == set()  # default.svc.cluster.local is not in the list


def test_more_dots_than_ndots_skip_the_search_list(actions: Actions, servers: Servers) -> None:
    place = pod(actions, "p", dnsConfig={"options": [{"name": "ndots", "value": "1"}]})
    servers.asked.clear()
    assert resolved(place, "ext.interwebs.test") == {UPSTREAM_NAMES["ext.interwebs.test."]}
    assert not [name for name in servers.asked if "cluster.local" in name]


def test_answers_of_upstream_are_kept(actions: Actions, servers: Servers) -> None:
    place = pod(actions, "p")
    name, asked = "cached.example.com.", 12
    servers.asked.clear()
    for _ in range(asked):  # not known there, and without SOA: nothing to keep
        assert query(place.netns, server_of(actions.emulation), name, "A").rcode == "NXDOMAIN"
    assert servers.asked.count(name) == asked
    for _ in range(asked):
        known = query(place.netns, server_of(actions.emulation), "www.example.com.", "A")
        assert known.data("A") == [UPSTREAM_NAMES["www.example.com."]]
    assert servers.asked.count("www.example.com.") <= 2  # once in each of the two DNS pods


def test_large_answers_are_cut_and_asked_for_again_over_tcp(actions: Actions) -> None:
    emulation = actions.emulation
    addresses = [f"10.250.{n // 200}.{n % 200 + 1}" for n in range(300)]
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "many", "namespace": "default"},
               "spec": {"clusterIP": "None"}}  # fmt: skip
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "many-1",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "many"},
        },
        "addressType": "IPv4",
        "ports": [],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
    }
    actions.apply([service, endpoints])
    place = pod(actions, "p")
    name = "many.default.svc.cluster.local"

    def all_of_them() -> None:
        assert len(resolved(place, name)) == len(addresses)

    eventually(all_of_them, 3)
    question = dnslib.DNSRecord.question(name)
    with sockets_of(place.netns, socket.SOCK_DGRAM) as sock:
        sock.settimeout(3)
        sock.connect((server_of(emulation), 53))
        sock.send(bytes(question.pack()))
        reply = sock.recv(65535)
    assert len(reply) <= 512
    assert dnslib.DNSRecord.parse(reply).header.tc == 1
