"""Policies as flows: what rules look like, how many there are, and that changes lead where a new start would."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_worlds import cluster_policies, namespaces, pods, policies

from controller.desired import Scope
from controller.openflow.flow import Flow
from controller.podsets import Place
from controller.policies import Policies
from kmn.k8s.objects import Key, Object, key_of, labels
from kmn.policy.clusterwide import policy_of


class Bridges:
    """Nodes' scopes with nothing in them but policies."""

    def __init__(self) -> None:
        self.scopes: dict[str, Scope] = {}
        self.policies = Policies(lambda node: self.scopes.setdefault(node, Scope()))

    def put(self, obj: Object) -> None:
        key = key_of(obj)
        match obj["kind"]:
            case "Pod":
                last = int(obj["status"]["podIP"].rpartition(".")[2])
                self.policies.put_pod(key, obj, Place(obj["spec"]["nodeName"], 10 + last))
            case "Namespace":
                self.policies.put_namespace(key.name, labels(obj))
            case kind:
                self.policies.put_policy(kind, key, policy_of(obj))

    def remove(self, kind: str, key: Key) -> None:
        match kind:
            case "Pod":
                self.policies.put_pod(key, None, None)
            case "Namespace":
                self.policies.put_namespace(key.name, None)
            case _:
                self.policies.put_policy(kind, key, None)

    def flows(self) -> dict[str, set[str]]:
        """Of each node. For priorities of rules that are in an order there is their rank."""
        self.policies.compute()
        return {node: set(_ranked(scope.flows.values())) for node, scope in self.scopes.items() if scope.flows}

    def rules(self, node: str) -> list[str]:
        self.policies.compute()
        return sorted(f"table={int(flow.table)}, {flow.rule}" for flow in self.scopes[node].flows.values())


def _ranked(flows: Iterable[Flow]) -> Iterator[str]:
    flows = list(flows)
    ranks = dict[int, dict[int, int]]()
    for table, priority in sorted({(flow.table, flow.priority) for flow in flows}):
        ranks.setdefault(table, {})[priority] = len(ranks.get(table, ()))
    for flow in flows:
        yield f"table={flow.table}, rank={ranks[flow.table][flow.priority]}, {flow.rule.partition(',')[2]}"


def pod(name: str, node: int, number: int, port: int = 80, **its_labels: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "x", "labels": its_labels},
        "spec": {
            "nodeName": f"n{node}",
            "containers": [{"name": "c", "image": "i", "ports": [{"name": "web", "containerPort": port}]}],
        },
        "status": {"phase": "Running", "podIP": f"10.244.{node}.{number}"},
    }


def policy(name: str = "p", **spec: object) -> Object:
    metadata = {"name": name, "namespace": "x"}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


def bridges(*objects: Object) -> Bridges:
    made = Bridges()
    made.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x", "labels": {"team": "x"}}})
    for obj in objects:
        made.put(obj)
    return made


DENY = "controller(max_len=128,id=4242),goto_table:96"
SERVER = {"podSelector": {"matchLabels": {"app": "web"}}}
CLIENTS = {"podSelector": {"matchLabels": {"app": "client"}}}


def test_a_rule_of_three_dimensions() -> None:
    peers, ports = [CLIENTS, {"ipBlock": {"cidr": "203.0.113.0/24"}}], [{"port": 80}, {"port": 90, "endPort": 91}]
    made = bridges(
        pod("a", 1, 2, app="web"), pod("b", 1, 3, app="client"), pod("c", 2, 2, app="client"),
        policy(**SERVER, ingress=[{"from": peers, "ports": ports}]),
    )  # fmt: skip
    (number,) = {flow.split("conj_id=")[1].split()[0] for flow in made.rules("n1") if "conj_id" in flow}
    assert made.rules("n1") == sorted(
        [
            f"table=66, priority=100,conj_id={number} actions=set_field:{int(number):#x}->reg11,goto_table:76",
            f"table=66, priority=100,reg2=0xc actions=conjunction({number},1/3)",
            f"table=66, priority=100,ip,nw_src=10.244.1.3 actions=conjunction({number},2/3)",
            f"table=66, priority=100,ip,nw_src=10.244.2.2 actions=conjunction({number},2/3)",
            f"table=66, priority=100,ip,nw_src=203.0.113.0/24 actions=conjunction({number},2/3)",
            f"table=66, priority=100,tcp,tp_dst=80 actions=conjunction({number},3/3)",
            f"table=66, priority=100,tcp,tp_dst=0x5a/0xfffe actions=conjunction({number},3/3)",
            f"table=66, priority=10,reg2=0xc actions={DENY}",
            f"table=80, priority=100,reg11={int(number):#x} actions=goto_table:84",
        ]
    )
    assert "n2" not in made.flows(), "no pod is there that the rule is about"


def test_denying_and_allowing_everything() -> None:
    made = bridges(pod("a", 1, 2), policy("deny", podSelector={}, policyTypes=["Egress"]))
    assert made.rules("n1") == [
        "table=40, priority=64000,ip,in_port=12,nw_dst=10.244.1.2 actions=goto_table:52",
        f"table=42, priority=10,in_port=12 actions={DENY}",
    ]
    made.put(policy("allow", podSelector={}, policyTypes=["Egress"], egress=[{}]))
    (plain,) = [rule for rule in made.rules("n1") if "priority=200" in rule]
    assert plain.startswith("table=42, priority=200,in_port=12 actions=set_field:")
    assert plain.endswith("->reg9,goto_table:52")


def test_named_ports_are_those_of_each_destination() -> None:
    made = bridges(
        pod("a", 1, 2, 80, app="web"), pod("b", 1, 3, 8080, app="web"),
        policy(**SERVER, ingress=[{"ports": [{"port": "web"}]}]),
    )  # fmt: skip
    flows = made.rules("n1")
    for ofport, port in (("0xc", 80), ("0xd", 8080)):
        (about,) = [flow for flow in flows if f"reg2={ofport} actions=conj" in flow]
        (to,) = [flow for flow in flows if f"tp_dst={port} " in flow]
        assert about.split("conjunction(")[1].split(",")[0] == to.split("conjunction(")[1].split(",")[0]


@pytest.mark.parametrize("count", [10, 100])
def test_flows_grow_with_pods_and_ports_not_with_their_product(count: int) -> None:
    """N pods to N pods on P ports: N + N + P, a verdict, its count, and what isolates each pod."""
    servers = [pod(f"s{n}", 1, n + 1, app="web") for n in range(count)]
    clients = [pod(f"c{n}", 2, n + 1, app="client") for n in range(count)]
    ports = [{"port": 1000 + 2 * n} for n in range(5)]
    made = bridges(*servers, *clients, policy(**SERVER, ingress=[{"from": [CLIENTS], "ports": ports}]))
    assert len(made.rules("n1")) == count + count + len(ports) + 2 + count


def test_a_label_touches_the_flows_of_its_pod_alone() -> None:
    clients = [pod(f"c{n}", 2, n + 1, app="client") for n in range(50)]
    made = bridges(pod("s", 1, 200, app="web"), *clients, policy(**SERVER, ingress=[{"from": [CLIENTS]}]))
    made.rules("n1")
    scope = made.scopes["n1"]
    scope.take()
    made.put(pod("c7", 2, 8, app="other"))
    made.policies.compute()
    changes = scope.take()
    assert (len(changes), len(changes.gone_flows)) == (1, 1)


def test_a_new_start_makes_the_same_flows_in_whatever_order_policies_come() -> None:
    """Numbers of rules and cookies included: a controller that starts again finds them as it left them."""
    named = [policy(name, **SERVER, ingress=[{"from": [CLIENTS], "ports": [{"port": 80}]}]) for name in "pqrs"]
    pods = (pod("a", 1, 2, app="web"), pod("b", 1, 3, app="client"))
    found = []
    for order in (named, named[::-1]):
        made = bridges(*pods, *order)
        made.policies.compute()
        found.append({key: (flow.cookie, str(flow)) for key, flow in made.scopes["n1"].flows.items()})
    assert found[0] == found[1]


_changes = st.lists(
    st.one_of(
        pods().map(lambda obj: ("put", obj)),
        namespaces().map(lambda obj: ("put", obj)),
        policies().map(lambda obj: ("put", obj)),
        cluster_policies().map(lambda obj: ("put", obj)),
        st.tuples(st.just("remove"), st.one_of(pods(), namespaces(), policies(), cluster_policies())),
        st.just(("compute", None)),
    ),
    max_size=25,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(_changes)
def test_changes_lead_where_a_new_start_would(changes: Iterable[tuple[str, Object]]) -> None:
    gradual, present = Bridges(), dict[tuple[str, Key], Object]()
    for what, obj in changes:
        match what:
            case "put":
                present[obj["kind"], key_of(obj)] = obj
                gradual.put(obj)
            case "remove":
                if present.pop((obj["kind"], key_of(obj)), None):
                    gradual.remove(obj["kind"], key_of(obj))
            case "compute":
                gradual.flows()
    fresh = Bridges()
    for obj in present.values():
        fresh.put(obj)
    assert gradual.flows() == fresh.flows()
