"""What Open vSwitch 3.1 said, recorded, and what it is asked."""

from __future__ import annotations

from ipaddress import IPv6Address

from kmn.openflow.messages import (
    FlowCount,
    PacketIn,
    ask_packets,
    flow_counts_request,
    read_flow_counts,
    read_packet_in,
)

# A UDP datagram from fd00::1 to port 53 of fd00::2, from a flow of table 1 behind connection tracking.
FRAME = bytes.fromhex(
    "0a58000000010a580000000286dd60000000000d11fffd000000000000000000000000000001fd00000000000000000000000000000214e900"
    "35000dace368616c6c6f"
)
PACKET_IN = bytes.fromhex(
    "060400d800000000000023200000001e00000047"
    + FRAME.hex()
    + "00000300050100000000040010000000000812345611111111000500"
    "05010000000006005d80000004fffffffd80000a0286dd0001d30800000021000000ff0001d40200010001f410fd000000000000000000000000"
    "0000010001f610fd0000000000000000000000000000020001ee01110001f80214e90001fa020035000000"
)
FLOWS = bytes.fromhex(
    "061301180000000900010000000000000090000001008000000000000000000008123456000000000001000f80000a0208008000140106000000"
    "003480020008000000000791ddc080020208000000000000000080020808000000000000000180020a08000000000000028e0000000000040028"
    "0000000000190010000112040000000700000000ffff00100000232000140080004d010000010008020000000078000001008000000000000000"
    "000008123456111111110001000a80000a0286dd00000000000000000034800200080000000006bc3e4080020208000000000000000080020808"
    "000000000000000180020a080000000000000043000000000004001800000000ffff00100000232000140080004d0100"
)


def test_a_packet_comes_with_its_flow_and_with_what_was_asked() -> None:
    assert read_packet_in(PACKET_IN) == PacketIn(1, 0x0812345611111111, FRAME, (IPv6Address("fd00::2"), 53))


def test_other_messages_are_no_packets() -> None:
    assert read_packet_in(FLOWS) is None
    assert read_packet_in(bytes.fromhex("0604001000000000") + bytes.fromhex("0000232000000010")) is None


def test_flows_and_what_they_have_seen() -> None:
    counts: list[FlowCount] = []
    assert not read_flow_counts(FLOWS, counts)
    assert counts == [
        FlowCount(1, 0x8000, 0x0812345600000000, 1, 654),
        FlowCount(1, 0x8000, 0x0812345611111111, 1, 67),
    ]


def test_more_parts_follow() -> None:
    counts: list[FlowCount] = []
    assert read_flow_counts(FLOWS[:10] + b"\0\1" + FLOWS[12:], counts)
    assert len(counts) == 2


def test_packets_are_asked_for() -> None:
    assert ask_packets(77).hex() == (
        "0609000c000000020000ffff"  # packets whole
        "0604001400000003000023200000001000000002"  # as NXT_PACKET_IN2
        "060400180000000400002320000000140000" + "00000000" + "004d"  # to connection 77
    )


def test_flows_are_asked_for_by_feature() -> None:
    request = flow_counts_request(8, 5)
    assert len(request) == int.from_bytes(request[2:4], "big")
    assert request[-24:-8].hex() == "0800000000000000" + "ff00000000000000"
