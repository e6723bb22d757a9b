"""The Ingress cases, one test each: requests from an outside host against a running emulation."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from actions import Actions
from authority import Authority
from casefiles import Case, load, parametrize
from emulation import Emulation, eventually, field_at, resource_named
from ingressworld import Answer, ask, backend_objects, backends_of
from missing import ingress
from outside import Servers

from kmn import Cluster
from kmn.errors import UserError
from kmn.k8s.errors import ApiError
from kmn.k8s.objects import Key, Object, describe, now
from kmn.k8s.resources import INGRESSES, SERVICES

pytestmark = pytest.mark.packet

_STEP_WORDS = {
    "apply", "delete", "scale", "tls_secrets", "rotate", "no_service", "create_service", "requests", "status", "get",
    "refused",
}  # fmt: skip
_REQUEST_WORDS = {
    "scheme", "method", "host", "path", "headers", "expect", "accept_status", "tls", "repeat", "distinct_pods",
    "echo_path", "echo_headers", "served_ns",
}  # fmt: skip
_PORTS = {"http": 80, "https": 443}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, "case", "ingress/cases.json", "cases", ingress)


@pytest.fixture(scope="module")
def emulated(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster with one controller: the one of the cases' IngressClass."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    given = load(request.config, "ingress/cases.json").get("ingress_class")
    assert given is not None, "the cases have no ingress_class"
    controller = {"name": given["metadata"]["name"], "controller": given["spec"]["controller"]}
    spec = {
        "nodes": [{"count": 2}],
        "probes": {"initialDelay": "0s"},
        "ingress": {"controllers": [controller]},
    }
    meta = {"name": f"hoi{os.getpid()}"}
    with Cluster({"apiVersion": "kmn.io/v1", "kind": "Cluster", "metadata": meta, "spec": spec}) as cluster:
        cluster.apply(given)
        cluster.wait_ready()
        yield cluster


@pytest.fixture
def world(emulated: Cluster) -> Iterator[World]:
    world = World(emulated)
    yield world
    world.actions.clean()


class World:
    """One case: what it makes, and what it asks."""

    def __init__(self, cluster: Cluster) -> None:
        self.emulation = Emulation(cluster)
        self.emulation.memory["http_port"], self.emulation.memory["https_port"] = "80", "443"
        self.actions = Actions(self.emulation, Servers())
        self._authority = Authority()
        self._absent: set[str] = set()
        self._made: set[Key] = set()
        self._newest = ""
        self._secrets: dict[str, list[str]] = {}  # the hosts of their certificates

    # -- what a step does

    def act(self, step: dict[str, Any]) -> None:
        manifests: list[Object] = step.get("apply", [])
        self._absent |= set(step.get("no_service", ()))
        self.actions.apply([obj for obj in manifests if obj["kind"] == "Namespace"])
        rotated = step.get("rotate", {})  # names of Secrets, with new hosts if they are to have some
        self._secrets |= {**step.get("tls_secrets", {}), **(rotated if isinstance(rotated, dict) else {})}
        for name in (*step.get("tls_secrets", ()), *rotated):
            self.actions.apply([self._authority.secret(name, self._secrets[name])])
        for service in backends_of(manifests):
            if service.name not in self._absent and str(service) not in self._absent:
                self._make(service)
        for name in step.get("create_service", ()):
            self._make(_key(name))
        if step.get("refused") is True:
            self._refuse(manifests)
        else:
            for obj in manifests:
                self._apply(obj)
            refused = step.get("refused", [])
            self._refuse(refused if isinstance(refused, list) else [refused])
        if "delete" in step:
            self.actions.run({"delete": step["delete"]})
        for name, replicas in step.get("scale", {}).items():
            self._make(_key(name))
            self.actions.run({"scale": {f"Deployment {_key(name)}": replicas}})
        self.actions.settle()

    def _apply(self, obj: Object) -> None:
        """In an order that creationTimestamp shows: it has whole seconds, and the older of two Ingresses counts."""
        if obj["kind"] == "Ingress":
            eventually(lambda: self._assert_later(now()), 3)
            self._newest = now()
        if obj["kind"] != "Namespace":
            self.actions.apply([obj])

    def _assert_later(self, time: str) -> None:
        assert time > self._newest, f"it is still {time}"

    def _make(self, service: Key) -> None:
        if service not in self._made:
            self._made.add(service)
            self.actions.apply(backend_objects(service))

    def _refuse(self, manifests: list[Object]) -> None:
        for obj in manifests:
            try:
                self.actions.apply([obj])
            except (UserError, ApiError):
                continue
            raise AssertionError(f"{describe(obj)} was to be refused")

    # -- what a step checks

    def check(self, step: dict[str, Any]) -> None:
        """All until it holds; then all once more, as what must not be may just not be there yet."""
        for check in (eventually, lambda look, _: look()):
            for name, want in step.get("status", {}).items():
                check(lambda name=name, want=want: self._status(name, want), 10)
            for what, want in step.get("get", {}).items():
                check(lambda what=what, want=want: self._get(what, want), 5)
            for request in step.get("requests", ()):
                try:
                    check(lambda request=request: self._request(request), 10)
                except AssertionError as error:
                    raise AssertionError(f"{json.dumps(request)}:\n{error}") from error

    def _status(self, name: str, want: str) -> None:
        addresses = field_at(self.emulation.get(INGRESSES, name), "status.loadBalancer.ingress") or []
        assert want in ("has-address", "no-address"), f"status {want} is not known"
        assert bool(addresses) == (want == "has-address"), f"Ingress {name}: {want} is wanted, it has {addresses}"

    def _get(self, what: str, want: Any) -> None:
        kind, name, path = what.split()
        got = field_at(self.emulation.get(resource_named(kind), name), path)
        assert got == want, f"{what}: wanted {want}, got {got}"

    def _request(self, request: dict[str, Any]) -> None:
        assert not set(request) - _REQUEST_WORDS, f"unknown words: {sorted(set(request) - _REQUEST_WORDS)}"
        answers = [self._ask(request) for _ in range(request.get("repeat", 1))]
        for answer in answers:
            self._judge(request, answer)
        pods = {answer.echo.get("pod") for answer in answers}
        wanted = request.get("distinct_pods", 1)
        assert len(pods) >= wanted, f"wanted {wanted} pods, got {sorted(map(str, pods))}"

    def _ask(self, request: dict[str, Any]) -> Answer:
        host = self.emulation.fill(request["host"])
        tls = request.get("tls") or {}
        assert not set(tls) - {"verify_hostname"}, f"unknown words of tls: {sorted(tls)}"
        context = self._authority.context(verify=bool(tls)) if request["scheme"] == "https" else None
        client = self.emulation.machine("external:e1").netns
        answer = ask(client, self._address(), _PORTS[request["scheme"]], request, host, context)
        if tls:
            assert answer.certificate in self._authority.current.values(), "the certificate is not a current one"
        return answer

    def _judge(self, request: dict[str, Any], answer: Answer) -> None:
        expect = request["expect"]
        assert not set(expect) - {"status", "service"}, f"unknown words of expect: {sorted(expect)}"
        allowed = {expect["status"], *request.get("accept_status", ())}
        assert answer.status in allowed, f"wanted {sorted(allowed)}, got {answer}"
        if answer.status != expect["status"]:
            return
        if "service" in expect:
            assert answer.service == expect["service"], f"wanted {expect['service']}, got {answer}"
        if "served_ns" in request:
            assert answer.echo["namespace"] == request["served_ns"], f"wanted {request['served_ns']}, got {answer}"
        if "echo_path" in request:
            assert answer.echo["path"] == request["echo_path"], f"wanted {request['echo_path']}, got {answer}"
        for name, value in request.get("echo_headers", {}).items():
            got = answer.headers.get(name.lower())
            assert got == self.emulation.fill(value), f"header {name}: wanted {value}, got {got}"

    def _address(self) -> str:
        """Of the controller's load balancer."""
        [service] = [
            each
            for each in self.emulation.client.list(SERVICES).items
            if each["metadata"]["namespace"].startswith("ingress-") and each["spec"].get("type") == "LoadBalancer"
        ]
        address = field_at(service, "status.loadBalancer.ingress[0].ip")
        assert address, f"{describe(service)} has no address"
        return str(address)


def _key(name: str) -> Key:
    namespace, _, short = name.rpartition("/")
    return Key(namespace or "default", short)


def test_ingress(case: Case, world: World) -> None:
    for number, step in enumerate(case["steps"], 1):
        unknown = set(step) - _STEP_WORDS
        assert not unknown, f"unknown words of a step: {sorted(unknown)}"
        try:
            world.act(step)
            world.check(step)
        except AssertionError as error:
            raise AssertionError(f"{case['id']} ({case['title']}), step {number}: {error}") from error
