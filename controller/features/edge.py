"""The edge: from the cluster to the hosts outside through the NAT gateway, and the hosts among themselves.

Nothing comes in unasked, except for load balancers and node ports (``features.loadbalancer``). What the gateway has no
address and port left for is dropped by a flow of its own, whose counter tells of it.
"""

from __future__ import annotations

from ipaddress import IPv4Address

from controller.features.arp import answer
from controller.features.masquerade import exhausted_owner
from controller.openflow.actions import (
    DEC_TTL,
    DROP,
    IN_PORT,
    Action,
    NatRange,
    actions,
    ct,
    goto,
    move,
    output_reg,
    set_eth_dst,
    set_eth_src,
    set_icmp_type,
    set_nw_ttl,
)
from controller.openflow.cookie import Owner
from controller.openflow.flow import Flow
from controller.openflow.match import (
    ARP,
    ARP_REQUEST,
    ICMP,
    IP,
    arp_sha,
    arp_spa,
    arp_tpa,
    ct_state,
    dl_dst,
    dl_src,
    icmp_type,
    in_port,
    match,
    nw_dst,
    nw_src,
)
from controller.pipeline import (
    ALLOWED,
    MARK_ALLOWED,
    NAT_ZONE,
    OUT_PORT,
    PROXIED,
    SCRATCH,
    STATELESS,
    ZONE,
    EdgeTable,
    Feature,
    to_port,
)
from controller.views import EdgeHost, EdgeView
from kmn.k8s.dataplane import GATEWAY_MAC

__all__ = ["edge_flows", "translate"]

_ECHO_REQUEST, _ECHO_REPLY = 8, 0


def edge_flows(edge: EdgeView) -> list[Flow]:
    """All flows of the edge's bridge."""
    flows = _pipeline(edge)
    for host in edge.hosts:
        flows += _host(edge, host)
    return flows


def translate(edge: EdgeView, first: IPv4Address, last: IPv4Address) -> Action:
    """Give a new connection one of the addresses as its source, and a port of the gateway's range."""
    sources = NatRange(first, last, *edge.nat_ports)
    return ct(ZONE, commit=True, src=sources, mark=MARK_ALLOWED, table=EdgeTable.NATTED)


def _pipeline(edge: EdgeView) -> list[Flow]:
    make = Owner(Feature.EDGE, f"Edge/{edge.name}").flow
    fabric = in_port(edge.fabric_ofport)
    to_fabric = (set_eth_src(edge.fabric_mac), set_eth_dst(edge.next_hop_mac), DEC_TTL)
    leave = actions(*to_fabric, to_port(edge.fabric_ofport), goto(EdgeTable.SNAT))
    commit = ct(ZONE, commit=True, mark=MARK_ALLOWED)
    proxied = NatRange(edge.address, edge.address, 1024, 65535)
    flows = [
        make(EdgeTable.CLASSIFIER, 100, match(ARP, fabric), actions(goto(EdgeTable.ARP))),
        # On the fabric the edge is whatever its routers send to it; among the hosts it is every next hop.
        make(EdgeTable.ARP, 150, match(ARP, ARP_REQUEST, fabric), answer(edge.fabric_mac)),
        make(EdgeTable.ARP, 100, match(ARP, ARP_REQUEST), answer(GATEWAY_MAC)),
        make(EdgeTable.CONNTRACK, 100, match(IP), actions(ct(ZONE, nat=True, table=EdgeTable.STATE))),
        make(EdgeTable.STATE, 200, match(IP, ct_state("+inv+trk")), DROP),
        make(EdgeTable.STATE, 190, match(IP, ALLOWED), actions(goto(EdgeTable.ROUTING))),
        make(EdgeTable.STATE, 180, match(IP, ct_state("+rel+trk")), DROP),
        make(EdgeTable.STATE, 100, match(IP, fabric), actions(goto(EdgeTable.ROUTING))),
        make(EdgeTable.STATE, 90, match(IP, nw_dst(edge.internet_cidr)), actions(goto(EdgeTable.ROUTING))),
        make(EdgeTable.STATE, 80, match(IP, nw_dst(edge.load_balancers)), actions(goto(EdgeTable.SERVICE))),
        # The edge itself answers pings, to its own address.
        make(EdgeTable.ROUTING, 220, match(*ICMP, fabric, nw_dst(edge.address), icmp_type(_ECHO_REQUEST)),
             actions(*_echo(edge.fabric_mac))),
        make(EdgeTable.ROUTING, 210, match(*ICMP, nw_dst(edge.address), icmp_type(_ECHO_REQUEST)),
             actions(*_echo(GATEWAY_MAC))),
        # Load balancers that do not keep the client's address: the edge's own stands for it, in NAT_ZONE.
        make(EdgeTable.CLASSIFIER, 110, match(IP, fabric, nw_dst(edge.address)),
             actions(ct(NAT_ZONE, nat=True, table=EdgeTable.CONNTRACK))),
        make(EdgeTable.SNAT, 230, match(IP, STATELESS), actions(goto(EdgeTable.OUTPUT))),
        make(EdgeTable.SNAT, 220, match(IP, PROXIED, ct_state("+rpl+trk")), actions(goto(EdgeTable.OUTPUT))),
        make(EdgeTable.SNAT, 210, match(IP, PROXIED),
             actions(ct(NAT_ZONE, commit=True, src=proxied, table=EdgeTable.OUTPUT))),
        make(EdgeTable.SNAT, 200, match(IP, ALLOWED), actions(goto(EdgeTable.OUTPUT))),
        make(EdgeTable.SNAT, 0, match(IP), actions(commit, goto(EdgeTable.OUTPUT))),
        make(EdgeTable.NATTED, 0, match(IP), actions(goto(EdgeTable.OUTPUT))),
        make(EdgeTable.OUTPUT, 100, match(IP), actions(output_reg(OUT_PORT))),
    ]  # fmt: skip
    if edge.nodes is not None:
        to_nodes = match(IP, nw_dst(edge.nodes))
        flows.append(make(EdgeTable.STATE, 80, to_nodes, actions(goto(EdgeTable.SERVICE))))
    exhausted = exhausted_owner("Edge", edge.name).flow
    for network in edge.cluster_cidrs:
        flows.append(
            make(EdgeTable.CLASSIFIER, 100, match(IP, fabric, nw_src(network)), actions(goto(EdgeTable.CONNTRACK)))
        )
        # Only what was translated back gets here from a host; STATE sees to that.
        flows.append(make(EdgeTable.ROUTING, 100, match(IP, nw_dst(network)), leave))
        flows.append(make(EdgeTable.ROUTING, 110, match(IP, fabric, nw_dst(network)), DROP))
        # Without a free address and port the packet comes out of the translation as it was.
        flows.append(exhausted(EdgeTable.NATTED, 100, match(IP, nw_src(network)), DROP))
        if edge.nat_addresses:
            public = translate(edge, edge.nat_addresses[0], edge.nat_addresses[-1])
            flows.append(make(EdgeTable.SNAT, 100, match(IP, fabric, nw_src(network)), actions(public)))
    return flows


def _echo(mac: str) -> tuple[Action, ...]:
    """Send an echo request back as its answer."""
    return (
        move("eth_src", "eth_dst"), set_eth_src(mac),
        move("nw_src", SCRATCH), move("nw_dst", "nw_src"), move(SCRATCH, "nw_dst"),
        set_icmp_type(_ECHO_REPLY), set_nw_ttl(64), IN_PORT,
    )  # fmt: skip


def _host(edge: EdgeView, host: EdgeHost) -> list[Flow]:
    make = Owner(Feature.EDGE, f"Edge/{edge.name}/{host.name}").flow
    port = in_port(host.ofport)
    to_host = (set_eth_src(GATEWAY_MAC), set_eth_dst(host.mac), DEC_TTL)
    return [
        make(
            EdgeTable.CLASSIFIER, 100, match(IP, port, dl_src(host.mac), dl_dst(GATEWAY_MAC), nw_src(host.address)),
            actions(goto(EdgeTable.CONNTRACK)),
        ),
        make(
            EdgeTable.CLASSIFIER, 100, match(ARP, port, dl_src(host.mac), arp_spa(host.address), arp_sha(host.mac)),
            actions(goto(EdgeTable.ARP)),
        ),
        make(EdgeTable.ARP, 200, match(ARP, port, arp_tpa(host.address)), DROP),
        make(
            EdgeTable.ROUTING, 200, match(IP, nw_dst(host.address)),
            actions(*to_host, to_port(host.ofport), goto(EdgeTable.SNAT)),
        ),
    ]  # fmt: skip
