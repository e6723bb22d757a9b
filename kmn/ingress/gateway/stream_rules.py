"""TLSRoutes and TCPRoutes: connections that are passed on without a look at what is in them.

A TLSRoute takes the names that clients ask TLS for, by passing TLS on or (mode Terminate) by ending it; of two routes
that want one name, and of two TCPRoutes of one listener, the older one has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from kmn.ingress.gateway.backends import find_backend
from kmn.ingress.gateway.conditions import Condition
from kmn.ingress.gateway.hostnames import covering
from kmn.ingress.gateway.listeners import Listener
from kmn.ingress.gateway.world import World
from kmn.ingress.model import ANY_HOST, Owner, Protocol, Share, Stream
from kmn.k8s.objects import Object, key_of

__all__ = ["AttachedStream", "RouteShares", "shares_of", "streams_of"]


@dataclass(frozen=True, slots=True)
class RouteShares:
    """Where a route sends connections; ``unresolved`` is a condition ResolvedRefs."""

    owner: Owner
    shares: tuple[Share, ...]
    unresolved: Condition | None


class AttachedStream(NamedTuple):
    """A route that comes in by a listener for some hosts. ``age`` sorts routes."""

    listener: Listener
    hosts: tuple[str, ...]
    route: RouteShares
    age: tuple[str, str, str]


def shares_of(route: Object, world: World) -> RouteShares:
    """Of the first rule: there is one."""
    key = key_of(route)
    shares: list[Share] = []
    unresolved: Condition | None = None
    for index, backend in enumerate(route["spec"]["rules"][0]["backendRefs"]):
        at = f"spec.rules[0].backendRefs[{index}]"
        found = find_backend(at, backend, route, world, Protocol.TCP)
        unresolved = unresolved or found.problem
        shares.append(Share(found.upstream, backend.get("weight", 1)))
    return RouteShares(Owner(route["kind"], key.namespace, key.name), tuple(shares), unresolved)


def streams_of(
    listeners: Iterable[Listener], attached: Iterable[AttachedStream]
) -> tuple[tuple[Stream, ...], list[tuple[Owner, str]]]:
    """The streams of a port with these listeners, and whose wishes have no effect, with the reason. A host belongs to
    the listener whose hostname is the most specific one that covers it."""
    served = {listener.hostname: listener for listener in listeners}
    taken: dict[str, Stream] = {}
    late: list[tuple[Owner, str]] = []
    for each in sorted(attached, key=lambda one: one.age):
        for host in each.hosts:
            best = next(served[wide] for wide in covering(host) if wide in served)
            if best is not each.listener:
                late.append((each.route.owner, f"{host} of port {best.port} belongs to listener {best.name}"))
                continue
            stream = Stream((host,) if host != ANY_HOST else (), each.route.shares, each.route.owner, "spec.rules[0]")
            stream = stream._replace(certificate=each.listener.certificate)
            earlier = taken.setdefault(host, stream)
            if earlier.owner != each.route.owner:
                what = f"{host} of port {each.listener.port}" if host != ANY_HOST else f"port {each.listener.port}"
                late.append((each.route.owner, f"{earlier.owner}, which is older, has {what}"))
    return tuple(taken.values()), late
