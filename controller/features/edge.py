"""The edge: from the clusters to the hosts outside under a public address, and the hosts among themselves.

Nothing comes in unasked. Connections leave under the first of the public addresses.
"""

from __future__ import annotations

from controller.features.arp import answer
from controller.openflow.actions import DEC_TTL, DROP, actions, ct, goto, output_reg, set_eth_dst, set_eth_src
from controller.openflow.cookie import Owner
from controller.openflow.flow import Flow
from controller.openflow.match import (
    ARP,
    ARP_REQUEST,
    IP,
    arp_sha,
    arp_spa,
    arp_tpa,
    ct_state,
    dl_dst,
    dl_src,
    in_port,
    match,
    nw_dst,
    nw_src,
)
from controller.pipeline import ALLOWED, MARK_ALLOWED, OUT_PORT, ZONE, EdgeTable, Feature, to_port
from controller.views import EdgeHost, EdgeView
from kmn.k8s.dataplane import GATEWAY_MAC

__all__ = ["edge_flows"]


def edge_flows(edge: EdgeView) -> list[Flow]:
    """All flows of the edge's bridge."""
    flows = _pipeline(edge)
    for host in edge.hosts:
        flows += _host(edge, host)
    return flows


def _pipeline(edge: EdgeView) -> list[Flow]:
    make = Owner(Feature.EDGE, f"Edge/{edge.name}").flow
    fabric = in_port(edge.fabric_ofport)
    to_fabric = (set_eth_src(edge.fabric_mac), set_eth_dst(edge.next_hop_mac), DEC_TTL)
    leave = actions(*to_fabric, to_port(edge.fabric_ofport), goto(EdgeTable.SNAT))
    commit = ct(ZONE, commit=True, mark=MARK_ALLOWED)
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
        make(EdgeTable.SNAT, 200, match(IP, ALLOWED), actions(goto(EdgeTable.OUTPUT))),
        make(EdgeTable.SNAT, 0, match(IP), actions(commit, goto(EdgeTable.OUTPUT))),
        make(EdgeTable.OUTPUT, 100, match(IP), actions(output_reg(OUT_PORT))),
    ]
    nat = edge.nat_addresses[0] if edge.nat_addresses else None
    translate = ct(ZONE, commit=True, src=nat, mark=MARK_ALLOWED, table=EdgeTable.OUTPUT)
    for network in edge.cluster_cidrs:
        flows.append(
            make(EdgeTable.CLASSIFIER, 100, match(IP, fabric, nw_src(network)), actions(goto(EdgeTable.CONNTRACK)))
        )
        # Only what was translated back gets here from a host; STATE sees to that.
        flows.append(make(EdgeTable.ROUTING, 100, match(IP, nw_dst(network)), leave))
        flows.append(make(EdgeTable.ROUTING, 110, match(IP, fabric, nw_dst(network)), DROP))
        if nat is not None:
            flows.append(make(EdgeTable.SNAT, 100, match(IP, fabric, nw_src(network)), actions(translate)))
    return flows


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
