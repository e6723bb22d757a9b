"""The endpoints of a Service, from its selector's pods. Pure functions.

Rules: upstream's ``endpointslice/utils.go`` (``podToEndpoint``), ``pkg/controller/util/endpoint`` and, for the older
object, ``pkg/controller/endpoint`` with ``RepackSubsets``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kmn.controlplane.podstate import address, finished, is_ready, node_of, terminating
from kmn.k8s.families import FAMILIES, family_of, pod_ips
from kmn.k8s.objects import Object, labels, name_of, namespace_of, uid_of

__all__ = [
    "HEADLESS",
    "Desired",
    "Ports",
    "endpoints_by_ports",
    "families_of",
    "fingerprint",
    "is_headless",
    "port_objects",
    "selects",
    "subsets",
]

HEADLESS = "service.kubernetes.io/headless"

# Ports of one slice: (name, protocol, number, appProtocol) each. Pods for which named target ports mean other numbers
# are in other slices.
Ports = tuple[tuple[str, str, int, str], ...]
Desired = dict[Ports, list[dict[str, Any]]]

_MOST_ADDRESSES = 1000  # of one Endpoints object


def selects(service: Object) -> dict[str, str]:
    """The selector of a Service whose endpoints follow from pods, {} for any other."""
    if service["spec"].get("type") == "ExternalName":
        return {}
    return service["spec"].get("selector") or {}


def is_headless(service: Object) -> bool:
    return bool(service["spec"].get("clusterIP") == "None")


def fingerprint(pod: Object) -> tuple[Any, ...] | None:
    """All of a pod that its endpoints depend on; None for a pod that is nobody's endpoint."""
    if not address(pod) or finished(pod):
        return None
    spec = pod["spec"]
    hostname = (spec.get("hostname"), spec.get("subdomain"))
    return pod_ips(pod), is_ready(pod), terminating(pod), node_of(pod), hostname, uid_of(pod), labels(pod)


def families_of(service: Object) -> tuple[str, ...]:
    """``IPv4`` and ``IPv6``: the families of a Service's endpoints."""
    return tuple(service["spec"].get("ipFamilies") or FAMILIES[:1])


def endpoints_by_ports(
    service: Object, pods: Iterable[Object], zones: Mapping[str, str], family: str = "IPv4"
) -> Desired:
    """The endpoints of one family of a Service, grouped by port numbers.

    ``zones`` has the zone of each node that is in one. Pods without an address of the family are left out.
    """
    desired: Desired = {}
    hint = _HINTS.get(service["spec"].get("trafficDistribution") or "")
    for pod in pods:
        ip = next((ip for ip in pod_ips(pod) if family_of(ip) == family), None)
        if ip and not finished(pod):
            endpoint = _endpoint(service, pod, ip, zones)
            if hint and endpoint["conditions"]["ready"] and (hints := hint(endpoint)):
                endpoint["hints"] = hints
            desired.setdefault(_ports_of(service, pod), []).append(endpoint)
    return desired


def _same_zone(endpoint: Mapping[str, Any]) -> dict[str, Any]:
    return {"forZones": [{"name": endpoint["zone"]}]} if endpoint.get("zone") else {}


def _same_node(endpoint: Mapping[str, Any]) -> dict[str, Any]:
    nodes = {"forNodes": [{"name": endpoint["nodeName"]}]} if endpoint.get("nodeName") else {}
    return {**_same_zone(endpoint), **nodes}


# What ``trafficDistribution`` says about who should use an endpoint: upstream's ``endpointslice/trafficdist``.
_HINTS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "PreferClose": _same_zone,  # its former name
    "PreferSameZone": _same_zone,
    "PreferSameNode": _same_node,
}


def _endpoint(service: Object, pod: Object, ip: str, zones: Mapping[str, str]) -> dict[str, Any]:
    serving, going, node = is_ready(pod), terminating(pod), node_of(pod)
    always = bool(service["spec"].get("publishNotReadyAddresses"))
    endpoint: dict[str, Any] = {
        "addresses": [ip],
        "conditions": {"ready": always or (serving and not going), "serving": serving, "terminating": going},
        "nodeName": node,
        "targetRef": {"kind": "Pod", "namespace": namespace_of(pod), "name": name_of(pod), "uid": uid_of(pod)},
    }
    if node in zones:
        endpoint["zone"] = zones[node]
    hostname = pod["spec"].get("hostname")
    if hostname and pod["spec"].get("subdomain") == name_of(service):
        endpoint["hostname"] = hostname
    return endpoint


def _ports_of(service: Object, pod: Object) -> Ports:
    found = []
    for port in service["spec"].get("ports") or ():
        protocol = port.get("protocol") or "TCP"
        target = port.get("targetPort") or port["port"]
        number = target if isinstance(target, int) else _named_port(pod, target, protocol)
        if number is not None:  # a pod without the named port serves the others
            found.append((port.get("name") or "", protocol, number, port.get("appProtocol") or ""))
    return tuple(found)


def _named_port(pod: Object, name: str, protocol: str) -> int | None:
    sidecars = (c for c in pod["spec"].get("initContainers") or () if c.get("restartPolicy") == "Always")
    for container in (*(pod["spec"].get("containers") or ()), *sidecars):
        for port in container.get("ports") or ():
            if port.get("name") == name and (port.get("protocol") or "TCP") == protocol:
                return int(port["containerPort"])
    return int(name) if name.isdigit() else None


def port_objects(ports: Ports) -> list[dict[str, Any]]:
    """``ports`` of an EndpointSlice."""
    return [
        {"name": name, "protocol": protocol, "port": number, **({"appProtocol": app} if app else {})}
        for name, protocol, number, app in ports
    ]


def subsets(desired: Desired, *, publish_not_ready: bool) -> tuple[list[dict[str, Any]], bool]:
    """``subsets`` of the older Endpoints object, and whether some addresses found no room in it.

    Pods that are being deleted are left out, but for Services that publish addresses that are not ready.
    """
    found, room, truncated = [], _MOST_ADDRESSES, False
    for ports, endpoints in sorted(desired.items()):
        sides: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
        for endpoint in sorted(endpoints, key=lambda e: e["addresses"]):
            conditions = endpoint["conditions"]
            if conditions.get("terminating") and not publish_not_ready:
                continue
            if not room:
                truncated = True
                break
            room -= 1
            sides[conditions["ready"]].append(_address(endpoint))
        subset: dict[str, Any] = {}
        if sides[True]:
            subset["addresses"] = sides[True]
        if sides[False]:
            subset["notReadyAddresses"] = sides[False]
        if subset:
            found.append({**subset, **({"ports": _old_ports(ports)} if ports else {})})
    return found, truncated


def _address(endpoint: Mapping[str, Any]) -> dict[str, Any]:
    kept = {k: endpoint[k] for k in ("hostname", "nodeName", "targetRef") if endpoint.get(k)}
    return {"ip": endpoint["addresses"][0], **kept}


def _old_ports(ports: Ports) -> list[dict[str, Any]]:
    return [{k: v for k, v in port.items() if k != "name" or v} for port in port_objects(ports)]
