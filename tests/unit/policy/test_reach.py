"""The table of all pods against single verdicts."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from policy_worlds import cluster_policies, judge_of, namespaces, pods, policies

from kmn.k8s.objects import Object
from kmn.policy.reach import reach


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
