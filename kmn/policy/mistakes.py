"""What is allowed in a policy, and hardly what its author wants: selectors that select nothing, ports that nobody has.

Not for rules that others make pointless: that takes all policies at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_interface
from typing import Protocol

from kmn.k8s.objects import Object
from kmn.k8s.schema import did_you_mean
from kmn.k8s.selectors import EVERYTHING, LabelSelector
from kmn.policy.clusterwide import not_emulated, policy_of
from kmn.policy.model import Block, Direction, NamedPort, PodPeer, Policy
from kmn.policy.selection import Member

__all__ = ["Surroundings", "mistakes"]

_ANYBODY = PodPeer(None, EVERYTHING, EVERYTHING)


class Surroundings(Protocol):
    """The pods that policies are for: those that are there, and those that workloads are about to make."""

    @property
    def namespaces(self) -> Mapping[str, Mapping[str, str]]:
        """Labels by name."""
        ...

    def pods(self, namespace: str, selector: LabelSelector = EVERYTHING) -> Iterable[Member]:
        """Those of one namespace that a selector selects; addresses do not matter."""
        ...


def mistakes(obj: Object, around: Surroundings | None = None) -> Iterator[str]:
    """What is probably wrong with a policy that the API server takes, field by field.

    Without surroundings only what shows without them.
    """
    policy = policy_of(obj)
    yield from _ignored_rules(obj)
    yield from _stray_bits(obj)
    yield from _empty_blocks(policy)
    yield from not_emulated(obj)
    if around is not None:
        yield from _nobody_selected(policy, around)
        yield from _unknown_ports(policy, around)


def _ignored_rules(obj: Object) -> Iterator[str]:
    spec = obj["spec"]
    types = spec.get("policyTypes")
    for direction in Direction:
        field = direction.value.lower()
        if types and direction.value not in types and spec.get(field):
            yield f"spec.{field}: has no effect without {direction.value} in spec.policyTypes"


def _stray_bits(obj: Object) -> Iterator[str]:
    """Networks written by an address inside them. Kubernetes warns of those as well."""
    for path, text in _networks(obj):
        written = ip_interface(text)
        if written.ip != written.network.network_address:
            one = f"{written.ip}/{written.ip.max_prefixlen}"
            yield f"{path}: {text} is taken as {written.network}: write that, or {one} for the one address"


def _networks(obj: Object) -> Iterator[tuple[str, str]]:
    """All networks of a policy as they are written, with their paths."""
    for direction, side in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(obj["spec"].get(direction) or ()):
            for number, peer in enumerate(rule.get(side) or ()):
                at = f"spec.{direction}[{index}].{side}[{number}]"
                block = peer.get("ipBlock")
                if block is not None:
                    yield f"{at}.ipBlock.cidr", block["cidr"]
                    for place, hole in enumerate(block.get("except") or ()):
                        yield f"{at}.ipBlock.except[{place}]", hole
                for place, network in enumerate(peer.get("networks") or ()):
                    yield f"{at}.networks[{place}]", network


def _empty_blocks(policy: Policy) -> Iterator[str]:
    for direction in Direction:
        for index, rule in enumerate(policy.rules(direction) or ()):
            for peer in rule.peers or ():
                if isinstance(peer, Block) and not peer.networks():
                    yield f"spec.{direction.value.lower()}[{index}]: {peer} is nothing: the exceptions cover all of it"


def _nobody_selected(policy: Policy, around: Surroundings) -> Iterator[str]:
    subject = policy.subject
    if not subject.pods.requirements and not subject.namespaces.requirements:
        return  # who means everybody may well be early
    if next(_selected(subject, around), None) is None:
        field = "subject" if subject.namespace is None else "podSelector"
        others = PodPeer(subject.namespace, subject.namespaces, EVERYTHING)
        near = _near(subject.pods, [each.labels for each in _selected(others, around)])
        near = near or _near(subject.namespaces, around.namespaces.values())
        yield f"spec.{field}: selects no pod now ({subject}){near}"


def _near(selector: LabelSelector, present: Iterable[Mapping[str, str]]) -> str:
    """For a label whose value nobody has, one that somebody has."""
    present = list(present)
    for requirement in selector.requirements:
        known = {labels[requirement.key] for labels in present if requirement.key in labels}
        for value in sorted(requirement.values - known) if requirement.operator == "In" else ():
            near = did_you_mean(value, known)
            if near:
                return near
    return ""


def _unknown_ports(policy: Policy, around: Surroundings) -> Iterator[str]:
    """Named ports of ingress rules that no pod of the policy has, and of egress rules that no pod at all has."""
    for direction in Direction:
        own = direction is Direction.INGRESS
        asked, who = (policy.subject, "no selected pod") if own else (_ANYBODY, "no pod")
        for index, rule in enumerate(policy.rules(direction) or ()):
            for port in rule.ports or ():
                if isinstance(port, NamedPort) and not _has(port, _selected(asked, around)):
                    pods = list(_selected(asked, around))
                    if pods:
                        near = did_you_mean(str(port), _port_names(pods, port.protocol != ""))
                        yield f"spec.{direction.value.lower()}[{index}]: {who} has a port {port} now{near}"


def _has(port: NamedPort, pods: Iterable[Member]) -> bool:
    return any(pod.number_of(port.name, port.protocol) for pod in pods)


def _port_names(pods: Iterable[Member], protocols: bool) -> set[str]:
    """Of all pods, written as policies' named ports are, with or without protocols."""
    return {str(NamedPort(protocol if protocols else "", name)) for pod in pods for name, protocol, _ in pod.ports}


def _selected(peer: PodPeer, around: Surroundings) -> Iterator[Member]:
    if peer.namespace is not None:
        yield from around.pods(peer.namespace, peer.pods)
        return
    for name, labels in around.namespaces.items():
        if peer.namespaces.matches(labels):
            yield from around.pods(name, peer.pods)
