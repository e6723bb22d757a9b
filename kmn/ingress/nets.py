"""What is done when reading objects fails in a way that nobody has thought of: those that it fails with are left out.

A reader that raises would keep the changes of all objects that it reads out of force, also those of others. That is a
mistake of kmn's: it is logged with its traceback, and an Event tells whoever owns the object.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from kmn.ingress.model import Owner, Problem
from kmn.k8s.objects import Object, key_of

__all__ = ["read_without_the_unreadable"]

log = logging.getLogger(__name__)

T = TypeVar("T")


def read_without_the_unreadable(
    read: Callable[[Sequence[Object]], T], objects: Sequence[Object], kind_of: Callable[[Object], str]
) -> tuple[T, list[Problem]]:
    """What ``read`` makes of the objects, or of those among them with which it does not raise; problems name the rest.

    ``kind_of`` is what an object's owner is called. Raises what ``read`` raises of no objects.
    """
    try:
        return read(objects), []
    except Exception:
        if not objects:
            raise
    left_out: list[Object] = []
    good = _good(read, [], list(objects), left_out)
    return read(good), [_problem(each, kind_of(each)) for each in left_out]


def _good(
    read: Callable[[Sequence[Object]], object], before: list[Object], more: list[Object], left_out: list[Object]
) -> list[Object]:
    """``before``, which can be read, and what of ``more`` can be read with them: by halves, as most can."""
    try:
        read([*before, *more])
        return [*before, *more]
    except Exception as error:
        if len(more) > 1:
            middle = len(more) // 2
            return _good(read, _good(read, before, more[:middle], left_out), more[middle:], left_out)
        if more:
            log.error("%s cannot be read: it is left out", key_of(more[0]), exc_info=error)
            left_out += more
        return before


def _problem(obj: Object, kind: str) -> Problem:
    owner = Owner(kind, *key_of(obj))
    message = f"{owner}: it cannot be read and has no effect, by a mistake of kmn's: its log says more"
    return Problem(owner, "NotRead", message)
