"""Worlds of many namespaces that are alike, for tables and pictures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kmn.k8s.objects import Object, key_of, labels
from kmn.policy.answers import Answers, Port, Subject, answers
from kmn.policy.model import network_policy
from kmn.policy.selection import Selection, member_of
from kmn.policy.verdicts import Judge

__all__ = ["APPS", "OWN", "ask", "judge", "policy", "tenants"]

APPS = ("cart", "frontend", "store")
# Who may come in: the pods of the same namespace.
OWN = {"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]}


def tenants(count: int, pods: int = 6) -> list[Object]:
    """Namespaces t00, t01, … of teams 0 and 1 in turn, each with as many pods, of the APPS in turn: cart-0, …"""
    found: list[Object] = []
    for number in range(count):
        name = f"t{number:02}"
        team = {"team": str(number % 2)}
        found.append({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": team}})
        for place in range(pods):
            app = APPS[place % len(APPS)]
            found.append(
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {"name": f"{app}-{place}", "namespace": name, "labels": {"app": app}},
                    "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]},
                    "status": {"phase": "Running", "podIP": f"10.{number}.0.{place + 1}"},
                }
            )
    return found


def policy(namespace: str, name: str = "p", **spec: Any) -> Object:
    """A NetworkPolicy."""
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


def judge(objects: Iterable[Object]) -> Judge:
    """Of namespaces, pods and policies."""
    selection, policies = Selection(), []
    for obj in objects:
        match obj["kind"]:
            case "Namespace":
                selection.set_namespace(obj["metadata"]["name"], labels(obj))
            case "Pod":
                selection.set_member(key_of(obj), member_of(obj))
            case _:
                policies.append(network_policy(obj))
    return Judge(selection, policies)


def ask(of: Judge, *ports: Port, own: dict[str, set[Port]] | None = None) -> Answers:
    """Everybody at these ports; or, by the name of the workload, at ``own`` ones."""
    subjects = []
    for member in of.selection.members.values():
        workload = member.labels.get("app", member.key.name)
        mine = own.get(workload, set()) if own is not None else ports
        subjects.append(Subject(member.key, workload, frozenset(mine)))
    return answers(of, subjects)
