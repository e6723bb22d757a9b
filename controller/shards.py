"""Rules divided into shards, each of a size that one flow can be part of."""

from __future__ import annotations

__all__ = ["Shards"]


class Shards:
    """How many rules each shard has. ``size``: how many it may have."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._counts: list[int] = []

    def take(self) -> int:
        """A place in the first shard that has one: its number, from 0."""
        for shard, count in enumerate(self._counts):
            if count < self._size:
                self._counts[shard] += 1
                return shard
        self._counts.append(1)
        return len(self._counts) - 1

    def release(self, shard: int) -> None:
        """Give a place back."""
        self._counts[shard] -= 1
