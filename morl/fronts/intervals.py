"""Intervals: exact binomial bounds, and a bootstrap that resamples what was drawn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

Statistic = Callable[[NDArray[np.float64]], float]


def clopper_pearson(events: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact two-sided binomial interval for a rate.

    low = Beta^-1(a/2; x, n-x+1), high = Beta^-1(1-a/2; x+1, n-x), a = 1 - confidence

    x: `events` in 0..n; n: `count` >= 1 independent trials: prompts *and* noise must be drawn
    anew for each, or the interval is too short. Source: Clopper and Pearson, Biometrika 26, 1934.
    """
    if not 0 <= events <= count or count < 1 or not 0 < confidence < 1:
        raise ValueError(
            f"needs 0 <= events <= count, count >= 1 and a confidence in (0, 1); got {events}, "
            f"{count}, {confidence}"
        )
    tail = (1 - confidence) / 2
    low = 0.0 if events == 0 else float(beta.ppf(tail, events, count - events + 1))
    high = 1.0 if events == count else float(beta.ppf(1 - tail, events + 1, count - events))
    return low, high


def upper_bound(events: int, count: int, confidence: float = 0.95) -> float:
    """Exact one-sided upper bound for a rate: what a constraint is judged by."""
    return clopper_pearson(events, count, 2 * confidence - 1)[1]


def bootstrap_interval(
    samples: NDArray[np.float64],
    statistic: Statistic,
    *,
    seed: int = 0,
    replicates: int = 2000,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of a statistic, resampling training seeds and then prompts.

    samples: [S,P,...] (seeds, prompts, then weights and objectives, which stay together: prompts
    and noise are shared over weights, so differences are paired). `statistic` takes such an array.
    With one seed it covers prompts alone. Misleading with fewer than about 5 seeds: too short.
    """
    generator = np.random.default_rng(seed)
    seeds, prompts = samples.shape[:2]
    values = np.empty(replicates)
    for b in range(replicates):
        chosen = generator.integers(seeds, size=seeds)
        shared = generator.integers(prompts, size=prompts)
        values[b] = statistic(samples[chosen][:, shared])
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
