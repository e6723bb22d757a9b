"""A select group: one bucket per endpoint, picked by the hash of the connection."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import NamedTuple

from controller.openflow.actions import Action

__all__ = ["Bucket", "Group", "bucket"]

_WEIGHT = 100


class Bucket(NamedTuple):
    """One choice of a group."""

    id: int
    text: str
    packed: bytes


@lru_cache(maxsize=65536)
def bucket(number: int, *steps: Action) -> Bucket:
    """A bucket of equal weight."""
    applied = b"".join([step.packed for step in steps])
    packed = struct.pack("!HHI", 16 + len(applied), len(applied), number) + applied
    packed += struct.pack("!HHH2x", 0, 8, _WEIGHT)
    text = f"bucket=bucket_id:{number},weight:{_WEIGHT},actions={','.join([step.text for step in steps])}"
    return Bucket(number, text, packed)


class Group(NamedTuple):
    """A select group. ``str()`` is what ``ovs-ofctl -O OpenFlow15 dump-groups`` prints of it.

    ``dp_hash``: the datapath hashes and megaflows match on some bits of the hash. With the switch's own choice of
    method a large group would need an upcall, and a megaflow, for every connection.

    ``by_source``: clients (their addresses, not their connections) are spread, so that one stays with its bucket as
    long as the buckets are the same. Give such a group another number than one of the same name without: how buckets
    are chosen is not compared with what a switch has.
    """

    id: int
    buckets: tuple[Bucket, ...]
    by_source: bool = False

    @property
    def content(self) -> bytes:
        """What makes two versions of a group the same."""
        return b"".join([bucket.packed for bucket in self.buckets])

    def __str__(self) -> str:
        buckets = ",".join([bucket.text for bucket in self.buckets])
        method = "hash,fields=ip_src" if self.by_source else "dp_hash"
        return f" group_id={self.id},type=select,selection_method={method},{buckets}"
