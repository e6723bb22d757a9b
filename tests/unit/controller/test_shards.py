"""Rules in shards: which have room."""

from __future__ import annotations

from controller.shards import Shards


def test_the_first_shard_with_room_is_taken() -> None:
    shards = Shards(2)
    assert [shards.take() for _ in range(5)] == [0, 0, 1, 1, 2]
    shards.release(0)
    shards.release(2)
    assert [shards.take() for _ in range(3)] == [0, 2, 2]
