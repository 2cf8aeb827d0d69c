"""A constraint as numbers: its bound resolved against the base model, and what is held to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from jaxtyping import Bool, Float
from torch import Tensor

from rewards.budgets import bound_at
from rewards.calibration import moments
from rewards.constraints import exceedances, measured
from rewards.errors import CalibrationError
from rewards.expression import Constraint, Sense


@dataclass(frozen=True)
class Limit:
    """The mean of `values(costs)` may lie on the right `side` of `budget`.

    threshold: the bound in raw units; quantile: None for a bound on the mean; spread: the base
    model's standard deviation, which scales the gradient of a quantile constraint. Where the bound
    slides, `threshold` is its strictest end, `loosest` the other, and `own` that of each sample.
    """

    threshold: float
    sense: Sense
    quantile: float | None = None
    spread: float = 1.0
    loosest: float | None = None
    own: Float[Tensor, " batch"] | None = None

    def at(self, positions: Float[Tensor, " batch"]) -> Limit:
        """The limit of samples whose bounds lie at these positions of the range (`bound_at`)."""
        if self.loosest is None:
            return self
        return replace(self, own=bound_at(self.threshold, self.loosest, positions))

    @property
    def bound(self) -> float | Float[Tensor, " batch"]:
        """The bound in raw units: one number, or each sample's own."""
        return self.threshold if self.own is None else self.own

    @property
    def budget(self) -> float | Float[Tensor, " batch"]:
        """What the mean of `values` is compared with: the bound, or a share of samples."""
        if self.quantile is None:
            return self.bound
        return 1 - self.quantile if self.sense == "<=" else self.quantile

    @property
    def side(self) -> Sense:
        """A share of samples that break a bound is always bounded from above."""
        return self.sense if self.quantile is None else "<="

    def values(self, costs: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """The costs themselves, or which of them lie beyond the threshold; differentiable."""
        if self.quantile is None:
            return costs
        return exceedances(costs, self.bound, self.sense, self.spread)


def limits_of(
    constraints: Sequence[Constraint], base: Mapping[str, tuple[float, float]]
) -> tuple[Limit, ...]:
    """Resolve each bound; raises CalibrationError where it needs a base model not measured yet."""
    return tuple(_limit(constraint, base) for constraint in constraints)


def _limit(constraint: Constraint, base: Mapping[str, tuple[float, float]]) -> Limit:
    if not constraint.needs_base:
        return Limit(constraint.threshold, constraint.sense, loosest=constraint.loosest)
    if constraint.base_key not in base:
        raise CalibrationError(
            f"{constraint} needs the base model's {constraint.measured}; call `fit` with the raw "
            "scores of base-model images first"
        )
    value, spread = base[constraint.base_key]
    threshold = constraint.threshold
    if constraint.baseline:
        threshold += constraint.baseline * value
    return Limit(
        threshold, constraint.sense, constraint.quantile, spread, loosest=constraint.loosest
    )


def base_value(
    constraint: Constraint, costs: Float[Tensor, " batch"], valid: Bool[Tensor, " batch"]
) -> tuple[float, float]:
    """What a constraint measures on the base model's images, and the costs' standard deviation.

    Raises CalibrationError where it applies to fewer than two of them, and for a quantile of costs
    that are all the same: a push towards the bound would have no scale.
    """
    seen = costs.detach()[valid].double()
    if len(seen) < 2:
        raise CalibrationError(
            f"{constraint} applies to {len(seen)} of {len(costs)} images of the base model; at "
            "least 2 are needed to measure it"
        )
    spread = float(seen.std())
    if constraint.quantile is not None:
        _, spread = moments(constraint.measured, costs, valid)
    return measured(seen, constraint.quantile), spread
