"""Cookies of flows: which feature and which object a flow comes from, and a hash of what it does.

    feature 8 bit | object 28 bit | content 28 bit

The object is a hash of its name: who knows all names can tell whose a flow is.
"""

from __future__ import annotations

from zlib import crc32

__all__ = ["base_mask", "base_of", "content_of", "feature_mask", "feature_of", "object_hash", "object_of", "of_feature"]

_BITS = 28
_MASK = (1 << _BITS) - 1


def object_hash(name: str) -> int:
    """28 bits of an object's ``Kind/namespace/name``."""
    return crc32(name.encode()) & _MASK


def base_of(feature: int, name: str) -> int:
    """The bits that the cookies of all flows of one feature and object have in common; the others are 0."""
    return of_feature(feature) | object_hash(name) << _BITS


def base_mask() -> int:
    """The bits of a cookie that say whose the flow is."""
    return 0xFFFFFFFFFFFFFFFF & ~_MASK


def of_feature(feature: int) -> int:
    """The bits that the cookies of all flows of a feature have in common."""
    return feature << 2 * _BITS


def feature_mask() -> int:
    """The bits of a cookie that say which feature the flow is of."""
    return 0xFF << 2 * _BITS


def feature_of(cookie: int) -> int:
    return cookie >> 2 * _BITS


def object_of(cookie: int) -> int:
    return cookie >> _BITS & _MASK


def content_of(cookie: int) -> int:
    return cookie & _MASK
