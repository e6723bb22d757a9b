"""Application load balancers at the edge: proxies of class ``alb``, outside the cluster, on ports of the edge's bridge.

To the edge one is a host that clients may connect to, from certain networks and at the ports of its listeners (what its
security groups would say), and that may connect to nodes and pods under its own address. It is a connection's end:
nothing is translated, but for clients in the cluster that use one with a public address, who pass the NAT gateway.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network

from controller.openflow.actions import DEC_TTL, DROP, actions, ct, goto, set_eth_dst, set_eth_src
from controller.openflow.cookie import Owner
from controller.openflow.flow import Flow
from controller.openflow.match import (
    ARP,
    IP,
    TCP,
    Address,
    arp_sha,
    arp_spa,
    arp_tpa,
    dl_dst,
    dl_src,
    in_port,
    match,
    nw_dst,
    nw_src,
    tp_dst,
)
from controller.outside_views import ApplicationBalancerView
from controller.pipeline import MARK_ALLOWED, ZONE, EdgeTable, Feature, to_port
from controller.views import EdgeView
from kmn.k8s.dataplane import GATEWAY_MAC

__all__ = ["application_balancer_flows"]

_EVERYBODY = IPv4Network("0.0.0.0/0")


def application_balancer_flows(edge: EdgeView, view: ApplicationBalancerView) -> list[Flow]:
    """Flows of one load balancer for the edge's bridge. It is IPv4 only."""
    return [*_place(edge, view), *_way_in(edge, view)]


def _place(edge: EdgeView, view: ApplicationBalancerView) -> Iterator[Flow]:
    """It sends under its own address, to the cluster; and what is for it gets there."""
    make = Owner(Feature.LOAD_BALANCER, f"ApplicationLoadBalancer/{view.name}").flow
    port = in_port(view.ofport)
    own = match(IP, port, dl_src(view.mac), dl_dst(GATEWAY_MAC), nw_src(view.address))
    yield make(EdgeTable.CLASSIFIER, 100, own, actions(goto(EdgeTable.CONNTRACK)))
    asks = match(ARP, port, dl_src(view.mac), arp_spa(view.address), arp_sha(view.mac))
    yield make(EdgeTable.CLASSIFIER, 100, asks, actions(goto(EdgeTable.ARP)))
    yield make(EdgeTable.ARP, 200, match(ARP, port, arp_tpa(view.address)), DROP)
    for network in edge.nets[0].cluster_cidrs:
        yield make(EdgeTable.STATE, 110, match(IP, port, nw_dst(network)), actions(goto(EdgeTable.ROUTING)))
    there = (set_eth_src(GATEWAY_MAC), set_eth_dst(view.mac), DEC_TTL, to_port(view.ofport), goto(EdgeTable.SNAT))
    yield make(EdgeTable.ROUTING, 200, match(IP, nw_dst(view.address)), actions(*there))


def _way_in(edge: EdgeView, view: ApplicationBalancerView) -> Iterator[Flow]:
    """Who may connect to which port; the others get no answer."""
    make = Owner(Feature.LOAD_BALANCER, f"ApplicationLoadBalancer/{view.name}").flow
    fabric, here = in_port(edge.fabric_ofport), nw_dst(view.address)
    inside = actions(goto(EdgeTable.ROUTING))
    yield make(EdgeTable.STATE, 110, match(IP, fabric, here), actions(goto(EdgeTable.SERVICE)))
    yield make(EdgeTable.SERVICE, 190, match(IP, here), DROP)
    if view.internal:  # clients are in the same network: they keep their addresses
        commit = ct(ZONE, commit=True, mark=MARK_ALLOWED)
        yield make(EdgeTable.SNAT, 150, match(IP, fabric, here), actions(commit, goto(EdgeTable.OUTPUT)))
    only_fabric = (fabric,) if view.internal else ()
    for port, sources in view.listeners:
        wanted = (here, tp_dst(TCP, port))
        for source in sources:
            given = (nw_src(source),) if source != _EVERYBODY else ()
            yield make(EdgeTable.SERVICE, 200, match(*TCP, *only_fabric, *given, *wanted), inside)
        if edge.nets[0].nat_addresses and not view.internal:
            # It sees clients of the cluster under the gateway's addresses.
            through = all(_within(address, sources) for address in edge.nets[0].nat_addresses)
            yield make(EdgeTable.SERVICE, 210, match(*TCP, fabric, *wanted), inside if through else DROP)


def _within(address: Address, networks: tuple[IPv4Network, ...]) -> bool:
    return any(address in network for network in networks)
