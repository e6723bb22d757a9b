"""Published manifests through the API of one running cluster, all of them: which are taken, which refused and why, and
whether what they describe comes to life. (What the rules say of each file by itself, tests/unit/admission checks.)
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest
from clusterlab import Census, ServicePort, make_namespace, running
from published import APPS, NOT_MANIFESTS, REFUSED, files, followed_orders
from traffic import Question, ask, wrong

from kmn import Cluster
from kmn.cli.policy import judge_of
from kmn.errors import UserError
from kmn.k8s.manifests import ManifestError, load
from kmn.k8s.objects import Key, Object, describe, name_of, resource_of, uid_of
from kmn.k8s.resources import EVENTS, INGRESSES
from kmn.machine import Machine
from kmn.policy.verdicts import End, Judge

pytestmark = pytest.mark.packet

FOLDERS = (
    "ingress-nginx-examples",
    "istio-bookinfo",
    "k8s-docs",
    "k8s-examples",
    "netpol-recipes",
    "online-boutique",
)


# Namespaces where not emulated containers answer, but programs of kmn's own.
OWN_PROGRAMS = ("kube-system", "ingress-nginx")
ORDERS = "nginx.ingress.kubernetes.io/"  # annotations that tell ingress-nginx what to do


@dataclass(frozen=True)
class Published:
    """A file with what it holds. All files of a directory have a namespace for themselves."""

    path: Path

    @property
    def namespace(self) -> str:
        folder = self.path.relative_to(APPS).parts[0]
        return f"{folder}-{self.path.parent.name}".lower()

    def objects(self) -> list[Object]:
        return load([self.path], namespace=self.namespace)

    def apply(self, cluster: Cluster) -> tuple[set[str], str]:
        """What was done, and what is wrong with it ("" if nothing is)."""
        try:
            return {change.action for change in cluster.apply(*self.objects())}, ""
        except UserError as error:
            return set(), str(error)


def manifests(folder: str | None = None) -> list[Published]:
    return [
        Published(path)
        for path in files()
        if path.name not in NOT_MANIFESTS and folder in (None, path.relative_to(APPS).parts[0])
    ]


@pytest.fixture(scope="module")
def cluster(apps: Path) -> Iterator[Cluster]:
    with running("pub") as cluster:
        named = {obj["metadata"].get("namespace", "default") for each in manifests() for obj in each.objects()}
        for name in sorted(named):
            make_namespace(cluster, name)
        yield cluster


@pytest.fixture(scope="module")
def refusals(cluster: Cluster) -> dict[Path, str]:
    """Apply everything once."""
    return {each.path: each.apply(cluster)[1] for each in manifests()}


def test_every_folder_is_tried(apps: Path) -> None:
    assert {path.relative_to(apps).parts[0] for path in files()} == set(FOLDERS)


def test_what_is_no_manifest_is_said_to_be_none(apps: Path) -> None:
    for path in (path for path in files() if path.name in NOT_MANIFESTS):
        with pytest.raises(ManifestError) as error:
            load([path])
        assert NOT_MANIFESTS[path.name] in str(error.value)


@pytest.mark.parametrize("folder", FOLDERS)
def test_only_what_is_wrong_is_refused(refusals: dict[Path, str], folder: str) -> None:
    mine = {each.path.name: refusals[each.path] for each in manifests(folder)}
    assert {name for name, text in mine.items() if text} == {name for name in mine if name in REFUSED}
    for name, text in mine.items():
        assert REFUSED.get(name, "") in text


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_is_taken_is_stored_and_listed(cluster: Cluster, refusals: dict[Path, str], folder: str) -> None:
    """Policies, Ingresses, Secrets and all the others without an effect on the network among them."""
    for each in manifests(folder):
        for obj in each.objects() if not refusals[each.path] else ():
            resource = resource_of(obj)
            namespace = obj["metadata"]["namespace"] if resource.namespaced else None
            assert name_of(obj) in map(name_of, cluster.client.list(resource, namespace).items), each.path


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_second_apply_changes_nothing(cluster: Cluster, refusals: dict[Path, str], folder: str) -> None:
    for each in manifests(folder):
        if not refusals[each.path]:
            each.apply(cluster)  # another file of the directory may have had the last word
            assert each.apply(cluster) == ({"unchanged"}, ""), each.path


def test_all_of_it_comes_up_and_answers(cluster: Cluster, refusals: dict[Path, str]) -> None:
    """Applications that have nothing to do with each other, asked by a pod and by each node; some have policies."""
    cluster.wait_ready()
    census = Census(cluster)
    assert len(census.pods) > 70
    ports = [port for port in census.service_ports() if port.pods and port.namespace not in OWN_PROGRAMS]
    assert len(ports) > 40
    judge = judge_of(cluster.client)
    expected, denied = dict[Question, frozenset[str]](), list[Question]()
    for asker in (cluster.find("deploy/coredns", "kube-system"), *census.nodes):
        for port in ports:
            question = Question(asker, port.address, port.port, port.protocol)
            verdicts = list(verdicts_on(judge, asker, port))
            if all(verdicts):
                expected[question] = port.pods
            elif not any(verdicts):
                denied.append(question)
    assert len(expected) > 100
    assert len(denied) > 4
    assert wrong(list(expected), lambda question: expected[question]) == []
    assert {type(answer) for answer in ask(denied, timeout=1)} == {TimeoutError}


def test_ingresses_are_taken_or_told_why_not(cluster: Cluster, refusals: dict[Path, str]) -> None:
    """Each one has an address or an Event, and each order to a controller that is not followed is in one."""
    followed = followed_orders()

    def untold() -> list[str]:
        told: dict[str, str] = {}
        for event in cluster.client.list(EVENTS).items:
            uid = event["involvedObject"].get("uid", "")
            told[uid] = told.get(uid, "") + event["message"]
        found = []
        for ingress in cluster.client.list(INGRESSES).items:
            words = told.get(uid_of(ingress), "")
            served = (ingress.get("status") or {}).get("loadBalancer", {}).get("ingress")
            if not served and "nobody serves" not in words:
                found.append(f"{describe(ingress)}: neither address nor reason")
            orders = [name for name in ingress["metadata"].get("annotations") or () if name.startswith(ORDERS)]
            unsaid = [name for name in orders if name not in words and name.removeprefix(ORDERS) not in followed]
            found += [f"{describe(ingress)}: {name}" for name in unsaid]
        return found

    assert len(cluster.client.list(INGRESSES).items) > 10
    deadline = time.monotonic() + 15
    while untold() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert untold() == []


def verdicts_on(judge: Judge, asker: Machine, port: ServicePort) -> Iterator[bool]:
    """What policies say of a connection to each pod behind a Service's port."""
    members = judge.selection.members
    source: End = next((m for m in members.values() if str(m.addresses[0]) == asker.ip), ip_address(asker.ip))
    for name in port.pods:
        member = members.get(Key(port.namespace, name))
        if member is None or (asker.kind == "node" and member.node == asker.name):
            yield True  # on its node's network, or of the node that asks: no policy concerns it
        else:
            yield all(judge.judge(source, member, port.protocol, target).allowed for target in port.targets)
