"""What of the statuses of Gateways and routes is to be written: where they say something else than a reading."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from kmn.ingress.gateway.conditions import merge_conditions
from kmn.ingress.gateway.reading import GatewayStatus, ParentStatus, Reading
from kmn.ingress.gateway.world import GATEWAY_GROUP
from kmn.ingress.model import Owner
from kmn.k8s.dataplane import GATEWAY_CONTROLLERS
from kmn.k8s.objects import Key, Object, key_of
from kmn.k8s.resources import GATEWAYS, GRPCROUTES, HTTPROUTES, TCPROUTES, TLSROUTES, Resource

__all__ = ["ROUTES", "StatusChange", "status_changes"]

ROUTES: dict[str, Resource] = {r.kind: r for r in (HTTPROUTES, GRPCROUTES, TLSROUTES, TCPROUTES)}
_OURS = frozenset(GATEWAY_CONTROLLERS.values())


class StatusChange(NamedTuple):
    """``status`` is that of the object from now on."""

    resource: Resource
    key: Key
    status: dict[str, Any]


def status_changes(
    readings: Iterable[Reading], gateways: Mapping[Key, Object], routes: Mapping[str, Collection[Object]]
) -> list[StatusChange]:
    """``routes`` by their kind: all, since those that attach to no Gateway of ours any more lose what is said of it."""
    found = []
    parents: defaultdict[Owner, list[tuple[str, ParentStatus]]] = defaultdict(list)
    for reading in readings:
        for parent in reading.parents:
            parents[parent.route].append((reading.controller, parent))
        gateway = gateways.get(reading.gateway)
        if gateway is not None:
            found += _change(GATEWAYS, gateway, _of_gateway(gateway, reading.status))
    for kind, objects in routes.items():
        for route in objects:
            key = key_of(route)
            told = parents.get(Owner(kind, key.namespace, key.name), [])
            found += _change(ROUTES[kind], route, _of_route(route, told))
    return found


def _change(resource: Resource, obj: Object, status: dict[str, Any]) -> list[StatusChange]:
    present = obj.get("status") or {}
    return [StatusChange(resource, key_of(obj), status)] if present != status else []


def _of_gateway(gateway: Object, status: GatewayStatus) -> dict[str, Any]:
    present = gateway.get("status") or {}
    generation = gateway["metadata"].get("generation", 0)
    listeners = {each["name"]: each for each in present.get("listeners") or ()}
    found = {name: value for name, value in present.items() if name not in ("addresses", "conditions", "listeners")}
    if status.addresses:
        found["addresses"] = [{"type": "IPAddress", "value": address} for address in status.addresses]
    found["conditions"] = merge_conditions(present.get("conditions") or (), status.conditions, generation)
    found["listeners"] = [
        {
            "name": each.name,
            "supportedKinds": [{"group": GATEWAY_GROUP, "kind": kind} for kind in each.kinds],
            "attachedRoutes": each.attached,
            "conditions": merge_conditions(
                listeners.get(each.name, {}).get("conditions") or (), each.conditions, generation
            ),
        }
        for each in status.listeners
    ]
    return found


def _of_route(route: Object, told: Iterable[tuple[str, ParentStatus]]) -> dict[str, Any]:
    present = route.get("status") or {}
    generation = route["metadata"].get("generation", 0)
    entries = present.get("parents") or []
    found = [entry for entry in entries if entry.get("controllerName") not in _OURS]
    for controller, status in told:
        same = (e for e in entries if (e["controllerName"], e["parentRef"]) == (controller, status.parent))
        earlier: dict[str, Any] = next(same, {})
        conditions = merge_conditions(earlier.get("conditions") or (), status.conditions, generation)
        found.append({"parentRef": status.parent, "controllerName": controller, "conditions": conditions})
    return {**present, "parents": found} if found or entries else present
