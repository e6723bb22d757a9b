"""Istio's Gateways and VirtualServices: what comes in by which server, and where it goes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from gateway_objects import PAIR, told
from ingress_objects import service_object

from kmn.ingress.certificates import KeyPair
from kmn.ingress.istio.destinations import service_of
from kmn.ingress.istio.manifests import pod_port, service_ports
from kmn.ingress.istio.reading import IstioWorld, read_istio
from kmn.ingress.model import (
    Backend,
    Balance,
    Cookie,
    Cors,
    Forward,
    HashKey,
    HeaderChange,
    Host,
    How,
    Keyed,
    Match,
    Mirror,
    Protocol,
    Redirect,
    Retry,
    Rewrite,
    Routing,
    Rule,
    Text,
    Upstream,
)
from kmn.k8s.objects import Key, Object

SECRET = Key("istio-system", "shop")


def made(kind: str, name: str, namespace: str = "default", created: int = 0, **spec: Any) -> Object:
    meta = {"name": name, "namespace": namespace, "creationTimestamp": f"2026-01-01T00:00:{created:02}Z"}
    return {"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": meta, "spec": copy.deepcopy(spec)}


def server(number: int = 80, protocol: str = "HTTP", *hosts: str, **fields: Any) -> dict[str, Any]:
    return {"port": {"number": number, "name": "p", "protocol": protocol}, "hosts": list(hosts or ("*",)), **fields}


def gateway(*servers: dict[str, Any], name: str = "front", **fields: Any) -> Object:
    return made("Gateway", name, selector={"istio": "ingressgateway"}, servers=list(servers or (server(),)), **fields)


def virtual(
    *http: dict[str, Any], name: str = "shop", namespace: str = "default", created: int = 0, **spec: Any
) -> Object:
    found = {"hosts": ["*"], "gateways": ["front"], **({"http": list(http)} if http else {}), **spec}
    return made("VirtualService", name, namespace, created, **found)


def to(host: str, **fields: Any) -> dict[str, Any]:
    return {"route": [{"destination": {"host": host}}], **fields}


def read(*objects: Object) -> Routing:
    def pair(key: Key) -> KeyPair | ValueError:
        return PAIR if key == SECRET else ValueError(f"there is no Secret {key}")

    def of(kind: str) -> list[Object]:
        return [obj for obj in objects if obj["kind"] == kind]

    services = {Key("default", name): service_object(name) for name in ("web", "old")}
    services[Key("default", "calls")] = service_object(
        "calls", {"name": "grpc-main", "port": 9000}, {"name": "b", "port": 1}
    )
    return read_istio(IstioWorld(of("Gateway"), of("VirtualService"), of("DestinationRule"), services, pair))


def rules(*http: dict[str, Any]) -> tuple[Rule, ...]:
    return host(read(gateway(), virtual(*http))).rules


def host(routing: Routing, name: str = "", port: int = 8080) -> Host:
    return next(each for each in routing.tables[f"port-{port}"].hosts if each.name == name)


def problems(routing: Routing) -> list[tuple[str, str, str]]:
    return [(p.owner.name, p.reason, p.message.partition(": ")[2]) for p in routing.problems]


@pytest.mark.parametrize(
    ("name", "service"),
    [
        ("web", Key("apps", "web")),
        ("web.other", Key("other", "web")),
        ("web.other.svc", Key("other", "web")),
        ("web.other.svc.cluster.local", Key("other", "web")),
        ("www.example.com", None),
    ],
)
def test_services_by_their_hosts(name: str, service: Key | None) -> None:
    assert service_of(name, "apps") == service


def test_ports_of_servers_and_of_the_load_balancer() -> None:
    assert [pod_port(number) for number in (80, 443, 8080, 9000)] == [8080, 8443, 8080, 9000]
    found = service_ports([gateway(server(80), server(8080), server(9000))])
    assert [(port["port"], port["targetPort"]) for port in found] == [(80, 8080), (443, 8443), (9000, 9000)]
    routing = read(gateway(server(80, "HTTP", "a.example"), server(8080, "HTTP", "b.example")))
    assert [entrance.port for entrance in routing.entrances] == [8080]


@pytest.mark.parametrize(
    ("hosts", "wanted", "found"),
    [
        (["*"], ["a.example"], ["a.example"]),
        (["*.example"], ["a.example", "b.other"], ["a.example"]),
        (["a.example"], ["*"], ["a.example"]),
        (["default/*"], ["a.example"], ["a.example"]),
        (["./a.example"], ["a.example"], ["a.example"]),
        (["apps/*"], ["a.example"], []),
    ],
)
def test_hosts_are_those_of_both(hosts: list[str], wanted: list[str], found: list[str]) -> None:
    routing = read(gateway(server(80, "HTTP", *hosts)), virtual(to("web"), hosts=wanted))
    assert [each.name for each in routing.tables["port-8080"].hosts if each.rules] == found


def test_gateways_are_named_with_or_without_their_namespace() -> None:
    here, there = virtual(to("web"), name="a"), virtual(to("web.default"), name="b", namespace="apps")
    assert len(host(read(gateway(), here, there)).rules) == 1
    there["spec"]["gateways"] = ["default/front"]
    assert len(host(read(gateway(), here, there)).rules) == 2


def test_routes_are_tried_in_their_order_and_those_of_the_older_object_first() -> None:
    late = virtual(to("web", match=[{"uri": {"exact": "/late"}}]), to("web"), name="late", created=2)
    early = virtual(to("old"), to("web", match=[{"uri": {"exact": "/early"}}]), name="early", created=1)
    found = [rule.name for rule in host(read(gateway(), late, early)).rules]
    assert found == [
        "VirtualService default/early spec.http[1].match[0]",
        "VirtualService default/late spec.http[0].match[0]",
        "VirtualService default/early spec.http[0]",
        "VirtualService default/late spec.http[1]",
    ]
    assert [rule.field for rule in host(read(gateway(), early)).rules] == ["spec.http[0]", "spec.http[1].match[0]"]


@pytest.mark.parametrize(
    ("match", "wanted"),
    [
        ({}, Match()),
        ({"uri": {"exact": "/a"}}, Match(Text(How.EXACT, "/a"))),
        ({"uri": {"prefix": "/a.b"}}, Match(Text(How.REGEX, r"/a\.b(.*)"))),
        ({"uri": {"prefix": "/"}}, Match()),
        ({"uri": {"regex": "/a+"}, "ignoreUriCase": True}, Match(Text(How.REGEX, "/a+", ignore_case=True))),
        ({"method": {"exact": "PUT"}}, Match(methods=("PUT",))),
    ],
)
def test_matches(match: dict[str, Any], wanted: Match) -> None:
    (rule,) = rules(to("web", match=[match]))
    assert rule.match == wanted


def test_matches_of_headers_and_query() -> None:
    match = {
        "headers": {"a": {"exact": "1"}, "b": {"prefix": "x"}, "c": {}},
        "withoutHeaders": {"d": {"regex": ".+"}},
        "queryParams": {"q": {"exact": "1"}},
        "authority": {"prefix": "shop"},
    }
    (rule,) = rules(to("web", match=[match]))
    assert [(c.name, c.text, c.negated) for c in rule.match.headers] == [
        (":authority", Text(How.PREFIX, "shop"), False),
        ("a", Text(How.EXACT, "1"), False),
        ("b", Text(How.PREFIX, "x"), False),
        ("c", Text(How.PRESENT), False),
        ("d", Text(How.REGEX, ".+"), True),
    ]
    assert [(c.name, c.text) for c in rule.match.query] == [("q", Text(How.EXACT, "1"))]


def test_matches_for_other_ports_and_gateways_are_left_out() -> None:
    matches = [
        {"port": 81},
        {"gateways": ["back"]},
        {"port": 80, "gateways": ["default/front"]},
        {"sourceLabels": {"a": "b"}},
    ]
    assert [rule.field for rule in rules(to("web", match=matches))] == ["spec.http[0].match[2]"]


@pytest.mark.parametrize(
    ("match", "rewrite", "path", "wanted"),
    [
        ({"uri": {"prefix": "/a"}}, {"uri": "/b"}, Text(How.REGEX, "/a(.*)"), Rewrite(substitution="/b\\1")),
        ({}, {"uri": "/b/"}, Text(How.REGEX, "/(.*)"), Rewrite(substitution="/b/\\1")),
        ({"uri": {"exact": "/a"}}, {"uri": "/b", "authority": "c"}, Text(How.EXACT, "/a"), Rewrite("c", path="/b")),
        ({"uri": {"regex": "/a.*"}}, {"uri": "/b"}, Text(How.REGEX, "/a.*"), Rewrite(path="/b")),
        ({}, {"authority": "c"}, Text(How.PREFIX), Rewrite("c")),
        ({}, {"uriRegexRewrite": {"match": "^/v(.)", "rewrite": "/\\1"}}, Text(How.PREFIX),
         Rewrite(pattern="^/v(.)", substitution="/\\1")),
    ],
)  # fmt: skip
def test_rewrites(match: dict[str, Any], rewrite: dict[str, Any], path: Text, wanted: Rewrite) -> None:
    (rule,) = rules(to("web", match=[match], rewrite=rewrite))
    assert (rule.match.path, rule.treatment.rewrite) == (path, wanted)


def test_what_is_done_with_requests() -> None:
    change = {"request": {"set": {"a": "1"}, "remove": ["b"]}, "response": {"add": {"c": "2"}}}
    http = to("web", headers=change, timeout="0.5s", mirror={"host": "old"}, mirrorPercentage={"value": 2.5})
    (rule,) = rules(http)
    assert rule.treatment.request_headers == HeaderChange(set=(("a", "1"),), remove=("b",))
    assert rule.treatment.response_headers == HeaderChange(add=(("c", "2"),))
    assert rule.treatment.timeout == 0.5
    assert rule.treatment.mirrors == (Mirror(Upstream(Backend("default", "old", 80)), 25_000, 1_000_000),)
    redirect, answer = rules(
        {"redirect": {"uri": "/x", "authority": "a.b", "redirectCode": 302}, "match": [{"uri": {"exact": "/y"}}]},
        {"directResponse": {"status": 418, "body": {"string": "tea"}}},
    )
    assert redirect.action == Redirect(302, None, "a.b", None, "/x")
    assert told(answer) == "418"


def test_destinations_weights_and_subsets() -> None:
    rule = made("DestinationRule", "web", host="web.default", subsets=[{"name": "v1", "labels": {"version": "v1"}}])
    http = {
        "route": [
            {"destination": {"host": "web", "subset": "v1"}, "weight": 90},
            {"destination": {"host": "web", "subset": "v2"}, "weight": 10},
            {"destination": {"host": "calls", "port": {"number": 9000}}, "weight": 0},
        ]
    }
    routing = read(gateway(), virtual(http), rule)
    action = host(routing).rules[0].action
    assert isinstance(action, Forward)
    assert [(share.weight, share.upstream) for share in action.shares] == [
        (90, Upstream(Backend("default", "web", 80), labels=(("version", "v1"),))),
        (10, None),
        (0, Upstream(Backend("default", "calls", 9000), Protocol.H2C)),
    ]
    assert problems(routing) == [
        ("shop", "NotEmulated", "spec.http[0].route[1].destination: no DestinationRule for web has subset v2")
    ]


@pytest.mark.parametrize(
    ("objects", "found"),
    [
        ([virtual(to("www.example.com"))], ("shop", "NotEmulated", "host www.example.com is no Service")),
        ([virtual(to("calls"))], ("shop", "NotEmulated", "Service default/calls has several ports: give port.number")),
        ([virtual(to("web", fault={"delay": {}}))], ("shop", "NotEmulated", "spec.http[0].fault has no effect")),
        ([virtual({"delegate": {"name": "x"}})], ("shop", "NotEmulated", "VirtualService default/x does not exist")),
        ([virtual(to("web"), gateways=["mesh"])], ("shop", "NotEmulated", "pods have no sidecars")),
        ([virtual(to("web"), gateways=["back"])], ("shop", "NoController", "there is no Gateway default/back")),
        ([made("Gateway", "own", selector={"app": "x"}, servers=[server()])], ("own", "NoController", "spec.selector")),
        (
            [made("DestinationRule", "d", host="web", trafficPolicy={"outlierDetection": {}})],
            ("d", "NotEmulated", "spec.trafficPolicy.outlierDetection has no effect"),
        ),
        (
            [made("DestinationRule", "d", host="web", trafficPolicy={"loadBalancer": {"simple": "RANDOM"}})],
            ("d", "NotEmulated", "spec.trafficPolicy.loadBalancer.simple: RANDOM has no effect"),
        ),
        ([gateway(server(443, "HTTPS", tls={"mode": "MUTUAL"}))], ("front", "NotEmulated", "tls.mode: MUTUAL")),
        ([gateway(server(443, "HTTPS", tls={"mode": "SIMPLE", "credentialName": "none"}))],
         ("front", "BadCertificate", "there is no Secret istio-system/none")),
    ],
)  # fmt: skip
def test_what_has_no_effect_is_told(objects: list[Object], found: tuple[str, str, str]) -> None:
    name, reason, words = found
    front = [] if any(obj["kind"] == "Gateway" for obj in objects) else [gateway()]
    (problem,) = problems(read(*front, *objects))
    assert problem[:2] == (name, reason)
    assert words in problem[2]


def test_tls_and_tcp() -> None:
    simple = {"mode": "SIMPLE", "credentialName": "shop"}
    servers = [
        server(80, "HTTP", "shop.example", tls={"httpsRedirect": True}),
        server(443, "HTTPS", "shop.example", tls=simple),
        server(443, "TLS", "own.example", tls={"mode": "PASSTHROUGH"}),
        server(5432, "TCP"),
        server(5433, "TLS", "db.example", tls=simple),
    ]
    route = [{"destination": {"host": "web"}}]
    services = [
        virtual(to("web"), hosts=["shop.example"]),
        virtual(name="own", hosts=["own.example"], tls=[{"match": [{"sniHosts": ["own.example"]}], "route": route}]),
        virtual(name="db", tcp=[{"route": route}]),
    ]
    routing = read(gateway(*servers), *services)
    plain, tls, tcp, ended = routing.entrances
    assert host(routing, "shop.example").rules[0].action == Redirect(301, "https")
    assert [told(rule) for rule in host(routing, "shop.example", 8443).rules] == ["web"]
    assert (plain.tls, tls.tls, tcp.tls, ended.tls) == (False, True, False, True)
    assert [(c.host, c.secret) for c in tls.certificates] == [("shop.example", SECRET)]
    assert [(s.hosts, s.certificate) for s in tls.streams] == [(("own.example",), None)]
    assert [(s.hosts, s.certificate) for s in tcp.streams] == [((), None)]
    assert [(s.hosts, s.certificate) for s in ended.streams] == [(("db.example",), SECRET)]


def test_a_port_is_of_one_kind() -> None:
    routing = read(gateway(server(80, "HTTP"), server(80, "TCP")), virtual(to("web")))
    assert [(entrance.port, entrance.streams) for entrance in routing.entrances] == [(8080, ())]
    assert problems(routing)[0][:2] == ("front", "Conflict")


@pytest.mark.parametrize(
    ("http", "words"),
    [
        (to("web", match=[{"uri": {"regex": "/(?!a)"}}]), "no look-around"),
        (to("web", match=[{"headers": {"a": {"regex": "("}}}]), "match[0]: missing )"),
        (to("web", rewrite={"uriRegexRewrite": {"match": "/a", "rewrite": "/\\1"}}), "names more groups than"),
    ],
)
def test_what_envoy_would_refuse_all_routes_for_is_left_out(http: dict[str, Any], words: str) -> None:
    routing = read(gateway(), virtual(http, to("old")))
    assert [told(rule) for rule in host(routing).rules] == ["old"]
    assert words in problems(routing)[0][2]


def test_headers_that_are_none() -> None:
    change = {"request": {"set": {":authority": "in.example", "a b": "1", "c": "2"}, "remove": [":path"]}}
    routing = read(gateway(), virtual(to("web", headers=change)))
    (rule,) = host(routing).rules
    assert rule.treatment.rewrite == Rewrite("in.example")
    assert rule.treatment.request_headers == HeaderChange(set=(("c", "2"),))
    assert [p[2] for p in problems(routing)] == [
        f"spec.http[0].headers: {name}: this header cannot be changed" for name in ("a b", ":path")
    ]


def test_clients_use_the_ports_of_the_load_balancer() -> None:
    routing = read(gateway(server(80), server(9000)), virtual(to("web")))
    assert [(entrance.port, entrance.public) for entrance in routing.entrances] == [(8080, 80), (9000, 9000)]


@pytest.mark.parametrize(
    ("retries", "wanted"),
    [
        (None, Retry(3)),
        ({"attempts": 0}, Retry(1)),
        ({"attempts": 4, "retryOn": "gateway-error,connect-failure,429"}, Retry(5, (502, 503, 504, 429))),
        ({"retryOn": "5xx"}, Retry(3, (500, 502, 503, 504))),
    ],
)
def test_tries(retries: dict[str, Any] | None, wanted: Retry) -> None:
    (rule,) = rules(to("web", **({"retries": retries} if retries is not None else {})))
    assert rule.treatment.retry == wanted


def test_other_origins() -> None:
    policy = {
        "allowOrigins": [{"exact": "https://a.example"}, {"prefix": "https://b."}],
        "allowMethods": ["GET"],
        "allowHeaders": ["x-a", "x-b"],
        "allowCredentials": True,
        "maxAge": "24h",
    }
    (rule,) = rules(to("web", corsPolicy=policy))
    assert rule.treatment.cors == Cors(
        (Text(How.EXACT, "https://a.example"), Text(How.REGEX, r"https://b\..*")),
        "GET", "x-a, x-b", credentials=True, max_age=86400,
    )  # fmt: skip
    (rule,) = rules(to("web", corsPolicy={"allowOrigins": [{"exact": "*"}]}))
    assert rule.treatment.cors == Cors((Text(How.PRESENT),), "", "")


@pytest.mark.parametrize(
    ("hashed", "key"),
    [
        ({"httpHeaderName": "x-user"}, HashKey(Keyed.HEADER, "x-user")),
        ({"httpQueryParameterName": "user"}, HashKey(Keyed.QUERY, "user")),
        ({"useSourceIp": True}, HashKey(Keyed.ADDRESS)),
        ({"httpCookie": {"name": "c", "ttl": "60s"}}, HashKey(Keyed.COOKIE, "c", Cookie("c", max_age=60))),
    ],
)
def test_how_endpoints_are_chosen(hashed: dict[str, Any], key: HashKey) -> None:
    policy = {"loadBalancer": {"consistentHash": hashed}, "connectionPool": {"tcp": {"connectTimeout": "2s"}}}
    subset = {"name": "v1", "labels": {"a": "b"}, "trafficPolicy": {"loadBalancer": {"simple": "LEAST_REQUEST"}}}
    rule = made("DestinationRule", "web", host="web", trafficPolicy=policy, subsets=[subset])
    whole = virtual(
        to("web", match=[{"uri": {"exact": "/a"}}]), {"route": [{"destination": {"host": "web", "subset": "v1"}}]}
    )
    first, second = host(read(gateway(), whole, rule)).rules
    assert first.treatment.hash_on == (key,)
    assert [(u.balance, u.connect_timeout) for u in first.upstreams()] == [(Balance.HASH, 2.0)]
    assert second.treatment.hash_on == ()
    assert [(u.balance, u.connect_timeout) for u in second.upstreams()] == [(Balance.LEAST_REQUESTS, 2.0)]


def test_routes_that_are_left_to_another_object() -> None:
    root = virtual(
        {
            "match": [{"uri": {"prefix": "/shop"}, "headers": {"a": {"exact": "1"}}}],
            "delegate": {"name": "part"},
            "timeout": "5s",
        },
        to("old"),
    )
    part = made(
        "VirtualService",
        "part",
        http=[
            to("web", match=[{"uri": {"prefix": "/shop/a"}, "headers": {"b": {"exact": "2"}}}]),
            to("web", match=[{"uri": {"prefix": "/elsewhere"}}]),
            to("web", timeout="1s"),
        ],
    )
    routing = read(gateway(), root, part)
    found = host(routing).rules
    assert [(rule.owner.name, rule.match.path.value, rule.treatment.timeout) for rule in found] == [
        ("part", "/shop/a(.*)", 5.0),
        ("part", "/shop(.*)", 1.0),
        ("shop", "", None),
    ]
    assert [condition.name for condition in found[0].match.headers] == ["a", "b"]
    assert not routing.problems
