"""Numbers of what switches know by number only: groups, and conjunctions. Which are taken, by whom, and which are free.

A number follows from a name, so that a controller that starts again finds most things as it would make them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from zlib import crc32

__all__ = ["Numbering"]

_MASK = 0x7FFFFFFF  # those above OFPG_MAX are reserved


class Numbering:
    """The numbers of bridges that are programmed together. No two owners have things of one name."""

    def __init__(self) -> None:
        self._of: dict[Hashable, dict[str, int]] = {}  # by owner and name
        self._taken: set[int] = set()

    def assign(self, owner: Hashable, names: Iterable[str]) -> Mapping[str, int]:
        """The numbers of all that an owner needs; those of what it needs no more are free again."""
        names = tuple(names)
        numbers = self._of.pop(owner, {})
        for name in numbers.keys() - set(names):
            self._taken.remove(numbers.pop(name))
        for name in names:
            if name not in numbers:
                numbers[name] = self._free(name)
        if numbers:
            self._of[owner] = numbers
        return numbers

    def _free(self, name: str) -> int:
        """The same number after a restart, unless something else has it. Never 0."""
        number = crc32(name.encode()) & _MASK or 1
        while number in self._taken:
            number = number + 1 if number < _MASK else 1
        self._taken.add(number)
        return number
