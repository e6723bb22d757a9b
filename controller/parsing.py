"""Reading fields of API objects: values of the right type, or an error that says what would be right."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, TypeVar

from kmn.k8s.objects import Object, describe

__all__ = ["Malformed", "address", "any_address", "parse", "transport_port"]

T = TypeVar("T")


class Malformed(ValueError):
    """An object with a field that cannot be used. The text names object, field and what would be right."""


def parse(obj: Object, field: str, convert: Callable[[Any], T], value: object, wanted: str) -> T:
    """``convert(value)``, or :class:`Malformed`."""
    try:
        return convert(value)
    except (ValueError, TypeError, KeyError) as error:
        raise Malformed(f"{describe(obj)}: {field}: {value!r} should be {wanted}") from error


def address(obj: Object, field: str, value: object) -> IPv4Address:
    return parse(obj, field, lambda v: IPv4Address(str(v)), value, "an IPv4 address")


def any_address(obj: Object, field: str, value: object) -> IPv4Address | IPv6Address:
    return parse(obj, field, lambda v: ip_address(str(v)), value, "an IP address")


def transport_port(obj: Object, field: str, value: object) -> int:
    """A port number of TCP, UDP or SCTP."""
    return parse(obj, field, _transport_port, value, "a number from 1 to 65535")


def _transport_port(value: Any) -> int:
    if isinstance(value, bool) or not 0 < int(value) < 0x10000:
        raise ValueError(value)
    return int(value)
