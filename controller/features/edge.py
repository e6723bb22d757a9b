"""The edge: from the cluster to the hosts outside through the NAT gateway, and the hosts among themselves.

Nothing comes in unasked, except for load balancers and node ports (``features.loadbalancer``). What the gateway has no
address and port left for is dropped by a flow of its own, whose counter tells of it.
"""

from __future__ import annotations

from controller.family import Family, family_of
from controller.features.masquerade import exhausted_owner
from controller.features.neighbours import answer, asked_for, asker, complete_answers
from controller.openflow.actions import (
    DEC_TTL,
    DROP,
    IN_PORT,
    XXREG3,
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
    set_icmpv6_type,
    set_nw_ttl,
)
from controller.openflow.cookie import Owner
from controller.openflow.flow import Flow
from controller.openflow.match import Address, ct_state, dl_dst, dl_src, in_port, match, nw_dst, nw_src
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
from controller.views import EdgeHost, EdgeNet, EdgeView
from kmn.k8s.dataplane import GATEWAY_MAC

__all__ = ["edge_flows", "translate"]


def edge_flows(edge: EdgeView) -> list[Flow]:
    """All flows of the edge's bridge."""
    flows = [flow for net in edge.nets for flow in _pipeline(edge, net)]
    for host in edge.hosts:
        for address in host.addresses:
            flows += _host(edge, host, address)
    return flows


def translate(edge: EdgeView, first: Address, last: Address) -> Action:
    """Give a new connection one of the addresses as its source, and a port of the gateway's range."""
    sources = NatRange(first, last, *edge.nat_ports)
    return ct(ZONE, commit=True, src=sources, mark=MARK_ALLOWED, table=EdgeTable.NATTED)


def _pipeline(edge: EdgeView, net: EdgeNet) -> list[Flow]:
    """Flows of one IP family."""
    owner, family = Owner(Feature.EDGE, f"Edge/{edge.name}"), family_of(net.address)
    make, ip = owner.flow, family.ip
    fabric = in_port(edge.fabric_ofport)
    to_fabric = (set_eth_src(edge.fabric_mac), set_eth_dst(edge.next_hop_mac), DEC_TTL)
    leave = actions(*to_fabric, to_port(edge.fabric_ofport), goto(EdgeTable.SNAT))
    commit = ct(ZONE, commit=True, mark=MARK_ALLOWED)
    proxied = NatRange(net.address, net.address, 1024, 65535)
    flows = [
        make(EdgeTable.CLASSIFIER, family.asking, match(*family.neighbours, fabric), actions(goto(EdgeTable.ARP))),
        # On the fabric the edge is whatever its routers send to it; among the hosts it is every next hop.
        make(EdgeTable.ARP, 150, match(*family.question, fabric), answer(family, edge.fabric_mac)),
        make(EdgeTable.ARP, 100, match(*family.question), answer(family, GATEWAY_MAC)),
        *complete_answers(owner, family),
        make(EdgeTable.CONNTRACK, 100, match(ip), actions(ct(ZONE, nat=True, table=EdgeTable.STATE))),
        make(EdgeTable.STATE, 200, match(ip, ct_state("+inv+trk")), DROP),
        make(EdgeTable.STATE, 190, match(ip, ALLOWED), actions(goto(EdgeTable.ROUTING))),
        make(EdgeTable.STATE, 180, match(ip, ct_state("+rel+trk")), DROP),
        make(EdgeTable.STATE, 100, match(ip, fabric), actions(goto(EdgeTable.ROUTING))),
        make(EdgeTable.STATE, 90, match(ip, nw_dst(net.internet_cidr)), actions(goto(EdgeTable.ROUTING))),
        make(EdgeTable.STATE, 80, match(ip, nw_dst(net.load_balancers)), actions(goto(EdgeTable.SERVICE))),
        # The edge itself answers pings, to its own address.
        make(EdgeTable.ROUTING, 220, match(*family.echo_request, fabric, nw_dst(net.address)),
             actions(*_echo(family, edge.fabric_mac))),
        make(EdgeTable.ROUTING, 210, match(*family.echo_request, nw_dst(net.address)),
             actions(*_echo(family, GATEWAY_MAC))),
        # Load balancers that do not keep the client's address: the edge's own stands for it, in NAT_ZONE.
        make(EdgeTable.CLASSIFIER, 110, match(ip, fabric, nw_dst(net.address)),
             actions(ct(NAT_ZONE, nat=True, table=EdgeTable.CONNTRACK))),
        make(EdgeTable.SNAT, 230, match(ip, STATELESS), actions(goto(EdgeTable.OUTPUT))),
        make(EdgeTable.SNAT, 220, match(ip, PROXIED, ct_state("+rpl+trk")), actions(goto(EdgeTable.OUTPUT))),
        make(EdgeTable.SNAT, 210, match(ip, PROXIED),
             actions(ct(NAT_ZONE, commit=True, src=proxied, table=EdgeTable.OUTPUT))),
        make(EdgeTable.SNAT, 200, match(ip, ALLOWED), actions(goto(EdgeTable.OUTPUT))),
        make(EdgeTable.SNAT, 0, match(ip), actions(commit, goto(EdgeTable.OUTPUT))),
        make(EdgeTable.NATTED, 0, match(ip), actions(goto(EdgeTable.OUTPUT))),
        make(EdgeTable.OUTPUT, 100, match(ip), actions(output_reg(OUT_PORT))),
    ]  # fmt: skip
    if net.nodes is not None:
        to_nodes = match(ip, nw_dst(net.nodes))
        flows.append(make(EdgeTable.STATE, 80, to_nodes, actions(goto(EdgeTable.SERVICE))))
    exhausted = exhausted_owner("Edge", edge.name).flow
    for network in net.cluster_cidrs:
        flows.append(
            make(EdgeTable.CLASSIFIER, 100, match(ip, fabric, nw_src(network)), actions(goto(EdgeTable.CONNTRACK)))
        )
        # Only what was translated back gets here from a host; STATE sees to that.
        flows.append(make(EdgeTable.ROUTING, 100, match(ip, nw_dst(network)), leave))
        flows.append(make(EdgeTable.ROUTING, 110, match(ip, fabric, nw_dst(network)), DROP))
        # Without a free address and port the packet comes out of the translation as it was.
        flows.append(exhausted(EdgeTable.NATTED, 100, match(ip, nw_src(network)), DROP))
        if net.nat_addresses:
            public = translate(edge, net.nat_addresses[0], net.nat_addresses[-1])
            flows.append(make(EdgeTable.SNAT, 100, match(ip, fabric, nw_src(network)), actions(public)))
    return flows


def _echo(family: Family, mac: str) -> tuple[Action, ...]:
    """Send an echo request back as its answer."""
    source, destination, scratch, reply = "nw_src", "nw_dst", SCRATCH, set_icmp_type(0)
    if family.version == 6:
        source, destination, scratch, reply = "ipv6_src", "ipv6_dst", XXREG3, set_icmpv6_type(129)
    return (
        move("eth_src", "eth_dst"), set_eth_src(mac),
        move(source, scratch), move(destination, source), move(scratch, destination),
        reply, set_nw_ttl(64), IN_PORT,
    )  # fmt: skip


def _host(edge: EdgeView, host: EdgeHost, address: Address) -> list[Flow]:
    """Flows of one address of a host."""
    make = Owner(Feature.EDGE, f"Edge/{edge.name}/{host.name}").flow
    port, family = in_port(host.ofport), family_of(address)
    ip = family.ip
    to_host = (set_eth_src(GATEWAY_MAC), set_eth_dst(host.mac), DEC_TTL)
    return [
        make(
            EdgeTable.CLASSIFIER, 100, match(ip, port, dl_src(host.mac), dl_dst(GATEWAY_MAC), nw_src(address)),
            actions(goto(EdgeTable.CONNTRACK)),
        ),
        make(
            EdgeTable.CLASSIFIER, family.asking,
            match(*family.neighbours, port, dl_src(host.mac), *asker(address, host.mac)),
            actions(goto(EdgeTable.ARP)),
        ),
        make(EdgeTable.ARP, 200, match(*family.neighbours, port, asked_for(address)), DROP),
        make(
            EdgeTable.ROUTING, 200, match(ip, nw_dst(address)),
            actions(*to_host, to_port(host.ofport), goto(EdgeTable.SNAT)),
        ),
    ]  # fmt: skip
