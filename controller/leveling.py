"""Least connections: turns that bring a port's endpoints level again, from how many connections each has. Pure.

IPVS (``net/netfilter/ipvs/ip_vs_lc.c``, ``ip_vs_wlc.c``) compares for each new connection what its node knows of each
endpoint. A switch cannot compare; but in what order IPVS would choose is known as long as no connection ends: fill up
the emptiest one first. So the switch is given this order, as turns before those of its cycle (``features.rotation``),
each time it is known anew how many connections there are (``census``). In between it takes one turn after the other by
itself; once all endpoints are level it is in the cycle, which keeps them so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from heapq import heapify, heappop, heappush

from controller.census import CONNECTION, Tally
from controller.desired import OwnerKey, Scope
from controller.family import FAMILIES
from controller.features.rotation import ahead_flows, remembered_turn
from controller.features.service import Turns
from controller.openflow import wire
from controller.openflow.cookie import Owner
from controller.openflow.flow import Flow
from controller.openflow.match import Address
from controller.pipeline import Feature
from controller.service_views import Endpoint, ServicePort, ServiceView
from kmn.k8s.objects import Key

__all__ = ["Leveler", "level"]

_MOST = 1024  # turns: each is a flow
_FASTEST = 2000  # connections a second that a switch can give turns to


def level(loads: Sequence[int], weights: Sequence[int], most: int) -> list[int]:
    """In which order endpoints (by index) get new connections until none has room below the fullest, by load for its
    weight. ``loads`` are IPVS' overheads: :data:`CONNECTION` for an established connection, 1 for another.

    Not more than ``most`` are given. The cycle comes after them, with which no endpoint gets more than its share,
    however many connections come until it is known better.
    """
    full = max(range(len(loads)), key=lambda index: loads[index] / weights[index])
    top, share = loads[full], weights[full]
    # To the nearest: a difference of less than half a connection is not worth a turn.
    room = [
        (2 * (top * weight - load * share) // (CONNECTION * share) + 1) // 2
        for load, weight in zip(loads, weights, strict=True)
    ]
    waiting = [(loads[index] / weights[index], index) for index, free in enumerate(room) if free]
    heapify(waiting)
    given, turns = [0] * len(loads), list[int]()
    while waiting and len(turns) < most:
        _, index = heappop(waiting)
        turns.append(index)
        given[index] += 1
        if given[index] < room[index]:
            heappush(waiting, ((loads[index] + CONNECTION * given[index]) / weights[index], index))
    return turns


_Ports = Mapping[ServicePort, Sequence[Turns]]
_Loads = Mapping[ServicePort, Mapping[Endpoint, int]]


class Leveler:
    """Which Services are to be level, and the turns that nodes have at the moment. ``scope`` is that of a node."""

    def __init__(self, scope: Callable[[str], Scope]) -> None:
        self._scope = scope
        self._services: dict[Key, _Ports] = {}
        # What leads to a port: protocol, address (None: the node's own) and port, version of IP.
        self._ways: dict[tuple[str, Address | None, int, int], tuple[Key, ServicePort]] = {}
        self._loads: dict[str, dict[Key, _Loads]] = {}  # by node, of which its turns are made
        self._flows: dict[tuple[str, Key], int] = {}  # how many of them there are

    def __bool__(self) -> bool:
        """Is there anything to count connections for?"""
        return bool(self._services)

    def size(self, node: str) -> int:
        """How many flows of a node there are, at the moment, for its turns."""
        return sum(count for (name, _), count in self._flows.items() if name == node)

    def put(self, service: ServiceView, ports: _Ports) -> None:
        """A Service as it is now. Turns that were made for it as it was are gone, until it is counted again."""
        self.remove(service.key)
        if ports:
            self._services[service.key] = ports
            for port in ports:
                for address, number in service.targets(port):
                    self._ways[port.protocol, address, number, port.version] = service.key, port

    def remove(self, key: Key) -> None:
        """A Service is no more, or its endpoints are chosen otherwise."""
        if self._services.pop(key, None) is None:
            return
        self._ways = {way: found for way, found in self._ways.items() if found[0] != key}
        for node, loads in self._loads.items():
            if loads.pop(key, None):
                self._contribute(node, key, ())

    def counted(self, node: str, tally: Tally, gap: float) -> list[bytes]:
        """What connections a node has now: its scope then has the turns that follow, enough for ``gap`` seconds.

        Answers with messages for the same bundle, that make the node's switch begin with these turns.
        """
        now = self._loads_of(tally)
        before = self._loads.get(node, {})
        self._loads[node] = now
        messages, most = [], min(_MOST, int(gap * _FASTEST))
        for key in sorted(now.keys() | before.keys()):
            if now.get(key) != before.get(key):
                messages += self._turns(node, key, now.get(key, {}), most)
        return messages

    def _loads_of(self, tally: Tally) -> dict[Key, _Loads]:
        found: dict[Key, dict[ServicePort, Counter[Endpoint]]] = {}
        for entry, load in tally.items():
            version = entry.address.version
            way = self._ways.get((entry.protocol, entry.address, entry.port, version)) or self._ways.get(
                (entry.protocol, None, entry.port, version)
            )
            if way is not None:
                key, port = way
                found.setdefault(key, {}).setdefault(port, Counter())[entry.endpoint] += load
        return dict(found)

    def _turns(self, node: str, key: Key, loads: _Loads, most: int) -> list[bytes]:
        owner, flows, messages = Owner(Feature.SERVICE, f"Service/{key}"), list[Flow](), []
        for port, sets in self._services[key].items():
            load, protocol = loads.get(port, {}), FAMILIES[port.version].protocols[port.protocol]
            for each in sets:
                if each.node not in (None, node):
                    continue
                order = level([load.get(endpoint, 0) for endpoint in each.endpoints], each.weights, most)
                if order:
                    turns = [each.endpoints[index] for index in order]
                    flows += ahead_flows(owner, protocol, each.number, turns, sticky=each.sticky)
                    messages.append(wire.flow_delete(*remembered_turn(port.version, each.number)))
        self._contribute(node, key, flows)
        return messages

    def _contribute(self, node: str, key: Key, flows: Sequence[Flow]) -> None:
        owner: OwnerKey = ("Turns", *key)
        self._scope(node).contribute(owner, flows)
        if flows:
            self._flows[node, key] = len(flows)
        else:
            self._flows.pop((node, key), None)
