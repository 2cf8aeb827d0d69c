"""Gao's laws of over-optimisation: true reward as a function of the distance from the base."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

Form = Literal["ln d", "d"]
FORMS: tuple[Form, ...] = ("ln d", "d")


@dataclass(frozen=True)
class GaoFit:
    """gold(d) - gold(0) = d (alpha - beta f(d)),  d = sqrt(KL) in sqrt(nats).

    f(d) = ln d, the law for reinforcement learning, or d, that for best-of-n.
    """

    alpha: float
    beta: float
    form: Form = "ln d"

    def __call__(self, distance: Float[np.ndarray, " look"]) -> Float[np.ndarray, " look"]:
        value: Float[np.ndarray, " look"] = distance * (
            self.alpha - self.beta * _bend(distance, self.form)
        )
        return value

    @property
    def peak(self) -> float:
        """The distance of the highest gold: exp(alpha / beta - 1), or alpha / (2 beta) for "d".

        Infinite where gold only rises, 0 where it only falls.
        """
        if self.beta <= 0:
            return math.inf
        if self.form == "d":
            return max(0.0, self.alpha / (2 * self.beta))
        return math.exp(min(self.alpha / self.beta - 1, 700.0))


def fit_gao(
    distance: Float[np.ndarray, " look"], gain: Float[np.ndarray, " look"], form: Form = "ln d"
) -> GaoFit:
    """Least squares, linear in alpha and beta; looks at distance 0 carry nothing and are left out.

    Raises ValueError for fewer than two looks away from the base. Source: arXiv 2210.10760,
    section 3.1.
    """
    away = distance > 0
    if away.sum() < 2:
        raise ValueError(f"a fit of two numbers needs two looks with KL > 0; got {away.sum()}")
    d = distance[away]
    columns = np.stack([d, -d * _bend(d, form)], axis=1)
    alpha, beta = np.linalg.lstsq(columns, gain[away], rcond=None)[0]
    return GaoFit(float(alpha), float(beta), form)


def explained(gain: Float[np.ndarray, " look"], predicted: Float[np.ndarray, " look"]) -> float:
    """R^2 = 1 - sum (y - p)^2 / sum (y - mean y)^2; below 0: worse than knowing the mean."""
    whole = float(np.square(gain - gain.mean()).sum())
    left = float(np.square(gain - predicted).sum())
    return 1 - left / whole if whole > 0 else math.nan


def _bend(distance: Float[np.ndarray, " look"], form: Form) -> Float[np.ndarray, " look"]:
    return np.log(np.maximum(distance, 1e-12)) if form == "ln d" else distance
