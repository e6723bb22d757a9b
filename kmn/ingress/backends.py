"""Where requests for a Service's port go: the addresses of its ready endpoints, out of EndpointSlices. Pure.

Not the Service's own address: an ingress controller balances requests, not connections. Of a Service with endpoints in
both families the IPv4 ones are taken.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from kmn.ingress.model import Backend
from kmn.k8s.objects import Object

__all__ = ["Endpoints", "endpoints_of", "node_ports_of"]

_FAMILIES = ("IPv4", "IPv6")


class Endpoints(NamedTuple):
    """Addresses and ports in order, none of them where nobody is ready; ``problem`` says why there can be none."""

    addresses: tuple[tuple[str, int], ...]
    problem: str | None = None


def endpoints_of(backend: Backend, service: Object | None, slices: Iterable[Object]) -> Endpoints:
    """``slices`` are those of the Service."""
    name = f"Service {backend.namespace}/{backend.service}"
    if service is None:
        return Endpoints((), f"{name} does not exist")
    spec = service.get("spec") or {}
    if spec.get("type") == "ExternalName":
        return Endpoints((), f"{name} is of type ExternalName, which is not emulated as a backend")
    entry = _port(backend, spec.get("ports") or ())
    if entry is None:
        return Endpoints((), f"{name} has no TCP port {backend.port}")
    port = entry.get("name") or ""  # "" for a single one without a name; its slices' port has the same
    found: dict[str, set[tuple[str, int]]] = {}
    for each in slices:
        number = next((p.get("port") for p in each.get("ports") or () if (p.get("name") or "") == port), None)
        if number is not None:
            ready = found.setdefault(each.get("addressType", "IPv4"), set())
            ready.update((end["addresses"][0], number) for end in each.get("endpoints") or () if _is_ready(end))
    return Endpoints(next((tuple(sorted(found[family])) for family in _FAMILIES if found.get(family)), ()))


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
    return Endpoints(tuple((address, entry["nodePort"]) for address in sorted(nodes)))


def _port(backend: Backend, ports: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """The port of the Service that is meant."""
    wanted = "port" if isinstance(backend.port, int) else "name"
    for port in ports:
        if port.get(wanted) == backend.port and port.get("protocol", "TCP") == "TCP":
            return port
    return None


def _is_ready(endpoint: dict[str, Any]) -> bool:
    """Not said means ready (API reference)."""
    return (endpoint.get("conditions") or {}).get("ready") is not False
