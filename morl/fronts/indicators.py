"""Numbers that judge a front or a slider. All rewards are maximised and normalised by constants.

Source of the definitions: expected utility of Zintgraf et al. 2015 and morl-baselines; hypervolume
of Zitzler and Thiele 1999 by moocore; the delivered forms ask for what the user gets at the weight
vector that was set, not for the best point of the set.
"""

from __future__ import annotations

from dataclasses import dataclass

import moocore
import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from morl.fronts.dominance import Points, checked


@dataclass(frozen=True)
class FrontConstants:
    """Fixed ends of each reward axis, frozen before any method is judged.

    u_k = (r_k - nadir_k) / (ideal_k - nadir_k);  nadir: base mean minus one base standard
    deviation; ideal: a measured attainable value. Raises ValueError unless ideal > nadir.
    """

    nadir: tuple[float, ...]
    ideal: tuple[float, ...]

    def __post_init__(self) -> None:
        for k, (low, high) in enumerate(zip(self.nadir, self.ideal, strict=True)):
            if not high > low:
                raise ValueError(f"ideal must exceed nadir; objective {k} has {high} and {low}")

    def normalise(self, points: Points) -> Points:
        """Points in units in which nadir is 0 and ideal is 1."""
        low, high = np.asarray(self.nadir), np.asarray(self.ideal)
        normal: Points = (np.asarray(points, dtype=np.float64) - low) / (high - low)
        return normal


def hypervolume(normalised: Points) -> float:
    """Volume between the nadir (0) and the points: 1 if one point reaches the ideal.

    HV = Lebesgue(union_i [0, u_i]);  points below the nadir count with 0 there

    u: `normalised` [N,K]. Misleading when read as the quality of the slider: a set can be good
    while no weight vector leads where it says; and the maximum over noisy points is inflated.
    """
    clipped = np.clip(checked(normalised), 0.0, None)
    return float(moocore.hypervolume(clipped, ref=np.zeros(clipped.shape[1]), maximise=True))


def delivered_utility(normalised: Points, weights: Points) -> float:
    """Mean over weight vectors of what the user gets at the vector that was set.

    DU = mean_v v . u(v)

    u: `normalised` [N,K], row i measured at v = `weights` [N,K] row i. No maximum is taken, so
    noise does not inflate it. Misleading when the weights cover only part of the simplex.
    """
    return float((checked(normalised) * checked(weights)).sum(axis=1).mean())


def expected_utility(normalised: Points, weights: Points) -> float:
    """Mean over weight vectors of the best point of the set: what an oracle would pick.

    EU = mean_v max_i v . u_i.  Misleading where the user cannot search: see delivered_utility.
    """
    return float((checked(weights) @ checked(normalised).T).max(axis=1).mean())


def steering_gap(normalised: Points, weights: Points) -> float:
    """What is lost because the slider does not pick its own best point; 0 is ideal, never below."""
    return expected_utility(normalised, weights) - delivered_utility(normalised, weights)


def own_weight_share(normalised: Points, weights: Points, reach: float) -> float:
    """Share of weight vectors whose best point lies within `reach` (L1) of themselves."""
    w = checked(weights)
    best = (w @ checked(normalised).T).argmax(axis=1)
    return float((np.abs(w[best] - w).sum(axis=1) <= reach + 1e-9).mean())


def spearman(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Rank correlation, 0 where one side is constant (a slider that moves nothing)."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(spearmanr(x, y).statistic)


def controllability(paths: dict[tuple[int, int], Points], objectives: int) -> list[float]:
    """Spearman between w_k and reward k on edge paths; the lower of an objective's edges.

    paths[i, j]: mean rewards [P,K] on the path from vertex i (first row) to vertex j. Reward i must
    fall and reward j must rise along it. Misleading with few points: 7 points have 5,040 orders.
    """
    worst = [1.0] * objectives
    for (i, j), rewards in paths.items():
        along = np.linspace(0.0, 1.0, len(checked(rewards)))
        worst[j] = min(worst[j], spearman(along, rewards[:, j]))
        worst[i] = min(worst[i], spearman(1.0 - along, rewards[:, i]))
    return worst


def monotonicity_violation(
    rewards: NDArray[np.float64], tolerance: NDArray[np.float64] | float = 0.0
) -> float:
    """Share of pairs along a path that run the wrong way by more than the tolerance.

    MV = #{a < b: r_b < r_a - e_ab} / #pairs;  r: `rewards` [P] in the order in which they should
    rise; e: one number or [P,P] (a paired standard error, say).
    """
    count = len(rewards)
    falls = rewards[:, None] - rewards[None] > np.asarray(tolerance)
    pairs = np.triu(np.ones((count, count), dtype=bool), k=1)
    return float(falls[pairs].mean()) if pairs.any() else 0.0


def igd_plus(normalised: Points, reference: Points) -> float:
    """Mean distance of a reference front to the set, counting shortfalls alone (moocore)."""
    return float(
        moocore.igd_plus(checked(normalised), ref=checked(reference), maximise=True)
    )


def span(normalised: Points) -> list[float]:
    """Range of each reward over the set: how far the slider reaches."""
    return [float(value) for value in np.ptp(checked(normalised), axis=0)]
