"""Numbers of OpenFlow groups: which are taken, by which group of which Service, and which are free again.

A group's number follows from its name, so that a controller that starts again finds most groups as it would make them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from zlib import crc32

from kmn.k8s.objects import Key

__all__ = ["GroupNumbers"]

_MASK = 0x7FFFFFFF  # those above OFPG_MAX are reserved


class GroupNumbers:
    """The numbers of bridges that are programmed together. No two Services have groups of one name."""

    def __init__(self) -> None:
        self._of: dict[Key, dict[str, int]] = {}  # by Service and name
        self._taken: set[int] = set()

    def assign(self, service: Key, names: Iterable[str]) -> Mapping[str, int]:
        """The numbers of all groups that a Service needs; those of the ones it needs no more are free again."""
        names = tuple(names)
        numbers = self._of.pop(service, {})
        for name in numbers.keys() - set(names):
            self._taken.remove(numbers.pop(name))
        for name in names:
            if name not in numbers:
                numbers[name] = self._free(name)
        if numbers:
            self._of[service] = numbers
        return numbers

    def _free(self, name: str) -> int:
        """The same number after a restart, unless another group has it."""
        number = crc32(name.encode()) & _MASK
        while number in self._taken:
            number = (number + 1) & _MASK
        self._taken.add(number)
        return number
