"""Which routes attach to which listeners: parentRefs of the route, allowedRoutes of the listener, hostnames of both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from kmn.ingress.gateway.conditions import Condition
from kmn.ingress.gateway.hostnames import common
from kmn.ingress.gateway.listeners import Listener
from kmn.ingress.gateway.world import GATEWAY_GROUP, World
from kmn.ingress.model import ANY_HOST
from kmn.k8s.objects import Key, Object, key_of, labels, namespace_of
from kmn.k8s.selectors import selector_of_object

__all__ = ["Attachment", "attach", "other_parents", "parents_of"]

_ACCEPTED = Condition("Accepted", True, "Accepted", "the route is attached")


@dataclass(frozen=True, slots=True)
class Attachment:
    """One parentRef of a route to the Gateway: by which listeners it comes in, and for which hosts."""

    parent: dict[str, Any]  # the parentRef
    listeners: tuple[tuple[Listener, tuple[str, ...]], ...]
    accepted: Condition


def parents_of(route: Object, gateway: Key) -> Iterator[dict[str, Any]]:
    """The parentRefs of a route that name this Gateway."""
    for parent in route["spec"].get("parentRefs") or ():
        is_gateway = (parent.get("group", GATEWAY_GROUP), parent.get("kind", "Gateway")) == (GATEWAY_GROUP, "Gateway")
        if is_gateway and Key(parent.get("namespace") or namespace_of(route), parent["name"]) == gateway:
            yield parent


def other_parents(route: Object) -> Iterator[str]:
    """What of a route's parentRefs has no effect: those to Services are for a mesh."""
    for index, parent in enumerate(route["spec"].get("parentRefs") or ()):
        if parent.get("kind", "Gateway") != "Gateway":
            yield f"spec.parentRefs[{index}]: {parent['kind']} {parent['name']}: routes have an effect at Gateways only"
    if route["spec"].get("useDefaultGateways"):
        yield "spec.useDefaultGateways has no effect: name a Gateway in spec.parentRefs"


def attach(
    route: Object, parent: dict[str, Any], gateway: Object, listeners: Iterable[Listener], world: World
) -> Attachment:
    """What comes of one parentRef."""

    def refused(reason: str, message: str) -> Attachment:
        return Attachment(parent, (), Condition("Accepted", False, reason, message))

    section, port = parent.get("sectionName"), parent.get("port")
    named = [each for each in listeners if section in (None, each.name) and port in (None, each.port)]
    if not named:
        asked = " and ".join(f"{what} {value}" for what, value in (("name", section), ("port", port)) if value)
        return refused("NoMatchingParent", f"Gateway {key_of(gateway)} has no listener with {asked}")
    open_ = [each for each in named if route["kind"] in each.kinds and _admits(each, gateway, route, world)]
    if not open_:
        why = "; ".join(f"listener {each.name} {_why_not(each, gateway, route)}" for each in named)
        return refused("NotAllowedByListeners", why)
    hostnames = [name.lower() for name in route["spec"].get("hostnames") or ()]
    found = []
    for each in open_:
        hosts = common(each.hostname, hostnames) if each.protocol != "TCP" else [ANY_HOST]
        if hosts:
            found.append((each, tuple(hosts)))
    if not found:
        why = "; ".join(f"listener {each.name} has {each.hostname}" for each in open_)
        return refused("NoMatchingListenerHostname", f"no listener has one of {', '.join(hostnames)}: {why}")
    return Attachment(parent, tuple(found), _ACCEPTED)


def _admits(listener: Listener, gateway: Object, route: Object, world: World) -> bool:
    """Whether the listener takes routes of this namespace."""
    where, allowed = namespace_of(route), listener.allowed
    match allowed.get("from", "Same"):
        case "All":
            return True
        case "Same":
            return where == namespace_of(gateway)
    namespace = world.namespaces.get(Key("", where))
    selector = allowed.get("selector")
    return namespace is not None and selector is not None and selector_of_object(selector).matches(labels(namespace))


def _why_not(listener: Listener, gateway: Object, route: Object) -> str:
    if route["kind"] not in listener.kinds:
        return f"takes {' and '.join(listener.kinds) or 'no routes'}, no {route['kind']}"
    if listener.allowed.get("from", "Same") == "Same":
        return f"takes routes of namespace {namespace_of(gateway)} only"
    return f"takes routes of namespaces that its selector fits, not of {namespace_of(route)}"
