"""Intervals: exact binomial bounds, and a bootstrap that resamples what was drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import betaincinv

from morl.fronts.dominance import Points

Samples = Float[np.ndarray, "seed point prompt objective"]
Statistic = Callable[[Points], float]
"""A number of one run's mean rewards [N,K]."""
REPLICATES = 2000  # the ends of a 95 % interval are then the 50th values from either side


@dataclass(frozen=True)
class Interval:
    """A measured number with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Resampling:
    """Which seeds and prompts each bootstrap replicate holds, shared by all that is compared.

    seeds [R,S]: indices of training seeds; counts [R,P]: how often each image column is in.
    """

    seeds: Int[np.ndarray, "replicate seed"]
    counts: Float[np.ndarray, "replicate prompt"]


@dataclass(frozen=True)
class Bootstrapped:
    """A number and its replicates; differences stay paired, replicate by replicate."""

    value: float
    replicates: Float[np.ndarray, " replicate"]

    def __sub__(self, other: Bootstrapped) -> Bootstrapped:
        return Bootstrapped(self.value - other.value, self.replicates - other.replicates)

    def interval(self, confidence: float = 0.95) -> Interval:
        """Return the percentile interval.

        Misleading with fewer than about 5 seeds or 30 prompts: it is then too short.
        """
        tail = (1 - _confidence(confidence)) / 2
        low, high = np.quantile(self.replicates, [tail, 1 - tail])
        return Interval(self.value, float(low), float(high))


def resampling(
    generator: np.random.Generator,
    seeds: int,
    groups: Sequence[int] | Int[np.ndarray, " prompt"],
    replicates: int = REPLICATES,
) -> Resampling:
    """Draw seeds with replacement and, independently, prompts with replacement.

    groups [P]: columns with the same number (noises of one prompt) come and go together. One draw
    of prompts serves all seeds, weight vectors and methods, because all were judged on the same
    ones: drawing them for each seed anew would make the interval too short.
    Source: Owen, Ann. Appl. Stat. 1(2), 2007 (the pigeonhole bootstrap of crossed factors).
    """
    if seeds < 1 or len(groups) < 1 or replicates < 1:
        raise ValueError(
            f"needs at least one seed, one prompt and one replicate; got {seeds}, {len(groups)} "
            f"and {replicates}"
        )
    member = np.unique(np.asarray(groups), return_inverse=True)[1]
    prompts = int(member.max()) + 1
    drawn = generator.multinomial(prompts, np.full(prompts, 1 / prompts), size=replicates)
    return Resampling(
        generator.integers(seeds, size=(replicates, seeds)), drawn[:, member].astype(np.float64)
    )


def bootstrap(samples: Samples, statistic: Statistic, drawn: Resampling) -> Bootstrapped:
    """Mean over training seeds of a statistic of each run's mean rewards, with replicates.

    samples [S,N,P,K]: NaN marks a reward that does not apply to its prompt and is left out.
    Statistics that choose the best of noisy points (hypervolume, expected utility) are biased
    upwards, and more so in the replicates: their interval can lie above the value.
    Raises ValueError unless `samples` has the seeds and prompts that were drawn.
    """
    replicates, seeds = drawn.seeds.shape
    prompts = drawn.counts.shape[1]
    if samples.shape[0] != seeds or samples.shape[2] != prompts:
        raise ValueError(
            f"`samples` must have {seeds} seeds and {prompts} prompts, as drawn; got shape "
            f"{list(samples.shape)}"
        )
    whole = resampled_means(samples, np.ones((1, prompts)))
    value = float(np.mean([statistic(points) for points in whole[0]]))
    means = resampled_means(samples, drawn.counts)
    used = np.zeros((replicates, seeds), dtype=bool)
    np.put_along_axis(used, drawn.seeds, True, axis=1)
    table = np.zeros((replicates, seeds))
    for replicate, seed in np.argwhere(used):
        table[replicate, seed] = statistic(means[replicate, seed])
    return Bootstrapped(value, np.take_along_axis(table, drawn.seeds, axis=1).mean(axis=1))


def resampled_means(
    samples: Samples, counts: Float[np.ndarray, "replicate prompt"]
) -> Float[np.ndarray, "replicate seed point objective"]:
    """Mean rewards of every run when prompts count as often as each replicate drew them.

    mean_rs = sum_p c_rp x_sp / sum_p c_rp over the p whose reward applies (is not NaN)

    c: `counts` [R,P]; x: `samples` [S,N,P,K]. Raises ValueError where a replicate drew no prompt
    that a reward applies to.
    """
    applies = np.isfinite(samples)
    total = np.tensordot(counts, np.where(applies, samples, 0.0), axes=(1, 2))
    n = np.tensordot(counts, applies.astype(np.float64), axes=(1, 2))
    if not (n > 0).all():
        raise ValueError(
            "a reward applies to so few prompts that a replicate holds none; measure more images"
        )
    means: Float[np.ndarray, "replicate seed point objective"] = total / n
    return means


def standard_error(
    samples: Float[np.ndarray, "*batch prompt objective"],
    groups: Sequence[int] | Int[np.ndarray, " prompt"],
) -> Float[np.ndarray, "*batch objective"]:
    """Standard error of the mean over prompts, noises of one prompt counted as one draw.

    SE^2 = G / (G - 1) sum_g (sum_{i in g} (x_i - mean))^2 / n^2

    samples [...,P,K], NaN where a reward does not apply; groups [P] with G >= 2 different numbers;
    n: values that apply. For one noise a prompt it is the usual std / sqrt(P). Of differences of
    two weight vectors it is the *paired* error. Raises ValueError for fewer than two groups.
    """
    member = np.unique(np.asarray(groups), return_inverse=True)[1]
    count = int(member.max()) + 1
    if count < 2:
        raise ValueError("a standard error needs at least two different prompts; got one")
    applies: Bool[np.ndarray, "*batch prompt objective"] = np.isfinite(samples)
    n = applies.sum(axis=-2)
    filled = np.where(applies, samples, 0.0)
    residual = np.where(applies, samples - (filled.sum(axis=-2) / n)[..., None, :], 0.0)
    within = np.eye(count)[member].T @ residual
    error: Float[np.ndarray, "*batch objective"] = (
        np.sqrt(count / (count - 1) * np.square(within).sum(axis=-2)) / n
    )
    return error


def clopper_pearson(events: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact two-sided binomial interval for a rate.

    low = I^-1(a/2; x, n-x+1), high = I^-1(1-a/2; x+1, n-x), a = 1 - confidence

    x: `events` in 0..n; n: `count` >= 1 independent trials; I: regularised incomplete beta
    function. Misleading where trials share prompts or noise: it is then too short.
    Source: Clopper and Pearson, Biometrika 26(4), 1934.
    """
    tail = (1 - _confidence(confidence)) / 2
    return _lower(events, count, tail), _upper(events, count, tail)


def upper_bound(events: int, count: int, confidence: float = 0.95) -> float:
    """Exact one-sided upper bound for a rate: what a constraint is judged by.

    high = I^-1(confidence; x+1, n-x);  symbols, assumptions and source as in `clopper_pearson`
    """
    return _upper(events, count, 1 - _confidence(confidence))


def _lower(events: int, count: int, tail: float) -> float:
    _require_counts(events, count)
    return 0.0 if events == 0 else float(betaincinv(events, count - events + 1, tail))


def _upper(events: int, count: int, tail: float) -> float:
    _require_counts(events, count)
    return 1.0 if events == count else float(betaincinv(events + 1, count - events, 1 - tail))


def _require_counts(events: int, count: int) -> None:
    if not (count >= 1 and 0 <= events <= count):
        raise ValueError(f"needs 0 <= events <= count and count >= 1; got {events} of {count}")


def _confidence(value: float) -> float:
    if not 0 < value < 1:
        raise ValueError(f"`confidence` must lie between 0 and 1; got {value}")
    return value
