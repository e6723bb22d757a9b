"""``kmn reach``: its words, its table on terminals of any width, policies as they would be, exit codes."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from kmn.cli.main import main
from kmn.cli.policy import port_of
from kmn.cli.reach import Query, subjects_of
from kmn.cli.reachtext import print_matrix
from kmn.cli.whatif import apply_to, take_away
from kmn.errors import UserError
from kmn.k8s.objects import Key, Object, key_of, labels
from kmn.policy.answers import Port, Subject, answers
from kmn.policy.legend import legend_of
from kmn.policy.matrix import Matrix, fold
from kmn.policy.model import STAGED, network_policy
from kmn.policy.selection import Selection, member_of
from kmn.policy.verdicts import Judge

WEB = Port(80, "TCP")


def pod(namespace: str, name: str, number: int = 1, **spec: Any) -> Object:
    containers = [{"name": "c", "image": "i", **spec}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {"containers": containers},
        "status": {"phase": "Running", "podIP": f"10.244.0.{number}"},
    }


def policy(namespace: str, name: str, **spec: Any) -> Object:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


def judge(pods: list[Object], *policies: Object) -> Judge:
    selection = Selection()
    for each in pods:
        selection.set_namespace(each["metadata"]["namespace"], {})
        selection.set_member(key_of(each), member_of(each))
    return Judge(selection, map(network_policy, policies))


def matrix(count: int) -> Matrix:
    """As many namespaces with one pod each, that all differ: the first may be reached by all, the last by nobody."""
    pods = [pod(f"namespace-{n:03}", "w", n + 1) for n in range(count)]
    policies = [
        policy(f"namespace-{n:03}", "p", podSelector={}, ingress=[
            {"from": [{"ipBlock": {"cidr": f"10.244.0.{m + 1}/32"}} for m in range(n, count)]}])
        for n in range(count)
    ]  # fmt: skip
    of = judge(pods, *policies)
    return fold(answers(of, [Subject(key_of(each), f"w-{place}", frozenset({WEB})) for place, each in enumerate(pods)]))


def printed(shown: Matrix, width: int) -> list[str]:
    file = io.StringIO()
    print_matrix(Console(file=file, width=width), shown, legend_of(shown))
    return file.getvalue().splitlines()


def test_a_small_table() -> None:
    assert printed(matrix(3), 80) == [
        "   NAMESPACE      WORKLOAD  PODS  1 2 3",
        "1  namespace-000  w-0          1    . .",
        "2  namespace-001  w-1          1  +   .",
        "3  namespace-002  w-2          1  + +  ",
        "",
        "+ allowed   . denied",
    ]


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize("count", [9, 40, 100])
def test_tables_fit_the_terminal_and_have_each_cell_once(width: int, count: int) -> None:
    shown = matrix(count)
    lines = [line for line in printed(shown, width) if not line.startswith(("+", "."))]
    assert max(map(len, lines)) <= width
    signs = "".join(line for line in lines if line[:1].isdigit() or line[:3].strip().isdigit())
    assert signs.count("+") == count * (count - 1) // 2


def test_ports_are_shown_where_they_differ() -> None:
    pods = [pod("x", "a", 1, ports=[{"containerPort": 80}]), pod("x", "b", 2)]
    subjects = subjects_of(pods, [], frozenset())
    lines = printed(fold(answers(judge(pods), subjects)), 80)
    assert lines[0].split() == ["NAMESPACE", "WORKLOAD", "PODS", "1"], "both are asked at the one port there is"
    pods.append(pod("x", "c", 3, ports=[{"containerPort": 53, "protocol": "UDP"}]))
    lines = printed(fold(answers(judge(pods), subjects_of(pods, [], frozenset()))), 80)
    ports = lines[0].index("PORTS")
    assert [line[ports:][:12].strip() for line in lines[1:4]] == ["80/TCP", "any of these", "53/UDP"]


def test_the_ports_that_pods_are_asked_at() -> None:
    service = {"metadata": {"name": "s", "namespace": "x"}, "spec": {"selector": {"app": "a"}, "ports": [
        {"port": 80, "targetPort": 8080}, {"port": 81, "targetPort": "web"}]}}  # fmt: skip
    pods = [pod("x", "a", ports=[{"containerPort": 9090, "name": "web"}]), pod("x", "b", 2)]
    found = subjects_of(pods, [service], frozenset())
    assert [subject.ports for subject in found] == [{Port(9090, "TCP"), Port(8080, "TCP")}, frozenset()]
    assert [subject.ports for subject in subjects_of(pods, [service], frozenset({WEB}))] == [{WEB}, {WEB}]


@pytest.mark.parametrize(
    ("query", "chosen"),
    [
        (Query(), ["x/a", "y/a", "y/b"]),
        (Query(namespace="y"), ["y/a", "y/b"]),
        (Query(namespace="y", all_namespaces=True), ["x/a", "y/a", "y/b"]),
        (Query(selector="app=a"), ["x/a", "y/a"]),
        (Query(namespace="y", selector="app!=a"), ["y/b"]),
    ],
)
def test_which_pods_are_shown(query: Query, chosen: list[str]) -> None:
    pods = [pod("x", "a"), pod("y", "a"), pod("y", "b")]
    assert [str(key_of(each)) for each in pods if query.selects(each)] == chosen


def test_ports_of_the_command_line() -> None:
    assert [port_of(text) for text in ("80", "53/udp", "7/SCTP")] == [WEB, Port(53, "UDP"), Port(7, "SCTP")]
    for wrong in ("0", "65536", "http", "80/icmp", ""):
        with pytest.raises(UserError, match="port"):
            port_of(wrong)


@pytest.fixture
def running() -> Judge:
    return judge([pod("x", "a"), pod("y", "b", 2)], policy("x", "deny", podSelector={}))


def kinds(of: Judge) -> set[tuple[str, str]]:
    return {(each.kind, str(each.key).lstrip("/")) for each in of.policies}


def test_policies_that_would_be_there(running: Judge) -> None:
    admin = {
        "apiVersion": "policy.networking.k8s.io/v1alpha1", "kind": "BaselineAdminNetworkPolicy",
        "metadata": {"name": "default"},
        "spec": {"subject": {"namespaces": {}}, "ingress": [{"action": "Deny", "from": [{"namespaces": {}}]}]},
    }  # fmt: skip
    configmap = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "y", "labels": {"team": "y"}}}
    ignored = apply_to(running, [admin, configmap, namespace, policy("x", "deny", podSelector={}, ingress=[{}])])
    assert kinds(running) == {("NetworkPolicy", "x/deny"), ("BaselineAdminNetworkPolicy", "default")}
    assert running.selection.namespaces["y"] == {"team": "y"}
    assert len(ignored) == 1
    assert ignored[0].startswith("ConfigMap c: is not compared")
    a, b = (running.selection.members[key] for key in (Key("x", "a"), Key("y", "b")))
    assert running.judge(b, a, "TCP", 80).allowed


def test_a_policy_that_is_only_tried_out_is_as_if_it_were_not_there(running: Judge) -> None:
    staged = policy("x", "deny", podSelector={})
    staged["metadata"]["annotations"] = {STAGED: "true"}
    assert "only tried out" in apply_to(running, [staged])[0]
    assert kinds(running) == set()
    assert apply_to(running, [staged], staged=True) == []
    assert kinds(running) == {("NetworkPolicy", "x/deny")}


def test_what_the_api_server_would_refuse(running: Judge) -> None:
    wrong = policy("x", "p", podSelector={}, ingress=[{"ports": [{"port": 0}]}])
    with pytest.raises(UserError, match=r"NetworkPolicy x/p: spec.ingress\[0\].ports\[0\].port"):
        apply_to(running, [wrong])
    with pytest.raises(UserError, match="podSelektor"):
        apply_to(running, [policy("x", "p", podSelektor={})])


@pytest.mark.parametrize("word", ["deny", "netpol/deny", "x/deny", "networkpolicies/x/deny"])
def test_policies_that_would_not_be_there(running: Judge, word: str) -> None:
    take_away(running, [word], "x")
    assert kinds(running) == set()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("dny", "NetworkPolicy x/dny: not found .*x/deny"),
        ("banp/default", "BaselineAdminNetworkPolicy default: not found .there are none"),
        ("banp/x/default", "not understood"),
        ("a/b/c/d", "not understood"),
        ("x/", "not understood"),
    ],
)
def test_there_is_no_such_policy(running: Judge, word: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        take_away(running, [word], "x")


@pytest.mark.parametrize(
    "line",
    [
        "--port http",
        "-o gif",
        "-o json=x",
        "--probe --diff x.yaml",
        "--probe --staged",
        "--diff missing.yaml",
        "--name no-such-cluster",
    ],
)
def test_errors_have_an_exit_code_of_their_own(
    line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KMN_DEBUG", raising=False)
    assert main(["reach", *line.split()]) == 2
    assert capsys.readouterr().err.startswith("kmn: ")


def test_labels_are_kept(running: Judge) -> None:
    """A file adds labels to a Namespace's; it takes none away."""
    running.selection.set_namespace("x", {"a": "1"})
    obj = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x", "labels": {"b": "2"}}}
    apply_to(running, [obj])
    assert running.selection.namespaces["x"] == {"a": "1", **labels(obj)}
