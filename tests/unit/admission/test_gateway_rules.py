"""Gateway API and Istio at the door: defaults, versions, and each rule by an object that breaks it."""

from __future__ import annotations

from typing import Any

import pytest
from test_admission_rules import admit, made, refusal

from kmn.k8s.objects import Object

GROUP = "gateway.networking.k8s.io"
LISTENER = {"name": "http", "port": 80, "protocol": "HTTP"}
CERTIFIED = {"mode": "Terminate", "certificateRefs": [{"name": "shop"}]}


def gateway(*listeners: Any, **spec: Any) -> Object:
    found = {"gatewayClassName": "kmn", "listeners": list(listeners or (LISTENER,)), **spec}
    return made(f"{GROUP}/v1", "Gateway", spec=found)


def http(*rules: Any, version: str = "v1", **spec: Any) -> Object:
    return made(f"{GROUP}/{version}", "HTTPRoute", spec={"rules": list(rules), **spec} if rules else spec)


def grpc(*rules: Any, **spec: Any) -> Object:
    return made(f"{GROUP}/v1", "GRPCRoute", spec={"rules": list(rules), **spec})


def path(value: str, kind: str = "PathPrefix") -> Object:
    return http({"matches": [{"path": {"type": kind, "value": value}}]})


def filters(*found: Any, **rule: Any) -> Object:
    return http({"filters": list(found), **rule})


def virtual(**spec: Any) -> Object:
    return made("networking.istio.io/v1", "VirtualService", spec={"hosts": ["shop"], **spec})


def server(**fields: Any) -> Object:
    found = {"port": {"number": 443, "name": "https", "protocol": "HTTPS"}, "hosts": ["*"], **fields}
    return made("networking.istio.io/v1", "Gateway", spec={"servers": [found]})


def admitted(obj: Object) -> Object:
    return admit(obj)[0]


def test_defaults_of_a_gateway() -> None:
    found = admitted(gateway({**LISTENER, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "shop"}]}}))
    assert found["spec"]["listeners"] == [
        {
            **LISTENER,
            "protocol": "HTTPS",
            "tls": {"mode": "Terminate", "certificateRefs": [{"name": "shop", "group": "", "kind": "Secret"}]},
            "allowedRoutes": {"namespaces": {"from": "Same"}},
        }
    ]
    waiting = found["status"]["conditions"]
    assert [(c["type"], c["status"], c["reason"]) for c in waiting] == [
        ("Accepted", "Unknown", "Pending"),
        ("Programmed", "Unknown", "Pending"),
    ]


def test_defaults_of_a_route() -> None:
    found = admitted(http(parentRefs=[{"name": "front"}]))["spec"]
    assert found["rules"] == [{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}]}]
    assert found["parentRefs"] == [{"name": "front", "group": GROUP, "kind": "Gateway"}]
    rule = {"matches": [{"headers": [{"name": "x", "value": "1"}]}], "backendRefs": [{"name": "web", "port": 80}]}
    found = admitted(http(rule))["spec"]["rules"][0]
    assert found["matches"][0]["path"] == {"type": "PathPrefix", "value": "/"}
    assert found["matches"][0]["headers"][0]["type"] == "Exact"
    assert found["backendRefs"] == [{"name": "web", "port": 80, "group": "", "kind": "Service", "weight": 1}]
    redirect = {"type": "RequestRedirect", "requestRedirect": {"scheme": "https"}}
    found = admitted(filters(redirect))["spec"]["rules"][0]["filters"][0]
    assert found["requestRedirect"] == {"scheme": "https", "statusCode": 302}


def test_versions_are_stored_as_one() -> None:
    assert admitted(http(version="v1beta1"))["apiVersion"] == f"{GROUP}/v1"
    rules = [{"backendRefs": [{"name": "web", "port": 80}]}]
    older = made(f"{GROUP}/v1alpha2", "TLSRoute", spec={"rules": rules})  # hostnames are required since v1alpha3
    assert admitted(older)["apiVersion"] == f"{GROUP}/v1"
    assert "spec.hostnames: required" in refusal({**older, "apiVersion": f"{GROUP}/v1alpha3"})
    assert admitted({**virtual(http=[{"redirect": {"uri": "/"}}]), "apiVersion": "networking.istio.io/v1alpha3"})


ONE_PREFIX = {"matches": [{"path": {"type": "PathPrefix", "value": "/a"}}]}
REWRITE = {"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/b"}}}
REDIRECT = {"type": "RequestRedirect", "requestRedirect": {"scheme": "https"}}
BACKENDS = {"backendRefs": [{"name": "web", "port": 80}]}
PARENT = {"name": "front"}


def test_what_looks_like_these_mistakes_is_right() -> None:
    for good in (
        filters(REWRITE, **ONE_PREFIX, **BACKENDS),
        filters(REDIRECT),
        path("/a.b/%41"),
        path("^/[a-z]+#?$", "RegularExpression"),
        http(parentRefs=[{**PARENT, "sectionName": "a"}, {**PARENT, "sectionName": "b"}, {"name": "back"}]),
        http({"timeouts": {"request": "0s", "backendRequest": "10s"}}),
        gateway(LISTENER, {**LISTENER, "name": "b", "hostname": "*.example"}),
        gateway({**LISTENER, "protocol": "TLS", "tls": {"mode": "Passthrough"}}),
        virtual(http=[{"route": [{"destination": {"host": "a"}, "weight": 0}]}]),
        server(tls={"mode": "PASSTHROUGH"}, hosts=["./*.shop.example"]),
    ):
        assert admitted(good)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (gateway(LISTENER, LISTENER), "spec.listeners[1].name: "),
        (gateway(LISTENER, {**LISTENER, "name": "b"}), "has the same port, protocol and hostname"),
        (gateway({**LISTENER, "tls": CERTIFIED}), "listeners[0].tls: may not be given with protocol HTTP: remove it"),
        (gateway({**LISTENER, "protocol": "TLS"}), "listeners[0].tls: required with protocol TLS"),
        (
            gateway({**LISTENER, "protocol": "HTTPS", "tls": {"mode": "Passthrough"}}),
            'tls.mode: must be "Terminate" with protocol HTTPS, is "Passthrough"',
        ),
        (gateway({**LISTENER, "protocol": "HTTPS", "tls": {}}), "certificateRefs: required with mode Terminate"),
        (gateway({**LISTENER, "protocol": "TCP", "hostname": "a.b"}), "hostname: may not be given with protocol TCP"),
        (gateway({**LISTENER, "hostname": "A.b"}), "must be a DNS name in lower case"),
        (gateway({**LISTENER, "port": 0}), "spec.listeners[0].port: must be between 1 and 65535, is 0"),
        (gateway(addresses=[{"value": "1.2.3"}]), "spec.addresses[0].value: must be an IP address"),
        (gateway(addresses=[{"value": "1.2.3.4"}] * 2), "spec.addresses[1].value: "),
        (gateway(listener=[]), 'spec.listener: unknown field, did you mean "listeners"?'),
        (path("a"), 'matches[0].path.value: must begin with "/"'),
        (path("/a//b"), 'must not contain "//"'),
        (path("/a/.."), 'must not end in "/." or "/.."'),
        (path("/a b"), "must be a path: "),
        (path("/", "Prefix"), "path.type: must be one of"),
        (filters(REWRITE, matches=[{"path": {"type": "Exact", "value": "/a"}}]), "with exactly one match"),
        (filters(REWRITE, REDIRECT, **ONE_PREFIX), "RequestRedirect and URLRewrite exclude each other"),
        (filters(REDIRECT, **BACKENDS), "a rule with filter RequestRedirect has no backends"),
        (filters(REDIRECT, REDIRECT), "filter RequestRedirect may be there once, is 2 times"),
        (filters({"type": "CORS"}), "filters[0].cors: required with type CORS"),
        (filters({**REDIRECT, "cors": {}}), "filters[0].cors: may not be given with type RequestRedirect"),
        (http({"backendRefs": [{"name": "web"}]}), "backendRefs[0].port: required for a Service"),
        (http({"timeouts": {"request": "1s", "backendRequest": "2s"}}), "must not be longer than"),
        (http({"timeouts": {"request": "1 s"}}), "must be a duration such as"),
        (http(parentRefs=[PARENT, PARENT]), "parentRefs[1]: spec.parentRefs[0] names the same"),
        (http(parentRefs=[PARENT, {**PARENT, "port": 80}]), "sectionName or port is required here"),
        (http(hostnames=["1.2.3.4:80"]), "spec.hostnames[0]: must be a DNS name"),
        (http({"name": "a"}, {"name": "a"}), "spec.rules[1].name: "),
        (grpc({"matches": [{"method": {}}]}), "matches[0].method: required: service, method, or both"),
        (grpc({"matches": [{"method": {"service": "a/b"}}]}), "method.service: must be a name"),
        (server(), "spec.servers[0].tls: required with protocol HTTPS"),
        (server(tls={"mode": "SIMPLE"}), "tls.credentialName: required with mode SIMPLE"),
        (virtual(), "spec.http: required"),
        (virtual(http=[{}]), "required: exactly one of route, redirect, directResponse and delegate; has none"),
        (virtual(http=[{"redirect": {"uri": "/"}, "match": [{"uri": {}, "method": {"exact": "A", "regex": "B"}}]}]),
         "match[0].method: required: exactly one of exact, prefix, regex; has exact and regex"),
        (virtual(http=[{"route": [{"destination": {"host": h}} for h in "ab"]}]), "whose sum is more than 0"),
    ],
)  # fmt: skip
def test_what_is_refused(wrong: Object, words: str) -> None:
    assert words in refusal(wrong)


def test_the_controller_of_a_class_stays() -> None:
    def of(controller: str) -> Object:
        return made(f"{GROUP}/v1", "GatewayClass", spec={"controllerName": controller})

    assert "spec.controllerName: may not change" in refusal(of("a.example/b"), of("a.example/a"))


def test_policies_of_destinations() -> None:
    def rule(**policy: Any) -> Object:
        spec = {"host": "web", "trafficPolicy": policy}
        return made("networking.istio.io/v1", "DestinationRule", spec=spec)

    assert admitted(rule(loadBalancer={"simple": "ROUND_ROBIN"}, outlierDetection={"baseEjectionTime": "1m"}))
    words = refusal(rule(connectionPool={"tcp": {"connectTimeout": "soon"}}, tls={"mode": "SIMPEL"}))
    assert "spec.trafficPolicy.connectionPool.tcp.connectTimeout: must be a duration such as" in words
    assert 'spec.trafficPolicy.tls.mode: must be one of "DISABLE"' in words
