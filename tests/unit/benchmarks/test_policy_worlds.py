"""The pods and policies that NetworkPolicy is measured with are as many, and say what, the figures claim."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks import policyscale, policyworlds
from kmn.k8s.objects import Key, key_of, labels
from kmn.policy.model import Direction, network_policy
from kmn.policy.selection import Member, Selection
from kmn.policy.verdicts import Judge


def test_teams_have_as_many_pods_and_policies_as_asked_for() -> None:
    replicas = [each["spec"]["replicas"] for each in policyworlds.deployments(5, 997)]
    assert (len(replicas), sum(replicas), max(replicas) - min(replicas)) == (100, 997, 1)
    policies = [network_policy(each) for each in policyworlds.policies(5, 1000)]
    assert len({policy.key for policy in policies}) == 1000
    assert Counter(policy.key.namespace for policy in policies) == {policyworlds.team(n): 200 for n in range(5)}
    rules = Counter(direction for policy in policies for direction in Direction if policy.rules(direction))
    assert rules == {Direction.INGRESS: 600, Direction.EGRESS: 400}


@pytest.mark.parametrize("count", [100, 1000])
def test_an_app_may_ask_the_next_one(count: int) -> None:
    """So that what is measured with all policies is allowed by them, in the small version, too."""
    selection, members = Selection(), []
    for app in (0, 1, 2):
        key = Key(policyworlds.team(0), f"pod-{app}")
        members.append(Member(key, {"app": policyworlds.app_of(app)}, ()))
        selection.set_member(key, members[-1])
    selection.set_namespace(policyworlds.team(0), {"team": policyworlds.team(0)})
    judge = Judge(selection, map(network_policy, policyworlds.policies(5, count)))
    for port in policyworlds.PORTS:
        verdict = judge.judge(members[0], members[1], "TCP", port)
        assert verdict.allowed
        assert "no policy" not in (verdict.egress.reason, verdict.ingress.reason)
        assert not judge.judge(members[2], members[1], "TCP", port).allowed


@pytest.mark.parametrize(
    ("shape", "count", "sizes"),
    [
        ("small namespaces", 3, (3, 12, 9)),
        ("large namespaces", 2, (2, 2000, 202)),
        ("one namespace", 7, (1, 7, 7)),
    ],
)
def test_worlds_have_the_sizes_that_antrea_gives(shape: str, count: int, sizes: tuple[int, int, int]) -> None:
    world = policyscale.SHAPES[shape](count)
    assert (len(world.namespaces), len(world.pods), len(world.policies)) == sizes
    assert len({pod["status"]["podIP"] for pod in world.pods}) == len(world.pods)
    assert len({key_of(pod) for pod in world.pods}) == len(world.pods)
    assert all(labels(pod) for pod in world.pods)


def test_a_world_is_computed_in_a_process_of_its_own() -> None:
    """One pod and one rule: what no rule allows in either direction, the pod to itself; and of the rule a part for the
    pod and one for its peer (itself), the verdict, and the count of packets."""
    found = policyscale.measure("one namespace", 1, "flows")
    assert found.results == 2 + 1 + 4
    assert found.peak >= found.objects > 0
    assert found.seconds > 0
