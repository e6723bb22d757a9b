"""What flows of a bridge have seen until now.

Open vSwitch adds packets to flows when it goes through its megaflows, some hundred milliseconds later. So it is told to
do that first (``ovs-appctl revalidator/wait``).
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from kmn.openflow.channel import Channel
from kmn.openflow.messages import FlowCount

__all__ = ["flow_counts"]

_TIMEOUT = 10.0  # seconds; it takes some milliseconds
_QUESTION = json.dumps({"id": 0, "method": "revalidator/wait", "params": []}).encode()


async def flow_counts(run: Path, bridge: str, feature: int) -> list[FlowCount]:
    """Of the flows of a feature, by their cookies. Raises OSError (TimeoutError) where the switch does not answer.

    ``run`` is the run directory of the bridge's ``ovs-vswitchd``.
    """
    async with asyncio.timeout(_TIMEOUT):
        await _settle(run)
        channel = await Channel.open(run / f"{bridge}.mgmt")
        try:
            return await channel.flow_counts(feature)
        finally:
            channel.close()


async def _settle(run: Path) -> None:
    pid = (run / "ovs-vswitchd.pid").read_text().strip()
    reader, writer = await asyncio.open_unix_connection(str(run / f"ovs-vswitchd.{pid}.ctl"))
    try:
        writer.write(_QUESTION)
        await reader.readuntil(b"}")
    except asyncio.IncompleteReadError as error:
        raise ConnectionResetError("the switch closed the connection") from error
    finally:
        writer.close()
