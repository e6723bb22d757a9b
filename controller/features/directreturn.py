"""Direct server return: the edge sends a client's packets to a node and forgets them, the node answers the client.

The edge keeps no connections of such a load balancer. It chooses the node by a hash of the client's address and port,
packet by packet, as Maglev and Katran do, so that every edge that knows the same nodes would choose the same one.

A packet must tell the node which address and port it was for, as its answers come from there. Others wrap the packet
up (IPIP), or write it into an option (Cilium); on a routed fabric with node ports there is a cheaper way, which leaves
its size as it is: the edge writes the node's address in its pods' network, which no client outside can reach, and the
Service's node port over the destination, and the node puts back what stood there. From then on it is a packet to the
load balancer's address that came by the fabric, for endpoints of this node.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol as Interface

from controller.family import FAMILIES, family_of
from controller.openflow.actions import Action, Actions, actions, goto, resubmit, set_nw_dst, set_tp_dst
from controller.openflow.cookie import Owner
from controller.openflow.flow import Flow
from controller.openflow.match import Address, Match, Network, Protocol, in_port, match, nw_dst, nw_src, tp_dst
from controller.pipeline import SET_STATELESS, EdgeTable, Feature, Table
from controller.service_views import ServiceView
from controller.views import EdgeView, NodeNet
from kmn.k8s.dataplane import UPLINK_OFPORT

__all__ = ["hand_over", "insider_flows", "restore_flows", "stateless_flows", "way_in"]


# --- at the edge -----------------------------------------------------------------------------------------------------


class _Make(Interface):
    def __call__(self, table: int, priority: int, match: Match, actions: Actions, /) -> Flow: ...


def stateless_flows(edge: EdgeView, make: _Make, addresses: Iterable[Address]) -> list[Flow]:
    """Flows of load balancers' addresses that pass connection tracking by, in both directions."""
    flows = []
    for address in addresses:
        ip = family_of(address).ip
        answers = match(ip, in_port(edge.fabric_ofport), nw_src(address))
        flows.append(make(EdgeTable.CLASSIFIER, 105, answers, actions(SET_STATELESS, goto(EdgeTable.ROUTING))))
        flows.append(make(EdgeTable.CONNTRACK, 110, match(ip, nw_dst(address)), actions(goto(EdgeTable.SERVICE))))
    return flows


def hand_over(protocol: Protocol, gateway: Address, node_port: int) -> tuple[Action, ...]:
    """What a bucket does: to a node, without a memory of it."""
    return set_nw_dst(gateway), set_tp_dst(protocol, node_port), SET_STATELESS, resubmit(EdgeTable.ROUTING)


# --- at the nodes ----------------------------------------------------------------------------------------------------


def way_in(node: str, net: NodeNet) -> Flow:
    """The flow of a node's bridge, in one family, that tells what the edge may have handed over."""
    wanted = match(family_of(net.address).ip, in_port(UPLINK_OFPORT), nw_dst(net.gateway))
    return Owner(Feature.NODE, f"Node/{node}").flow(Table.UN_SNAT, 105, wanted, actions(goto(Table.RESTORE)))


def insider_flows(networks: Iterable[Network]) -> list[Flow]:
    """Flows common to all nodes: what the cluster itself sends to such addresses was not handed over."""
    make = Owner(Feature.NODE, "Cluster").flow
    known = actions(goto(Table.CONNTRACK))
    return [make(Table.RESTORE, 110, match(family_of(each).ip, nw_src(each)), known) for each in networks]


def restore_flows(service: ServiceView) -> list[Flow]:
    """Flows common to all nodes: back to the load balancer's address and port."""
    make = Owner(Feature.SERVICE, f"Service/{service.key}").flow
    if not service.direct_return:
        return []
    flows = []
    for port in service.ports:
        # Not of SCTP, which the edge does not balance.
        if port.node_port and port.protocol in ("TCP", "UDP"):
            protocol = FAMILIES[port.version].protocols[port.protocol]
            # kmn gives one of each family; a node port stands for no more
            for address in [each for each in service.balancer_ips if each.version == port.version][:1]:
                restore = actions(set_nw_dst(address), set_tp_dst(protocol, port.port), goto(Table.CONNTRACK))
                wanted = match(*protocol, tp_dst(protocol, port.node_port))
                flows.append(make(Table.RESTORE, 100, wanted, restore))
    return flows
