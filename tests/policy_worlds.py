"""Small worlds with random policies, pods and namespaces, for hypothesis."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from kmn.k8s.objects import Object, key_of, labels
from kmn.policy.clusterwide import policy_of
from kmn.policy.selection import Selection, member_of
from kmn.policy.verdicts import Judge

__all__ = ["NAMESPACES", "cluster_policies", "judge_of", "namespaces", "pods", "policies"]

NAMESPACES = ("x", "y", "z")
_KEYS = ("app", "tier")
_VALUES = ("a", "b", "c")
_PROTOCOLS = ("TCP", "UDP", "SCTP")

_labels = st.dictionaries(st.sampled_from(_KEYS), st.sampled_from(_VALUES), max_size=2)

_requirements = st.one_of(
    st.fixed_dictionaries(
        {
            "key": st.sampled_from(_KEYS),
            "operator": st.sampled_from(("In", "NotIn")),
            "values": st.lists(st.sampled_from(_VALUES), min_size=1, max_size=2, unique=True),
        }
    ),
    st.fixed_dictionaries({"key": st.sampled_from(_KEYS), "operator": st.sampled_from(("Exists", "DoesNotExist"))}),
)
_selectors = st.fixed_dictionaries(
    {}, optional={"matchLabels": _labels, "matchExpressions": st.lists(_requirements, max_size=2)}
)
_blocks = st.sampled_from(
    (
        {"cidr": "0.0.0.0/0"},
        {"cidr": "10.244.0.0/16", "except": ["10.244.1.0/24"]},
        {"cidr": "10.244.1.0/30"},
        {"cidr": "10.244.2.2/32"},
        {"cidr": "0.0.0.0/0", "except": ["10.244.1.1/32", "203.0.113.0/24"]},
    )
)
_peers = st.one_of(
    st.fixed_dictionaries({"podSelector": _selectors}),
    st.fixed_dictionaries({"namespaceSelector": _selectors}),
    st.fixed_dictionaries({"namespaceSelector": _selectors, "podSelector": _selectors}),
    st.fixed_dictionaries({"ipBlock": _blocks}),
)
_any_protocol = {"protocol": st.sampled_from(_PROTOCOLS)}
_ports = st.one_of(
    st.fixed_dictionaries({}, optional=_any_protocol),
    st.fixed_dictionaries({"port": st.sampled_from((80, 81, "web", "dns"))}, optional=_any_protocol),
    st.fixed_dictionaries({"port": st.just(79), "endPort": st.integers(79, 83)}, optional=_any_protocol),
)


def _rules(peers: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    rule = st.fixed_dictionaries(
        {}, optional={peers: st.lists(_peers, max_size=2), "ports": st.lists(_ports, max_size=2)}
    )
    return st.lists(rule, max_size=2)


@st.composite
def policies(draw: st.DrawFn) -> Object:
    """A NetworkPolicy with one of few names, so that some replace others."""
    spec = draw(
        st.fixed_dictionaries(
            {"podSelector": _selectors},
            optional={
                "ingress": _rules("from"),
                "egress": _rules("to"),
                "policyTypes": st.sampled_from((["Ingress"], ["Egress"], ["Ingress", "Egress"])),
            },
        )
    )
    name, namespace = draw(st.sampled_from(("p", "q", "r"))), draw(st.sampled_from(NAMESPACES))
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


_cluster_peers = st.one_of(
    st.fixed_dictionaries({"namespaces": _selectors}),
    st.fixed_dictionaries(
        {"pods": st.fixed_dictionaries({"namespaceSelector": _selectors, "podSelector": _selectors})}
    ),
)
_outward_peers = st.one_of(_cluster_peers, st.just({"networks": ["10.244.1.0/24"]}), st.just({"nodes": {}}))
_cluster_ports = st.one_of(
    st.fixed_dictionaries(
        {"portNumber": st.fixed_dictionaries({"protocol": st.sampled_from(_PROTOCOLS), "port": st.just(80)})}
    ),
    st.just({"portRange": {"protocol": "TCP", "start": 79, "end": 83}}),
    st.just({"namedPort": "web"}),
)


def _cluster_rules(peers: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    of = _cluster_peers if peers == "from" else _outward_peers
    rule = st.fixed_dictionaries(
        {"action": st.sampled_from(("Allow", "Deny", "Pass")), peers: st.lists(of, min_size=1, max_size=2)},
        optional={"ports": st.lists(_cluster_ports, min_size=1, max_size=2)},
    )
    return st.lists(rule, max_size=3)


@st.composite
def cluster_policies(draw: st.DrawFn) -> Object:
    """An AdminNetworkPolicy of one of few names, or the BaselineAdminNetworkPolicy."""
    spec = draw(
        st.fixed_dictionaries(
            {"subject": _cluster_peers}, optional={"ingress": _cluster_rules("from"), "egress": _cluster_rules("to")}
        )
    )
    name = draw(st.sampled_from(("default", "p", "q")))
    kind = "BaselineAdminNetworkPolicy" if name == "default" else "AdminNetworkPolicy"
    if kind == "AdminNetworkPolicy":
        spec["priority"] = draw(st.integers(1, 3))
    else:
        for rule in (*spec.get("ingress", ()), *spec.get("egress", ())):
            rule["action"] = "Deny" if rule["action"] == "Pass" else rule["action"]
    metadata = {"name": name}
    return {"apiVersion": "policy.networking.k8s.io/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


@st.composite
def pods(draw: st.DrawFn) -> Object:
    """A pod of one of few names and addresses: it may replace another one under a new address, on another node."""
    name, namespace = draw(st.sampled_from(("a", "b"))), draw(st.sampled_from(NAMESPACES))
    node = draw(st.sampled_from((1, 2)))
    number = 10 * NAMESPACES.index(namespace) + 2 * ("a", "b").index(name) + draw(st.integers(0, 1)) + 1
    ports = draw(
        st.lists(
            st.sampled_from(
                (
                    {"name": "web", "containerPort": 80, "protocol": "TCP"},
                    {"name": "web", "containerPort": 81, "protocol": "TCP"},
                    {"name": "dns", "containerPort": 80, "protocol": "UDP"},
                )
            ),
            max_size=2,
            unique_by=lambda port: port["name"],
        )
    )
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": draw(_labels)},
        "spec": {"nodeName": f"n{node}", "containers": [{"name": "c", "image": "i", "ports": ports}]},
        "status": {"phase": "Running", "podIP": f"10.244.{node}.{number}"},
    }


@st.composite
def namespaces(draw: st.DrawFn) -> Object:
    name = draw(st.sampled_from(NAMESPACES))
    its_labels = {**draw(_labels), "kubernetes.io/metadata.name": name}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": its_labels}}


def judge_of(*objects: Object) -> Judge:
    """Of these objects, in this order."""
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
