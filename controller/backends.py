"""Which endpoints the ports of a Service use, on which node: kube-proxy's choice (its ``topology.go``). Pure.

In short: the ready ones; for want of any, those that still serve while terminating. ``Local`` traffic policies choose
so among the endpoints of one node. Hints narrow the choice where every ready endpoint has one and one of them fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from controller.service_views import Candidate, Endpoint, ServicePort, ServiceView, SliceView

__all__ = ["Backends", "Choice", "backends"]

PROTOCOLS = ("TCP", "UDP", "SCTP")


@dataclass(frozen=True, slots=True)
class Choice:
    """Endpoints of one port. Nodes that are not named use ``cluster``, and have no ``local`` ones."""

    cluster: tuple[Endpoint, ...] = ()
    near: Mapping[str, tuple[Endpoint, ...]] = field(default_factory=dict)  # by node: fewer, as hints say
    local: Mapping[str, tuple[Endpoint, ...]] = field(default_factory=dict)  # by node; of Local policies only

    def __bool__(self) -> bool:
        """Is there any endpoint in the cluster?"""
        return bool(self.cluster or self.local)

    @property
    def all(self) -> frozenset[Endpoint]:
        """Every endpoint that some node may use."""
        return frozenset(self.cluster).union(*self.local.values())


Backends = Mapping[ServicePort, Choice]

_Found = tuple[Candidate, Endpoint]


def backends(service: ServiceView, slices: Iterable[SliceView], zones: Mapping[str, str]) -> Backends:
    """The choice for each port. ``zones`` has every node, with its zone or ""."""
    slices = list(slices)
    local = service.internal_local or service.external_local or service.direct_return
    chosen = {}
    for port in service.ports:
        if port.protocol not in PROTOCOLS:
            continue
        name = (port.name, port.protocol)
        found = [
            (candidate, Endpoint(candidate.address, piece.ports[name]))
            for piece in slices
            if name in piece.ports
            for candidate in piece.candidates
        ]
        chosen[port] = Choice(_usable(found), _near(found, zones), _local(found) if local else {})
    return chosen


def _usable(found: Iterable[_Found]) -> tuple[Endpoint, ...]:
    found = list(found)
    ready = {endpoint for candidate, endpoint in found if candidate.ready}
    return tuple(sorted(ready or {endpoint for _, endpoint in found}))


def _local(found: Iterable[_Found]) -> dict[str, tuple[Endpoint, ...]]:
    by_node: dict[str, list[_Found]] = {}
    for each in found:
        if each[0].node:
            by_node.setdefault(each[0].node, []).append(each)
    return {node: _usable(each) for node, each in by_node.items()}


def _near(found: Iterable[_Found], zones: Mapping[str, str]) -> dict[str, tuple[Endpoint, ...]]:
    ready = [each for each in found if each[0].ready]
    with_zones = bool(ready) and all(candidate.zones for candidate, _ in ready)
    with_nodes = bool(ready) and all(candidate.nodes for candidate, _ in ready)
    if not with_zones and not with_nodes:
        return {}
    for_zone: dict[str, set[Endpoint]] = {}
    for_node: dict[str, set[Endpoint]] = {}
    for candidate, endpoint in ready:
        for zone in candidate.zones if with_zones else ():
            for_zone.setdefault(zone, set()).add(endpoint)
        for node in candidate.nodes if with_nodes else ():
            for_node.setdefault(node, set()).add(endpoint)
    everywhere = len({endpoint for _, endpoint in ready})
    of_zone = {zone: tuple(sorted(chosen)) for zone, chosen in for_zone.items()}
    near = {}
    for node, zone in zones.items():
        chosen = tuple(sorted(for_node[node])) if node in for_node else of_zone.get(zone, ())
        if chosen and len(chosen) < everywhere:
            near[node] = chosen
    return near
