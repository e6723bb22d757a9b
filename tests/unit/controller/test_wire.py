"""Packed messages, read by os-ken's parser: an implementation of OpenFlow 1.5 that is not ours."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Any

import controller_objects as make
import pytest

from controller.cluster import Cluster
from controller.openflow import wire
from controller.openflow.flow import Flow
from controller.openflow.match import IP, ct_state, match, reg
from controller.openflow.readback import SwitchError

parser = pytest.importorskip("os_ken.ofproto.ofproto_v1_5_parser")


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    """Something of every feature."""
    made = Cluster()
    made.apply("nodes", "ADDED", make.node())
    made.apply("pods", "ADDED", make.pod("a", "10.244.1.2", 10))
    made.apply("edges", "ADDED", make.edge())
    ports = [("web", "TCP", 80), ("dns", "UDP", 53)]
    made.apply("services", "ADDED", make.service("web", "10.96.0.20", *ports))
    made.apply("endpointslices", "ADDED", make.endpoints("web", ["10.244.1.2", "10.244.2.2"], *ports))
    made.compute()
    return made


def flows(cluster: Cluster) -> Iterator[Flow]:
    for bridge in ("n1", "edge"):
        for scope in cluster.scopes(bridge):
            yield from scope.flows.values()


def inner(message: bytes) -> bytes:
    """The message inside an OFPT_BUNDLE_ADD_MESSAGE."""
    version, kind, length, xid, bundle, _, flags = struct.unpack_from("!BBHIIHH", message)
    assert (version, kind, length, bundle, flags) == (6, 34, len(message), 1, 3)
    assert struct.unpack_from("!BxHI", message, 16) == (6, len(message) - 16, xid)
    return message[16:]


def parsed_match(body: bytes, offset: int) -> dict[str, Any]:
    return dict(parser.OFPMatch.parser(body, offset).items())


def test_matches_and_instructions_are_what_os_ken_reads(cluster: Cluster) -> None:
    seen = set()
    for flow in flows(cluster):
        body = inner(wire.flow_add(flow))
        kind, cookie, table, command, priority = struct.unpack_from("!xB6xQ8xBB4xH", body)
        assert (kind, cookie, table, command, priority) == (14, flow.cookie, flow.table, 0, flow.priority)
        fields = parsed_match(body, 48)
        words = dict(word.split("=", 1) for word in str(flow.match).split(",") if "=" in word)
        for name, osken in (("nw_dst", "ipv4_dst"), ("nw_src", "ipv4_src"), ("in_port", "in_port"),
                            ("dl_src", "eth_src"), ("dl_dst", "eth_dst"), ("arp_tpa", "arp_tpa"),
                            ("arp_spa", "arp_spa"), ("arp_sha", "arp_sha")):  # fmt: skip
            if name in words:
                value = fields[osken]
                shown = value[0] if isinstance(value, tuple) else str(value)
                assert shown == words[name].split("/")[0]
                seen.add(name)
        if "tp_dst" in words:
            assert fields.get("tcp_dst", fields.get("udp_dst")) == int(words["tp_dst"])
            assert fields["ip_proto"] == (6 if "tcp_dst" in fields else 17)
        offset, instructions = 48 + len(flow.match.packed), []
        if "move:" in str(flow.actions):
            continue  # os-ken cannot parse a copy_field that is not the last thing in its buffer
        while offset < len(body):
            instruction = parser.OFPInstruction.parser(body, offset)
            instructions.append(instruction)
            offset += instruction.len
        assert offset == len(body)
        gotos = [i.table_id for i in instructions if isinstance(i, parser.OFPInstructionGotoTable)]
        assert [f"goto_table:{table}" for table in gotos] == [
            word for word in str(flow.actions).split(",") if word.startswith("goto_table")
        ]
        applied = [a for i in instructions if isinstance(i, parser.OFPInstructionActions) for a in i.actions]
        seen.update(type(action).__name__ for action in applied)
    assert {"NXActionCT", "OFPActionSetField", "OFPActionOutput", "OFPActionGroup", "OFPActionDecNwTtl"} <= seen


def test_connection_tracking_is_what_os_ken_reads(cluster: Cluster) -> None:
    group = next(iter(cluster.common.groups.values()))
    length, applied, number = struct.unpack_from("!HHI", group.content)
    assert struct.unpack_from("!HHIHHIHB", group.content, 8)[4:] == (1, 0, 1, 36)
    # One by one, as os-ken cannot parse the copy_field that follows.
    nat = parser.OFPAction.parser(group.content, 8 + 24)
    mark = parser.OFPAction.parser(group.content, 8 + 24 + nat.len)
    assert (nat.flags, nat.range_ipv4_min, nat.range_proto_min) == (2, "10.244.1.2", 80)
    assert (mark.key, mark.value) == ("ct_mark", (2, 2))
    assert (number, length) == (group.buckets[0].id, applied + 16)


def test_flow_delete_names_the_flow_and_nothing_else(cluster: Cluster) -> None:
    flow = next(flows(cluster))
    body = inner(wire.flow_delete(*flow.key))
    command, priority = struct.unpack_from("!25xB4xH", body)
    assert (command, priority) == (4, flow.priority)
    assert body[48:] == flow.match.packed


def test_group_messages(cluster: Cluster) -> None:
    group = next(iter(cluster.common.groups.values()))
    for made, command in ((wire.group_add(group), 0), (wire.group_modify(group), 1), (wire.group_delete(group.id), 2)):
        body = inner(made)
        kind, what, select, number, buckets = struct.unpack_from("!xB6xHBxIH", body)
        assert (kind, what, select, number) == (15, command, 1, group.id)
        if command < 2:
            assert body[24 : 24 + buckets] == group.content
            assert b"dp_hash" in body[24 + buckets :]


def test_bundle() -> None:
    made = wire.in_bundle([b"one", b"two"], 8)
    opened, committed = made[:16], made[-16:]
    assert struct.unpack("!BBHIIHH", opened) == (6, 33, 16, 7, 1, 0, 3)
    assert struct.unpack("!BBHIIHH", committed) == (6, 33, 16, 8, 1, 4, 3)
    assert made[16:-16] == b"onetwo"


def test_flush_is_what_ovs_ofctl_sends() -> None:
    """Captured from ``ovs-ofctl ct-flush BRIDGE zone=1 'ct_nw_proto=17,ct_nw_dst=10.96.0.10,ct_tp_dst=53'
    'ct_nw_src=169.254.169.253,ct_tp_src=1'`` of Open vSwitch 3.1."""
    flush = wire.CtFlush(17, IPv4Address("10.96.0.10"), 53, IPv4Address("169.254.169.253"), 1)
    assert wire.ct_flush(1, flush, 2).hex() == (
        "060400700000000200002320000000201100000000000000"
        "0000002800000000" "0001001400000000000000000000ffff0a60000a00000000" "0003000800350000"
        "0001002800000000" "0000001400000000000000000000ffffa9fea9fd00000000" "0002000800010000"
        "0002000800010000"
    )  # fmt: skip


def test_error_names_the_flow(cluster: Cluster) -> None:
    flow = next(flows(cluster))
    quoted = inner(wire.flow_add(flow))[:64]
    error = SwitchError.read(struct.pack("!BBHIHH", 6, 1, 12 + len(quoted), 9, 5, 2) + quoted)
    assert (error.xid, error.kind, error.code) == (9, 5, 2)
    assert error.flow == (flow.cookie, flow.table, flow.priority)
    group = next(iter(cluster.common.groups.values()))
    quoted = wire.group_add(group)[:64]
    error = SwitchError.read(struct.pack("!BBHIHH", 6, 1, 12 + len(quoted), 9, 6, 0) + quoted)
    assert (error.flow, error.group) == (None, group.id)


def test_fields_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown flag"):
        ct_state("+nwe+trk")


def test_registers_are_halves_of_pairs() -> None:
    assert (reg(2, 7).oxm[4:], reg(3, 7).oxm[4:]) == (
        bytes.fromhex("00000007 00000000 ffffffff 00000000"),
        bytes.fromhex("00000000 00000007 00000000 ffffffff"),
    )
    assert str(reg(3, 7).text) == "reg3=0x7"


def test_wire_order_does_not_depend_on_the_order_given() -> None:
    assert match(ct_state("+new+trk"), IP) == match(IP, ct_state("+trk+new"))
