"""Nodes and the fabric between them."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from kmn.cluster_file.networks import Networks, addresses_from
from kmn.cluster_file.section import Section, link_of
from kmn.cluster_spec import FabricLink, NodeSpec
from kmn.k8s.schema import did_you_mean

__all__ = ["Topology"]


@dataclass
class Topology(Section):
    """``spec.nodes`` and ``spec.fabric``."""

    networks: Networks

    def nodes(self, network: IPv4Network, routers: tuple[str, ...]) -> tuple[NodeSpec, ...]:
        entries = self.spec.get("nodes", [{"count": 2}])
        named = self.unique((f"nodes[{i}].name", entry["name"]) for i, entry in enumerate(entries) if "name" in entry)
        taken: dict[IPv4Address, str] = {}
        for index, entry in enumerate(entries):
            path = f"nodes[{index}]"
            for forbidden in ("name", "address"):
                if "count" in entry and forbidden in entry:
                    self.wrong(f"{path}.{forbidden}", "not together with count, which makes several nodes: remove one")
            if "address" in entry:
                address = self.networks.address(f"{path}.address", entry["address"], IPv4Address, network, taken)
                if address is not None:
                    taken[address] = f"spec.{path}"
        asked = dict(taken)
        free = (a for a in addresses_from(network, 2) if a not in asked)
        numbers = _numbers_without(named)
        nodes: list[NodeSpec] = []
        for index, entry in enumerate(entries):
            router = self.router_of(f"nodes[{index}]", entry, routers)
            for _ in range(entry.get("count", 1)):
                name = entry.get("name") or f"n{numbers(len(nodes) + 1)}"
                asked_for = next((a for a, who in asked.items() if who == f"spec.nodes[{index}]"), None)
                address = asked_for or next(free, None)
                if address is None:
                    self.wrong("nodeCIDR", f"{network} has no address left for node {name}: use a larger network")
                    return tuple(nodes)
                nodes.append(_node(entry, name, address, router))
        return tuple(nodes)

    def router_of(self, path: str, entry: dict[str, Any], routers: tuple[str, ...]) -> str:
        name = entry.get("router")
        if name is None:
            if len(routers) > 1:
                self.wrong(
                    f"{path}.router", f"required, as the fabric has several routers: one of {', '.join(routers)}"
                )
            return routers[0]
        self.known_router(f"{path}.router", name, routers)
        return str(name)

    def fabric(self) -> tuple[tuple[str, ...], tuple[FabricLink, ...], str]:
        fabric = self.spec.get("fabric") or {}
        routers = tuple(fabric.get("routers", ("fabric",)))
        self.unique((f"fabric.routers[{i}]", name) for i, name in enumerate(routers))
        links: list[FabricLink] = []
        pairs: set[frozenset[str]] = set()
        for index, entry in enumerate(fabric.get("links", ())):
            path = f"fabric.links[{index}].ends"
            a, b = entry["ends"]
            known = [self.known_router(f"{path}[{i}]", end, routers) for i, end in enumerate((a, b))]
            if a == b:
                self.wrong(path, f"a link needs two different routers, both ends are {a}")
            elif frozenset((a, b)) in pairs:
                self.wrong(path, f"{a} and {b} are linked already: one link a pair")
            elif all(known):
                pairs.add(frozenset((a, b)))
                links.append(FabricLink(a, b, link_of(entry)))
        edge = fabric.get("edge", routers[0])
        self.known_router("fabric.edge", edge, routers)
        lost = _unreachable(routers, links)
        if lost:
            self.wrong(
                "fabric.links", f"no way from {routers[0]} to {', '.join(lost)}: add links that connect all routers"
            )
        return routers, tuple(links), edge

    def known_router(self, path: str, name: str, routers: tuple[str, ...]) -> bool:
        if name not in routers:
            self.wrong(
                path, f'no router "{name}" in spec.fabric.routers ({", ".join(routers)}){did_you_mean(name, routers)}'
            )
        return name in routers


def _node(entry: dict[str, Any], name: str, address: IPv4Address, router: str) -> NodeSpec:
    return NodeSpec(
        name=name,
        address=address,
        labels=dict(entry.get("labels") or {}),
        annotations=dict(entry.get("annotations") or {}),
        taints=tuple(dict(taint) for taint in entry.get("taints") or ()),
        uplink=link_of(entry.get("uplink") or {}),
        pod_link=link_of(entry.get("podLink") or {}),
        router=router,
    )


def _numbers_without(named: set[str]) -> Any:
    """Numbers for nodes without a name: the node's position, or the next whose name nobody has."""
    last = 0

    def number(position: int) -> int:
        nonlocal last
        last = max(last + 1, position)
        while f"n{last}" in named:
            last += 1
        return last

    return number


def _unreachable(routers: tuple[str, ...], links: list[FabricLink]) -> list[str]:
    reached = {routers[0]}
    while True:
        more = {end for link in links if {link.a, link.b} & reached for end in (link.a, link.b)} - reached
        if not more:
            return [router for router in routers if router not in reached]
        reached |= more
