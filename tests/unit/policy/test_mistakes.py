"""Legal and probably wrong: each mistake in a small world, and the same policy without it."""

from __future__ import annotations

from typing import Any

import pytest

from kmn.apiserver.admission.surroundings import StoreSurroundings
from kmn.apiserver.admission_api import NullAdmission
from kmn.apiserver.local import LocalClient
from kmn.apiserver.store import Store
from kmn.k8s.objects import Object
from kmn.policy.mistakes import mistakes

WEB = {"matchLabels": {"app": "web"}}
V1ALPHA1, V1ALPHA2 = "policy.networking.k8s.io/v1alpha1", "policy.networking.k8s.io/v1alpha2"


def container(*ports: tuple[str, str, int]) -> dict[str, Any]:
    made = [{"name": name, "protocol": protocol, "containerPort": number} for name, protocol, number in ports]
    return {"name": "c", "image": "i", "ports": made}


def pod(name: str, app: str, *ports: tuple[str, str, int], **spec: Any) -> Object:
    meta = {"name": name, "namespace": "shop", "labels": {"app": app}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": [container(*ports)], **spec}}


def ended(obj: Object) -> Object:
    return {**obj, "status": {"phase": "Succeeded"}}


TEMPLATE = {"metadata": {"labels": {"app": "api"}}, "spec": {"containers": [container(("grpc", "TCP", 9000))]}}
OBJECTS: list[Object] = [
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "shop"}}},
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "void", "labels": {"team": "void"}}},
    pod("web-1", "web", ("http", "TCP", 8080)),
    pod("dns-1", "dns", ("dns", "UDP", 53)),
    pod("own-1", "own", ("own", "TCP", 1), hostNetwork=True),
    ended(pod("job-1", "job", ("job", "TCP", 1))),
    {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "api", "namespace": "shop"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "api"}}, "template": TEMPLATE},
    },
    {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "tick", "namespace": "shop"},
        "spec": {
            "schedule": "@hourly",
            "jobTemplate": {"spec": {"template": {**TEMPLATE, "metadata": {"labels": {"app": "tick"}}}}},
        },
    },
]


@pytest.fixture(scope="module")
def around() -> StoreSurroundings:
    client = LocalClient(Store(), NullAdmission())
    for obj in OBJECTS:
        client.create(obj)
    return StoreSurroundings(client.store)


def policy(selector: Any = WEB, **spec: Any) -> Object:
    meta = {"name": "p", "namespace": "shop"}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": meta,
        "spec": {"podSelector": selector, **spec},
    }


def labelled(app: str) -> Object:
    return policy({"matchLabels": {"app": app}})


def ingress(*ports: Any) -> Object:
    return policy(ingress=[{"ports": list(ports)}])


def egress(*ports: Any) -> Object:
    return policy(policyTypes=["Egress"], egress=[{"ports": list(ports)}])


def block(cidr: str, *excepts: str) -> Object:
    return policy(ingress=[{"from": [{"ipBlock": {"cidr": cidr, "except": list(excepts)}}]}])


def anp(*rules: Any, subject: Any = None, direction: str = "ingress") -> Object:
    spec = {"priority": 1, "subject": subject or {"namespaces": {}}, direction: list(rules)}
    return {"apiVersion": V1ALPHA1, "kind": "AdminNetworkPolicy", "metadata": {"name": "p"}, "spec": spec}


def cnp(*rules: Any, subject: Any = None, direction: str = "ingress") -> Object:
    made = anp(*rules, subject=subject, direction=direction)
    return {**made, "apiVersion": V1ALPHA2, "kind": "ClusterNetworkPolicy", "spec": {**made["spec"], "tier": "Admin"}}


def rule(side: str, *peers: Any, **fields: Any) -> dict[str, Any]:
    return {"action": "Deny", side: list(peers) or [{"namespaces": {}}], **fields}


def pods(namespaces: Any, selected: Any) -> dict[str, Any]:
    return {"pods": {"namespaceSelector": namespaces, "podSelector": selected}}


def stray(text: str, network: str, one: str) -> str:
    return f"{text} is taken as {network}: write that, or {one} for the one address"


NOT_FOLLOWED = "not emulated: names are not followed to addresses, and match nothing; give networks"

RIGHT = [
    labelled("web"),
    labelled("api"),  # its pods are not there yet
    labelled("tick"),
    policy({}),
    policy({}) | {"metadata": {"name": "p", "namespace": "void"}},
    ingress({"port": "http"}, {"port": 80}, {"port": 80, "endPort": 80}, {"protocol": "SCTP"}),
    egress({"port": "dns", "protocol": "UDP"}, {"port": "grpc"}),
    policy(policyTypes=["Ingress", "Egress"], ingress=[{}], egress=[{}]),
    policy(policyTypes=["Egress"], ingress=[]),
    block("10.0.0.0/8", "10.0.0.0/9"),
    block("10.1.2.3/32"),
    cnp(subject={"namespaces": {"matchLabels": {"team": "shop"}}}),
    anp(subject=pods({"matchLabels": {"team": "shop"}}, WEB)),
    anp(rule("from", ports=[{"namedPort": "dns"}])),
    cnp(rule("to", {"networks": ["10.0.0.0/8", "fd00::/8"]}), direction="egress"),
]

WRONG: list[tuple[Object, str]] = [
    # Nobody is selected.
    (labelled("webb"), 'spec.podSelector: selects no pod now (pods app=webb of namespace shop), did you mean "web"?'),
    (labelled("x"), "spec.podSelector: selects no pod now (pods app=x of namespace shop)"),
    (labelled("own"), "spec.podSelector: selects no pod now (pods app=own of namespace shop)"),
    (labelled("job"), "spec.podSelector: selects no pod now (pods app=job of namespace shop)"),
    (
        policy({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}),
        "spec.podSelector: selects no pod now (pods !app of namespace shop)",
    ),
    (
        labelled("web") | {"metadata": {"name": "p", "namespace": "void"}},
        "spec.podSelector: selects no pod now (pods app=web of namespace void)",
    ),
    (
        cnp(subject={"namespaces": {"matchLabels": {"team": "shops"}}}),
        'spec.subject: selects no pod now (all pods of namespaces team=shops), did you mean "shop"?',
    ),
    (
        cnp(subject={"namespaces": {"matchLabels": {"team": "void"}}}),
        "spec.subject: selects no pod now (all pods of namespaces team=void)",
    ),
    (
        anp(subject=pods({}, {"matchLabels": {"app": "webs"}})),
        'spec.subject: selects no pod now (pods app=webs of all namespaces), did you mean "web"?',
    ),
    # Nobody has the port.
    (ingress({"port": "htpp"}), 'spec.ingress[0]: no selected pod has a port htpp/TCP now, did you mean "http/TCP"?'),
    (
        ingress({"port": 80}, {"port": "http", "protocol": "UDP"}),
        'spec.ingress[0]: no selected pod has a port http/UDP now, did you mean "http/TCP"?',
    ),
    (ingress({"port": "dns", "protocol": "UDP"}), "spec.ingress[0]: no selected pod has a port dns/UDP now"),
    (egress({"port": "own"}), "spec.egress[0]: no pod has a port own/TCP now"),
    (
        anp(rule("from", ports=[{"namedPort": "grcp"}]), subject=pods({}, {"matchLabels": {"app": "api"}})),
        'spec.ingress[0]: no selected pod has a port grcp now, did you mean "grpc"?',
    ),
    (
        cnp(rule("to", protocols=[{"destinationNamedPort": "zzz"}]), direction="egress"),
        "spec.egress[0]: no pod has a port zzz now",
    ),
    # Networks.
    (
        block("10.1.2.3/8"),
        f"spec.ingress[0].from[0].ipBlock.cidr: {stray('10.1.2.3/8', '10.0.0.0/8', '10.1.2.3/32')}",
    ),
    (
        block("10.0.0.0/8", "10.2.3.4/16"),
        f"spec.ingress[0].from[0].ipBlock.except[0]: {stray('10.2.3.4/16', '10.2.0.0/16', '10.2.3.4/32')}",
    ),
    (
        anp(rule("to", {"networks": ["10.0.0.0/8", "fd00::1/64"]}), direction="egress"),
        f"spec.egress[0].to[0].networks[1]: {stray('fd00::1/64', 'fd00::/64', 'fd00::1/128')}",
    ),
    (
        block("10.0.0.0/8", "10.0.0.0/9", "10.128.0.0/9"),
        "spec.ingress[0]: 10.0.0.0/8 except 10.0.0.0/9, 10.128.0.0/9 is nothing: the exceptions cover all of it",
    ),
    # Rules that do not count.
    (policy(policyTypes=["Ingress"], egress=[{}]), "spec.egress: has no effect without Egress in spec.policyTypes"),
    (policy(policyTypes=["Egress"], ingress=[{}]), "spec.ingress: has no effect without Ingress in spec.policyTypes"),
    (
        cnp(rule("to", {"domainNames": ["example.com"]}), direction="egress"),
        f"spec.egress[0].to[0].domainNames: {NOT_FOLLOWED}",
    ),
]


@pytest.mark.parametrize("obj", RIGHT)
def test_nothing_is_said_of_what_may_well_be_meant(obj: Object, around: StoreSurroundings) -> None:
    assert list(mistakes(obj, around)) == []


@pytest.mark.parametrize(("obj", "told"), WRONG)
def test_one_mistake_is_told_once(obj: Object, told: str, around: StoreSurroundings) -> None:
    assert list(mistakes(obj, around)) == [told]


def test_without_surroundings_nobody_is_missed() -> None:
    assert list(mistakes(labelled("webb"))) == []
    assert len(list(mistakes(block("10.1.2.3/8")))) == 1
