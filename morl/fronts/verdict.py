"""Whether a bound on a mean or on a rate holds with a stated confidence, from one set of images."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from morl.fronts.bounds import betting_upper_bound, t_upper_bound
from morl.fronts.intervals import upper_bound

Method = Literal["exact", "betting", "t"]
METHODS: dict[Method, str] = {
    "exact": "exact binomial (Clopper-Pearson) bound of a rate",
    "betting": "betting bound of a mean: no assumption but the declared range",
    "t": "Student's t bound of a mean: approximate, as the range is not declared",
}


@dataclass(frozen=True)
class Limit:
    """mean <= threshold (`upper`) or mean >= threshold, of values that lie in [low, high].

    event: where given, what is bounded is the share of images whose value lies above it.
    """

    threshold: float
    upper: bool
    low: float = -math.inf
    high: float = math.inf
    event: float | None = None


@dataclass(frozen=True)
class Verdict:
    """What was found: `bound` is an upper one for a limit from above, else a lower one.

    value: the rate or mean of `count` images; events: None where values are no events.
    """

    count: int
    events: int | None
    value: float
    bound: float
    method: Method
    holds: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain form."""
        return asdict(self)


def verdict(values: Float[np.ndarray, " image"], limit: Limit, confidence: float) -> Verdict:
    """Judge a limit by a one-sided bound on independent images; it holds if the bound keeps it.

    Events, and values in [0, 1] of which all seen are 0 or 1, are judged exactly (any other value
    in [0, 1] would lie below 1 and above 0, so that counting only those is safe on both sides);
    other values with declared ends by `betting_upper_bound`, without by `t_upper_bound`. Raises
    ValueError for too few values, and for values beyond the declared ends.
    """
    counted = values if limit.event is None else (values > limit.event).astype(np.float64)
    # A lower bound of x is minus an upper bound of -x.
    sign = 1.0 if limit.upper else -1.0
    events: int | None = None
    rate = limit.event is not None or (limit.low >= 0 and limit.high <= 1)
    if rate and np.isin(counted, (0.0, 1.0)).all():
        events, count = int(counted.sum()), len(counted)
        method: Method = "exact"
        found = upper_bound(events, count, confidence)
        if not limit.upper:
            found = 1 - upper_bound(count - events, count, confidence)
    elif math.isfinite(limit.low) and math.isfinite(limit.high):
        method = "betting"
        low, high = sorted((sign * limit.low, sign * limit.high))
        found = sign * betting_upper_bound(sign * counted, low, high, confidence)
    else:
        method = "t"
        found = sign * t_upper_bound(sign * counted, confidence)
    holds = sign * found <= sign * limit.threshold
    return Verdict(len(counted), events, float(counted.mean()), found, method, holds)
