"""Rules for cluster-wide policies: AdminNetworkPolicy, BaselineAdminNetworkPolicy, ClusterNetworkPolicy.

After the CRDs of kubernetes-sigs/network-policy-api: what they ask for in ``maxProperties``, ``maxLength``,
``x-kubernetes-list-type`` and CEL. What has no meaning is refused here, and taken by the CRDs: operators of selectors
that do not exist, a range of ports that ends before it begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_network
from typing import Any

from kmn.apiserver.admission.networking import check_staged
from kmn.apiserver.admission.rules import Errors, cidr
from kmn.k8s.objects import Object

__all__ = ["check_clusterwide", "named_default"]

Fields = dict[str, Any]

_INGRESS_PEERS = ("namespaces", "pods")
_EGRESS_PEERS = {
    "AdminNetworkPolicy": (*_INGRESS_PEERS, "nodes", "networks", "domainNames"),
    "BaselineAdminNetworkPolicy": (*_INGRESS_PEERS, "nodes", "networks"),
    "ClusterNetworkPolicy": (*_INGRESS_PEERS, "nodes", "networks", "domainNames"),
}
_PORTS = ("portNumber", "portRange", "namedPort")
_PROTOCOLS = ("tcp", "udp", "sctp", "destinationNamedPort")
_WITHOUT_NAMED_PORTS = ("nodes", "networks", "domainNames")
_NAME_LENGTH, _CIDR_LENGTH = 100, 43  # characters


def named_default(value: str) -> str:
    """There is one baseline in a cluster."""
    return "" if value == "default" else 'must be "default": there is one baseline for the cluster'


def check_clusterwide(errors: Errors, new: Object, old: Object | None) -> None:
    check_staged(errors, new)
    spec = new["spec"]
    _pods(errors, "spec.subject", spec["subject"], _INGRESS_PEERS)
    for direction, side, peers in (("ingress", "from", _INGRESS_PEERS), ("egress", "to", _EGRESS_PEERS[new["kind"]])):
        for index, rule in enumerate(spec.get(direction) or ()):
            at = f"spec.{direction}[{index}]"
            if len(rule.get("name") or "") > _NAME_LENGTH:
                errors.invalid(f"{at}.name", rule["name"], f"must be at most {_NAME_LENGTH} characters")
            named = [*_ports(errors, at, rule), *_protocols(errors, at, rule)]
            for number, peer in enumerate(rule[side]):
                kind = _peer(errors, f"{at}.{side}[{number}]", peer, peers)
                if kind in _WITHOUT_NAMED_PORTS:
                    for path in named:
                        errors.forbidden(path, f"{side}[{number}] are {kind}, which have no named ports: use a number")


def _one_of(errors: Errors, path: str, fields: Fields, choices: Iterable[str]) -> str:
    """The one field that is given; "" and an error when that is none or several."""
    given = [name for name in choices if fields.get(name) is not None]
    if len(given) == 1:
        return given[0]
    words = f"exactly one of {', '.join(choices)}"
    if given:
        errors.forbidden(path, f"{words}, not both {given[0]} and {given[1]}")
    else:
        errors.required(path, f"required: {words}")
    return ""


def _peer(errors: Errors, path: str, peer: Fields, choices: tuple[str, ...]) -> str:
    """Check a peer; the field that it has."""
    kind = _pods(errors, path, peer, choices)
    match kind:
        case "nodes":
            errors.selector(f"{path}.nodes", peer["nodes"])
        case "networks":
            _distinct(errors, f"{path}.networks", peer["networks"])
            for index, text in enumerate(peer["networks"]):
                errors.check(f"{path}.networks[{index}]", text, _network)
        case "domainNames":
            _distinct(errors, f"{path}.domainNames", peer["domainNames"])
    return kind


def _pods(errors: Errors, path: str, peer: Fields, choices: tuple[str, ...]) -> str:
    """Check a subject, or of a peer what both have; the field that it has."""
    kind = _one_of(errors, path, peer, choices)
    if kind == "namespaces":
        errors.selector(f"{path}.namespaces", peer["namespaces"])
    elif kind == "pods":
        for field in ("namespaceSelector", "podSelector"):
            errors.selector(f"{path}.pods.{field}", peer["pods"].get(field))
    return kind


def _distinct(errors: Errors, path: str, values: list[str]) -> None:
    first: dict[str, str] = {}
    for index, value in enumerate(values):
        if value in first:
            errors.duplicate(f"{path}[{index}]", value, first[value])
        first.setdefault(value, f"{path}[{index}]")


def _network(value: str) -> str:
    """A network as CEL's isCIDR knows it."""
    must = cidr(value)
    if must:
        return must
    length = value.partition("/")[2]
    network = ip_network(value, strict=False)
    mapped = network.version == 6 and network.network_address.ipv4_mapped is not None
    if len(value) > _CIDR_LENGTH or mapped or length != str(network.prefixlen):
        return 'must be a network in plain CIDR notation such as "10.1.0.0/16" or "fd00:1::/32"'
    return ""


def _ports(errors: Errors, rule_path: str, rule: Fields) -> Iterator[str]:
    """Check the ports of a v1alpha1 rule; the paths of named ones."""
    for index, port in enumerate(rule.get("ports") or ()):
        path = f"{rule_path}.ports[{index}]"
        match _one_of(errors, path, port, _PORTS):
            case "portRange":
                _range(errors, f"{path}.portRange", port["portRange"], 0)
            case "namedPort":
                yield f"{path}.namedPort"


def _protocols(errors: Errors, rule_path: str, rule: Fields) -> Iterator[str]:
    """The same for v1alpha2."""
    for index, protocol in enumerate(rule.get("protocols") or ()):
        path = f"{rule_path}.protocols[{index}]"
        kind = _one_of(errors, path, protocol, _PROTOCOLS)
        if kind == "destinationNamedPort":
            yield f"{path}.destinationNamedPort"
        elif kind:
            port, at = protocol[kind]["destinationPort"], f"{path}.{kind}.destinationPort"
            if _one_of(errors, at, port, ("number", "range")) == "range":
                _range(errors, f"{at}.range", port["range"], 1)


def _range(errors: Errors, path: str, ports: Fields, least: int) -> None:
    """A range has ``least`` ports after its first one: v1alpha1 takes ranges of a single port."""
    start, end = ports["start"], ports["end"]
    if end < start + least:
        must = f"must be more than {start} (the start)" if least else f"must be {start} (the start) or more"
        errors.invalid(f"{path}.end", end, must)
