"""A listener, and a switch of a few lines that talks to it, goes away, and comes back."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from test_messages import FLOWS, PACKET_IN

from kmn.openflow import messages
from kmn.openflow.channel import Channel
from kmn.openflow.counts import flow_counts
from kmn.openflow.listener import listen
from kmn.openflow.messages import PacketIn


async def received(reader: asyncio.StreamReader) -> bytes:
    header = await reader.readexactly(8)
    return header + await reader.readexactly(messages.length_of(header) - 8)


async def until(reader: asyncio.StreamReader, kind: int) -> bytes:
    while messages.kind_of(message := await received(reader)) != kind:
        pass
    return message


def done(request: bytes) -> bytes:
    return request[:1] + bytes([messages.BARRIER_REPLY]) + request[2:]


def test_a_switch_that_comes_back_is_heard_again(tmp_path: Path) -> None:
    socket = tmp_path / "br0.mgmt"
    echoes: list[bytes] = []

    async def switch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Says hello, asks whether the other lives, sends one packet, and hangs up."""
        writer.write(messages.hello())
        writer.write(done(await until(reader, messages.BARRIER_REQUEST)) + bytes.fromhex("0602000a00000007abcd"))
        echoes.append(await until(reader, messages.ECHO_REPLY))
        writer.write(PACKET_IN)
        writer.close()

    async def run() -> tuple[list[PacketIn], list[bool]]:
        packets: asyncio.Queue[PacketIn] = asyncio.Queue()
        states: asyncio.Queue[bool] = asyncio.Queue()
        listening = asyncio.create_task(listen(socket, 77, packets.put, states.put_nowait))
        heard = [await states.get()]  # nobody is there yet
        async with await asyncio.start_unix_server(switch, socket):
            got = [await packets.get(), await packets.get()]
            heard += [await states.get(), await states.get(), await states.get()]
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
        return got, heard

    packets, heard = asyncio.run(asyncio.wait_for(run(), 10))
    assert packets == [messages.read_packet_in(PACKET_IN)] * 2
    assert heard == [False, True, False, True]
    assert echoes[0] == bytes.fromhex("0603000a00000007abcd")


def test_flow_counts_come_in_parts(tmp_path: Path) -> None:
    socket = tmp_path / "br0.mgmt"

    async def switch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(messages.hello())
        await until(reader, messages.MULTIPART_REQUEST)
        writer.write(FLOWS[:10] + b"\0\1" + FLOWS[12:] + FLOWS)
        writer.close()

    async def run() -> int:
        async with await asyncio.start_unix_server(switch, socket):
            channel = await Channel.open(socket)
            counts = await channel.flow_counts(8)
            channel.close()
        return len(counts)

    assert asyncio.run(run()) == 4


def test_flows_are_brought_up_to_date_before_they_are_counted(tmp_path: Path) -> None:
    asked: list[str] = []

    async def control(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(json.loads(await reader.readuntil(b"}"))["method"])
        writer.write(b'{"error":null,"id":0,"result":""}')
        writer.close()

    async def switch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(messages.hello())
        await until(reader, messages.MULTIPART_REQUEST)
        asked.append("flows")
        writer.write(FLOWS)
        writer.close()

    async def run() -> int:
        (tmp_path / "ovs-vswitchd.pid").write_text("42\n")
        async with (
            await asyncio.start_unix_server(control, tmp_path / "ovs-vswitchd.42.ctl"),
            await asyncio.start_unix_server(switch, tmp_path / "br0.mgmt"),
        ):
            return len(await flow_counts(tmp_path, "br0", 8))

    assert asyncio.run(run()) == 2
    assert asked == ["revalidator/wait", "flows"]


def test_a_switch_that_is_not_there_has_no_counts(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        asyncio.run(flow_counts(tmp_path, "br0", 8))


@pytest.mark.parametrize(
    "answer",
    [pytest.param(b"", id="hangs up"), pytest.param(bytes.fromhex("0601000c0000000100010000"), id="refuses")],
)
def test_a_switch_that_does_not_answer_is_an_os_error(tmp_path: Path, answer: bytes) -> None:
    socket = tmp_path / "br0.mgmt"

    async def switch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(messages.hello())
        await until(reader, messages.MULTIPART_REQUEST)
        writer.write(answer)
        writer.close()

    async def run() -> None:
        async with await asyncio.start_unix_server(switch, socket):
            channel = await Channel.open(socket)
            try:
                await channel.flow_counts(8)
            finally:
                channel.close()

    with pytest.raises(OSError, match="switch"):
        asyncio.run(run())
