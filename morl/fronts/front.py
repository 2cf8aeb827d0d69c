"""A measured front: rewards of every prompt at every weight vector, and its JSON form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from morl.fronts.indicators import (
    FrontConstants,
    delivered_utility,
    expected_utility,
    hypervolume,
    own_weight_share,
    span,
)
from morl.fronts.dominance import non_dominated_share
from morl.fronts.intervals import bootstrap_interval

FORMAT = 1


@dataclass(frozen=True)
class Front:
    """Rewards in one space (the trained proxies, or the held-out measures).

    names: objectives [K]; weights [N,K]; samples [N,P,K]: image i of every weight vector has the
    same prompt and noise, so that differences are paired; base [P,K]: the base model on the same
    prompts and noise; constants: axis ends.
    """

    space: str
    names: tuple[str, ...]
    weights: NDArray[np.float64]
    samples: NDArray[np.float64]
    base: NDArray[np.float64]
    constants: FrontConstants

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean reward vector at each weight vector, [N,K]."""
        mean: NDArray[np.float64] = self.samples.mean(axis=1)
        return mean

    @property
    def standard_error(self) -> NDArray[np.float64]:
        """Standard error of each mean, [N,K]."""
        count = self.samples.shape[1]
        error: NDArray[np.float64] = self.samples.std(axis=1, ddof=1) / np.sqrt(count)
        return error

    def summary(self, replicates: int = 500) -> dict[str, Any]:
        """Indicators of the front with 95 % intervals over prompts."""
        points = self.constants.normalise(self.mean)
        # [1,P,N,K]: one training seed, prompts resampled, weights kept together.
        stacked = self.samples.transpose(1, 0, 2)[None]

        def at(samples: NDArray[np.float64]) -> NDArray[np.float64]:
            return self.constants.normalise(samples.mean(axis=(0, 1)))

        def interval(value: float, statistic: Any) -> dict[str, float]:
            low, high = bootstrap_interval(stacked, statistic, replicates=replicates)
            return {"value": value, "low": low, "high": high}

        step = np.abs(self.weights[:, None] - self.weights[None]).sum(axis=2)
        reach = float(step[step > 0].min()) if (step > 0).any() else 0.0
        return {
            "hypervolume": interval(hypervolume(points), lambda s: hypervolume(at(s))),
            "delivered_utility": interval(
                delivered_utility(points, self.weights),
                lambda s: delivered_utility(at(s), self.weights),
            ),
            "expected_utility": expected_utility(points, self.weights),
            "steering_gap": expected_utility(points, self.weights)
            - delivered_utility(points, self.weights),
            "own_weight_share": own_weight_share(points, self.weights, reach),
            "non_dominated_share": non_dominated_share(
                self.mean, self.standard_error.mean(axis=0)
            ),
            "span": dict(zip(self.names, span(points), strict=True)),
            "base_hypervolume": hypervolume(self.constants.normalise(self.base.mean(axis=0))[None]),
        }

    def to_dict(self) -> dict[str, Any]:
        return {
            "space": self.space,
            "names": list(self.names),
            "weights": self.weights.tolist(),
            "samples": np.round(self.samples, 6).tolist(),
            "base": np.round(self.base, 6).tolist(),
            "nadir": list(self.constants.nadir),
            "ideal": list(self.constants.ideal),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Front:
        return cls(
            values["space"],
            tuple(values["names"]),
            np.asarray(values["weights"], dtype=np.float64),
            np.asarray(values["samples"], dtype=np.float64),
            np.asarray(values["base"], dtype=np.float64),
            FrontConstants(tuple(values["nadir"]), tuple(values["ideal"])),
        )
