"""What all sections of a cluster file have in common: errors by field, names that must differ, links."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kmn.cluster_spec import Link
from kmn.k8s.errors import FieldError
from kmn.units import parse_bandwidth, parse_duration

__all__ = ["Section", "link_of"]


@dataclass
class Section:
    """A part of ``spec``, which is valid by the schema; collects errors and goes on as far as it makes sense."""

    spec: dict[str, Any]
    errors: list[FieldError]  # of all sections together

    def wrong(self, path: str, message: str) -> None:
        self.errors.append(FieldError(f"spec.{path}", message))

    def unique(self, names: Iterable[tuple[str, str]]) -> set[str]:
        seen: dict[str, str] = {}
        for path, name in names:
            if name in seen:
                self.wrong(path, f'"{name}" is used twice, here and in spec.{seen[name]}: use another name')
            seen.setdefault(name, path)
        return set(seen)


def link_of(entry: dict[str, Any]) -> Link:
    """A link's properties, each of them optional."""
    bandwidth, delay, jitter, loss = (entry.get(name) for name in ("bandwidth", "delay", "jitter", "loss"))
    return Link(
        bandwidth=None if bandwidth is None else parse_bandwidth(bandwidth),
        delay=None if delay is None else parse_duration(delay),
        jitter=None if jitter is None else parse_duration(jitter),
        loss=None if loss is None else float(loss),
    )
