"""One-sided bounds of a mean, for constraints on values that are no yes-or-no events."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq
from scipy.special import stdtrit

# Below 1 the capital of a bet stays positive; the nearer to 1, the shorter the bound of values
# that hardly vary.
LARGEST_STAKE = 0.9

Values = Float[np.ndarray, " image"]


def betting_upper_bound(values: Values, low: float, high: float, confidence: float = 0.95) -> float:
    """Upper bound of the mean of independent values in [low, high], valid at every sample size.

    U = sup {m : max_t prod_{s<=t} (1 + stake_s (m - x_s)) < 1 / a},  a = 1 - confidence
    stake_s = min(sqrt(2 ln(1/a) / (n v_{s-1})), 0.9)

    x_s: `values`, scaled to [0, 1] by the finite ends `low` < `high`; v_{s-1}: variance of the
    values before s, started at 1/4. Were the mean m or more, the product would be a fair game at
    best, and would reach 1/a with probability a at most. No shape is assumed: rare large values,
    which a bootstrap or a t bound of a few hundred images has not seen yet, are covered. The order
    of `values` must be the one in which they were drawn. Raises ValueError for no values and for
    values outside [low, high].
    Source: Waudby-Smith and Ramdas, arXiv 2010.09686 (bets with predictable stakes; one side).
    """
    if not len(values) or not low < high or values.min() < low or values.max() > high:
        raise ValueError(f"needs values in [{low:g}, {high:g}] with finite ends; got {len(values)}")
    x = (values.astype(np.float64) - low) / (high - low)
    reach = -math.log1p(-_confidence(confidence))
    count = np.arange(2, len(x) + 2)
    mean = (0.5 + np.cumsum(x)) / count
    variance = (0.25 + np.cumsum(np.square(x - mean))) / count
    before = np.concatenate([[0.25], variance[:-1]])
    stakes = np.minimum(np.sqrt(2 * reach / (len(x) * before)), LARGEST_STAKE)

    def short(m: float) -> float:
        return float(np.cumsum(np.log1p(stakes * (m - x))).max()) - reach

    # Each factor grows with m, so there is one crossing; at m = 0 no bet has won.
    return high if short(1.0) < 0 else low + (high - low) * float(brentq(short, 0.0, 1.0))


def t_upper_bound(values: Values, confidence: float = 0.95) -> float:
    """Student's upper bound of the mean, for values without declared ends.

    U = mean + t_{n-1, confidence} s / sqrt(n)

    Exact for normal values, approximate for others, and too low where rare large values make up
    the mean. Raises ValueError for fewer than two values.
    """
    if len(values) < 2:
        raise ValueError(f"a t bound needs at least two values; got {len(values)}")
    x = values.astype(np.float64)
    quantile = float(stdtrit(len(x) - 1, _confidence(confidence)))
    return float(x.mean() + quantile * x.std(ddof=1) / math.sqrt(len(x)))


def _confidence(value: float) -> float:
    if not 0 < value < 1:
        raise ValueError(f"`confidence` must lie between 0 and 1; got {value}")
    return value
