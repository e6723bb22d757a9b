"""Durations as Go writes them: ``10s``, ``1m30s``, ``500ms``, ``0.5s``."""

from __future__ import annotations

import re

__all__ = ["seconds_of"]

_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(h|ms|m|us|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6}


def seconds_of(text: str) -> float:
    """Raises ValueError for what is no duration."""
    parts = list(_PART.finditer(text))
    if not parts or "".join(part.group() for part in parts) != text:
        raise ValueError(f"{text!r} is no duration such as 10s or 1m30s")
    return sum(float(part[1]) * _SECONDS[part[2]] for part in parts)
