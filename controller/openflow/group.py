"""A select group: one bucket per endpoint, picked by the hash of the connection."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import NamedTuple

from controller.openflow.actions import Action

__all__ = ["Bucket", "Group", "bucket", "even_weights"]

_WEIGHT = 100
# Slots into which the datapath's hash is divided among the buckets: the most that Open vSwitch has.
_SLOTS = 256


class Bucket(NamedTuple):
    """One choice of a group."""

    id: int
    text: str
    packed: bytes


@lru_cache(maxsize=65536)
def bucket(number: int, *steps: Action, weight: int = _WEIGHT) -> Bucket:
    """One bucket."""
    applied = b"".join([step.packed for step in steps])
    packed = struct.pack("!HHI", 16 + len(applied), len(applied), number) + applied
    packed += struct.pack("!HHH2x", 0, 8, weight)
    shown = "" if weight == 1 else f"weight:{weight},"
    text = f"bucket=bucket_id:{number},{shown}actions={','.join([step.text for step in steps])}"
    return Bucket(number, text, packed)


class Group(NamedTuple):
    """A select group. ``str()`` is what ``ovs-ofctl -O OpenFlow15 dump-groups`` prints of it.

    ``dp_hash``: the datapath hashes and megaflows match on some bits of the hash. With the switch's own choice of
    method a large group would need an upcall, and a megaflow, for every connection.

    ``by_source``: clients (their addresses, not their connections) are spread, so that one stays with its bucket as
    long as the buckets are the same. With ``by_port`` connections are spread, by the client's address and port, and
    each one's first packet is an upcall: no megaflow chooses for other ports. Give groups that differ in this other
    numbers or other buckets: how buckets are chosen is not compared with what a switch has.
    """

    id: int
    buckets: tuple[Bucket, ...]
    by_source: bool = False  # ``hash`` of the source address alone: a client always gets the same bucket
    by_port: bool = False  # ``hash`` of the source address and port

    @property
    def content(self) -> bytes:
        """What makes two versions of a group the same."""
        return b"".join([bucket.packed for bucket in self.buckets])

    def __str__(self) -> str:
        buckets = ",".join([bucket.text for bucket in self.buckets])
        if self.by_port:
            method = "hash,fields(ip_src,tcp_src,udp_src,sctp_src)"
        else:
            method = "hash,fields=ip_src" if self.by_source else "dp_hash"
        return f" group_id={self.id},type=select,selection_method={method},{buckets}"


def even_weights(count: int) -> list[tuple[int, int]]:
    """Choice and weight of the buckets of a group that chooses evenly among ``count``.

    Open vSwitch gives buckets of equal weight 16 slots of the hash between them, so that of three one gets six and the
    others five. It takes all 256 slots when the lightest bucket is worth one: the first choice has such a bucket beside
    its other one. Powers of two are even as they are.
    """
    if count & (count - 1) == 0 or count > _SLOTS // 2:
        return [(choice, _WEIGHT) for choice in range(count)]
    share, more = divmod(_SLOTS, count)
    weights = [(choice, share + (choice < more)) for choice in range(count)]
    return [(0, weights[0][1] - 1), *weights[1:], (0, 1)]
