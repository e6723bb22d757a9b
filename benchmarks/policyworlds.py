"""Pods and policies to measure NetworkPolicy with: teams as one finds them, and the worlds of Antrea's own tests.

The latter have the shapes (numbers, labels, selectors) of ``TestInitXLargeScale…`` of antrea-io/antrea, in
``pkg/controller/networkpolicy/networkpolicy_controller_perf_test.go``, where figures for them stand.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from kmn.k8s.objects import Object

__all__ = [
    "PORTS",
    "World",
    "app_of",
    "deployments",
    "large_namespaces",
    "namespace",
    "one_namespace",
    "policies",
    "small_namespaces",
    "team",
]

_APPS = 20  # a team
_KINDS = 10  # of policies that an app has
_HTTP, _BULK = 8080, 5201
PORTS = (_HTTP, _BULK)  # that an app may ask of the next one


# --- teams ------------------------------------------------------------------------------------------------------------


def team(number: int) -> str:
    """A team's namespace."""
    return f"team-{number}"


def app_of(number: int) -> str:
    """The label ``app`` of a team's pods; after the last app comes the first."""
    return f"app-{number % _APPS}"


def namespace(name: str, **its_labels: str) -> Object:
    """A Namespace with labels."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": its_labels}}


def deployments(teams: int, pods: int) -> Iterator[Object]:
    """So many pods, divided among the apps of all teams."""
    http = {"name": "http", "containerPort": _HTTP}
    for number in range(teams * _APPS):
        replicas = pods // (teams * _APPS) + (number < pods % (teams * _APPS))
        its_team, app = number // _APPS, number % _APPS
        its_labels = {"app": app_of(app), "tier": ("web", "api", "data")[app % 3], "role": "none"}
        yield {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": app_of(app), "namespace": team(its_team)},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": app_of(app)}},
                "template": {
                    "metadata": {"labels": its_labels},
                    "spec": {"containers": [{"name": "web", "image": "web", "ports": [http]}]},
                },
            },
        }


def policies(teams: int, count: int) -> Iterator[Object]:
    """So many policies, divided among the teams' apps: the next app may ask, monitoring may, some networks may, …"""
    for number in range(count):
        app, kind = divmod(number // teams, _KINDS)
        kind += app // _APPS * _KINDS
        yield _policy(f"{app_of(app)}-{kind}", number % teams, teams, app, kind)


def _policy(name: str, its_team: int, teams: int, app: int, kind: int) -> Object:
    """``kind`` chooses what it says; kinds that say the same of an app differ in their ports."""
    number = _HTTP + kind
    before, after = {"podSelector": _app(app - 1)}, {"podSelector": _app(app + 1)}
    other = {"matchLabels": {"team": team((its_team + 1) % teams)}}
    system = {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}
    monitoring = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"role": "monitoring"}}}
    tiers = {"matchExpressions": [{"key": "tier", "operator": "In", "values": ["web", "api"]}]}
    offices = [_block(f"203.0.113.{16 * n}/28") for n in range(5)]
    world = _block("0.0.0.0/0", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
    rules: list[dict[str, Any]] = [
        {"ingress": [{"from": [before], "ports": [{"port": port} for port in PORTS]}]},
        {"egress": [{"to": [after], "ports": [{"port": port} for port in PORTS]}]},
        {"egress": [{"to": [{"namespaceSelector": system}], "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53}]}]},
        {"ingress": [{"from": [monitoring], "ports": [{"port": 9000 + kind, "endPort": 9099}]}]},
        {"ingress": [{"from": offices, "ports": [{"port": 443}, {"port": number}]}]},
        {"ingress": [{"from": [{"namespaceSelector": other, "podSelector": _app(app)}], "ports": [{"port": "http"}]}]},
        {"egress": [{"to": [world], "ports": [{"port": 443}]}]},
        {"ingress": [{"from": [{"podSelector": tiers}], "ports": [{"port": number}]}]},
        {"egress": [{"to": [{"namespaceSelector": other}], "ports": [{"port": number, "protocol": "UDP"}]}]},
        {"ingress": [{"from": [{"podSelector": {}}], "ports": [{"port": number, "protocol": "UDP"}]}]},
    ]
    rule = rules[kind % _KINDS]
    types = ["Ingress" if "ingress" in rule else "Egress"]
    return _network_policy(team(its_team), name, {"podSelector": _app(app), "policyTypes": types, **rule})


def _app(number: int) -> dict[str, Any]:
    return {"matchLabels": {"app": app_of(number)}}


def _block(cidr: str, *excepts: str) -> dict[str, Any]:
    return {"ipBlock": {"cidr": cidr, "except": list(excepts)} if excepts else {"cidr": cidr}}


def _network_policy(its_namespace: str, name: str, spec: dict[str, Any]) -> Object:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": its_namespace},
        "spec": spec,
    }


# --- without a data plane ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class World:
    """All objects of a cluster that exists on paper only."""

    namespaces: list[Object] = field(default_factory=list)
    pods: list[Object] = field(default_factory=list)
    policies: list[Object] = field(default_factory=list)

    def add_namespace(self, name: str) -> str:
        self.namespaces.append(namespace(name, app=name))
        return name

    def add_pod(self, its_namespace: str, name: str, its_labels: dict[str, str]) -> None:
        """On one of a thousand nodes, under an address that no other pod has."""
        number = len(self.pods)
        address = f"10.{number >> 16 & 0xFF}.{number >> 8 & 0xFF}.{number & 0xFF}"
        self.pods.append(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": its_namespace, "labels": its_labels},
                "spec": {"nodeName": f"node-{_random.randrange(1000)}", "containers": []},
                "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
            }
        )

    def add_policy(self, its_namespace: str, name: str, selected: dict[str, str] | None = None) -> None:
        """In both directions: those with ``selected`` labels may be asked by their like, and ask nobody."""
        spec: dict[str, Any] = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
        if selected is not None:
            selector = {"matchLabels": selected}
            spec |= {"podSelector": selector, "ingress": [{"from": [{"podSelector": selector}]}]}
        self.policies.append(_network_policy(its_namespace, name, spec))


_random = random.Random(1)


def small_namespaces(count: int) -> World:
    """Four pods and three policies each. Antrea, of 25,000: 6.1, 5.8 and 6.4 s, 1.5 to 1.7 GB."""
    world = World()
    for number in range(count):
        name = world.add_namespace(f"ns-{number}")
        world.add_policy(name, "default-deny-all")
        for app in (1, 2):
            its_labels = {f"app-{app}": f"scale-{app}"}
            world.add_policy(name, f"np-{app}", its_labels)
            for pod in (1, 2):
                world.add_pod(name, f"pod-{app}-{pod}", its_labels)
    return world


def large_namespaces(count: int) -> World:
    """1,000 pods and 101 policies each; of Antrea, of 100, it is only tested that they take less than 10 s."""
    world = World()
    for number in range(count):
        name = world.add_namespace(f"ns-{number}")
        world.add_policy(name, "default-deny-all")
        for app in range(100):
            its_labels = {f"app-{app}": f"scale-{app}"}
            world.add_policy(name, f"np-{app}", its_labels)
            for pod in range(10):
                world.add_pod(name, f"pod-{app}-{pod}", its_labels)
    return world


def one_namespace(count: int) -> World:
    """As many pods as policies, each of which selects all of them. Antrea, of 10,000: 10.7 s, 1.2 GB."""
    world, its_labels = World(), {"app-1": "scale-1"}
    name = world.add_namespace("ns")
    for number in range(count):
        world.add_policy(name, f"np-{number}", its_labels)
        world.add_pod(name, f"pod-{number}", its_labels)
    return world
