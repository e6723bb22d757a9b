"""Keeps the garbage collector's full collections short, in processes that hold a cluster's objects for long.

A full collection looks at every object: a quarter of a second at ten thousand Services, and always while there is
work, for work is what makes objects. So what survived one is not looked at again by the next. What of that becomes
garbage in cycles later (nearly all is freed without the collector) is found in moments without work.
"""

from __future__ import annotations

import gc
import threading
import time

__all__ = ["spread"]

_PAUSE = 30.0  # seconds between looks for such a moment
_QUIET = 1.0  # seconds in which hardly an object was made
_GROWTH = 1.5  # of the objects that are left alone, since all were looked at


def spread(*, young: int | None = None) -> None:
    """From now on, in this process. ``young``: how many objects are made between two looks at new ones, for work that
    makes many that are all still needed (Python's default is 700)."""
    if young is not None:
        gc.set_threshold(young)
    gc.callbacks.append(_after)
    threading.Thread(target=_watch, name="garbage", daemon=True).start()


def _after(phase: str, info: dict[str, int]) -> None:
    if phase == "stop" and info["generation"] == 2:
        gc.freeze()


def _watch() -> None:
    known = gc.get_freeze_count()
    while True:
        time.sleep(_PAUSE)
        if gc.get_freeze_count() > _GROWTH * known and _quiet():
            gc.unfreeze()
            gc.collect()
            known = gc.get_freeze_count()


def _quiet() -> bool:
    before = gc.get_stats()[0]
    time.sleep(_QUIET)
    return gc.get_stats()[0] == before
