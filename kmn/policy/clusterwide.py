"""Cluster-wide policies (policy.networking.k8s.io), typed: what administrators say before and after NetworkPolicies.

v1alpha1 has AdminNetworkPolicy and BaselineAdminNetworkPolicy, v1alpha2 has ClusterNetworkPolicy for both. None of
them isolates: in a direction without rules such a policy says nothing. (Semantics: the API documentation in
kubernetes-sigs/network-policy-api, ``apis/v1alpha1`` and ``apis/v1alpha2``.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from typing import Any

from kmn.k8s.objects import Object, describe, key_of
from kmn.k8s.selectors import EVERYTHING, selector_of_object
from kmn.policy.model import (
    Action,
    Block,
    Direction,
    NamedPort,
    Peer,
    PodPeer,
    Policy,
    PortRange,
    Rule,
    Tier,
    network_policy,
    node_peer,
    staged,
)

__all__ = ["admin_policy", "not_emulated", "policy_of"]

_ACTIONS = {"Allow": Action.ALLOW, "Accept": Action.ALLOW, "Deny": Action.DENY, "Pass": Action.PASS}
_TIERS = {"Admin": Tier.ADMIN, "Baseline": Tier.BASELINE}

# The one BaselineAdminNetworkPolicy has no priority. Beside ClusterNetworkPolicies (0 to 1000) it speaks last.
_LAST = 1001


def policy_of(obj: Object) -> Policy:
    """A policy of any kind. Raises ValueError, naming object and field."""
    return network_policy(obj) if obj["kind"] == "NetworkPolicy" else admin_policy(obj)


def admin_policy(obj: Object) -> Policy:
    """A cluster-wide policy that the API server has taken. Raises ValueError, naming object and field, on what it would
    not.

    ``domainNames`` match nothing: :func:`not_emulated` tells where they stand.
    """
    spec, kind = obj.get("spec") or {}, obj["kind"]
    with _named(f"{describe(obj)}: spec"):
        match kind:
            case "AdminNetworkPolicy":
                tier, priority = Tier.ADMIN, spec["priority"]
            case "BaselineAdminNetworkPolicy":
                tier, priority = Tier.BASELINE, _LAST
            case "ClusterNetworkPolicy":
                tier, priority = _TIERS[spec["tier"]], spec["priority"]
            case _:
                raise ValueError(f"kind {kind} is no cluster-wide policy")
        subject = _pods(spec["subject"])
        if subject is None:
            raise ValueError("subject: exactly one of namespaces, pods")
    ingress, egress = (_rules(obj, spec, direction) for direction in (Direction.INGRESS, Direction.EGRESS))
    return Policy(kind, key_of(obj), subject, ingress, egress, tier, priority, staged(obj))


def not_emulated(obj: Object) -> Iterator[str]:
    """Fields of a cluster-wide policy that are without effect, each with the reason."""
    for index, rule in enumerate((obj.get("spec") or {}).get("egress") or ()):
        for number, peer in enumerate(rule.get("to") or ()):
            if peer.get("domainNames"):
                at = f"spec.egress[{index}].to[{number}].domainNames"
                yield f"{at}: not emulated: names are not followed to addresses, and match nothing; give networks"


def _rules(obj: Object, spec: dict[str, Any], direction: Direction) -> tuple[Rule, ...]:
    field, side = ("ingress", "from") if direction is Direction.INGRESS else ("egress", "to")
    rules = []
    for number, rule in enumerate(spec.get(field) or ()):
        at = f"{field}[{number}]"
        with _named(f"{describe(obj)}: spec.{at}"):
            rules.append(
                Rule(
                    f'{at} "{rule["name"]}"' if rule.get("name") else at,
                    peers=tuple(each for peer in rule[side] for each in _peers(peer)),
                    ports=(*_ports(rule), *_protocols(rule)) or None,
                    action=_ACTIONS[rule["action"]],
                )
            )
    return tuple(rules)


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Errors of what is read inside say where it stands."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{where}: {error}: missing, or not known") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{where}: {error}") from error


def _pods(peer: dict[str, Any]) -> PodPeer | None:
    """Pods of a subject or peer that names some. ``namespaces`` are all their pods."""
    if peer.get("pods") is not None:
        namespaces, pods = peer["pods"].get("namespaceSelector") or {}, peer["pods"].get("podSelector") or {}
        return PodPeer(None, selector_of_object(namespaces), selector_of_object(pods))
    if peer.get("namespaces") is not None:
        return PodPeer(None, selector_of_object(peer["namespaces"]), EVERYTHING)
    return None


def _peers(peer: dict[str, Any]) -> tuple[Peer, ...]:
    pods = _pods(peer)
    if pods is not None:
        return (pods,)
    if peer.get("nodes") is not None:
        return (node_peer(selector_of_object(peer["nodes"])),)
    if peer.get("networks") is not None:
        return tuple(Block(ip_network(text, strict=False)) for text in peer["networks"])
    if peer.get("domainNames") is not None:
        return ()
    raise ValueError("a peer has exactly one of namespaces, pods, nodes, networks, domainNames")


def _ports(rule: dict[str, Any]) -> Iterator[PortRange | NamedPort]:
    """Of v1alpha1."""
    for port in rule.get("ports") or ():
        if port.get("portNumber") is not None:
            number = port["portNumber"]
            yield PortRange(number.get("protocol") or "TCP", number["port"], number["port"])
        elif port.get("portRange") is not None:
            ports = port["portRange"]
            yield PortRange(ports.get("protocol") or "TCP", ports["start"], ports["end"])
        else:
            yield NamedPort("", port["namedPort"])


def _protocols(rule: dict[str, Any]) -> Iterator[PortRange | NamedPort]:
    """Of v1alpha2."""
    for protocol in rule.get("protocols") or ():
        name = next((name for name in ("tcp", "udp", "sctp") if protocol.get(name) is not None), None)
        if name is None:
            yield NamedPort("", protocol["destinationNamedPort"])
            continue
        port = protocol[name]["destinationPort"]
        ports = port.get("range")
        first, last = (ports["start"], ports["end"]) if ports else (port["number"], port["number"])
        yield PortRange(name.upper(), first, last)
