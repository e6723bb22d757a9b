"""Quantities of the cluster file: ``1Gbit``, ``2.5ms``. Parsed and printed without loss."""

from __future__ import annotations

from decimal import Decimal

__all__ = ["format_bandwidth", "format_duration", "parse_bandwidth", "parse_duration"]

# Largest first: a value is printed in the first unit that leaves no fraction.
_BANDWIDTH = {"gbit": 10**9, "mbit": 10**6, "kbit": 10**3, "bit": 1}
_DURATION = {"s": Decimal(1), "ms": Decimal("1e-3"), "us": Decimal("1e-6")}


def parse_bandwidth(text: str) -> int:
    """Bits per second; fractions of a bit are cut off."""
    for unit, factor in _BANDWIDTH.items():
        if text.lower().endswith(unit):
            return int(Decimal(text[: -len(unit)]) * factor)
    raise ValueError(f"no unit of bandwidth in {text!r}")


def format_bandwidth(bits: int) -> str:
    for unit, factor in _BANDWIDTH.items():
        if bits % factor == 0 and bits >= factor:
            return f"{bits // factor}{unit[0].upper() + unit[1:] if factor > 1 else unit}"
    return f"{bits}bit"


def parse_duration(text: str) -> float:
    """Seconds."""
    for unit in ("us", "ms", "s"):  # "s" ends the others as well
        if text.endswith(unit):
            return float(Decimal(text[: -len(unit)]) * _DURATION[unit])
    raise ValueError(f"no unit of time in {text!r}")


def format_duration(seconds: float) -> str:
    exact = Decimal(repr(seconds))
    for unit, factor in _DURATION.items():
        value = exact / factor
        if value == value.to_integral_value():
            return f"{int(value)}{unit}"
    return f"{exact / _DURATION['us']:f}us"
