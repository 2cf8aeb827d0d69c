"""A measured front: rewards of every prompt at every weight vector, and its JSON form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from morl.fronts.dominance import Points, non_dominated_share
from morl.fronts.indicators import (
    FrontConstants,
    controllability,
    edges,
    hypervolume,
    spans,
    split_half_hypervolume,
)
from morl.fronts.intervals import bootstrap, resampling, standard_error
from morl.fronts.utility import (
    delivered_utility,
    expected_utility,
    grid_users,
    own_weight_share,
    steering_gap,
)

FORMAT = 1
REPLICATES = 500  # enough for two digits of a 95 % interval in a report


@dataclass(frozen=True)
class Front:
    """Rewards in one space (the trained proxies, or the measures that never trained).

    names: objectives [K]; weights [N,K]; samples [N,P,K]: image i of every weight vector has the
    same prompt and noise, so that differences are paired; base [P,K]: the base model on the same
    prompts and noise; groups [P]: number of each image's prompt; constants: axis ends.
    """

    space: str
    names: tuple[str, ...]
    weights: Float[np.ndarray, "point objective"]
    samples: Float[np.ndarray, "point prompt objective"]
    base: Float[np.ndarray, "prompt objective"]
    groups: tuple[int, ...]
    constants: FrontConstants

    @property
    def mean(self) -> Points:
        """Mean reward vector at each weight vector, [N,K]."""
        mean: Points = self.samples.mean(axis=1)
        return mean

    @property
    def standard_error(self) -> Points:
        """Standard error of each mean, [N,K]."""
        return standard_error(self.samples, self.groups)

    def summary(self, seed: int = 0) -> dict[str, Any]:
        """Indicators of the front; intervals are 95 % over prompts, for this one training run."""
        points = self.constants.normalise(self.mean)
        users = grid_users(self.weights)
        drawn = resampling(np.random.default_rng(seed), 1, self.groups, REPLICATES)

        def interval(statistic: Callable[[Points], float]) -> dict[str, float]:
            normal = self.constants.normalise
            found = bootstrap(self.samples[None], lambda mean: statistic(normal(mean)), drawn)
            return asdict(found.interval())

        paths = {edge: self.mean[rows] for edge, rows in edges(self.weights).items()}
        return {
            "hypervolume": interval(hypervolume),
            "split_half_hypervolume": split_half_hypervolume(self.samples, self.constants),
            "base_hypervolume": hypervolume(self.constants.normalise(self.base.mean(axis=0))[None]),
            "delivered_utility": interval(lambda mean: delivered_utility(mean, users)),
            "base_utility": float(
                (self.weights @ self.constants.normalise(self.base.mean(axis=0))).mean()
            ),
            "expected_utility": expected_utility(points, users),
            "steering_gap": steering_gap(points, users),
            "own_weight_share": own_weight_share(points, self.weights),
            "non_dominated_share": non_dominated_share(self.mean, self.standard_error.mean(axis=0)),
            "spans": dict(zip(self.names, spans(points), strict=True)),
            "grid_controllability": dict(
                zip(self.names, controllability(paths, len(self.names)), strict=True)
            )
            if paths
            else {},
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain form; `from_dict` reads it back."""
        return {
            "space": self.space,
            "names": list(self.names),
            "weights": self.weights.tolist(),
            "samples": np.round(self.samples, 6).tolist(),
            "base": np.round(self.base, 6).tolist(),
            "groups": list(self.groups),
            "nadir": list(self.constants.nadir),
            "ideal": list(self.constants.ideal),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Front:
        """Read what `to_dict` wrote."""
        return cls(
            values["space"],
            tuple(values["names"]),
            np.asarray(values["weights"], dtype=np.float64),
            np.asarray(values["samples"], dtype=np.float64),
            np.asarray(values["base"], dtype=np.float64),
            tuple(values["groups"]),
            FrontConstants(tuple(values["nadir"]), tuple(values["ideal"])),
        )
