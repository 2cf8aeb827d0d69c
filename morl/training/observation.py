"""What a batch scored, in the units of the losses, and what a step saw, for estimates and log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

from jaxtyping import Bool, Float, Int
from torch import Tensor

from morl.algorithms.normalization import effective_weights
from rewards.constraints import measured
from rewards.evaluate import ObjectiveTable
from rewards.objective import Objective


@dataclass(frozen=True)
class Scored:
    """One scored batch in the units that the losses use."""

    rewards: Float[Tensor, "batch objective"]
    valid: Bool[Tensor, "batch objective"]
    coefficients: Float[Tensor, "batch objective"]
    """d utility / d reward at the running mean (on="mean") or at the sample (on="sample")."""
    penalty: Float[Tensor, " batch"]
    """Sum over constraints of multiplier times violation; to be subtracted from the utility."""
    excess: Float[Tensor, "batch constraint"]
    """Each sample's part in each violation, which another weight vector weighs otherwise."""
    scale: Float[Tensor, "batch objective"]
    """What advantages are divided by, beyond calibration: 1 unless normalised inside groups."""
    group: Int[Tensor, " batch"]
    weights: Float[Tensor, "batch objective"]
    """Shared out over the objectives that apply; 0 for a sample that counts nowhere."""

    @property
    def counts(self) -> Bool[Tensor, " batch"]:
        """Which samples have an objective that applies and has some weight."""
        return self.weights.sum(dim=1) > 0


@dataclass(frozen=True)
class Observation:
    """What a step saw, without gradients: the input of every running estimate and of the log.

    weights: rows of a `TrainingBatch`.
    """

    weights: Float[Tensor, "batch condition"]
    rewards: Float[Tensor, "batch objective"]
    valid: Bool[Tensor, "batch objective"]
    std: Float[Tensor, "batch objective"]
    costs: Float[Tensor, "batch constraint"]
    cost_valid: Bool[Tensor, "batch constraint"]
    contributions: Float[Tensor, "batch share"]
    """What each (objective, reward) of `Objective.shared` added; none until the step is whole."""
    effective: Float[Tensor, "batch objective"]
    """The weights that the normalisation implies, in base units; 0 for a sample without any."""

    @classmethod
    def of(
        cls, table: ObjectiveTable, scored: Scored, weights: Float[Tensor, "batch condition"]
    ) -> Observation:
        return cls(
            weights.detach(),
            scored.rewards.detach(),
            scored.valid,
            table.std.detach(),
            table.costs.detach(),
            table.cost_valid,
            weights.new_zeros(len(weights), 0),
            effective_weights(scored.weights, scored.scale),
        )

    def gathered(self, all_gather: Callable[[Tensor], Tensor]) -> Observation:
        """The same over all ranks, so that every rank keeps the same running estimates."""
        parts = (getattr(self, field.name) for field in fields(self))
        return Observation(*(all_gather(part).flatten(0, -2) for part in parts))

    def summary(self, objective: Objective) -> dict[str, float]:
        """Mean calibrated reward, disagreement and effective weight of each objective, mean cost.

        Effective weights are means over the samples that have some: what each objective counts
        once rewards have been divided by whatever they are, in units of the base model's std.
        """
        shown: dict[str, float] = {}
        taught = self.effective[self.effective.sum(dim=1) > 0]
        for k, name in enumerate(objective.names):
            mask = self.valid[:, k]
            shown[f"effective_weight/{name}"] = float(taught[:, k].mean()) if len(taught) else 0.0
            shown[f"reward/{name}"] = float(self.rewards[mask, k].mean()) if mask.any() else 0.0
            shown[f"uncertainty/{name}"] = float(self.std[:, k].mean())
        named = zip(objective.constraint_names, objective.constraints, strict=True)
        for j, (name, constraint) in enumerate(named):
            costs = self.costs[self.cost_valid[:, j], j]
            shown[f"cost/{name}"] = measured(costs, constraint.quantile) if len(costs) else 0.0
        return shown | self._shares(objective)

    def _shares(self, objective: Objective) -> dict[str, float]:
        """Mean size of each reward's contribution, as a share of its objective's; they sum to 1.

        Absent for an objective that reads one reward, and where none of several made a difference.
        """
        sizes = self.contributions.abs().mean(dim=0).tolist()
        totals = dict.fromkeys(objective.names, 0.0)
        for (name, _), size in zip(objective.shared, sizes, strict=True):
            totals[name] += size
        return {
            f"share/{name}/{leaf}": size / totals[name]
            for (name, leaf), size in zip(objective.shared, sizes, strict=True)
            if totals[name] > 0
        }
