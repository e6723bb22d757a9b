"""Counters by rule: the controller's own flows with made-up counts, found again by their cookies and added up."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from test_policy_flows import CLIENTS, SERVER, Bridges, pod, policy
from test_policy_log import ADMIN, staged, world

from controller.openflow.flow import Flow
from kmn.k8s.objects import Object, key_of
from kmn.openflow.messages import FlowCount
from kmn.policy.clusterwide import policy_of
from kmn.policy.counters import Row, rows

ALLOW_CLIENTS = policy(
    "web", **SERVER, ingress=[{"from": [CLIENTS], "ports": [{"port": 80}]}, {"ports": [{"port": 81}]}]
)
ANYTHING = policy("any", **SERVER, ingress=[{}])
DENY_ALL = policy("deny", podSelector={}, policyTypes=["Ingress"])


def counted(objects: list[Object], packets: Callable[[Flow], int], nodes: int = 1) -> list[Row]:
    """Rows, where the flows of node n1 (on so many nodes alike) have seen so many packets of 100 bytes."""
    bridges = Bridges()
    for obj in (
        {"kind": "Namespace", "metadata": {"name": "x"}},
        pod("s", 1, 2, app="web"),
        pod("c", 2, 2, app="client"),
    ):
        bridges.put(obj)
    for obj in objects:
        bridges.policies.put_policy(obj["kind"], key_of(obj), policy_of(obj))
    bridges.flows()
    flows = list(bridges.scopes["n1"].flows.values())
    counts = [FlowCount(f.table, f.priority, f.cookie, packets(f), 100 * packets(f)) for f in flows]
    return rows(world(*objects), counts * nodes)


def shown(found: list[Row]) -> list[tuple[str, str, str, int, int, int]]:
    return [(row.owner, row.what, row.verdict, row.connections, row.packets, row.bytes) for row in found]


def allowing(flow: Flow) -> int:
    """Three connections, with 40 packets in all. Parts of conjunctions count for nobody."""
    if "goto_table:84" in flow.rule:
        return 40
    return 1000 if "conjunction" in flow.rule else 3 if "->reg11" in flow.rule else 0


def denying(flow: Flow) -> int:
    """Everything is denied that can be, once as if and twice indeed."""
    return 2 if flow.rule.endswith("goto_table:96") else 1 if "controller" in flow.rule else 0


def test_nothing_has_come_yet() -> None:
    assert shown(counted([ALLOW_CLIENTS], lambda flow: 0)) == [
        ("NetworkPolicy x/web", "ingress[0]", "allowed", 0, 0, 0),
        ("NetworkPolicy x/web", "ingress[1]", "allowed", 0, 0, 0),
    ]


def test_connections_are_first_packets_and_all_others_are_counted_apart() -> None:
    assert shown(counted([ALLOW_CLIENTS, ANYTHING], allowing, nodes=2)) == [
        ("NetworkPolicy x/any", "ingress[0]", "allowed", 6, 80, 8000),
        ("NetworkPolicy x/web", "ingress[0]", "allowed", 6, 80, 8000),
        ("NetworkPolicy x/web", "ingress[1]", "allowed", 6, 80, 8000),
    ]


def test_what_is_denied_for_want_of_a_rule_is_of_all_policies_that_isolate_the_pod() -> None:
    assert shown(counted([ALLOW_CLIENTS, DENY_ALL], denying))[2:] == [
        ("NetworkPolicies x/deny, x/web", "default, ingress of pod x/s", "denied", 2, 2, 200),
    ]


def test_rules_of_administrators_come_first_and_may_deny() -> None:
    first, *others = shown(counted([ALLOW_CLIENTS, ADMIN], denying))
    assert first == ("AdminNetworkPolicy first", "ingress[0]", "denied", 2, 2, 200)
    assert others[-1][0] == "NetworkPolicy x/web"


def test_what_is_tried_out_is_counted_beside_what_is_in_force() -> None:
    """The default of both is staged: one of them would deny alone what the other denies already."""
    assert shown(counted([ALLOW_CLIENTS, staged(DENY_ALL)], denying))[2:] == [
        ("NetworkPolicies x/deny, x/web", "default, ingress of pod x/s", "would be denied", 1, 1, 100),
        ("NetworkPolicy x/web", "default, ingress of pod x/s", "denied", 2, 2, 200),
    ]


def test_of_what_is_tried_out_only_its_own_rules_are_told() -> None:
    """Those in force are asked there, too."""
    found = counted([ALLOW_CLIENTS, staged(ANYTHING)], lambda flow: 5 if "goto_table" in flow.rule else 0)
    assert [(row.owner, row.staged, row.connections) for row in found if row.rule is not None] == [
        ("NetworkPolicy x/any", True, 5),
        ("NetworkPolicy x/web", False, 5),
        ("NetworkPolicy x/web", False, 5),
    ]


def test_flows_that_let_a_pod_reach_itself_deny_nothing() -> None:
    """They carry the pod's name as well."""
    closed = policy("closed", **SERVER, policyTypes=["Egress"])
    assert shown(counted([closed], lambda flow: 7)) == [
        ("NetworkPolicy x/closed", "default, egress of pod x/s", "denied", 7, 7, 700),
    ]


def test_json() -> None:
    rule, _, default = (row.as_json() for row in counted([ALLOW_CLIENTS], denying))
    assert rule == {
        "policies": ["NetworkPolicy x/web"], "rule": "ingress[0]", "direction": "ingress", "verdict": "allowed",
        "staged": False, "connections": 0, "packets": 0, "bytes": 0,
    }  # fmt: skip
    assert default == {
        "policies": ["NetworkPolicy x/web"], "pod": "x/s", "reason": "default deny of policy x/web",
        "direction": "ingress", "verdict": "denied", "staged": False, "connections": 2, "packets": 2, "bytes": 200,
    }  # fmt: skip


@pytest.mark.parametrize(("namespace", "concerned"), [("x", True), ("y", False)])
def test_rows_are_of_their_policies_namespaces(namespace: str, concerned: bool) -> None:
    assert all(row.concerns(namespace) is concerned for row in counted([ALLOW_CLIENTS], denying))
