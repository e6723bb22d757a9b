"""Paths measured in turn, round by round, and ratios within the rounds.

What a neighbour on a shared machine does in the meantime then counts for both sides of a ratio alike.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

__all__ = ["in_turn", "paired_ratio", "percentile"]

K = TypeVar("K")
T = TypeVar("T")


def in_turn(measures: Mapping[K, Callable[[], T]], rounds: int, *, seconds: float = 0) -> dict[K, list[T]]:
    """Results of each measure by round. ``seconds``: a round begins no earlier than so long after the one before."""
    samples: dict[K, list[T]] = {name: [] for name in measures}
    for number in range(rounds):
        began = time.monotonic()
        for name, measure in measures.items():
            samples[name].append(measure())
        if number + 1 < rounds:
            time.sleep(max(0.0, began + seconds - time.monotonic()))
    return samples


def percentile(samples: Sequence[float], number: int) -> float:
    """Of all that could have been measured: beyond what a few samples reach, more than the largest of them."""
    return statistics.quantiles(samples, n=100)[number - 1]


def paired_ratio(samples: Sequence[float], against: Sequence[float]) -> float:
    """Median of the ratios within rounds; one against nothing at all is infinite."""
    return statistics.median(a / b if b else math.inf for a, b in zip(samples, against, strict=True))
