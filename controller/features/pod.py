"""A pod on its node's bridge: who it is, and how packets reach it, at its own address and at host ports."""

from __future__ import annotations

from controller.family import family_of
from controller.features.connectivity import dnat
from controller.features.neighbours import asked_for, asker
from controller.openflow.actions import DEC_TTL, DROP, actions, goto, set_eth_dst, set_eth_src
from controller.openflow.cookie import Owner
from controller.openflow.flow import Flow
from controller.openflow.match import Address, dl_dst, dl_src, in_port, match, nw_dst, nw_src, tp_dst
from controller.pipeline import SET_HAIRPIN, TO_POD, Feature, Table, to_port
from controller.views import PodView
from kmn.k8s.dataplane import GATEWAY_MAC

__all__ = ["pod_flows"]


def pod_flows(pod: PodView) -> list[Flow]:
    """Flows of the bridge that the pod is on."""
    return [flow for address in pod.addresses for flow in _address_flows(pod, address)]


def _address_flows(pod: PodView, address: Address) -> list[Flow]:
    """Flows of one IP family."""
    make = Owner(Feature.POD, f"Pod/{pod.key}").flow
    family, port = family_of(address), in_port(pod.ofport)
    ip = family.ip
    to_pod = (set_eth_src(GATEWAY_MAC), set_eth_dst(pod.mac), DEC_TTL)
    deliver = actions(*to_pod, to_port(pod.ofport), goto(TO_POD))
    give_back = actions(*to_pod, SET_HAIRPIN, goto(Table.COMMIT))
    host_ports = [
        make(
            Table.NODE_PORT, 190,
            match(
                *family.protocols[each.protocol], *([nw_dst(each.host_ip)] if each.host_ip else []),
                tp_dst(family.protocols[each.protocol], each.host_port),
            ),
            actions(dnat(address, each.container_port)),
        )
        for each in pod.host_ports
        if each.host_ip is None or each.host_ip.version == address.version
    ]  # fmt: skip
    return [
        *host_ports,
        make(
            Table.CLASSIFIER, 100, match(ip, port, dl_src(pod.mac), dl_dst(GATEWAY_MAC), nw_src(address)),
            actions(goto(Table.UN_SNAT)),
        ),
        make(
            Table.CLASSIFIER, family.asking,
            match(*family.neighbours, port, dl_src(pod.mac), *asker(address, pod.mac)),
            actions(goto(Table.ARP)),
        ),
        # Duplicate address detection: its own address is nobody else's.
        make(Table.ARP, 200, match(*family.neighbours, port, asked_for(address)), DROP),
        make(Table.ROUTING, 200, match(ip, nw_dst(address)), deliver),
        # Through a Service to itself, and the answer to that.
        make(Table.ROUTING, 210, match(ip, port, nw_dst(address)), give_back),
    ]  # fmt: skip
