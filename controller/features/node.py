"""A node's own traffic: its kernel behind ``HOST_OFPORT``, and the fabric behind ``UPLINK_OFPORT``."""

from __future__ import annotations

from controller.family import family_of
from controller.features.directreturn import way_in
from controller.features.masquerade import as_node, exhausted_owner
from controller.features.neighbours import answer, asked_for
from controller.openflow.actions import DEC_TTL, DROP, actions, ct, goto, set_eth_dst, set_eth_src
from controller.openflow.cookie import Owner
from controller.openflow.flow import Flow
from controller.openflow.match import (
    dl_dst,
    dl_src,
    in_port,
    match,
    nw_dst,
    nw_src,
    nw_ttl,
)
from controller.pipeline import (
    CLEAR_MASQUERADE,
    HAIRPIN,
    MASQUERADE,
    MASQUERADE_PORTS,
    NAT_ZONE,
    SET_HAIRPIN,
    Feature,
    Table,
    to_port,
)
from controller.views import NodeNet, NodeView
from kmn.k8s.dataplane import GATEWAY_MAC, UPLINK_OFPORT

__all__ = ["node_flows"]


def node_flows(node: NodeView) -> list[Flow]:
    """Flows of the node's own bridge."""
    return [flow for net in node.nets for flow in (way_in(node.name, net), *_net_flows(node, net))]


def _net_flows(node: NodeView, net: NodeNet) -> list[Flow]:
    """Flows of one IP family."""
    family = family_of(net.address)
    ip = family.ip
    make = Owner(Feature.NODE, f"Node/{node.name}").flow
    to_fabric = (set_eth_src(node.uplink_mac), set_eth_dst(node.next_hop_mac), DEC_TTL)
    masquerade = actions(as_node(net.address, MASQUERADE_PORTS))
    own = (net.address, net.gateway, family.reject)
    flows = [
        # Pods' addresses of this node do not come from elsewhere.
        make(Table.CLASSIFIER, 110, match(ip, in_port(UPLINK_OFPORT), nw_src(net.pod_cidr)), DROP),
        make(Table.CLASSIFIER, 100, match(ip, in_port(UPLINK_OFPORT)), actions(goto(Table.UN_SNAT))),
        make(
            Table.CLASSIFIER, family.asking, match(*family.neighbours, in_port(UPLINK_OFPORT)),
            actions(goto(Table.ARP)),
        ),
        make(
            Table.CLASSIFIER, family.asking, match(*family.neighbours, in_port(node.ofport), dl_src(node.mac)),
            actions(goto(Table.ARP)),
        ),
        make(
            Table.ARP, 200, match(*family.question, in_port(UPLINK_OFPORT), asked_for(net.address)),
            answer(family, node.uplink_mac),
        ),
        make(
            Table.UN_SNAT, 100, match(ip, nw_dst(net.gateway)),
            actions(ct(NAT_ZONE, nat=True, table=Table.CONNTRACK)),
        ),
        # Answers to masqueraded connections; the node's own pass untouched. What the node says to itself is no answer.
        make(
            Table.UN_SNAT, 110, match(ip, in_port(node.ofport), nw_dst(net.address)),
            actions(goto(Table.CONNTRACK)),
        ),
        make(
            Table.UN_SNAT, 100, match(ip, nw_dst(net.address)),
            actions(ct(NAT_ZONE, nat=True, table=Table.CONNTRACK)),
        ),
        make(Table.SERVICE, 195, match(ip, nw_dst(net.address)), actions(goto(Table.NODE_PORT))),
        make(Table.ROUTING, 100, match(ip, nw_dst(net.pod_cidr)), DROP),
        # From outside to an endpoint elsewhere, and its answers.
        make(
            Table.ROUTING, 55, match(ip, MASQUERADE, in_port(UPLINK_OFPORT)),
            actions(*to_fabric, SET_HAIRPIN, goto(Table.COMMIT)),
        ),
        make(Table.ROUTING, 40, match(ip), actions(*to_fabric, to_port(UPLINK_OFPORT), goto(Table.COMMIT))),
        make(Table.SNAT, 105, match(ip, MASQUERADE), masquerade),
        # The node's own connections share its address with masqueraded ones: neither may have the other's ports.
        make(Table.SNAT, 104, match(ip, in_port(node.ofport), nw_src(net.address)), masquerade),
        # A pod's connection comes back to the pod itself.
        make(
            Table.SNAT, 100, match(ip, HAIRPIN),
            actions(ct(NAT_ZONE, commit=True, src=net.gateway, table=Table.OUTPUT)),
        ),
        make(Table.NATTED, 100, match(ip, nw_src(net.address)), actions(goto(Table.OUTPUT))),
        # Without a free port the packet comes out of the translation as it was.
        exhausted_owner("Node", node.name).flow(Table.NATTED, 0, match(ip), DROP),
    ]  # fmt: skip
    to_host = (set_eth_src(GATEWAY_MAC), set_eth_dst(node.mac))
    # It may make no further hop: the node's kernel says so (ICMP time exceeded) to whoever sent it.
    expired = actions(*to_host, CLEAR_MASQUERADE, to_port(node.ofport), goto(Table.COMMIT))
    flows.append(make(Table.ROUTING, 230, match(ip, nw_ttl(1)), expired))
    for address in own:
        from_host = match(ip, in_port(node.ofport), dl_src(node.mac), dl_dst(GATEWAY_MAC), nw_src(address))
        flows += [
            make(Table.CLASSIFIER, 100, from_host, actions(goto(Table.UN_SNAT))),
            # Whether its own address is taken is not for the gateway to answer.
            make(Table.ARP, 200, match(*family.neighbours, in_port(node.ofport), asked_for(address)), DROP),
            make(
                Table.ROUTING, 240, match(ip, nw_dst(address)),
                # The node's own kernel sees the client, and would not take its own address as source.
                actions(*to_host, CLEAR_MASQUERADE, to_port(node.ofport), goto(Table.COMMIT)),
            ),
            make(
                Table.ROUTING, 250, match(ip, in_port(node.ofport), nw_dst(address)),
                actions(*to_host, SET_HAIRPIN, goto(Table.COMMIT)),
            ),
        ]  # fmt: skip
    return flows
