"""How a run treats its constraints beside its utility, and what it logs of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from rewards.limits import Limit
from rewards.multipliers import Dependence, shared
from rewards.objective import Objective


@dataclass(frozen=True)
class Handling:
    """What stands between measured violations and the penalty of each sample."""

    dependence: Dependence = field(default_factory=shared)
    """How the multipliers depend on the weight vector."""
    limits: Callable[[], Sequence[Limit]] | None = None
    """The bounds, once the base model is measured; None where none is relative to it."""
    warmup: int = 0
    """Updates before the multipliers begin to move."""
    utility_weight: float = 1.0
    """Factor on the scalarised utility; 0 leaves constraints and the pull to the base alone."""

    def logged(
        self,
        objective: Objective,
        violations: Float[Tensor, " constraint"],
        limits: Sequence[Limit],
        weights: Float[Tensor, "batch objective"],
        positions: Float[Tensor, "batch constraint"],
        theta: Float[Tensor, " parameter"],
    ) -> dict[str, float]:
        """Violations and multipliers by name.

        Of multipliers that depend on the weight vector: mean, least and largest over the batch,
        and those at each vertex (at the strictest bound); of bounds relative to the base model:
        the bound in raw units.
        """
        names = objective.constraint_names
        shown = {f"violation/{n}": v for n, v in zip(names, violations.tolist(), strict=True)}
        for name, constraint, limit in zip(names, objective.constraints, limits, strict=True):
            if constraint.baseline:
                shown[f"threshold/{name}"] = limit.threshold
        if self.dependence.parameters == 1:
            values = zip(names, theta.tolist(), strict=True)
            return shown | {f"multiplier/{name}": value for name, value in values}
        seen = self.dependence.at(theta, weights, positions)
        vertices = self.dependence.at(theta, torch.eye(weights.shape[1]))
        for j, name in enumerate(names):
            shown[f"multiplier/{name}"] = float(seen[:, j].mean())
            shown[f"multiplier_min/{name}"] = float(seen[:, j].min())
            shown[f"multiplier_max/{name}"] = float(seen[:, j].max())
            for vertex, value in zip(objective.names, vertices[:, j].tolist(), strict=True):
                shown[f"multiplier_at/{name}/{vertex}"] = value
        return shown

    def logged_at_ends(
        self,
        objective: Objective,
        violations: Float[Tensor, "end constraint"],
        weights: Float[Tensor, "batch objective"],
        theta: Float[Tensor, " parameter"],
    ) -> dict[str, float]:
        """Violation and mean multiplier at either end of the range of a bound that slides."""
        shown: dict[str, float] = {}
        for number, end in enumerate(("strictest", "loosest")):
            positions = torch.full((len(weights), len(objective.constraints)), float(number))
            multipliers = self.dependence.at(theta, weights, positions).mean(dim=0)
            named = zip(objective.constraint_names, objective.constraints, strict=True)
            for j, (name, constraint) in enumerate(named):
                if constraint.budget is not None:
                    shown[f"violation_{end}/{name}"] = float(violations[number, j])
                    shown[f"multiplier_{end}/{name}"] = float(multipliers[j])
        return shown
