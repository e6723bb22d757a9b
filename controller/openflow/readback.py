"""What a switch says that it has, and what it complains about: replies in bytes, read no further than needed."""

from __future__ import annotations

import struct
from typing import NamedTuple

from controller.openflow import wire
from controller.openflow.flow import FlowKey

__all__ = ["Installed", "SwitchError", "read_flows", "read_groups"]

_FLOW = struct.Struct("!H2xBxHHHHHQHH")  # ofp_flow_desc, and the head of its match
_GROUP = struct.Struct("!HBxIH")


class Installed(NamedTuple):
    """Flows (key to cookie) and groups (id to packed buckets) of a switch."""

    flows: dict[FlowKey, int]
    groups: dict[int, bytes]


def read_flows(message: bytes, flows: dict[FlowKey, int]) -> None:
    """Add the flows of one OFPMP_FLOW_DESC reply (the whole message, header included)."""
    at, end = 16, len(message)
    while at < end:
        length, table, priority, _, _, _, _, cookie, _, match_length = _FLOW.unpack_from(message, at)
        flows[table, priority, message[at + 24 : at + 24 + (match_length + 7) // 8 * 8]] = cookie
        at += length


def read_groups(message: bytes, groups: dict[int, bytes]) -> None:
    """Add the groups of one OFPMP_GROUP_DESC reply."""
    at, end = 16, len(message)
    while at < end:
        length, _, number, buckets = _GROUP.unpack_from(message, at)
        groups[number] = message[at + 16 : at + 16 + buckets]
        at += length


class SwitchError(NamedTuple):
    """An OFPT_ERROR. ``about`` is the message that failed, as far as the switch quotes it."""

    xid: int
    kind: int
    code: int
    about: bytes

    @classmethod
    def read(cls, message: bytes) -> SwitchError:
        xid, kind, code = struct.unpack_from("!4xIHH", message)
        about = message[12:]
        if len(about) > 24 and about[1] == wire.BUNDLE_ADD:
            about = about[16:]
        return cls(xid, kind, code, about)

    @property
    def flow(self) -> tuple[int, int, int] | None:
        """Cookie, table and priority of the flow_mod that failed."""
        if len(self.about) < 32 or self.about[1] != wire.FLOW_MOD:
            return None
        cookie, table, priority = struct.unpack_from("!8xQ8xB5xH", self.about)
        return cookie, table, priority

    @property
    def group(self) -> int | None:
        """Number of the group whose group_mod failed."""
        if len(self.about) < 16 or self.about[1] != wire.GROUP_MOD:
            return None
        number: int = struct.unpack_from("!12xI", self.about)[0]
        return number

    def __str__(self) -> str:
        return f"OpenFlow error type {self.kind} code {self.code}"
