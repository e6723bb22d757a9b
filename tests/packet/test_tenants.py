"""``topologies/tenants.yaml``: what its head says one sees."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from clusterlab import Census, eventually
from published import TOPOLOGIES
from traffic import Question, ask

from kmn import Cluster
from kmn.k8s.resources import EVENTS, INGRESSES

pytestmark = pytest.mark.packet

TENANTS = ("acme", "globex")
AUTHORITY = TOPOLOGIES / "tenants-authority.pem"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(TOPOLOGIES / "tenants.yaml", name=f"hiten{os.getpid()}") as cluster:
        assert cluster.wait_ready() == []
        yield cluster


def address_of(cluster: Cluster, tenant: str, ingress: str) -> str:
    """The one that an Ingress tells."""
    status = cluster.client.get(INGRESSES, tenant, ingress)["status"]
    address: str = status["loadBalancer"]["ingress"][0]["ip"]
    return address


def curl(cluster: Cluster, url: str, *options: str) -> subprocess.CompletedProcess[str]:
    """From outside."""
    return cluster.host("e1").run(["curl", "-sS", "--max-time", "5", "--cacert", str(AUTHORITY), *options, url])


def told(cluster: Cluster, url: str, *options: str) -> dict[str, Any]:
    """Who answers, as soon as somebody does."""
    eventually(lambda: curl(cluster, url, *options).stdout.startswith("{"), f"an answer of {url}")
    found: dict[str, Any] = json.loads(curl(cluster, url, *options).stdout)
    return found


@pytest.mark.parametrize("tenant", TENANTS)
def test_each_tenant_is_reached_under_its_name_and_certificate(cluster: Cluster, tenant: str) -> None:
    host, address = f"shop.{tenant}.example", address_of(cluster, tenant, "shop")
    there = told(cluster, f"https://{host}/", "--resolve", f"{host}:443:{address}")
    assert (there["namespace"], there["host"]) == (tenant, host)
    (controller,) = Census(cluster, "ingress-nginx").pods
    assert there["client"] == controller.ip


def test_the_shared_controller_has_one_address_and_the_own_one_another(cluster: Cluster) -> None:
    shared = {address_of(cluster, tenant, "shop") for tenant in TENANTS}
    own = address_of(cluster, "acme", "own")
    assert len(shared) == 1
    assert own not in shared
    assert told(cluster, f"http://{own}/")["namespace"] == "acme"
    assert told(cluster, f"http://{own}/", "-H", "Host: shop.globex.example")["namespace"] == "acme"
    assert curl(cluster, f"http://{shared.pop()}/", "-o", "/dev/null", "-w", "%{http_code}").stdout == "404"


def test_a_host_is_the_older_ones_and_the_younger_is_told(cluster: Cluster) -> None:
    host, address = "shop.acme.example", address_of(cluster, "globex", "grab")
    way = ("--resolve", f"{host}:443:{address}")
    assert told(cluster, f"https://{host}/", *way)["namespace"] == "acme"
    assert told(cluster, f"https://{host}/globex", *way)["namespace"] == "globex"  # nobody else wants this path

    def conflicts() -> list[dict[str, Any]]:
        return [event for event in cluster.client.list(EVENTS).items if event["reason"] == "Conflict"]

    eventually(lambda: bool(conflicts()), "an Event Conflict")
    (event,) = conflicts()
    assert (event["involvedObject"]["namespace"], event["involvedObject"]["name"]) == ("globex", "grab")
    assert "Ingress acme/shop, which is older" in event["message"]


def test_only_ingress_controllers_reach_the_shops(cluster: Cluster) -> None:
    """By packets, from every pod to every pod of a tenant."""
    shops = {tenant: Census(cluster, tenant).pods for tenant in TENANTS}
    assert all(shops.values())
    may = {"acme": ("ingress-nginx", "ingress-acme"), "globex": ("ingress-nginx",)}
    expected = {
        Question(asker, shop.ip, 8080): asker.name.partition("/")[0] in may[tenant]
        for tenant, pods in shops.items()
        for shop in pods
        for asker in Census(cluster).pods
        if asker.name != shop.name  # which no policy keeps from itself
    }
    assert len(expected) >= 4 * 7
    answers = ask(list(expected), timeout=2.0)
    reached = {question: not isinstance(answer, Exception) for question, answer in zip(expected, answers, strict=True)}
    assert {str(q): reached[q] for q in expected if reached[q] is not expected[q]} == {}
