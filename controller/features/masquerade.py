"""Source translation at a node, and who goes out as himself: kube-proxy's masquerade, and that of ip-masq-agent.

Connections of pods to destinations outside the cluster's networks get the node's address, when the cluster file says
so (``masquerade``), as with kubenet's or Calico's iptables rules. The edge then sees nodes only. Not so pods with an
egress address: what gives it to them at the edge must see who they are.
"""

from __future__ import annotations

from collections.abc import Iterable

from controller.family import family_of
from controller.openflow.actions import Action, actions, ct, goto
from controller.openflow.cookie import Owner
from controller.openflow.flow import Flow
from controller.openflow.match import Address, Network, match, nw_dst, nw_src
from controller.pipeline import NAT_ZONE, TO_UPLINK, Feature, Table
from controller.views import Masquerade, NodeView
from kmn.k8s.objects import Key

__all__ = ["as_node", "egress_exemption", "exempt_flows", "exhausted_owner", "masquerade_flows"]

# Behind Services' (105, features.node), before hairpins (100), which do not leave by the uplink.
_EXEMPT, _MASQUERADED = 103, 102


def as_node(address: Address, ports: tuple[int, int]) -> Action:
    """Give a connection the node's address as its source, and one of the ports."""
    return ct(NAT_ZONE, commit=True, src=address, src_ports=ports, table=Table.NATTED)


def exhausted_owner(kind: str, name: str) -> Owner:
    """Whose the flows are that drop what no address and port is left for, at a ``Node`` or an ``Edge``."""
    return Owner(Feature.EDGE if kind == "Edge" else Feature.NODE, f"{kind}/{name}/nat")


def masquerade_flows(node: NodeView, masquerade: Masquerade) -> list[Flow]:
    """Flows of one node's bridge: its pods leave as the node."""
    make = Owner(Feature.NODE, f"Node/{node.name}").flow
    return [
        make(
            Table.SNAT, _MASQUERADED, match(family_of(net.address).ip, TO_UPLINK, nw_src(net.pod_cidr)),
            actions(as_node(net.address, masquerade.ports)),
        )
        for net in node.nets
    ]  # fmt: skip


def exempt_flows(networks: Iterable[Network]) -> list[Flow]:
    """Flows common to all nodes: destinations that pods reach as themselves."""
    make = Owner(Feature.NODE, "Cluster").flow
    unchanged = actions(goto(Table.OUTPUT))
    return [
        make(Table.SNAT, _EXEMPT, match(family_of(network).ip, TO_UPLINK, nw_dst(network)), unchanged)
        for network in networks
    ]


def egress_exemption(pod: Key, address: Address) -> Flow:
    """The flow of the node's bridge of a pod's address that the edge replaces by one of its own."""
    wanted = match(family_of(address).ip, TO_UPLINK, nw_src(address))
    return Owner(Feature.EGRESS, f"Pod/{pod}").flow(Table.SNAT, _EXEMPT, wanted, actions(goto(Table.OUTPUT)))
