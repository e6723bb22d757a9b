"""The table of all pods against single verdicts."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from policy_worlds import NAMESPACES, cluster_policies, namespaces, pods, policies
from test_policy_flows import CLIENTS, SERVER, pod, policy

from kmn.k8s.objects import Key, Object, key_of, labels
from kmn.policy.clusterwide import policy_of
from kmn.policy.reach import differences, fold, reach
from kmn.policy.selection import Selection, member_of
from kmn.policy.verdicts import Judge


def judge_of(*objects: Object) -> Judge:
    selection = Selection()
    for name in NAMESPACES:
        selection.set_namespace(name, {"kubernetes.io/metadata.name": name})
    judge = Judge(selection)
    for obj in objects:
        match obj["kind"]:
            case "Namespace":
                selection.set_namespace(key_of(obj).name, labels(obj))
            case "Pod":
                selection.set_member(key_of(obj), member_of(obj))
            case _:
                judge.set_policy(policy_of(obj))
    return judge


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.lists(st.one_of(pods(), namespaces(), policies(), cluster_policies()), max_size=14),
    st.sampled_from(("TCP", "UDP")),
)
def test_every_cell_is_the_verdict(objects: list[Object], protocol: str) -> None:
    judge = judge_of(*objects)
    found, members = reach(judge, protocol, 80), judge.selection.members
    for i, source in enumerate(found.pods):
        for j, destination in enumerate(found.pods):
            assert found.may(i, j) == judge.judge(members[source], members[destination], protocol, 80).allowed
    assert sorted(place for each in fold(found) for place in each.places) == list(range(len(found.pods)))


WORLD = [pod("s", 1, 2, app="web"), *(pod(f"c{n}", 2, n + 2, app="client") for n in range(3)), pod("o", 1, 9, app="x")]


def test_pods_that_are_alike_are_shown_as_one() -> None:
    found = reach(judge_of(*WORLD, policy(**SERVER, ingress=[{"from": [CLIENTS]}])), "TCP", 80)
    assert [each.name(found) for each in fold(found)] == ["x/c0 and 2 more", "x/o", "x/s"]


def test_what_a_policy_closes() -> None:
    before, after = judge_of(*WORLD), judge_of(*WORLD, policy(**SERVER, ingress=[{"from": [CLIENTS]}]))
    assert differences(reach(before, "TCP", 80), reach(after, "TCP", 80)) == [(Key("x", "o"), Key("x", "s"), False)]
