"""Egress addresses: pods whose connections leave the edge under a public address of their own (an egress gateway)."""

from __future__ import annotations

from controller.family import family_of
from controller.features.edge import translate
from controller.openflow.actions import actions
from controller.openflow.cookie import Owner
from controller.openflow.flow import Flow
from controller.openflow.match import Address, in_port, match, nw_src
from controller.pipeline import EdgeTable, Feature
from controller.views import EdgeView
from kmn.k8s.objects import Key

__all__ = ["egress_flows"]


def egress_flows(edge: EdgeView, pod: Key, address: Address, egress: Address) -> list[Flow]:
    """Flows of one pod's address for the edge's bridge."""
    make = Owner(Feature.EGRESS, f"Pod/{pod}").flow
    wanted = match(family_of(address).ip, in_port(edge.fabric_ofport), nw_src(address))
    return [make(EdgeTable.SNAT, 110, wanted, actions(translate(edge, egress, egress)))]
