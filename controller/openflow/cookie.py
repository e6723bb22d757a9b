"""Cookies: which feature and which object a flow comes from, and a hash of what it does.

    feature 8 bit | object 28 bit | content 28 bit

With the content in it, a restarted controller sees from key and cookie alone whether a flow is up to date.
"""

from __future__ import annotations

from zlib import crc32

from controller.openflow.actions import Actions
from controller.openflow.flow import Flow
from controller.openflow.match import Match

__all__ = ["Owner", "base_mask", "content_of", "feature_of", "object_hash", "object_of"]

_BITS = 28
_MASK = (1 << _BITS) - 1


def object_hash(name: str) -> int:
    """28 bits of an object's ``Kind/namespace/name``."""
    return crc32(name.encode()) & _MASK


def base_mask() -> int:
    """The bits of a cookie that say whose the flow is."""
    return 0xFFFFFFFFFFFFFFFF & ~_MASK


def feature_of(cookie: int) -> int:
    return cookie >> 2 * _BITS


def object_of(cookie: int) -> int:
    return cookie >> _BITS & _MASK


def content_of(cookie: int) -> int:
    return cookie & _MASK


class Owner:
    """Makes flows in the name of one feature and one object."""

    __slots__ = ("_base", "name")

    def __init__(self, feature: int, name: str) -> None:
        self.name = name
        self._base = feature << 2 * _BITS | object_hash(name) << _BITS

    @property
    def base(self) -> int:
        """The bits that all cookies of these flows have in common."""
        return self._base

    def cookie(self, feature: int, content: int) -> int:
        """A cookie of another feature in the name of the same object."""
        return feature << 2 * _BITS | object_of(self._base) << _BITS | content & _MASK

    def flow(self, table: int, priority: int, match: Match, actions: Actions) -> Flow:
        return Flow(table, priority, match, actions, self._base | actions.digest)
