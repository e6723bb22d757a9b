"""Our verdicts beside the reference evaluator's, which was written apart from this code, on random policies."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_worlds import NAMESPACES, namespaces, pods, policies

from kmn.k8s.objects import Object, key_of, labels
from kmn.policy.model import network_policy
from kmn.policy.selection import Selection, member_of
from kmn.policy.verdicts import Judge

REFERENCE = Path(__file__).parents[4] / "shared" / "conformance" / "netpol" / "refeval.py"
PROBES = [("TCP", 80), ("TCP", 82), ("UDP", 80), ("SCTP", 81)]

pytestmark = pytest.mark.skipif(not REFERENCE.exists(), reason=f"{REFERENCE} is not here: nothing to compare with")


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("refeval", REFERENCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(pods(), max_size=6), st.lists(namespaces(), max_size=3), st.lists(policies(), max_size=5))
def test_verdicts_are_the_references(
    reference: ModuleType, the_pods: list[Object], the_namespaces: list[Object], the_policies: list[Object]
) -> None:
    pods_by_key = {key_of(pod): pod for pod in the_pods}
    named = {name: {"kubernetes.io/metadata.name": name} for name in NAMESPACES}
    named |= {key_of(each).name: labels(each) for each in the_namespaces}
    valid = {key_of(each): each for each in the_policies if not reference.invalid(each)}
    theirs = reference.Cluster({str(key): pod["status"]["podIP"] for key, pod in pods_by_key.items()})
    for name, its_labels in named.items():
        theirs.apply({"kind": "Namespace", "metadata": {"name": name, "labels": its_labels}})
    for obj in (*pods_by_key.values(), *valid.values()):
        theirs.apply(obj)
    selection = Selection()
    for name, its_labels in named.items():
        selection.set_namespace(name, its_labels)
    for key, pod in pods_by_key.items():
        selection.set_member(key, member_of(pod))
    judge = Judge(selection, map(network_policy, valid.values()))
    ours = {
        f"{protocol}/{port}": {
            str(source): {
                str(destination): judge.judge(members[source], members[destination], protocol, port).allowed
                for destination in members
            }
            for source in members
        }
        for protocol, port in PROBES
        for members in [selection.members]
    }
    assert ours == theirs.table(PROBES)
