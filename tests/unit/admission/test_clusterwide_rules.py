"""Cluster-wide policies at the door: good ones, each rule by an object that breaks it, and the words for it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from test_admission_rules import admit, made, policy, refusal

from kmn.k8s.objects import Object
from kmn.policy.model import STAGED

V1ALPHA1, V1ALPHA2 = "policy.networking.k8s.io/v1alpha1", "policy.networking.k8s.io/v1alpha2"
EVERYBODY: dict[str, Any] = {"namespaces": {}}
OUTSIDE = {"networks": ["203.0.113.0/24"]}
STAGED_AS = f"metadata.annotations[{STAGED}]: must be one of true, false; is "


def anp(**spec: Any) -> Object:
    return made(V1ALPHA1, "AdminNetworkPolicy", spec={"priority": 10, "subject": EVERYBODY, **spec})


def banp(name: str = "default", **spec: Any) -> Object:
    return made(V1ALPHA1, "BaselineAdminNetworkPolicy", name, spec={"subject": EVERYBODY, **spec})


def cnp(**spec: Any) -> Object:
    return made(V1ALPHA2, "ClusterNetworkPolicy", spec={"tier": "Admin", "priority": 10, "subject": EVERYBODY, **spec})


def rule(side: str, *peers: Any, action: str = "Deny", **fields: Any) -> list[dict[str, Any]]:
    return [{"action": action, side: list(peers or (EVERYBODY,)), **fields}]


def to(*peers: Any, **fields: Any) -> Object:
    """v1alpha2 in the direction that has all peers."""
    return cnp(egress=rule("to", *peers, **fields))


def port(**fields: Any) -> Object:
    """A port of v1alpha1."""
    return anp(ingress=rule("from", ports=[fields]))


def protocol(**fields: Any) -> Object:
    """The same in v1alpha2."""
    return cnp(ingress=rule("from", protocols=[fields]))


def tcp(**fields: Any) -> Object:
    return protocol(tcp={"destinationPort": fields})


def marked(obj: Object, value: Any) -> Object:
    obj = copy.deepcopy(obj)
    obj["metadata"]["annotations"] = {STAGED: value}
    return obj


GOOD = [
    anp(priority=0),
    anp(priority=1000, ingress=rule("from", action="Pass") * 100),
    anp(egress=rule("to", {"nodes": {}}, {"networks": ["10.0.0.0/8", "fd00::/8"]}, {"domainNames": ["*.example.com"]})),
    banp(ingress=rule("from", action="Allow", name="x" * 100)),
    banp(egress=rule("to", ports=[{"namedPort": "web"}])),
    cnp(tier="Baseline", egress=rule("to", action="Pass") * 25),
    cnp(subject={"pods": {"podSelector": {"matchLabels": {"app": "web"}}}}),
    to(OUTSIDE, protocols=[{"udp": {"destinationPort": {"range": {"start": 1, "end": 65535}}}}]),
    port(portRange={"start": 80, "end": 80}),
    protocol(destinationNamedPort="web"),
    marked(cnp(), "true"),
    marked(banp(), "false"),
    marked(policy(), "true"),
]

BAD: list[tuple[Object, str]] = [
    # Names, tiers, priorities.
    (banp("other"), 'metadata.name: must be "default": there is one baseline for the cluster, is "other"'),
    (made(V1ALPHA1, "AdminNetworkPolicy"), "spec: required"),
    (anp(priority=-1), "spec.priority: must be between 0 and 1000, is -1"),
    (anp(priority=1001), "spec.priority: must be between 0 and 1000, is 1001"),
    (anp(priority="10"), 'spec.priority: must be an integer, is "10"'),
    (anp(priority=None), "spec.priority: required"),
    (cnp(priority=1001), "spec.priority: must be between 0 and 1000, is 1001"),
    (banp(priority=10), "spec.priority: unknown field"),
    (cnp(tier=None), "spec.tier: required"),
    (cnp(tier="admin"), 'spec.tier: must be one of "Admin", "Baseline"; is "admin", did you mean "Admin"?'),
    (anp(tier="Admin"), "spec.tier: unknown field"),
    # Subjects.
    (cnp(subject=None), "spec.subject: required"),
    (cnp(subject={}), "spec.subject: required: exactly one of namespaces, pods"),
    (
        anp(subject={"namespaces": {}, "pods": {"namespaceSelector": {}, "podSelector": {}}}),
        "spec.subject: exactly one of namespaces, pods, not both namespaces and pods",
    ),
    (anp(subject={"pods": {"podSelector": {}}}), "spec.subject.pods.namespaceSelector: required"),
    (cnp(subject={"pods": {"namespaceSelector": {}}}), "spec.subject.pods.podSelector: required"),
    (cnp(subject={"nodes": {}}), "spec.subject.nodes: unknown field"),
    (
        cnp(subject={"namespaces": {"matchExpressions": [{"key": "a", "operator": "Equals"}]}}),
        "spec.subject.namespaces.matchExpressions[0].operator: must be one of In, NotIn, Exists, DoesNotExist",
    ),
    # Rules.
    (anp(ingress=rule("from") * 101), "spec.ingress: takes at most 100 entries, has 101"),
    (cnp(egress=rule("to") * 26), "spec.egress: takes at most 25 entries, has 26"),
    (to(name="x" * 101), "spec.egress[0].name: must be at most 100 characters"),
    (to(action=None), "spec.egress[0].action: required"),
    (to(action="Allow"), 'spec.egress[0].action: must be one of "Accept", "Deny", "Pass"; is "Allow"'),
    (
        anp(ingress=rule("from", action="Accept")),
        'spec.ingress[0].action: must be one of "Allow", "Deny", "Pass"; is "Accept"',
    ),
    (banp(egress=rule("to", action="Pass")), 'spec.egress[0].action: must be one of "Allow", "Deny"; is "Pass"'),
    (cnp(ingress=[{"action": "Deny"}]), "spec.ingress[0].from: required"),
    (cnp(ingress=[{"action": "Deny", "from": []}]), "spec.ingress[0].from: needs at least 1 entries, has 0"),
    (anp(egress=rule("to", *[EVERYBODY] * 101)), "spec.egress[0].to: takes at most 100 entries, has 101"),
    (to(*[EVERYBODY] * 26), "spec.egress[0].to: takes at most 25 entries, has 26"),
    # Peers.
    (
        to({}),
        "spec.egress[0].to[0]: required: exactly one of namespaces, pods, nodes, networks, domainNames",
    ),
    (to({**EVERYBODY, **OUTSIDE}), "domainNames, not both namespaces and networks"),
    (banp(egress=rule("to", {})), "to[0]: required: exactly one of namespaces, pods, nodes, networks"),
    (cnp(ingress=rule("from", {})), "from[0]: required: exactly one of namespaces, pods"),
    (cnp(ingress=rule("from", OUTSIDE)), "spec.ingress[0].from[0].networks: unknown field"),
    (banp(egress=rule("to", {"domainNames": ["a.b"]})), "spec.egress[0].to[0].domainNames: unknown field"),
    (to({"nodes": {"matchLabels": {"-": "a"}}}), "spec.egress[0].to[0].nodes.matchLabels: keys must be"),
    (to({"pods": {"podSelector": {"matchLabels": {"a": "-"}}}}), "to[0].pods.podSelector.matchLabels[a]: must be"),
    (to({"networks": []}), "spec.egress[0].to[0].networks: needs at least 1 entries, has 0"),
    (to({"networks": [f"10.0.{i}.0/24" for i in range(26)]}), "networks: takes at most 25 entries, has 26"),
    (to({"networks": ["10.0.0.0"]}), "to[0].networks[0]: must have a prefix length"),
    (to({"networks": ["10.0.0.0/33"]}), "to[0].networks[0]: must be a network in CIDR notation"),
    (to({"networks": ["10.0.0.0/255.0.0.0"]}), "to[0].networks[0]: must be a network in plain CIDR notation"),
    (to({"networks": ["10.0.0.0/08"]}), "to[0].networks[0]: must be a network in plain CIDR notation"),
    (to({"networks": ["::ffff:10.0.0.0/104"]}), "to[0].networks[0]: must be a network in plain CIDR notation"),
    (
        to({"networks": ["10.0.0.0/8", "10.0.0.0/8"]}),
        'to[0].networks[1]: "10.0.0.0/8" is used twice, here and in spec.egress[0].to[0].networks[0]',
    ),
    (to({"domainNames": ["example"]}), 'domainNames[0]: must be a domain name such as "example.com"'),
    (to({"domainNames": ["a*.example.com"]}), 'domainNames[0]: must be a domain name such as "example.com"'),
    (to({"domainNames": ["a.b", "a.b"]}), 'to[0].domainNames[1]: "a.b" is used twice'),
    # Ports of v1alpha1.
    (anp(egress=rule("to", ports=[])), "spec.egress[0].ports: needs at least 1 entries, has 0"),
    (port(), "spec.ingress[0].ports[0]: required: exactly one of portNumber, portRange, namedPort"),
    (port(portNumber={"port": 80}, namedPort="web"), "namedPort, not both portNumber and namedPort"),
    (port(portNumber={"protocol": "TCP"}), "ports[0].portNumber.port: required"),
    (port(portNumber={"port": 0}), "ports[0].portNumber.port: must be between 1 and 65535, is 0"),
    (port(portNumber={"port": 65536}), "ports[0].portNumber.port: must be between 1 and 65535, is 65536"),
    (port(portNumber={"port": 80, "protocol": "tcp"}), 'is "tcp", did you mean "TCP"?'),
    (port(portRange={"start": 80}), "ports[0].portRange.end: required"),
    (port(portRange={"start": 80, "end": 79}), "ports[0].portRange.end: must be 80 (the start) or more, is 79"),
    (
        anp(egress=rule("to", {"nodes": {}}, ports=[{"portNumber": {"port": 80}}, {"namedPort": "web"}])),
        "spec.egress[0].ports[1].namedPort: to[0] are nodes, which have no named ports: use a number",
    ),
    # Protocols of v1alpha2.
    (cnp(ports=[]), "spec.ports: unknown field"),
    (to(protocols=[]), "spec.egress[0].protocols: needs at least 1 entries, has 0"),
    (protocol(), "protocols[0]: required: exactly one of tcp, udp, sctp, destinationNamedPort"),
    (
        protocol(tcp={"destinationPort": {"number": 1}}, destinationNamedPort="a"),
        "protocols[0]: exactly one of tcp, udp, sctp, destinationNamedPort, not both tcp and destinationNamedPort",
    ),
    (protocol(tcp={}), "spec.ingress[0].protocols[0].tcp.destinationPort: required"),
    (tcp(), "protocols[0].tcp.destinationPort: required: exactly one of number, range"),
    (tcp(number=80, range={"start": 1, "end": 2}), "exactly one of number, range, not both number and range"),
    (tcp(number=0), "protocols[0].tcp.destinationPort.number: must be between 1 and 65535, is 0"),
    (tcp(range={"start": 80, "end": 80}), "destinationPort.range.end: must be more than 80 (the start), is 80"),
    (tcp(range={"end": 80}), "destinationPort.range.start: required"),
    (
        to(EVERYBODY, OUTSIDE, protocols=[{"destinationNamedPort": "web"}]),
        "spec.egress[0].protocols[0].destinationNamedPort: to[1] are networks, which have no named ports",
    ),
    (
        to({"domainNames": ["a.b"]}, protocols=[{"destinationNamedPort": "web"}]),
        "to[0] are domainNames, which have no named ports: use a number",
    ),
    # Staging.
    *((marked(obj, "yes"), STAGED_AS + '"yes"') for obj in (anp(), banp(), cnp(), policy())),
    (marked(policy(), "True"), STAGED_AS + '"True", did you mean "true"?'),
    (marked(cnp(), True), "must be a string, is true"),
    (marked(cnp(), ""), STAGED_AS + '""'),
]  # fmt: skip


@pytest.mark.parametrize("obj", GOOD)
def test_good_policies_are_taken(obj: Object) -> None:
    admitted, warnings = admit(obj)
    assert admitted["metadata"]["name"] == obj["metadata"]["name"]
    assert [each for each in warnings if "domainNames" not in each] == []
    again, _ = admit(admitted)
    assert again == admitted


@pytest.mark.parametrize(("obj", "told"), BAD)
def test_bad_policies_are_refused_by_field_and_remedy(obj: Object, told: str) -> None:
    assert told in refusal(obj)


def test_an_update_is_judged_alike_and_may_change_everything() -> None:
    assert "spec.priority: must be between" in refusal(anp(priority=2000), anp())
    new = cnp(tier="Baseline", priority=3, subject={"pods": {"podSelector": {}}}, ingress=rule("from"))
    assert admit(new, cnp())[0]["spec"] == new["spec"]


def test_protocols_default_to_tcp() -> None:
    ports = [{"portNumber": {"port": 80}}, {"portRange": {"start": 1, "end": 2}}, {"namedPort": "web"}]
    admitted, _ = admit(banp(egress=rule("to", ports=ports)))
    assert admitted["spec"]["egress"][0]["ports"] == [
        {"portNumber": {"port": 80, "protocol": "TCP"}},
        {"portRange": {"start": 1, "end": 2, "protocol": "TCP"}},
        {"namedPort": "web"},
    ]


def test_the_other_version_of_a_kind_is_named() -> None:
    with pytest.raises(Exception, match=f"kmn serves ClusterNetworkPolicy as {V1ALPHA2}"):
        made(V1ALPHA1, "ClusterNetworkPolicy")
