"""Cluster-wide policies of all kinds, parsed: each field by what it becomes."""

from __future__ import annotations

import copy
from ipaddress import ip_network
from typing import Any

import pytest

from kmn.k8s.objects import Key, Object
from kmn.k8s.selectors import EVERYTHING, selector_of_object
from kmn.policy.clusterwide import admin_policy, not_emulated, policy_of
from kmn.policy.model import (
    STAGED,
    Action,
    Block,
    NamedPort,
    PodPeer,
    PortRange,
    Rule,
    Tier,
    node_peer,
)

WEB = {"matchLabels": {"app": "web"}}
SHOP = {"matchLabels": {"team": "shop"}}
ALL = PodPeer(None, EVERYTHING, EVERYTHING)


def anp(**spec: Any) -> Object:
    return made("v1alpha1", "AdminNetworkPolicy", "gate", {"priority": 7, "subject": {"namespaces": {}}, **spec})


def banp(**spec: Any) -> Object:
    return made("v1alpha1", "BaselineAdminNetworkPolicy", "default", {"subject": {"namespaces": {}}, **spec})


def cnp(tier: str = "Admin", **spec: Any) -> Object:
    whole = {"tier": tier, "priority": 7, "subject": {"namespaces": {}}, **spec}
    return made("v1alpha2", "ClusterNetworkPolicy", "gate", whole)


def acting(*actions: str) -> list[dict[str, Any]]:
    return [{"action": action, "from": [{"namespaces": {}}]} for action in actions]


def made(version: str, kind: str, name: str, spec: dict[str, Any]) -> Object:
    head = {"apiVersion": f"policy.networking.k8s.io/{version}", "kind": kind, "metadata": {"name": name}}
    return {**head, "spec": copy.deepcopy(spec)}


@pytest.mark.parametrize(
    ("obj", "tier", "priority"),
    [
        (anp(), Tier.ADMIN, 7),
        (cnp(), Tier.ADMIN, 7),
        (cnp("Baseline", priority=1000), Tier.BASELINE, 1000),
        (banp(), Tier.BASELINE, 1001),
    ],
)
def test_place_of_a_policy(obj: Object, tier: Tier, priority: int) -> None:
    policy = policy_of(obj)
    assert (policy.kind, policy.key) == (obj["kind"], Key("", obj["metadata"]["name"]))
    assert (policy.tier, policy.priority, policy.isolates, policy.staged) == (tier, priority, False, False)
    # Silent in a direction without rules, where a NetworkPolicy would isolate.
    assert (policy.ingress, policy.egress) == ((), ())
    assert str(policy) == f"{obj['kind']} {obj['metadata']['name']}"


def test_a_staged_policy() -> None:
    obj = cnp()
    obj["metadata"]["annotations"] = {STAGED: "true"}
    assert policy_of(obj).staged


@pytest.mark.parametrize(
    ("subject", "parsed"),
    [
        ({"namespaces": {}}, ALL),
        ({"namespaces": SHOP}, PodPeer(None, selector_of_object(SHOP), EVERYTHING)),
        (
            {"pods": {"namespaceSelector": SHOP, "podSelector": WEB}},
            PodPeer(None, selector_of_object(SHOP), selector_of_object(WEB)),
        ),
        # v1alpha2 takes pods of all namespaces in short.
        ({"pods": {"podSelector": WEB}}, PodPeer(None, EVERYTHING, selector_of_object(WEB))),
    ],
)
def test_subjects_and_the_peers_like_them(subject: dict[str, Any], parsed: PodPeer) -> None:
    rule = {"action": "Deny", "from": [subject]}
    policy = policy_of(cnp(subject=subject, ingress=[rule]))
    assert policy.subject == parsed
    assert policy.ingress == (Rule("ingress[0]", peers=(parsed,), action=Action.DENY),)


@pytest.mark.parametrize("make", [anp, banp, cnp])
def test_peers_of_egress(make: Any) -> None:
    nodes = {"matchLabels": {"role": "edge"}}
    peers = [{"nodes": nodes}, {"networks": ["10.0.0.0/8", "fd00::1/64"]}, {"namespaces": SHOP}]
    policy = policy_of(make(egress=[{"action": "Deny", "to": peers}]))
    assert policy.ingress == ()
    (rule,) = policy.egress or ()
    assert rule.peers == (
        node_peer(selector_of_object(nodes)),
        Block(ip_network("10.0.0.0/8")),
        Block(ip_network("fd00::/64")),
        PodPeer(None, selector_of_object(SHOP), EVERYTHING),
    )
    assert rule.ports is None


@pytest.mark.parametrize(
    ("obj", "actions"),
    [
        (anp(ingress=acting("Allow", "Deny", "Pass")), [Action.ALLOW, Action.DENY, Action.PASS]),
        (banp(ingress=acting("Allow", "Deny")), [Action.ALLOW, Action.DENY]),
        (cnp(ingress=acting("Pass", "Accept", "Deny")), [Action.PASS, Action.ALLOW, Action.DENY]),
    ],
)
def test_actions_in_their_order(obj: Object, actions: list[Action]) -> None:
    assert [rule.action for rule in policy_of(obj).ingress or ()] == actions


def test_names_of_rules_follow_their_place() -> None:
    rules = [
        {"name": "no ssh", "action": "Deny", "to": [{"namespaces": {}}]},
        {"action": "Pass", "to": [{"namespaces": {}}]},
    ]
    assert [rule.name for rule in policy_of(cnp(egress=rules)).egress or ()] == ['egress[0] "no ssh"', "egress[1]"]


PARSED = (
    PortRange("UDP", 53, 53),
    PortRange("TCP", 80, 80),
    PortRange("SCTP", 1000, 2000),
    NamedPort("", "web"),
)


@pytest.mark.parametrize(
    "obj",
    [
        anp(
            ingress=[
                {
                    "action": "Allow",
                    "from": [{"namespaces": {}}],
                    "ports": [
                        {"portNumber": {"protocol": "UDP", "port": 53}},
                        {"portNumber": {"port": 80}},
                        {"portRange": {"protocol": "SCTP", "start": 1000, "end": 2000}},
                        {"namedPort": "web"},
                    ],
                }
            ]
        ),
        cnp(
            ingress=[
                {
                    "action": "Accept",
                    "from": [{"namespaces": {}}],
                    "protocols": [
                        {"udp": {"destinationPort": {"number": 53}}},
                        {"tcp": {"destinationPort": {"number": 80}}},
                        {"sctp": {"destinationPort": {"range": {"start": 1000, "end": 2000}}}},
                        {"destinationNamedPort": "web"},
                    ],
                }
            ]
        ),
    ],
    ids=["v1alpha1", "v1alpha2"],
)
def test_ports(obj: Object) -> None:
    (rule,) = policy_of(obj).ingress or ()
    assert rule == Rule("ingress[0]", (ALL,), PARSED)


def test_domain_names_match_nothing_and_are_told() -> None:
    names = {"domainNames": ["*.example.com"]}
    rules = [{"action": "Accept", "to": [names]}, {"action": "Accept", "to": [{"networks": ["10.0.0.0/8"]}, names]}]
    obj = cnp(egress=rules)
    first, second = policy_of(obj).egress or ()
    assert first.peers == ()  # none of which can match; None would be all
    assert second.peers == (Block(ip_network("10.0.0.0/8")),)
    told = "domainNames: not emulated: names are not followed to addresses, and match nothing; give networks"
    assert list(not_emulated(obj)) == [f"spec.egress[0].to[0].{told}", f"spec.egress[1].to[1].{told}"]
    assert list(not_emulated(banp())) == []


def test_network_policies_come_through_the_same_door() -> None:
    obj = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "p", "namespace": "x"},
        "spec": {"podSelector": {}},
    }
    policy = policy_of(obj)
    assert (policy.tier, policy.isolates, policy.ingress, policy.egress) == (Tier.NETWORK_POLICY, True, (), None)


@pytest.mark.parametrize(
    ("obj", "told"),
    [
        (cnp("Middle"), "ClusterNetworkPolicy gate: spec: 'Middle': missing, or not known"),
        (cnp(subject={}), "ClusterNetworkPolicy gate: spec: subject: exactly one of namespaces, pods"),
        (made("v1alpha1", "AdminNetworkPolicy", "g", {}), "AdminNetworkPolicy g: spec: 'priority': missing"),
        (anp(ingress=acting("Log")), "AdminNetworkPolicy gate: spec.ingress[0]: 'Log': missing, or not known"),
        (anp(egress=[{"action": "Deny"}]), "AdminNetworkPolicy gate: spec.egress[0]: 'to': missing"),
        (
            cnp(egress=[{"action": "Deny", "to": [{"services": {}}]}]),
            "ClusterNetworkPolicy gate: spec.egress[0]: a peer has exactly one of namespaces, pods, nodes, networks,",
        ),
        (
            cnp(egress=[{"action": "Deny", "to": [{"networks": ["10.0.0.300/8"]}]}]),
            "ClusterNetworkPolicy gate: spec.egress[0]: '10.0.0.300/8' does not appear to be",
        ),
        (made("v1", "Pod", "p", {}), "Pod p: spec: kind Pod is no cluster-wide policy"),
    ],
)  # fmt: skip
def test_errors_name_object_and_field(obj: Object, told: str) -> None:
    with pytest.raises(ValueError) as raised:
        admin_policy(obj)
    assert told in str(raised.value)
