"""A measured front: rewards of every prompt at every weight vector, and its JSON form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float

from morl.fronts.dominance import Points, non_dominated_share
from morl.fronts.indicators import (
    Edge,
    FrontConstants,
    controllability,
    edges,
    hypervolume,
    monotonicity_violation,
    spans,
    split_half_hypervolume,
)
from morl.fronts.intervals import (
    Bootstrapped,
    Resampling,
    bootstrap,
    resampled_means,
    resampling,
    standard_error,
)
from morl.fronts.utility import (
    Preferences,
    delivered_utility,
    expected_utility,
    grid_users,
    own_weight_share,
    steering_gap,
    uniform_users,
)

FORMAT = 1
Summary = dict[str, Any]


@dataclass(frozen=True)
class Front:
    """Rewards in one space (the trained proxies, or the measures that never trained).

    names: objectives [K]; weights [N,K]; samples [N,P,K]: image i of every weight vector has the
    same prompt and noise, so that differences are paired; NaN: the reward does not apply to that
    prompt; base [P,K]: the base model on the same prompts and noise; groups [P]: number of each
    image's prompt; constants: ends of the axes, raw units.
    Raises ValueError where these do not fit together.
    """

    space: str
    names: tuple[str, ...]
    weights: Float[np.ndarray, "point objective"]
    samples: Float[np.ndarray, "point prompt objective"]
    base: Float[np.ndarray, "prompt objective"]
    groups: tuple[int, ...]
    constants: FrontConstants

    def __post_init__(self) -> None:
        n, p, k = self.samples.shape
        shapes = (self.weights.shape, self.base.shape, len(self.names), len(self.groups))
        if shapes != ((n, k), (p, k), k, p) or len(self.constants.nadir) != k:
            raise ValueError(
                f"the {self.space} front has samples of shape {[n, p, k]} (weight vectors, images, "
                f"objectives), which does not fit weights {list(self.weights.shape)}, base "
                f"{list(self.base.shape)}, {len(self.names)} names, {len(self.groups)} groups and "
                f"{len(self.constants.nadir)} axes"
            )
        empty = np.argwhere(np.isnan(self.samples).all(axis=1))
        if len(empty):
            point, objective = empty[0]
            raise ValueError(
                f"{self.names[objective]} applies to no image of the {self.space} front at weights "
                f"{self.weights[point].tolist()}; it has no mean there"
            )

    @cached_property
    def mean(self) -> Points:
        """Mean reward vector at each weight vector, [N,K], raw units."""
        mean: Points = np.nanmean(self.samples, axis=1)
        return mean

    @cached_property
    def base_mean(self) -> Points:
        """The base model's mean reward vector as a front of one point, [1,K], raw units."""
        mean: Points = np.nanmean(self.base, axis=0, keepdims=True)
        return mean

    @cached_property
    def standard_error(self) -> Points:
        """Standard error of each mean over prompts, [N,K]."""
        return standard_error(self.samples, self.groups)

    @cached_property
    def paired_error(self) -> Float[np.ndarray, "point point objective"]:
        """Standard error of each difference of two weight vectors, [N,N,K]; 0 on the diagonal."""
        return standard_error(self.samples[:, None] - self.samples[None], self.groups)

    @cached_property
    def edges(self) -> dict[Edge, list[int]]:
        """Rows along each edge of the simplex that holds three points or more."""
        return edges(self.weights)

    def summary(self, seed: int = 0) -> Summary:
        """Indicators of the front; intervals are 95 % over prompts, for this one training run.

        Those of the grid average over its weight vectors, `..._uniform` over the simplex. The base
        model stands in for a slider that does nothing: the same point at every weight vector.
        """
        points = self.constants.normalise(self.mean)
        base = self.constants.normalise(self.base_mean)
        users = grid_users(self.weights)
        drawn = self._resampling(seed)

        def interval(statistic: Callable[[Points], float]) -> dict[str, float]:
            return self._interval(lambda mean: statistic(self.constants.normalise(mean)), drawn)

        def delivered(to: Preferences) -> dict[str, float]:
            return interval(lambda mean: delivered_utility(mean, to))

        return {
            "hypervolume": interval(hypervolume),
            "split_half_hypervolume": split_half_hypervolume(self.samples, self.constants),
            "base_hypervolume": hypervolume(base),
            "delivered_utility": delivered(users),
            "delivered_utility_uniform": delivered(uniform_users(self.weights)),
            "base_utility": delivered_utility(np.repeat(base, len(points), axis=0), users),
            "expected_utility": expected_utility(points, users),
            "steering_gap": steering_gap(points, users),
            "own_weight_share": own_weight_share(points, self.weights),
            "non_dominated_share": non_dominated_share(self.mean, self.paired_error),
            "spans": dict(zip(self.names, spans(points), strict=True)),
            "steering": self.steering(seed),
            "win_rate": self.win_rates(seed),
        }

    def win_rates(self, seed: int = 0) -> Summary:
        """How often the adapter beats the base model on the same prompt and noise, by objective.

        One share of images with its 95 % interval over prompts for each weight vector; a tie counts
        half, and images to which the reward does not apply are left out. It is the same for every
        increasing transformation of a reward, so it compares rewards of whatever unit.
        """
        wins = (np.sign(self.samples - self.base) + 1) / 2
        drawn = self._resampling(seed)
        replicates = resampled_means(wins[None], drawn.counts)[:, 0]
        return {
            name: [
                asdict(Bootstrapped(float(share), replicates[:, n, k]).interval())
                for n, share in enumerate(np.nanmean(wins[:, :, k], axis=1))
            ]
            for k, name in enumerate(self.names)
        }

    def steering(self, seed: int = 0) -> Summary:
        """How far each objective follows its weight along the edges, by name.

        controllability: rank correlation, its worst edge, with a 95 % interval over prompts;
        monotonicity_violation: share of pairs on its worst edge that run the wrong way by more than
        their paired standard error. Empty where some objective lies on no edge of three points.
        """
        if {k for edge in self.edges for k in edge} != set(range(len(self.names))):
            return {}
        drawn = self._resampling(seed)
        control = self._controllability(self.mean)
        replicates = self._controllability(resampled_means(self.samples[None], drawn.counts)[:, 0])
        return {
            name: {
                "controllability": asdict(
                    Bootstrapped(float(control[k]), replicates[:, k]).interval()
                ),
                "monotonicity_violation": max(
                    self._violation(rows if k == edge[1] else rows[::-1], k)
                    for edge, rows in self.edges.items()
                    if k in edge
                ),
            }
            for k, name in enumerate(self.names)
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain form; `from_dict` reads it back."""
        return {
            "space": self.space,
            "names": list(self.names),
            "weights": self.weights.tolist(),
            "samples": _plain(self.samples),
            "base": _plain(self.base),
            "groups": list(self.groups),
            "nadir": list(self.constants.nadir),
            "ideal": list(self.constants.ideal),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Front:
        """Read what `to_dict` wrote; other keys are left alone."""
        return cls(
            values["space"],
            tuple(values["names"]),
            np.asarray(values["weights"], dtype=np.float64),
            np.asarray(values["samples"], dtype=np.float64),
            np.asarray(values["base"], dtype=np.float64),
            tuple(values["groups"]),
            FrontConstants(tuple(values["nadir"]), tuple(values["ideal"])),
        )

    def _controllability(
        self, means: Float[np.ndarray, "*batch point objective"]
    ) -> Float[np.ndarray, "*batch objective"]:
        paths = {edge: means[..., rows, :] for edge, rows in self.edges.items()}
        return controllability(paths, len(self.names))

    def _violation(self, rows: list[int], k: int) -> float:
        error = self.paired_error[np.ix_(rows, rows)][:, :, k]
        return monotonicity_violation(self.mean[rows, k], error)

    def _resampling(self, seed: int) -> Resampling:
        return resampling(np.random.default_rng(seed), 1, self.groups)

    def _interval(
        self, statistic: Callable[[Points], float], drawn: Resampling
    ) -> dict[str, float]:
        return asdict(bootstrap(self.samples[None], statistic, drawn).interval())


def _plain(values: Float[np.ndarray, "..."]) -> list[Any]:
    """Nested lists to six decimals, with None where a reward does not apply."""
    rounded = np.round(values, 6).astype(object)
    rounded[np.isnan(values)] = None
    plain: list[Any] = rounded.tolist()
    return plain
