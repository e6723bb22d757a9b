"""The checks of the Service cases: each kind of check is a function, found by the word that it goes by."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from actions import Actions
from client import Conversation, Outcome, exchange, http_status
from emulation import Emulation, eventually, field_at, resource_named
from resolve import matches, query

from kmn.errors import UserError
from kmn.k8s.errors import ApiError
from kmn.k8s.objects import Object, describe, key_of, labels, namespace_of, resource_of
from kmn.k8s.resources import ENDPOINTSLICES, SERVICES

__all__ = ["CHECKS", "EXPECT_WORDS", "Checks"]

_SILENCE = 1.2  # seconds after which nobody answers; a SYN that was lost would have been sent again
EXPECT_WORDS = frozenset({
    "result", "served_by", "served_by_all", "min_backends", "same_backend", "remember_backend", "not_backend",
    "served_on", "client_ip", "client_ip_not", "within_s", "request_bytes", "response_bytes", "interval_s",
})  # fmt: skip


class Checks:
    """Checks of one case; open connections are kept from step to step."""

    def __init__(self, actions: Actions) -> None:
        self._actions = actions
        self._emulation: Emulation = actions.emulation
        self._open: dict[str, Conversation] = {}

    def run(self, check: dict[str, Any]) -> None:
        """Raises AssertionError with what was expected and what was there."""
        word = next((word for word in CHECKS if word in check), None)
        assert word is not None, f"check is of no known kind: {json.dumps(check)}"
        CHECKS[word](self, check)

    def close(self) -> None:
        for conversation in self._open.values():
            conversation.close()

    # -- connections

    def _connection(self, check: dict[str, Any]) -> None:
        expect = check["expect"]
        assert not set(expect) - EXPECT_WORDS, f"unknown words of expect: {sorted(set(expect) - EXPECT_WORDS)}"
        source = self._emulation.machine(self._emulation.fill(check["from"]))
        protocol = check["to"]["proto"]
        outcomes: list[Outcome] = []
        for number in range(check.get("repeat", 1)):
            if number and "interval_s" in expect:
                if self._spread_enough(outcomes, expect):
                    break  # further draws would only make a false alarm less likely
                time.sleep(expect["interval_s"])
            address, port = self._target(source.netns, check["to"])
            outcomes.append(
                exchange(
                    source.netns, address, port, protocol, source_port=check["to"].get("source_port"),
                    patience=3.0 if expect["result"] == "ok" else max(_SILENCE, expect.get("within_s", 0)),
                    request_bytes=expect.get("request_bytes", 0), response_bytes=expect.get("response_bytes", 0),
                )
            )  # fmt: skip
            if outcomes[-1].result != "ok" and expect["result"] == "ok":
                break
        self._judge(outcomes, {**expect, **{k: check[k] for k in ("remember_backend",) if k in check}})

    def _spread_enough(self, outcomes: list[Outcome], expect: dict[str, Any]) -> bool:
        backends = {outcome.backend for outcome in outcomes}
        wanted = {"min_backends", "served_by_all"} & set(expect)
        return (
            bool(wanted)
            and len(backends) >= expect.get("min_backends", 0)
            and all(any(_is(o, each) for o in outcomes) for each in expect.get("served_by_all", ()))
        )

    def _target(self, netns: str, to: dict[str, Any]) -> tuple[str, int]:
        """Address and port that a connection goes to."""
        emulation = self._emulation
        port = int(emulation.fill(str(to["port"])))
        if "service" not in to:
            for kind in ("pod", "node", "external"):
                if kind in to:
                    return emulation.address(f"{kind}:{emulation.fill(to[kind])}"), port
            return emulation.fill(to["ip"]), port
        name = emulation.fill(to["service"])
        if to["via"] == "clusterIP":
            return emulation.address(f"service:{name}"), port
        if to["via"] == "dns":
            namespace, _, short = name.partition("/")
            domain = f"{short}.{namespace}.svc.{emulation.spec.cluster_domain}."

            def resolved() -> list[str]:
                found = query(netns, str(emulation.spec.dns_address), domain, "A")
                assert found.data("A"), f"{domain} A: {found}"
                return found.data("A")

            return random.choice(eventually(resolved, 5)), port
        service = emulation.get(SERVICES, name)
        if to["via"] == "loadBalancerIP":

            def assigned() -> str:
                address = field_at(emulation.get(SERVICES, name), "status.loadBalancer.ingress[0].ip")
                assert address, f"Service {name}: status.loadBalancer has no address"
                return str(address)

            return eventually(assigned, 3), port
        assert to["via"] == "nodePort", f"via {to['via']} is not known"
        [found] = [
            p.get("nodePort")
            for p in service["spec"]["ports"]
            if p["port"] == port and p.get("protocol", "TCP") == to["proto"]
        ]
        assert found, f"Service {name}: port {port} has no nodePort"
        return emulation.address(f"node:{emulation.fill(to['node'])}"), found

    def _judge(self, outcomes: list[Outcome], expect: dict[str, Any]) -> None:
        want = expect["result"]
        seen = "; ".join(f"{n} x {text}" for text, n in _counted(outcomes))
        for outcome in outcomes:
            good = outcome.result != "ok" if want == "fail" else outcome.result == want
            assert good, f"wanted {want}, got: {seen}"
            assert not outcome.wrong or want != "ok", f"{outcome.wrong}: {seen}"
            assert outcome.seconds <= expect.get("within_s", outcome.seconds), f"took too long: {seen}"
        if want != "ok":
            return
        allowed = self._emulation.fill(expect.get("served_by"))
        backends = {outcome.backend for outcome in outcomes}
        if allowed is not None:
            assert all(any(_is(o, each) for each in allowed) for o in outcomes), f"wanted only {allowed}, got: {seen}"
        for each in self._emulation.fill(expect.get("served_by_all", [])):
            assert any(_is(o, each) for o in outcomes), f"{each} never answered: {seen}"
        assert len(backends) >= expect.get("min_backends", 1), f"wanted {expect.get('min_backends')} backends: {seen}"
        if expect.get("same_backend"):
            assert len(backends) == 1, f"wanted one backend: {seen}"
        if "not_backend" in expect:
            before = self._emulation.memory[expect["not_backend"]]
            assert not any(_is(o, before) for o in outcomes), f"{before} still answers: {seen}"
        if "served_on" in expect:
            assert {o.port for o in outcomes} <= {expect["served_on"], None}, f"wrong port of the pod: {seen}"
        if "client_ip" in expect:
            want = self._emulation.address(expect["client_ip"])
            assert {o.client for o in outcomes} == {want}, f"wanted the client's address {want}: {seen}"
        if "client_ip_not" in expect:
            unwanted = self._emulation.address(expect["client_ip_not"])
            assert unwanted not in {o.client for o in outcomes}, f"wanted another address than {unwanted}: {seen}"
        if "remember_backend" in expect:
            self._emulation.memory[expect["remember_backend"]] = outcomes[-1].backend

    def _open_connection(self, check: dict[str, Any]) -> None:
        source = self._emulation.machine(self._emulation.fill(check["from"]))
        to = check["to"]
        address, port = self._target(source.netns, to)
        conversation = Conversation(source.netns, address, port, to["proto"], source_port=to.get("source_port"))
        self._open[check["open"]] = conversation
        remember = {k: check[k] for k in ("remember_backend",) if k in check}
        self._judge([conversation.ask()], {"result": "ok", **check.get("expect", {}), **remember})

    def _talk(self, check: dict[str, Any]) -> None:
        self._judge([self._open[check["talk"]].ask()], check["expect"])

    # -- objects

    def _get(self, check: dict[str, Any]) -> None:
        kind, name = self._emulation.fill(check["get"]).split()
        want = self._emulation.fill(check["expect"])

        def look() -> None:
            got = field_at(self._emulation.get(resource_named(kind), name), check["path"])
            assert _agrees(got, want), f"{kind} {name} {check['path']}: wanted {want}, got {got}"

        eventually(look, 3)

    def _refused(self, check: dict[str, Any]) -> None:
        obj = self._emulation.fill(check["refused"])
        before = self._emulation.find(resource_of(obj), str(key_of(obj)))
        try:
            self._actions.apply([obj])
        except (UserError, ApiError):
            after = self._emulation.find(resource_of(obj), str(key_of(obj)))
            assert before == after, f"{describe(obj)} was refused, and changed all the same"
            return
        self._actions.created(obj)
        raise AssertionError(f"{describe(obj)} was to be refused: {check.get('why', '')}")

    def _accepted(self, check: dict[str, Any]) -> None:
        self._actions.apply([self._emulation.fill(check["accepted"])])

    def _endpoints(self, check: dict[str, Any]) -> None:
        service = self._emulation.fill(check["endpoints"])

        def look() -> None:
            ready, not_ready, endpoints = self._endpoints_of(service)
            want = self._emulation.fill(check["expect"])
            assert ready == sorted(want), f"endpoints of {service}: wanted {sorted(want)}, got {ready}"
            if "not_ready" in check:
                want = sorted(self._emulation.fill(check["not_ready"]))
                assert not_ready == want, f"endpoints of {service} not ready: wanted {want}, got {not_ready}"
            for endpoint in endpoints:
                for path in check.get("fields", ()):
                    assert field_at(endpoint, path) is not None, f"endpoint of {service} without {path}: {endpoint}"

        eventually(look, 3)

    def _endpoints_of(self, service: str) -> tuple[list[str], list[str], list[Object]]:
        """Ready and not ready endpoints, as ``ns/pod:port`` (``external:e1:port`` for hosts outside)."""
        hosts = {str(host.address): f"external:{host.name}" for host in self._emulation.spec.outside_hosts}
        namespace, _, short = service.partition("/")
        names: dict[bool, list[str]] = {True: [], False: []}
        found: list[Object] = []
        for each in self._emulation.client.list(ENDPOINTSLICES, namespace).items:
            if labels(each).get("kubernetes.io/service-name") != short:
                continue
            for endpoint in each.get("endpoints") or ():
                target = endpoint.get("targetRef") or {}
                address = endpoint["addresses"][0]
                name = f"{namespace_of(each)}/{target['name']}" if target else hosts.get(address, address)
                ready = (endpoint.get("conditions") or {}).get("ready", True)
                names[ready] += [f"{name}:{port['port']}" for port in each.get("ports") or ()]
                found.append(endpoint)
        return sorted(names[True]), sorted(names[False]), found

    # -- the rest

    def _dns(self, check: dict[str, Any]) -> None:
        source = self._emulation.machine(self._emulation.fill(check["from"]))
        name = self._emulation.fill(check["dns"]).rstrip(".") + "."
        want = self._emulation.fill(check["expect"])

        def look() -> None:
            answer = query(source.netns, str(self._emulation.spec.dns_address), name, check["type"])
            why = matches(answer, want)
            assert not why, f"{name} {check['type']}: {why}"

        eventually(look, 3)

    def _http(self, check: dict[str, Any]) -> None:
        source = self._emulation.machine(self._emulation.fill(check["from"]))
        url = urlsplit(self._emulation.fill(check["http"]))
        want = check["expect"]["status"]

        def look() -> None:
            status = http_status(source.netns, url.hostname or "", url.port or 80, url.path or "/")
            assert status == want, f"{url.geturl()}: wanted {want}, got {status or 'no answer'}"

        eventually(look, 3)

    def _env(self, check: dict[str, Any]) -> None:
        pod = self._emulation.cluster.pod(self._emulation.fill(check["env"]))
        lines = pod.run(["env", "-0"], check=True).stdout.split("\0")
        have = dict(line.split("=", 1) for line in lines if "=" in line)
        for name, value in self._emulation.fill(check["expect"]).items():
            assert have.get(name) == value, f"{name} in pod {pod.name}: wanted {value}, got {have.get(name)}"


# By the word that a check goes by; the first one that it has counts.
CHECKS: dict[str, Callable[[Checks, dict[str, Any]], None]] = {
    "open": Checks._open_connection,
    "talk": Checks._talk,
    "get": Checks._get,
    "refused": Checks._refused,
    "accepted": Checks._accepted,
    "endpoints": Checks._endpoints,
    "dns": Checks._dns,
    "http": Checks._http,
    "env": Checks._env,
    "to": Checks._connection,
}


def _is(outcome: Outcome, backend: str) -> bool:
    """Whether an answer is from ``ns/pod``, ``ns/pod:port`` or ``external:host``. UDP tells the name alone."""
    name, _, port = backend.partition(":")
    if name == "external":
        return outcome.backend in (backend, port)
    told = outcome.backend
    same = name == told if "/" in told else name.rpartition("/")[2] == told
    return same and (not port or outcome.port in (int(port), None))


def _agrees(got: Any, want: Any) -> bool:
    if isinstance(want, dict):
        if set(want) == {"between"}:
            return isinstance(got, int) and want["between"][0] <= got <= want["between"][1]
        if set(want) == {"contains"}:
            return _contains(got, want["contains"])
        if set(want) == {"is"}:
            assert want["is"] == "ip", f"is: {want['is']} is not known"
            try:
                return bool(ip_address(got))
            except ValueError:
                return False
    return bool(got == want)


def _contains(got: Any, want: Any) -> bool:
    if isinstance(want, dict) and isinstance(got, dict):
        return all(key in got and _contains(got[key], value) for key, value in want.items())
    if isinstance(got, list) and not isinstance(want, list):
        return want in got
    return bool(got == want)


def _counted(outcomes: list[Outcome]) -> list[tuple[str, int]]:
    """Outcomes that look alike, told once, with their number."""
    counts: dict[str, int] = {}
    for outcome in outcomes:
        text = (
            str(outcome) if outcome.result == "ok" else outcome.result + (f" ({outcome.wrong})" * bool(outcome.wrong))
        )
        counts[text] = counts.get(text, 0) + 1
    return list(counts.items())
