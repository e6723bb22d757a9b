"""Where requests for a Service's port go, and what is spoken there: its ready endpoints, out of EndpointSlices. Pure.

Not the Service's own address, unless that is asked for: an ingress controller balances requests, not connections. Of a
Service with endpoints in both families the IPv4 ones are taken. One of type ExternalName has one endpoint, a name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import Any, NamedTuple

from kmn.ingress.model import Backend, Protocol, Upstream
from kmn.k8s.objects import Key, Object

__all__ = ["DNS_SERVICE", "Endpoints", "cluster_address_of", "endpoints_of", "node_ports_of", "nodes_of"]

DNS_SERVICE = Key("kube-system", "kube-dns")

_LAST_PORT = 65_535
_FAMILIES = ("IPv4", "IPv6")
# What a Service's ``appProtocol`` asks for (KEP-3726).
_APP_PROTOCOLS = {
    "kubernetes.io/h2c": Protocol.H2C,
    "kubernetes.io/ws": Protocol.HTTP,
    "kubernetes.io/wss": Protocol.HTTPS,
}


class Endpoints(NamedTuple):
    """Addresses and ports in order, none of them where nobody is ready; ``problem`` says why there can be none.

    With ``external`` there is one, and it is a DNS name, to be looked up with ``resolver``, a DNS server's address.
    ``protocol`` is what the Service's port says.
    """

    addresses: tuple[tuple[str, int], ...]
    problem: str | None = None
    external: bool = False
    resolver: str = ""
    protocol: Protocol = Protocol.HTTP

    def spoken(self, upstream: Upstream) -> Protocol:
        """What rules say goes before what the Service's port does."""
        return self.protocol if upstream.protocol is Protocol.HTTP else upstream.protocol


def endpoints_of(
    backend: Backend,
    service: Object | None,
    slices: Iterable[Object],
    admits: Callable[[Object], bool] = lambda endpoint: True,
) -> Endpoints:
    """``slices`` are those of the Service; ``admits`` tells which of their endpoints are wanted."""
    name = f"Service {backend.namespace}/{backend.service}"
    if service is None:
        return Endpoints((), f"{name} does not exist")
    spec = service.get("spec") or {}
    port = _port(backend, spec.get("ports") or ())
    if spec.get("type") == "ExternalName":
        return _external(backend, spec, port)
    if port is None:
        return Endpoints((), f"{name} has no TCP port {backend.port}")
    found: dict[str, set[tuple[str, int]]] = {}
    for each in slices:
        called = port.get("name") or ""
        number = next((p.get("port") for p in each.get("ports") or () if (p.get("name") or "") == called), None)
        if number is not None:
            ready = found.setdefault(each.get("addressType", "IPv4"), set())
            wanted = (end for end in each.get("endpoints") or () if _is_ready(end) and admits(end))
            ready.update((end["addresses"][0], number) for end in wanted)
    addresses = next((tuple(sorted(found[family])) for family in _FAMILIES if found.get(family)), ())
    return Endpoints(addresses, protocol=_protocol(port))


def node_ports_of(backend: Backend, service: Object | None, nodes: Iterable[str]) -> Endpoints:
    """The node port of a Service on nodes, which are given by their addresses."""
    name = f"Service {backend.namespace}/{backend.service}"
    if service is None:
        return Endpoints((), f"{name} does not exist")
    entry = _port(backend, service["spec"].get("ports") or ())
    if entry is None:
        return Endpoints((), f"{name} has no TCP port {backend.port}")
    if not entry.get("nodePort"):
        return Endpoints((), f"{name} has no node port for its port {backend.port}")
    return Endpoints(tuple((address, entry["nodePort"]) for address in sorted(nodes)), protocol=_protocol(entry))


def nodes_of(slices: Iterable[Object]) -> set[str]:
    """The names of the nodes that have ready endpoints."""
    return {end.get("nodeName", "") for each in slices for end in each.get("endpoints") or () if _is_ready(end)}


def cluster_address_of(backend: Backend, service: Object | None) -> Endpoints:
    """The Service's own address, of which the cluster makes an endpoint's."""
    found = endpoints_of(backend, service, ())
    if service is None or found.problem is not None or found.external:
        return found
    spec = service["spec"]
    address = spec.get("clusterIP") or "None"
    if address == "None":
        return Endpoints((), f"Service {backend.namespace}/{backend.service} is headless: it has no address of its own")
    port = _port(backend, spec["ports"])
    return found._replace(addresses=((address, port["port"]),) if port else ())


def _port(backend: Backend, ports: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """The Service's port; its slices' port has the same name ("" for a single one without a name)."""
    wanted = "port" if isinstance(backend.port, int) else "name"
    fits = (port for port in ports if port.get(wanted) == backend.port and port.get("protocol", "TCP") == "TCP")
    return next(fits, None)


def _external(backend: Backend, spec: dict[str, Any], port: dict[str, Any] | None) -> Endpoints:
    """As ingress-nginx has it (``externalNamePorts``): the target of the Service's port, or a number that the Service
    does not have as it is; never the proxy's own pod."""
    name, called = f"Service {backend.namespace}/{backend.service}", spec["externalName"].rstrip(".")
    if _is_local(called):
        return Endpoints((), f"{name} is of type ExternalName, and {called} would be the controller itself")
    target = (port or {}).get("targetPort")
    if port is not None:
        number = target if isinstance(target, int) else port["port"]
    elif isinstance(backend.port, int):
        number = backend.port
    else:
        return Endpoints((), f"{name} has no TCP port {backend.port}")
    if not 0 < number <= _LAST_PORT:
        return Endpoints((), f"{name} has no port {number}: ports are from 1 to {_LAST_PORT}")
    return Endpoints(((called, number),), external=True, protocol=_protocol(port or {}))


def _is_local(name: str) -> bool:
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _protocol(port: dict[str, Any]) -> Protocol:
    return _APP_PROTOCOLS.get(port.get("appProtocol") or "", Protocol.HTTP)


def _is_ready(endpoint: dict[str, Any]) -> bool:
    """Not said means ready (API reference)."""
    return (endpoint.get("conditions") or {}).get("ready") is not False
