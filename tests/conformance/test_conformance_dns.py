"""The DNS cases against the DNS server of a running emulation: queries from a pod, its files, records that come and go.

``www.example.com`` and what else the cases expect an upstream to know are known to a server on an outside host, which
the cluster file names as upstream.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest
from actions import Actions
from casefiles import Case, load, parametrize
from emulation import Emulation, eventually
from missing import coredns, dns
from outside import UPSTREAM_NAMES, Servers
from resolve import Reply, matches, query

from kmn import Cluster
from kmn.k8s.objects import Object
from kmn.machine import Machine

pytestmark = pytest.mark.packet

_UNUSED_SERVICE = 0xFFF7  # an address of the service network that nobody has
_CLIENT = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "asker", "namespace": "default"},
    "spec": {"containers": [{"name": "c", "image": "registry.k8s.io/e2e-test-images/agnhost:2.53", "args": ["pause"]}]},
}
# CoreDNS' objects name these addresses; Services of ours have others.
_COREDNS_SERVICE = "10.0.0.1"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "query_case" in metafunc.fixturenames:
        parametrize(metafunc, "query_case", "dns/cases.json", "queries", dns)
    if "resolver_case" in metafunc.fixturenames:
        parametrize(metafunc, "resolver_case", "dns/cases.json", "resolver", dns)
    if "lifecycle_case" in metafunc.fixturenames:
        parametrize(metafunc, "lifecycle_case", "dns/cases.json", "lifecycle", dns)
    if "coredns_case" in metafunc.fixturenames:
        parametrize(metafunc, "coredns_case", "dns/coredns.json", "cases", coredns)


class Names:
    """The objects of a case file in the emulation, and a pod that asks."""

    def __init__(self, cluster: Cluster, servers: Servers, objects: list[Object]) -> None:
        self.emulation = Emulation(cluster)
        self.actions = Actions(self.emulation, servers)
        self.emulation.resolvers = {
            "rev": lambda what: ip_address(self._address(what)).reverse_pointer + ".",
            "dash": lambda what: self._address(what).replace(".", "-"),
            "srv-target": self._srv_target,
            "upstream": lambda name: UPSTREAM_NAMES[name.rstrip(".") + "."],
        }
        self._objects = [_CLIENT, *objects]
        self.restore()
        self.asker = cluster.pod("default/asker")

    def restore(self) -> None:
        """Make sure that all objects are there: a case may delete some, even a whole namespace."""
        self.actions.apply(self._objects)
        self.actions.settle()

    def ask(self, name: str, kind: str) -> Reply:
        return query(self.asker.netns, str(self.emulation.spec.dns_address), name, kind)

    def expect(self, name: str, kind: str, expect: dict[str, Any]) -> None:
        """Wait for the answer: DNS hears of an object a moment after the API has it."""
        filled = self.emulation.fill(expect)

        def look() -> None:
            asked = self.emulation.fill(name)
            why = matches(self.ask(asked, kind), filled, UPSTREAM_NAMES)
            assert not why, f"{asked} {kind}: {why}"

        eventually(look, 3)

    def _address(self, what: str) -> str:
        if what == "unused-service-ip":
            return str(self.emulation.spec.service_cidr[_UNUSED_SERVICE])
        return self.emulation.address(what)

    def _srv_target(self, name: str) -> str:
        found = self.ask(name, "SRV").data("SRV")
        assert len(found) == 1, f"{name} SRV: wanted one record, got {found}"
        return str(found[0][1])


@pytest.fixture(scope="module")
def names(running: Cluster, servers: Servers, request: pytest.FixtureRequest) -> Iterator[Names]:
    """The objects of dns/cases.json. Their namespaces are not those of CoreDNS' cases."""
    names = Names(running, servers, load(request.config, "dns/cases.json")["objects"])
    yield names
    names.actions.clean()


@pytest.fixture(scope="module")
def coredns_names(running: Cluster, servers: Servers, request: pytest.FixtureRequest) -> Iterator[Names]:
    objects = load(request.config, "dns/coredns.json")["objects"]
    for obj in objects:
        if obj["kind"] == "Service" and obj["spec"].get("clusterIP", "None") != "None":
            del obj["spec"]["clusterIP"]  # of another service network; and two have the same
    names = Names(running, servers, objects)
    yield names
    names.actions.clean()


def test_query(query_case: Case, names: Names) -> None:
    question = query_case["query"]
    names.expect(question["name"], question["type"], query_case["expect"])


def test_coredns(coredns_case: Case, coredns_names: Names) -> None:
    question, expect = coredns_case["query"], coredns_case["expect"]
    got = eventually(lambda: coredns_names.ask(question["name"], question["type"]), 3)
    service = re.search(r"([\w-]+)\.testns\.svc\.", question["name"])
    found = sorted((owner.rstrip("."), kind, str(_plain(data))) for owner, kind, data in got.answers)
    wanted = []
    for record in expect["answers"]:
        data = f"{record['port']} {record['target']}" if record["type"] == "SRV" else record["data"]
        if data == _COREDNS_SERVICE:
            of_chain = re.match(r"([\w-]+)\.testns\.svc\.", record["owner"]) or service
            assert of_chain is not None
            data = coredns_names.emulation.address(f"service:testns/{of_chain[1]}")
        wanted.append((record["owner"].rstrip("."), record["type"], data))
    assert (got.rcode, found) == (expect["rcode"], sorted(wanted))


def _plain(data: Any) -> str:
    return f"{data[0]} {data[1]}" if isinstance(data, tuple) else str(data)


def test_resolver(resolver_case: Case, names: Names) -> None:
    """What a program in the pod finds: its files, and the C library with its search list."""
    emulation, expect = names.emulation, resolver_case["expect"]
    own = Actions(emulation, names.actions._servers)
    try:
        pod = resolver_case["pod"]
        own.apply([emulation.fill(pod)])
        own.settle()
        place = emulation.cluster.pod(f"{pod['metadata']['namespace']}/{pod['metadata']['name']}")
        for word, want in expect.items():
            assert word in _RESOLVER, f"unknown word of expect: {word}"
            _RESOLVER[word](place, emulation.fill(want))
    finally:
        own.clean()


def _addresses(place: Machine, name: str) -> set[str]:
    lines = place.run(["getent", "ahostsv4", name], check=False).stdout.splitlines()
    return {line.split()[0] for line in lines}


def _resolve(place: Machine, want: dict[str, str]) -> None:
    _resolve_set(place, {name: [address] for name, address in want.items()})


def _resolve_set(place: Machine, want: dict[str, list[str]]) -> None:
    def look() -> None:
        got = {name: sorted(_addresses(place, name)) for name in want}
        assert got == {name: sorted(addresses) for name, addresses in want.items()}

    eventually(look, 3)


def _not_found(place: Machine, want: list[str]) -> None:
    assert {name: _addresses(place, name) for name in want} == {name: set() for name in want}


def _hosts(place: Machine, want: dict[str, str]) -> None:
    lines = [line.split("#")[0].split() for line in place.run(["cat", "/etc/hosts"], check=True).stdout.splitlines()]
    got = {name: {line[0] for line in lines if name in line[1:]} for name in want}
    missing = {name: found for name, found in got.items() if want[name] not in found}
    assert not missing, f"/etc/hosts: wanted {want}, got {got}"
    for name, address in want.items():
        assert address in _addresses(place, name), f"getent {name}"


def _resolv_conf(place: Machine) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"nameserver": [], "search": [], "options": []}
    for line in place.run(["cat", "/etc/resolv.conf"], check=True).stdout.splitlines():
        word, *rest = line.split() or [""]
        if word in found:
            found[word] += rest
    return found


def _same(word: str, *, ordered: bool = True) -> Any:
    def check(place: Machine, want: Any) -> None:
        got = _resolv_conf(place)[word]
        wanted = [want] if isinstance(want, str) else list(want)
        assert (got if ordered else sorted(got)) == (wanted if ordered else sorted(wanted))

    return check


def _nameserver_not(place: Machine, want: list[str]) -> None:
    assert not set(_resolv_conf(place)["nameserver"]) & set(want)


def _hostname(place: Machine, want: str) -> None:
    assert place.run(["hostname"], check=True).stdout.strip() == want


_RESOLVER: dict[str, Any] = {
    "resolve": _resolve,
    "resolve_set": _resolve_set,
    "not_found": _not_found,
    "hosts": _hosts,
    "hostname": _hostname,
    "nameserver": _same("nameserver"),
    "nameserver_not": _nameserver_not,
    "search": _same("search"),
    "options": _same("options", ordered=False),
}


def test_lifecycle(lifecycle_case: Case, names: Names) -> None:
    own = Actions(names.emulation, names.actions._servers)
    try:
        for step in lifecycle_case["steps"]:
            own.run({key: value for key, value in step.items() if key not in ("query", "expect")})
            try:
                names.expect(*step["query"], step["expect"])
            except AssertionError as error:
                raise AssertionError(f"{lifecycle_case['id']}, {json.dumps(step)}:\n{error}") from error
    finally:
        own.clean()
        names.restore()
