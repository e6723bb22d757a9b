"""Numbers that are handed out and given back: addresses, port numbers, subnets. Pure."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Exhausted", "Pool", "SharedPool"]


class Exhausted(Exception):
    """Every number is taken."""


class Pool:
    """Numbers ``first`` to ``last``. A number that was given back is used again as late as possible.

    Numbers that were never used go first, in order, then those free for the longest time: whoever still has an old
    address in mind finds nobody there rather than somebody else.
    """

    def __init__(self, first: int, last: int) -> None:
        self._next = first
        self._first, self._last = first, last
        self._taken: set[int] = set()
        self._freed: dict[int, None] = {}  # in the order in which they were given back

    def __len__(self) -> int:
        """How many numbers are taken."""
        return len(self._taken)

    def __contains__(self, number: int) -> bool:
        return number in self._taken

    @property
    def size(self) -> int:
        return max(0, self._last - self._first + 1)

    def take(self) -> int:
        """A number that is free. Raises Exhausted."""
        while self._next <= self._last and self._next in self._taken:
            self._next += 1
        if self._next <= self._last:
            number = self._next
            self._next += 1
        elif self._freed:
            number = next(iter(self._freed))
            del self._freed[number]
        else:
            raise Exhausted
        self._taken.add(number)
        return number

    def reserve(self, number: int) -> bool:
        """Take a certain number, as found in the store; False if it is taken already or not of this pool."""
        if number in self._taken or not self._first <= number <= self._last:
            return False
        # What lies below was most likely in use before: it counts as just given back.
        for skipped in range(self._next, number):
            if skipped not in self._taken:
                self._freed[skipped] = None
        self._next = max(self._next, number + 1)
        self._freed.pop(number, None)
        self._taken.add(number)
        return True

    def give_back(self, number: int) -> None:
        if number in self._taken:
            self._taken.remove(number)
            self._freed[number] = None


class SharedPool(Pool):
    """A pool that several draw from: whoever found it empty is told when that has changed."""

    def __init__(self, first: int, last: int) -> None:
        super().__init__(first, last)
        self._waiting: list[Callable[[], None]] = []

    def when_freed(self, callback: Callable[[], None]) -> None:
        """Call this whenever a number has been given back."""
        self._waiting.append(callback)

    def give_back(self, number: int) -> None:
        super().give_back(number)
        for callback in self._waiting:
            callback()
