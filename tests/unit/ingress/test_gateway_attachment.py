"""Which routes come in by which listener of a Gateway, for which hosts, and what both are told."""

from __future__ import annotations

from typing import Any

import pytest
from gateway_objects import (
    HTTP,
    conditions,
    gateway,
    grant,
    host,
    http_route,
    https,
    listener_conditions,
    made,
    namespace,
    read,
    told,
    world,
)

from kmn.ingress.gateway.attachment import other_parents
from kmn.ingress.gateway.hostnames import common, covers
from kmn.k8s.objects import Key, Object

GOOD = {"Accepted": "Accepted", "ResolvedRefs": "ResolvedRefs"}
WHOLE = {**GOOD, "Conflicted": "-NoConflicts", "Programmed": "Programmed"}
ALL = {"allowedRoutes": {"namespaces": {"from": "All"}}}


@pytest.mark.parametrize(
    ("listener", "route", "wanted"),
    [
        ("", [], [""]),
        ("a.example", [], ["a.example"]),
        ("", ["a.example", "*.b.example"], ["a.example", "*.b.example"]),
        ("*.example", ["a.example", "a.b.example", "example", "a.other"], ["a.example", "a.b.example"]),
        ("a.b.example", ["*.example", "*.b.example"], ["a.b.example"]),
        ("*.example", ["*.b.example"], ["*.b.example"]),
        ("*.b.example", ["*.example"], ["*.b.example"]),
        ("a.example", ["b.example"], []),
    ],
)
def test_hostnames_of_both(listener: str, route: list[str], wanted: list[str]) -> None:
    assert common(listener, route) == wanted


def test_a_wildcard_stands_for_labels_but_not_for_none() -> None:
    assert covers("*.example", "a.b.example")
    assert not covers("*.example", "example")
    assert not covers("*.example", "anexample")
    assert not covers("a.example", "*.a.example")


@pytest.mark.parametrize(
    ("listeners", "fields", "reason"),
    [
        ([HTTP], {}, "Accepted"),
        ([HTTP], {"parent": {"sectionName": "http", "port": 80}}, "Accepted"),
        ([HTTP], {"parent": {"sectionName": "https"}}, "-NoMatchingParent"),
        ([HTTP], {"parent": {"port": 81}}, "-NoMatchingParent"),
        ([HTTP], {"parent": {"sectionName": "http", "port": 81}}, "-NoMatchingParent"),
        ([{**HTTP, "hostname": "a.example"}], {"hostnames": ["b.example"]}, "-NoMatchingListenerHostname"),
        ([HTTP], {"namespace": "apps", "parent": {"namespace": "default"}}, "-NotAllowedByListeners"),
        ([{**HTTP, **ALL}], {"namespace": "apps", "parent": {"namespace": "default"}}, "Accepted"),
        ([{**HTTP, "allowedRoutes": {"kinds": [{"kind": "GRPCRoute"}]}}], {}, "-NotAllowedByListeners"),
        ([{**HTTP, "protocol": "TCP"}], {}, "-NotAllowedByListeners"),
    ],
)
def test_a_route_is_told_whether_it_is_attached(listeners: list[Any], fields: dict[str, Any], reason: str) -> None:
    found = read(gateway(*listeners), world(http_route("shop", **fields), services=("default/web", "apps/web")))
    (parent,) = found.parents
    assert conditions(parent)["Accepted"] == reason
    assert found.status.listeners[0].attached == (1 if reason == "Accepted" else 0)


def test_namespaces_by_their_labels() -> None:
    selector = {"matchLabels": {"shop": "yes"}}
    only = {**HTTP, "allowedRoutes": {"namespaces": {"from": "Selector", "selector": selector}}}
    routes = [http_route("r", namespace=name, parent={"namespace": "default"}) for name in ("apps", "other")]
    found = read(gateway(only), world(*routes, namespace("apps", shop="yes"), namespace("other")))
    assert {p.route.namespace: conditions(p)["Accepted"] for p in found.parents} == {
        "apps": "Accepted",
        "other": "-NotAllowedByListeners",
    }


def test_a_host_belongs_to_the_listener_that_names_it_best() -> None:
    listeners = [
        {**HTTP, "name": "any"},
        {**HTTP, "name": "wild", "hostname": "*.example"},
        {**HTTP, "name": "one", "hostname": "a.example"},
    ]
    routes = [http_route(name, parent={"sectionName": name}, rules=[rule(name)]) for name in ("any", "wild", "one")]
    services = tuple(f"default/{name}" for name in ("any", "wild", "one"))
    found = read(gateway(*listeners), world(*routes, services=services))
    assert {name: [told(r) for r in host(found, name).rules] for name in ("", "*.example", "a.example")} == {
        "": ["any"],
        "*.example": ["wild"],
        "a.example": ["one"],
    }
    found = read(gateway(*listeners), world(*routes[:2], services=services))
    assert host(found, "a.example").rules == ()  # and so 404, not what the wildcard has


def rule(service: str) -> dict[str, Any]:
    return {"backendRefs": [{"name": service, "port": 80}]}


@pytest.mark.parametrize(
    ("listeners", "reasons"),
    [
        ([HTTP, https("b")], {"http": WHOLE, "b": WHOLE}),
        (
            [HTTP, {**HTTP, "name": "b", "protocol": "TCP"}],
            {key: {"Accepted": "-ProtocolConflict", "Conflicted": "ProtocolConflict"} for key in ("http", "b")},
        ),
        (
            [https("a", "x.example"), https("b", "x.example", protocol="TLS", tls={"mode": "Passthrough"})],
            {key: {"Accepted": "-HostnameConflict", "Conflicted": "HostnameConflict"} for key in ("a", "b")},
        ),
        ([https("a", "x.example"), https("b", "y.example", protocol="TLS", tls={"mode": "Passthrough"})],
         {"a": WHOLE, "b": WHOLE}),
        ([{**HTTP, "protocol": "UDP"}], {"http": {"Accepted": "-UnsupportedProtocol", "Programmed": "-Invalid"}}),
        ([{**HTTP, "port": 10254}], {"http": {"Accepted": "-PortUnavailable", "Programmed": "-Invalid"}}),
        ([https("a", secret="none")], {"a": {"ResolvedRefs": "-InvalidCertificateRef", "Programmed": "-Invalid"}}),
        ([https("a", tls={"certificateRefs": [{"name": "c", "kind": "ConfigMap"}]})],
         {"a": {"Accepted": "Accepted", "ResolvedRefs": "-InvalidCertificateRef"}}),
        ([https("a", tls={"certificateRefs": [{"name": "c", "namespace": "certs"}]})],
         {"a": {"ResolvedRefs": "-RefNotPermitted", "Programmed": "-Invalid"}}),
        ([{**HTTP, "allowedRoutes": {"kinds": [{"kind": "HTTPRoute"}, {"kind": "TCPRoute"}]}}],
         {"http": {"Accepted": "Accepted", "ResolvedRefs": "-InvalidRouteKinds", "Programmed": "Programmed"}}),
    ],
)  # fmt: skip
def test_a_listener_is_told_what_is_wrong_with_it(listeners: list[Any], reasons: dict[str, dict[str, str]]) -> None:
    found = listener_conditions(read(gateway(*listeners), world()))
    for name, wanted in reasons.items():
        assert found[name].items() >= wanted.items()


def test_kinds_of_routes_that_a_listener_takes() -> None:
    odd = {
        **HTTP,
        "allowedRoutes": {"kinds": [{"kind": "HTTPRoute"}, {"kind": "TCPRoute"}, {"kind": "X", "group": "y"}]},
    }
    found = read(gateway(odd, https("b")), world()).status.listeners
    assert [each.kinds for each in found] == [("HTTPRoute",), ("HTTPRoute", "GRPCRoute")]


def test_a_certificate_of_another_namespace_needs_a_grant() -> None:
    listener = https("a", tls={"certificateRefs": [{"name": "c", "namespace": "certs"}]})
    for given, reason in (
        (grant("certs", "Gateway", "default", "Secret"), "ResolvedRefs"),
        (grant("certs", "Gateway", "default", "Secret", "c"), "ResolvedRefs"),
        (grant("certs", "Gateway", "default", "Secret", "d"), "-RefNotPermitted"),
        (grant("certs", "Gateway", "apps", "Secret"), "-RefNotPermitted"),
        (grant("certs", "HTTPRoute", "default", "Secret"), "-RefNotPermitted"),
        (grant("default", "Gateway", "default", "Secret"), "-RefNotPermitted"),
    ):
        found = read(gateway(listener), world(given, secrets=("certs/c",)))
        assert listener_conditions(found)["a"]["ResolvedRefs"] == reason


@pytest.mark.parametrize(
    ("fields", "site_ready", "reasons"),
    [
        ({}, True, ["Accepted", "Programmed"]),
        ({}, False, ["Accepted", "NoResources"]),
        ({"infrastructure": {"parametersRef": {"group": "x.y", "kind": "Z", "name": "z"}}}, True,
         ["InvalidParameters", "Invalid"]),
        ({"addresses": [{"type": "Hostname", "value": "a.b"}]}, True, ["UnsupportedAddress", "Invalid"]),
    ],
)  # fmt: skip
def test_a_gateway_is_told_whether_it_is_served(fields: dict[str, Any], site_ready: bool, reasons: list[str]) -> None:
    found = read(gateway(**fields), world(http_route("shop")), ready=site_ready)
    assert [c.reason for c in found.status.conditions] == reasons
    assert bool(found.routing.entrances) is (reasons[0] == "Accepted")


def test_a_gateway_without_a_listener_that_can_be_served_is_not_programmed() -> None:
    listeners = [https("a", secret="none"), {**HTTP, "name": "udp", "protocol": "UDP"}]
    accepted, programmed = read(gateway(*listeners), world()).status.conditions
    assert (accepted.status, accepted.reason) == (True, "ListenersNotValid")
    assert (programmed.status, programmed.reason) == (False, "Invalid")
    assert programmed.message == "none can be served: listener a, udp"


def test_listeners_of_a_port_are_one_entrance_with_their_certificates() -> None:
    found = read(gateway(HTTP, https("a", "x.example"), https("b"), https("c", "y.example", "none")), world())
    plain, tls = found.routing.entrances
    assert (plain.port, plain.tls, plain.table) == (80, False, "port-80")
    assert [(c.host, c.secret) for c in tls.certificates] == [("x.example", Key("default", "shop")),
                                                               ("", Key("default", "shop"))]  # fmt: skip
    assert tls.strict  # y.example has no good certificate, and is shown none


def test_tcp_and_tls_routes() -> None:
    def route(kind: str, name: str, created: int = 0, **spec: Any) -> Object:
        rules = [{"backendRefs": [{"name": "web", "port": 80}]}]
        return made(kind, name, created=created, parentRefs=[{"name": "front"}], rules=rules, **spec)

    listeners = [
        {"name": "tcp", "port": 5432, "protocol": "TCP"},
        {"name": "pass", "port": 443, "protocol": "TLS", "tls": {"mode": "Passthrough"}},
        {"name": "end", "port": 8443, "protocol": "TLS", "tls": {"certificateRefs": [{"name": "shop"}]}},
    ]
    routes = [
        route("TCPRoute", "late", 2),
        route("TCPRoute", "early", 1),
        route("TLSRoute", "names", hostnames=["a.example", "*.b.example"]),
    ]
    found = read(gateway(*listeners), world(*routes))
    tcp, passing, ending = found.routing.entrances
    assert [(s.hosts, s.owner.name) for s in tcp.streams] == [((), "early")]
    assert [s.hosts for s in passing.streams] == [("a.example",), ("*.b.example",)]
    assert {s.certificate for s in passing.streams} == {None}
    assert {s.certificate for s in ending.streams} == {Key("default", "shop")}
    assert [p.reason for p in found.routing.problems if p.owner.name == "late"] == ["Conflict", "Conflict"]
    assert all(conditions(p)["Accepted"] == "Accepted" for p in found.parents)


def test_parents_that_are_no_gateways() -> None:
    route = http_route("mesh", parent={"kind": "Service", "group": ""})
    assert read(gateway(), world(route)).parents == ()
    assert list(other_parents(route)) == ["spec.parentRefs[0]: Service front: routes have an effect at Gateways only"]


def test_a_name_of_tls_belongs_to_one_listener() -> None:
    wild = https("wild", "*.example", protocol="TLS", tls={"mode": "Passthrough"})
    rules = [{"backendRefs": [{"name": "web", "port": 80}]}]
    route = made("TLSRoute", "r", parentRefs=[{"name": "front"}], rules=rules, hostnames=["a.example", "b.example"])
    found = read(gateway(https("one", "a.example"), wild), world(route))
    (entrance,) = found.routing.entrances
    assert [stream.hosts for stream in entrance.streams] == [("b.example",)]
    assert [c.host for c in entrance.certificates] == ["a.example"]
    assert "a.example of port 443 belongs to listener one" in found.routing.problems[0].message


def test_a_port_without_routes_of_connections_is_closed() -> None:
    passing = https("pass", protocol="TLS", tls={"mode": "Passthrough"})
    assert read(gateway(passing), world()).routing.entrances == ()
