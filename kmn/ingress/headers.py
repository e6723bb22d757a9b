"""Which headers a proxy may set or remove. Envoy refuses all routes together for one that it does not change."""

from __future__ import annotations

import re

__all__ = ["is_changeable"]

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+")


def is_changeable(name: str) -> bool:
    """Not what is no name of a header, the host, and HTTP/2's own (``:path``)."""
    return _NAME.fullmatch(name) is not None and name.lower() != "host"
