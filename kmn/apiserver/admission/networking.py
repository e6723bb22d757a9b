"""Rules for what directs traffic besides Services: endpoints, NetworkPolicies, Ingresses.

After ``pkg/apis/networking/validation``, ``pkg/apis/discovery/validation`` and, for Endpoints, ``core``.
"""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

from kmn.apiserver.admission.rules import (
    PROTOCOLS,
    Errors,
    cidr,
    dns1035_label,
    dns_label,
    dns_subdomain,
    ip_address,
    path_segment,
    port_name,
    port_number,
    qualified_name,
    wildcard_subdomain,
)
from kmn.apiserver.admission.service_rules import special_address
from kmn.k8s.objects import Object, annotation
from kmn.policy.model import STAGED

__all__ = [
    "check_endpoints",
    "check_endpointslice",
    "check_ingress",
    "check_ingressclass",
    "check_networkpolicy",
    "check_staged",
]

Fields = dict[str, Any]

_PATH_TYPES = ("Exact", "Prefix", "ImplementationSpecific")
_BAD_IN_PATHS = ("//", "/./", "/../", "%2f", "%2F")
_MAX_ENDPOINTS, _MAX_ADDRESSES, _MAX_SLICE_PORTS = 1000, 100, 20000
_INGRESS_CLASS = "kubernetes.io/ingress.class"


# --- endpoints --------------------------------------------------------------------------------------------------


def check_endpoints(errors: Errors, new: Object, old: Object | None) -> None:
    for index, subset in enumerate(new.get("subsets") or ()):
        at = f"subsets[{index}]"
        if not subset.get("addresses") and not subset.get("notReadyAddresses"):
            errors.required(at, "required: addresses or notReadyAddresses")
        for field in ("addresses", "notReadyAddresses"):
            for number, address in enumerate(subset.get(field) or ()):
                errors.check(f"{at}.{field}[{number}].ip", address["ip"], special_address)
                if address.get("hostname"):
                    errors.check(f"{at}.{field}[{number}].hostname", address["hostname"], dns_label)
                if address.get("nodeName"):
                    errors.check(f"{at}.{field}[{number}].nodeName", address["nodeName"], dns_subdomain)
        ports = subset.get("ports") or []
        for number, port in enumerate(ports):
            if not port.get("name") and len(ports) > 1:
                errors.required(f"{at}.ports[{number}].name", "required when there is more than one port")
            _endpoint_port(errors, f"{at}.ports[{number}]", port)


def check_endpointslice(errors: Errors, new: Object, old: Object | None) -> None:
    family = new["addressType"]
    if not errors.choice("addressType", family, ("IPv4", "IPv6", "FQDN")):
        return
    endpoints, ports = new.get("endpoints") or [], new.get("ports") or []
    if len(endpoints) > _MAX_ENDPOINTS:
        errors.invalid("endpoints", len(endpoints), f"must be at most {_MAX_ENDPOINTS}")
    for index, endpoint in enumerate(endpoints):
        at = f"endpoints[{index}]"
        addresses = endpoint["addresses"]
        if not 1 <= len(addresses) <= _MAX_ADDRESSES:
            errors.invalid(f"{at}.addresses", len(addresses), f"must be 1 to {_MAX_ADDRESSES} addresses")
        for number, address in enumerate(addresses):
            errors.check(f"{at}.addresses[{number}]", address, lambda value: _slice_address(value, family))
        if endpoint.get("hostname"):
            errors.check(f"{at}.hostname", endpoint["hostname"], dns_label)
        if endpoint.get("nodeName"):
            errors.check(f"{at}.nodeName", endpoint["nodeName"], dns_subdomain)
    if len(ports) > _MAX_SLICE_PORTS:
        errors.invalid("ports", len(ports), f"must be at most {_MAX_SLICE_PORTS}")
    names: dict[str, str] = {}
    for index, port in enumerate(ports):
        if port["name"] in names:
            errors.duplicate(f"ports[{index}].name", port["name"], names[port["name"]])
        names.setdefault(port["name"], f"ports[{index}].name")
        _endpoint_port(errors, f"ports[{index}]", port)
    if old is not None:
        errors.immutable("addressType", family, old["addressType"])


def _slice_address(value: str, family: str) -> str:
    if family == "FQDN":
        return dns_subdomain(value)
    must = ip_address(value)
    if must or (":" in value) != (family == "IPv6"):
        return f"must be an {family} address"
    return special_address(value)


def _endpoint_port(errors: Errors, path: str, port: Fields) -> None:
    if port.get("name"):
        errors.check(f"{path}.name", port["name"], dns_label)
    if port.get("port") is not None:
        errors.check(f"{path}.port", port["port"], port_number)
    errors.choice(f"{path}.protocol", port["protocol"], PROTOCOLS)
    if port.get("appProtocol"):
        errors.check(f"{path}.appProtocol", port["appProtocol"], qualified_name)


# --- NetworkPolicy ----------------------------------------------------------------------------------------------


def check_staged(errors: Errors, policy: Object) -> None:
    """The annotation by which a policy of any kind is only tried out."""
    value = annotation(policy, STAGED)
    if value is not None:
        errors.choice(f"metadata.annotations[{STAGED}]", value, ("true", "false"))


def check_networkpolicy(errors: Errors, new: Object, old: Object | None) -> None:
    check_staged(errors, new)
    spec = new["spec"]
    errors.selector("spec.podSelector", spec["podSelector"])
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(spec.get(direction) or ()):
            at = f"spec.{direction}[{index}]"
            for number, port in enumerate(rule.get("ports") or ()):
                _policy_port(errors, f"{at}.ports[{number}]", port)
            for number, peer in enumerate(rule.get(peers) or ()):
                _policy_peer(errors, f"{at}.{peers}[{number}]", peer)
    types = spec["policyTypes"]
    if len(types) > 2:
        errors.invalid("spec.policyTypes", types, "must be at most two: Ingress, Egress")
    for index, name in enumerate(types[:2]):
        errors.choice(f"spec.policyTypes[{index}]", name, ("Ingress", "Egress"))


def _policy_port(errors: Errors, path: str, port: Fields) -> None:
    number, end = port.get("port"), port.get("endPort")
    errors.choice(f"{path}.protocol", port["protocol"], PROTOCOLS)
    if isinstance(number, int):
        errors.check(f"{path}.port", number, port_number)
        if end is not None:
            errors.check(f"{path}.endPort", end, port_number)
            if end < number:
                errors.invalid(f"{path}.endPort", end, f"must be {number} (the port) or more")
        return
    if end is not None:
        errors.forbidden(f"{path}.endPort", "needs a numeric port beside it: give one, or remove endPort")
    if number is not None:
        errors.check(f"{path}.port", number, port_name)


def _policy_peer(errors: Errors, path: str, peer: Fields) -> None:
    block = peer.get("ipBlock")
    selectors = [name for name in ("podSelector", "namespaceSelector") if peer.get(name) is not None]
    for name in selectors:
        errors.selector(f"{path}.{name}", peer[name])
    if block is None:
        if not selectors:
            errors.required(path, "required: podSelector, namespaceSelector or ipBlock")
        return
    if selectors:
        errors.forbidden(path, f"ipBlock may not stand beside {' and '.join(selectors)}: make two entries of it")
    if not errors.check(f"{path}.ipBlock.cidr", block["cidr"], cidr):
        return
    network = ip_network(block["cidr"], strict=False)
    for index, text in enumerate(block.get("except") or ()):
        at = f"{path}.ipBlock.except[{index}]"
        if errors.check(at, text, cidr):
            hole = ip_network(text, strict=False)
            if hole.version != network.version or hole == network or not hole.subnet_of(network):  # type: ignore[arg-type]
                errors.invalid(at, text, f"must be a part of cidr {network}, smaller than it")


# --- Ingress ----------------------------------------------------------------------------------------------------


def check_ingress(errors: Errors, new: Object, old: Object | None) -> None:
    spec = new.get("spec") or {}
    default, rules = spec.get("defaultBackend"), spec.get("rules") or []
    if default is None and not rules:
        errors.required("spec", "required: rules or defaultBackend")
    if default is not None:
        _backend(errors, "spec.defaultBackend", default)
    for index, rule in enumerate(rules):
        at = f"spec.rules[{index}]"
        if rule.get("host"):
            _host(errors, f"{at}.host", rule["host"])
        if rule.get("http") is not None:
            if not rule["http"]["paths"]:
                errors.required(f"{at}.http.paths", "required: at least one path")
            for number, path in enumerate(rule["http"]["paths"]):
                _path(errors, f"{at}.http.paths[{number}]", path)
    for index, tls in enumerate(spec.get("tls") or ()):
        for number, host in enumerate(tls.get("hosts") or ()):
            errors.check(
                f"spec.tls[{index}].hosts[{number}]", host, wildcard_subdomain if "*" in host else dns_subdomain
            )
        if tls.get("secretName"):
            errors.check(f"spec.tls[{index}].secretName", tls["secretName"], dns_subdomain)
    name = spec.get("ingressClassName")
    if name is not None:
        errors.check("spec.ingressClassName", name, dns_subdomain)
        annotated = (new["metadata"].get("annotations") or {}).get(_INGRESS_CLASS)
        if old is None and annotated is not None and annotated != name:
            path = f"metadata.annotations[{_INGRESS_CLASS}]"
            errors.invalid(path, annotated, f"must be spec.ingressClassName ({name}) when both are given")


def check_ingressclass(errors: Errors, new: Object, old: Object | None) -> None:
    spec = new["spec"]
    controller = spec.get("controller") or ""
    if not controller:
        errors.required("spec.controller")
    elif len(controller) > 250 or "/" not in controller:
        errors.invalid(
            "spec.controller", controller, 'must be a path with a domain before it such as "example.com/ingress"'
        )
    parameters = spec.get("parameters")
    if parameters is not None:
        if errors.choice("spec.parameters.scope", parameters["scope"], ("Cluster", "Namespace")):
            inside = parameters["scope"] == "Namespace"
            if inside and not parameters.get("namespace"):
                errors.required("spec.parameters.namespace", "required with scope Namespace")
            elif not inside and parameters.get("namespace"):
                errors.forbidden("spec.parameters.namespace", "may not be given with scope Cluster: remove it")
        errors.check("spec.parameters.name", parameters["name"], path_segment)
    if old is not None:
        errors.immutable("spec.controller", controller, (old.get("spec") or {}).get("controller", ""))


def _host(errors: Errors, path: str, host: str) -> None:
    if not ip_address(host):
        errors.invalid(path, host, "must be a DNS name, not an IP address")
    else:
        errors.check(path, host, wildcard_subdomain if "*" in host else dns_subdomain)


def _path(errors: Errors, path: str, rule: Fields) -> None:
    kind, text = rule["pathType"], rule.get("path") or ""
    if not errors.choice(f"{path}.pathType", kind, _PATH_TYPES):
        return
    if (text or kind != "ImplementationSpecific") and not text.startswith("/"):
        errors.invalid(f"{path}.path", text, 'must begin with "/"')
    if kind != "ImplementationSpecific":
        for bad in _BAD_IN_PATHS:
            if bad in text:
                errors.invalid(f"{path}.path", text, f'may not have "{bad}" in it')
        if text.endswith(("/..", "/.")):
            errors.invalid(f"{path}.path", text, 'may not end with "/." or "/.."')
    _backend(errors, f"{path}.backend", rule["backend"])


def _backend(errors: Errors, path: str, backend: Fields) -> None:
    service, resource = backend.get("service"), backend.get("resource")
    if (service is None) == (resource is None):
        errors.required(path, "required: exactly one of service, resource")
        return
    if service is None:
        return
    errors.check(f"{path}.service.name", service["name"], dns1035_label)
    port = service.get("port") or {}
    name, number = port.get("name"), port.get("number")
    if bool(name) == bool(number):
        errors.required(f"{path}.service.port", "required: exactly one of name, number")
    elif name:
        errors.check(f"{path}.service.port.name", name, port_name)
    else:
        errors.check(f"{path}.service.port.number", number, port_number)
