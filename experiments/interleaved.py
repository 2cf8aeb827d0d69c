"""Two things timed in turn, so that the machine's drift cancels in each pair's ratio."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

REPLICATES = 2000


def seconds(step: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def timed_pairs(
    one: Callable[[], object], other: Callable[[], object], pairs: int
) -> tuple[list[float], list[float]]:
    """Seconds of both in `pairs` pairs, each first in every second pair, after one warm-up."""
    one(), other()
    times: tuple[list[float], list[float]] = ([], [])
    for pair in range(pairs):
        for which in (0, 1) if pair % 2 else (1, 0):
            times[which].append(seconds((one, other)[which]))
    return times


def paired_ratio(times: Sequence[float], floor_times: Sequence[float]) -> dict[str, Any]:
    """Median of the paired ratios with a 95 % bootstrap interval of that median."""
    ratios = np.asarray(times) / np.asarray(floor_times)
    draws = np.random.default_rng(0).choice(ratios, size=(REPLICATES, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return {
        "ratio": float(np.median(ratios)),
        "low": float(low),
        "high": float(high),
        "seconds": float(np.median(times)),
        "floor_seconds": float(np.median(floor_times)),
        "pairs": len(ratios),
    }
