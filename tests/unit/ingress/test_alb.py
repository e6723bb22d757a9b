"""Ingresses of class ``alb``: groups and listeners, conditions, actions, target groups; what is told of the rest."""

from __future__ import annotations

import json
import re
from functools import partial
from ipaddress import IPv4Network
from typing import Any

import pytest
from ingress_objects import ingress, path, rule, service_object, slice_of

from kmn.cli.ingress import Query, asked_of
from kmn.ingress.certificates import self_signed
from kmn.ingress.dialects.alb.annotations import Notes
from kmn.ingress.dialects.alb.conditions import match_of, path_patterns, source_pattern
from kmn.ingress.dialects.alb.groups import Group, Listener, balancer_name, groups_of, hostname_of
from kmn.ingress.dialects.alb.params import as_its_class_says, ignored_fields
from kmn.ingress.dialects.alb.rules import routing_of
from kmn.ingress.explain import Explanation, explain
from kmn.ingress.model import (
    Answer,
    Backend,
    Certificate,
    Condition,
    Cookie,
    Forward,
    HealthCheck,
    How,
    Match,
    Owner,
    Protocol,
    Reach,
    Redirect,
    Routing,
    Rule,
    Text,
    Upstream,
)
from kmn.ingress.state import State
from kmn.k8s.objects import Key, Object
from kmn.k8s.resources import APPLICATIONLOADBALANCERS, ENDPOINTSLICES, INGRESSCLASSES, INGRESSES
from kmn.k8s.resources import SERVICES as SERVICE

PREFIX = "alb.ingress.kubernetes.io/"
EVERYBODY = (IPv4Network("0.0.0.0/0"),)
NODE_PORT = {"type": "NodePort"}
SERVICES = {Key("default", name): service_object(name, {"port": 80, "nodePort": 30080}, **NODE_PORT) for name in "ab"}


def alb(name: str, *rules: dict[str, Any], default: str = "", tls: Any = None, **notes: Any) -> Object:
    """An Ingress; annotations with ``_`` for ``-`` and ``__`` for ``.``, JSON of what is no text."""
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in notes.items()}
    named = {PREFIX + key.replace("__", ".").replace("_", "-"): value for key, value in texts.items()}
    fields = {"tls": tls} if tls else {}
    return ingress(name, *rules, default=default, annotations=named, **fields)


def one(*ingresses: Object) -> Group:
    (group,), problems = groups_of(ingresses)
    assert not problems
    return group


def routed(*ingresses: Object) -> Routing:
    return routing_of(one(*ingresses), SERVICES)


def rules_at(routing: Routing, port: int) -> tuple[Rule, ...]:
    (host,) = routing.tables[f"port-{port}"].hosts
    assert host.name == ""
    return host.rules


def told(routing: Routing) -> list[str]:
    return [f"{problem.reason}: {problem.message}" for problem in routing.problems]


def to(name: str, port: int | str = 80, **fields: Any) -> Upstream:
    return Upstream(Backend("default", name, port), **{"reach": Reach.NODES, "health": HealthCheck(), **fields})


def annotated(name: str, kind: str = "Prefix", text: str = "/") -> dict[str, Any]:
    return {**path(text, name, kind), "backend": {"service": {"name": name, "port": {"name": "use-annotation"}}}}


# --- groups


def test_ingresses_of_one_group_share_a_load_balancer_in_their_order() -> None:
    shop = {"group__name": "shop"}
    members = [
        alb("a", group__order="10", **shop),
        alb("b", scheme="internet-facing", inbound_cidrs="10.0.0.0/8, 203.0.113.10/32", **shop),
        alb("c", group__order="-1", listen_ports=[{"HTTP": 8080}, {"HTTP": 80}], **shop),
        alb("d"),
    ]
    (alone, found), problems = groups_of(members)
    assert not problems
    assert [each["metadata"]["name"] for each in found.members] == ["c", "b", "a"]
    sources = (IPv4Network("10.0.0.0/8"), IPv4Network("203.0.113.10/32"))
    assert found.listeners == (Listener(80, "HTTP", sources), Listener(8080, "HTTP", EVERYBODY))
    assert (found.id, found.internal, alone.id, alone.internal) == ("shop", False, "default/d", True)


def test_names_are_as_upstream_makes_them() -> None:
    group, alone = one(alb("x", group__name="my.long-group-name-of-all")), one(alb("my-long-ingress"))
    assert re.fullmatch("k8s-mylonggroupnameof-[0-9a-f]{10}", balancer_name("c", group))
    assert re.fullmatch("k8s-default-mylongin-[0-9a-f]{10}", balancer_name("c", alone))
    assert balancer_name("c", alone) != balancer_name("other", alone)
    assert balancer_name("c", one(alb("x", load_balancer_name="Mine"))) == "mine"
    assert re.fullmatch(r"internal-mine-\d{10}\.eu-west-1\.elb\.amazonaws\.com", hostname_of("mine", True, "eu-west-1"))


@pytest.mark.parametrize(
    ("notes", "why"),
    [
        ({"scheme": "public"}, '"public" should be internal or internet-facing'),
        ({"group__order": "first"}, '"first" should be a whole number from -1000 to 1000'),
        ({"listen_ports": "80"}, '80 should be like {"HTTP": 80}'),
        ({"listen_ports": "[{"}, "it should be JSON"),
        ({"listen_ports": [{"TCP": 80}]}, "should be like"),
        ({"inbound_cidrs": "anywhere"}, '"anywhere" should be a network such as 203.0.113.0/24'),
        ({"ssl_redirect": "443"}, '"443" should be a port with HTTPS of listen-ports'),
        ({"load_balancer_name": "-x"}, '"-x" should have 1 to 32 letters'),
        (
            {"load_balancer_attributes": "idle_timeout.timeout_seconds=0"},
            "should be a number of seconds from 1 to 4000",
        ),
        ({"load_balancer_attributes": "on"}, '"on" should be key=value'),
    ],
)
def test_values_that_cannot_be_used_are_told(notes: dict[str, Any], why: str) -> None:
    groups, problems = groups_of([alb("x", **notes)])
    messages = [p for p in [*problems, *groups[0].problems] if p.reason == "FailedBuildModel"]
    assert len(messages) == 1
    assert why in messages[0].message
    assert messages[0].message.startswith("Ingress default/x: annotation alb.ingress.kubernetes.io/")


def test_what_a_group_does_not_agree_on() -> None:
    group = one(alb("a", group__name="g", scheme="internal"), alb("b", group__name="g", scheme="internet-facing"),
                alb("c", group__name="g", listen_ports=[{"HTTPS": 80}]))  # fmt: skip
    assert group.internal
    said = [problem.message.partition("kubernetes.io/")[2] for problem in group.problems]
    assert said == [
        'scheme: another Ingress of the group says "internal" already, which counts: say the same',
        "listen-ports: another Ingress of the group has HTTP on port 80",
    ]


def test_an_ingress_whose_group_has_no_name_has_no_load_balancer() -> None:
    groups, (problem,) = groups_of([alb("a", group__name="My_Group")])
    assert not groups
    assert '"My_Group" should be a DNS name' in problem.message


# --- conditions


@pytest.mark.parametrize(
    ("text", "kind", "wanted"),
    [
        ("/", "Prefix", Text(How.PREFIX)),
        ("/a", "Prefix", Text(How.PREFIX, "/a")),
        ("/a/", "Prefix", Text(How.PREFIX, "/a")),
        ("/a", "Exact", Text(How.EXACT, "/a")),
        ("/", "ImplementationSpecific", Text(How.EXACT, "/")),  # the well-known trap
        ("/*", "ImplementationSpecific", Text(How.PREFIX)),
        ("/a/*/b?.html", "ImplementationSpecific", Text(How.REGEX, r"/a/.*/b.\.html")),
        ("", "ImplementationSpecific", Text(How.PREFIX)),
    ],
)
def test_paths(text: str, kind: str, wanted: Text) -> None:
    match = match_of("", path_patterns(text, kind), Notes(alb("x")), "s")
    assert match == Match(path=wanted)


@pytest.mark.parametrize(
    ("host", "fits", "fails"),
    [
        ("shop.example", ["shop.example", "SHOP.example", "shop.example:8080"], ["a.shop.example", "shopxexample"]),
        ("*.shop.example", ["a.shop.example", "a.b.shop.example"], ["shop.example"]),
        ("a?.example", ["ab.example"], ["a.example", "abc.example"]),
    ],
)
def test_hosts_are_patterns(host: str, fits: list[str], fails: list[str]) -> None:
    match = match_of(host, (), Notes(alb("x")), "s")
    assert match is not None
    (condition,) = match.headers
    assert condition.name == ":authority"
    assert [each for each in [*fits, *fails] if re.fullmatch(f"(?i){condition.text.value}", each)] == fits


def test_conditions_of_an_annotation() -> None:
    conditions = [
        {"field": "host-header", "hostHeaderConfig": {"values": ["*.example.org"]}},
        {"field": "path-pattern", "pathPatternConfig": {"values": ["/anno/*"]}},
        {"field": "http-header", "httpHeaderConfig": {"httpHeaderName": "X-Tier", "values": ["go?d", "silver*"]}},
        {"field": "http-request-method", "httpRequestMethodConfig": {"Values": ["GET", "HEAD"]}},
        {"field": "query-string", "queryStringConfig": {"values": [{"key": "v", "value": "2*"}, {"value": "beta"}]}},
        {"field": "source-ip", "sourceIpConfig": {"values": ["203.0.113.0/24", "10.0.0.0/9"]}},
    ]
    notes = Notes(alb("x", conditions__s=conditions))
    found = match_of("shop.example", ("/path",), notes, "s")
    assert not notes.problems
    assert found is not None
    assert found.path == Text(How.REGEX, "(/path|/anno/.*)")
    assert found.methods == ("GET", "HEAD")
    host, tier, query, source = found.headers
    assert host.text.value == r"(shop\.example|.*\.example\.org)\.?(:[0-9]+)?"
    assert tier == Condition("x-tier", Text(How.REGEX, "(go.d|silver.*)", ignore_case=True))
    for url, fits in {"/x?v=20": True, "/x?a=1&V=2&b": True, "/x?a=beta": True, "/x?v=3": False, "/v=2": False}.items():
        assert bool(re.fullmatch(f"(?i){query.text.value}", url)) == fits, url
    sent = {"203.0.113.9": True, "1.1.1.1, 10.127.0.1": True, "10.128.0.1": False, "203.0.113.9, 1.1.1.1": False}
    for addresses, fits in sent.items():
        assert bool(re.fullmatch(source.text.value, addresses)) == fits, addresses


@pytest.mark.parametrize("text", ["0.0.0.0/0", "10.20.0.0/14", "192.0.2.128/25", "198.51.100.7/32"])
def test_networks_as_patterns(text: str) -> None:
    network, pattern = IPv4Network(text), source_pattern(IPv4Network(text))
    outside = [network.network_address - 1, network.broadcast_address + 1] if network.prefixlen else []
    assert all(
        re.fullmatch(pattern, str(each)) for each in (network[0], network[-1], network[network.num_addresses // 2])
    )
    assert not any(re.fullmatch(pattern, str(each)) for each in outside)


@pytest.mark.parametrize(
    ("conditions", "why"),
    [
        ([{"field": "cookie", "cookieConfig": {"values": ["a"]}}], 'field "cookie" is not one of'),
        ([{"field": "path-pattern"}], "values should be a list"),
        ([{"field": "http-header", "httpHeaderConfig": {"values": ["a"]}}], "httpHeaderName is missing"),
        (
            [{"field": "http-header", "httpHeaderConfig": {"httpHeaderName": "a b", "values": ["a"]}}],
            '"a b" is no name',
        ),
        ([{"field": "path-pattern", "pathPatternConfig": {"regexValues": ["a"]}}], "regexValues is not emulated"),
        (["x"], "a list of conditions"),
    ],
)
def test_a_rule_whose_conditions_cannot_be_read_is_left_out(conditions: Any, why: str) -> None:
    routing = routed(alb("x", rule(None, path("/a", "a"), path("/b", "b")), conditions__a=conditions))
    assert [each.match.path.value for each in rules_at(routing, 80)] == ["/b"]
    (message,) = told(routing)
    assert why in message


# --- rules


def test_rules_in_the_order_of_groups_rules_and_kinds_of_paths() -> None:
    paths = [
        path("/i*", "a", "ImplementationSpecific"),
        path("/p", "a"),
        path("/longer", "a"),
        path("/e", "a", "Exact"),
    ]
    first = alb("z", rule("z.example", *paths), group__name="g", group__order="-5")
    routing = routed(alb("y", rule(None, path("/", "b")), default="b", group__name="g"), first)
    found = [(each.match.path.value, each.field) for each in rules_at(routing, 80)]
    at = "spec.rules[0].http.paths"
    assert found == [
        ("/e", f"{at}[3]"), ("/longer", f"{at}[2]"), ("/p", f"{at}[1]"), ("/i.*", f"{at}[0]"),
        ("", f"{at}[0]"), ("", "spec.defaultBackend"),
    ]  # fmt: skip


def test_rules_are_at_the_listeners_of_their_ingress() -> None:
    own, other = (
        alb("a", default="a", group__name="g"),
        alb("b", default="b", group__name="g", listen_ports=[{"HTTP": 81}]),
    )
    routing = routed(own, other)
    assert {each.port: rules_at(routing, each.port)[0].owner.name for each in routing.entrances} == {80: "a", 81: "b"}


def test_https_and_the_redirect_to_it() -> None:
    ports = [{"HTTP": 80}, {"HTTPS": 443}]
    tls = [{"hosts": ["Shop.example"], "secretName": "cert"}]
    routing = routed(alb("a", rule("shop.example", path("/", "a")), listen_ports=ports, ssl_redirect="443", tls=tls))
    clear, secure = routing.entrances
    owner = Owner("Ingress", "default", "a")
    assert secure.certificates == (Certificate("shop.example", Key("default", "cert"), owner),)
    assert (clear.tls, secure.tls, clear.certificates) == (False, True, ())
    (away,) = rules_at(routing, 80)
    assert (away.match, away.action) == (Match(), Redirect(301, scheme="https", port=443))
    assert isinstance(rules_at(routing, 443)[0].action, Forward)
    assert not routing.problems


def test_a_certificate_of_aws_asks_for_https_and_is_not_emulated() -> None:
    routing = routed(alb("a", default="a", certificate_arn="arn:aws:acm:eu-west-1:1:certificate/x"))
    assert [(each.port, each.tls) for each in routing.entrances] == [(443, True)]
    assert told(routing) == [
        "NotEmulated: Ingress default/a: certificate-arn: there is no AWS: certificates come from Secrets of spec.tls"
    ]


@pytest.mark.parametrize(
    ("action", "wanted"),
    [
        ({"type": "fixed-response", "fixedResponseConfig": {"contentType": "text/html", "statusCode": "503",
          "messageBody": "later"}}, Answer(503, "later", "text/html")),
        ({"Type": "redirect", "RedirectConfig": {"Protocol": "HTTPS", "Port": "443", "StatusCode": "HTTP_301"}},
         Redirect(301, scheme="https", port=443)),
        ({"type": "redirect", "redirectConfig": {"host": "aws.example", "path": "/eks/", "query": "k=v",
          "statusCode": "HTTP_302"}}, Redirect(302, scheme="http", port=80, host="aws.example", path="/eks/?k=v")),
        ({"type": "redirect", "redirectConfig": {"path": "/eks", "statusCode": "HTTP_302"}},
         Redirect(302, scheme="http", port=80, path="/eks")),
        ({"type": "redirect", "redirectConfig": {"host": "www.#{host}", "statusCode": "HTTP_302"}},
         Redirect(302, template="http://www.{host}:80{target}")),
        ({"type": "redirect", "redirectConfig": {"path": "/new/#{path}", "protocol": "HTTPS", "port": "8443",
          "statusCode": "HTTP_302"}}, Redirect(302, template="https://{host}:8443/new{target}")),
        ({"type": "redirect", "redirectConfig": {"query": "#{query}&from=#{protocol}", "statusCode": "HTTP_302"}},
         Redirect(302, template="http://{host}:80{path}?{query}&from=HTTP")),
    ],
)  # fmt: skip
def test_actions(action: Any, wanted: Any) -> None:
    routing = routed(alb("x", rule(None, annotated("do")), actions__do=action))
    (found,) = rules_at(routing, 80)
    assert found.action == wanted
    assert not routing.problems


def test_weights() -> None:
    groups = [
        {"serviceName": "a", "servicePort": "80", "weight": 20},
        {"serviceName": "b", "servicePort": "http"},
        {"targetGroupARN": "arn:x", "weight": 60},
    ]
    routing = routed(
        alb(
            "x", rule(None, annotated("do")), actions__do={"type": "forward", "forwardConfig": {"targetGroups": groups}}
        )
    )
    action = rules_at(routing, 80)[0].action
    assert isinstance(action, Forward)
    assert [(each.upstream, each.weight) for each in action.shares] == [(to("a"), 20), (to("b", "http"), 1), (None, 60)]
    assert told(routing) == [
        "NotEmulated: Ingress default/x: annotation actions.do: targetGroupARN: there is no AWS: its share gets 500"
    ]


@pytest.mark.parametrize(
    ("action", "why"),
    [
        (None, "missing actions.do configuration"),
        ("{", "it should be JSON"),
        ({"type": "authenticate-oidc"}, "type authenticate-oidc is not emulated"),
        ({"type": "redirect", "redirectConfig": {"statusCode": "HTTP_301"}}, "it would lead to itself"),
        ({"type": "redirect", "redirectConfig": {"path": "/x", "statusCode": "301"}}, "should be HTTP_301 or HTTP_302"),
        ({"type": "redirect", "redirectConfig": {"path": "/#{uri}", "statusCode": "HTTP_301"}}, "should be one of"),
        ({"type": "redirect", "redirectConfig": {"path": "/x#{path}", "statusCode": "HTTP_301"}}, 'after a "/" only'),
        ({"type": "fixed-response", "fixedResponseConfig": {"statusCode": "301"}}, 'statusCode "301" should be'),
        ({"type": "fixed-response"}, "it cannot be read"),
        ({"type": "fixed-response", "fixedResponseConfig": {"statusCode": "200", "messageBody": "x" * 1025}}, "1024"),
        ({"type": "fixed-response", "fixedResponseConfig": {"statusCode": "200", "contentType": "a/b"}}, "contentType"),
        ({"type": "redirect", "redirectConfig": {"path": "/a\nb", "statusCode": "HTTP_301"}}, "printable ASCII"),
        ({"type": "redirect", "redirectConfig": {"port": "x", "statusCode": "HTTP_301"}}, 'port "x" should be from 1'),
        ({"type": "redirect", "redirectConfig": {"path": "x", "statusCode": "HTTP_301"}}, "should begin with a slash"),
        ({"type": "forward", "forwardConfig": {"targetGroups": [{"serviceName": "a", "weight": 1000}]}},
         "weight 1000 should be from 0 to 999"),
        ({"type": "forward"}, "name a serviceName"),
    ],
)  # fmt: skip
def test_an_action_that_cannot_be_done_is_answered_503(action: Any, why: str) -> None:
    notes = {} if action is None else {"actions__do": action}
    routing = routed(alb("x", rule(None, annotated("do")), **notes))
    (found,) = rules_at(routing, 80)
    assert found.action == Answer(503)
    (message,) = told(routing)
    assert why in message


# --- target groups


def test_target_groups_are_as_the_service_says_and_else_the_ingress() -> None:
    notes = {f"{PREFIX}target-type": "ip", f"{PREFIX}healthcheck-path": "/own"}
    own = service_object("a")
    own["metadata"]["annotations"] = notes
    group = one(alb("x", rule(None, path("/a", "a"), path("/b", "b")), backend_protocol="HTTPS",
                    backend_protocol_version="HTTP2", healthcheck_path="/all", healthcheck_interval_seconds="5",
                    healthcheck_timeout_seconds="2", success_codes="200,300-399", healthy_threshold_count="3",
                    unhealthy_threshold_count="4", healthcheck_port="9000"))  # fmt: skip
    routing = routing_of(group, {**SERVICES, Key("default", "a"): own})
    health = HealthCheck("/all", 9000, 5.0, 2.0, 3, 4, ((200, 200), (300, 399)))
    secure = {"protocol": Protocol.H2}
    a, b = to("a", reach=Reach.PODS, health=health._replace(path="/own"), **secure), to("b", health=health, **secure)
    assert routing.upstreams() == {a, b}
    assert not routing.problems


def test_clients_stay_where_the_target_group_says_so() -> None:
    attributes = "stickiness.enabled=true,stickiness.lb_cookie.duration_seconds=60"
    (found,) = rules_at(routed(alb("x", default="a", target_group_attributes=attributes)), 80)
    assert found.treatment.session == Cookie("AWSALB", "/", 60)
    (found,) = rules_at(routed(alb("x", default="a", target_group_attributes="stickiness.enabled=false")), 80)
    assert found.treatment.session is None


def test_targets_of_type_instance_need_node_ports() -> None:
    group = one(alb("x", default="plain"))
    (message,) = told(routing_of(group, {Key("default", "plain"): service_object("plain")}))
    assert message.startswith(
        "FailedBuildModel: Ingress default/x: service type must be either 'NodePort' or 'LoadBalancer': default/plain"
    )


@pytest.mark.parametrize(
    ("notes", "why"),
    [
        ({"healthcheck_path": "x"}, '"x" should be a path that begins with a slash'),
        ({"target_group_attributes": "stickiness.type=app_cookie"}, "stickiness.type=app_cookie is not emulated"),
        (
            {"target_group_attributes": "stickiness.enabled=true,stickiness.lb_cookie.duration_seconds=0"},
            "from 1 to 604800",
        ),
        ({"success_codes": "2xx"}, '"2xx" should be a code such as 200'),
        ({"success_codes": "200-600"}, "should be codes from 200 to 499"),
        ({"healthcheck_port": "http"}, "only numbers and traffic-port are emulated"),
        ({"healthcheck_protocol": "HTTPS"}, "healthcheck-protocol: not emulated where it is not backend-protocol"),
        ({"healthcheck_timeout_seconds": "20"}, "20 should be less than the interval, 15"),
        ({"target_type": "lambda"}, '"lambda" should be instance or ip'),
        (
            {"target_group_attributes": "slow_start.duration_seconds=30"},
            "slow_start.duration_seconds=30 is not emulated",
        ),
        ({"load_balancer_attributes": "routing.http2.enabled=false"}, "routing.http2.enabled=false is not emulated"),
        (
            {"wafv2_acl_arn": "arn"},
            "annotation alb.ingress.kubernetes.io/wafv2-acl-arn is not emulated: it has no effect",
        ),
        ({"subnets": "a,b"}, "annotation alb.ingress.kubernetes.io/subnets is not emulated"),
    ],
)
def test_what_has_no_effect_is_told_once(notes: dict[str, Any], why: str) -> None:
    (message,) = told(routed(alb("x", rule(None, path("/a", "a"), path("/b", "a")), **notes)))
    assert why in message


def test_what_says_nothing_of_packets_is_not_told_of() -> None:
    attributes = "deletion_protection.enabled=true,idle_timeout.timeout_seconds=30"
    routing = routed(alb("x", default="a", tags="a=b", ip_address_type="ipv4", load_balancer_attributes=attributes))
    assert not routing.problems
    assert rules_at(routing, 80)[0].treatment.idle_timeout == 30.0


# --- explained


def test_a_request_is_explained_by_what_the_load_balancer_does() -> None:
    state = State(self_signed("x"))
    reference = {"metadata": {"name": "nginx"}, "spec": {"controller": "ingress.k8s.aws/alb"}}
    state.update(INGRESSCLASSES, Key("", "nginx"), reference)
    away = {"type": "redirect", "redirectConfig": {"host": "www.#{host}", "statusCode": "HTTP_302"}}
    made = alb("x", rule("shop.example", path("/a", "a"), annotated("away", text="/b")), actions__away=away,
               scheme="internet-facing", target_type="ip")  # fmt: skip
    state.update(INGRESSES, Key("default", "x"), made)
    spec, status = {"group": "default/x", "hostname": "h"}, {"netns": "n", "address": "192.0.2.1"}
    placed = {"metadata": {"name": "k8s-x"}, "spec": spec, "status": status}
    state.update(APPLICATIONLOADBALANCERS, Key("", "k8s-x"), placed)
    state.update(SERVICE, Key("default", "a"), service_object("a"))
    state.update(ENDPOINTSLICES, Key("default", "a-1"), slice_of("a", "10.244.1.2"))
    ((name, view),) = state.views().items()
    assert (name, view.addresses) == ("ingress.k8s.aws/alb default/x", ("h",))

    def explained(url: str) -> Explanation:
        return explain(asked_of(Query(url)), name, view, str, partial(state.alone, name))

    found = explained("http://shop.example/a/x")
    assert found.verdict == "forwarded"
    assert [target.endpoints for target in found.targets] == [("10.244.1.2:8080",)]
    assert explained("http://shop.example/b/c?d=e").location == "http://www.shop.example:80/b/c?d=e"
    assert explained("http://other.example/a").verdict == "answered 404"


def test_what_a_class_says_goes_before_annotations() -> None:
    reference = {"apiGroup": "elbv2.k8s.aws", "kind": "IngressClassParams", "name": "all"}
    classes = {Key("", "nginx"): {"spec": {"controller": "ingress.k8s.aws/alb", "parameters": reference}}}
    spec = {
        "scheme": "internet-facing", "group": {"name": "shop"}, "inboundCIDRs": ["10.0.0.0/8"], "subnets": {},
        "loadBalancerAttributes": [{"key": "idle_timeout.timeout_seconds", "value": "30"}], "targetType": "ip",
        "certificateArn": 7,
    }  # fmt: skip
    params = {Key("", "all"): {"metadata": {"name": "all"}, "spec": spec}}
    made = alb("x", default="a", scheme="internal", listen_ports=[{"HTTP": 81}])
    group = one(as_its_class_says(made, classes, params))
    assert (group.id, group.internal, group.idle_timeout) == ("shop", False, 30.0)
    assert group.listeners == (Listener(81, "HTTP", (IPv4Network("10.0.0.0/8"),)),)
    assert {each.reach for each in routing_of(group, SERVICES).upstreams()} == {Reach.PODS}
    assert ignored_fields(params[Key("", "all")]) == ["certificateArn", "subnets"]
    assert as_its_class_says(made, {}, params) is made
