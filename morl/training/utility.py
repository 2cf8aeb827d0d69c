"""From a scored batch to what is optimised: calibrated rewards, scalarisation, multipliers.

The only state of the objective during training lives here: the running mean of the rewards as a
function of the weight vector, and the multipliers of the constraints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from morl.algorithms.advantages import group_advantages
from rewards.calibration import Calibration
from rewards.constraints import DualAscent, lagrangian_penalty, violation
from rewards.evaluate import ObjectiveTable
from rewards.objective import Objective
from rewards.scalarization import utility, utility_gradient


class MeanRewards:
    """Running least-squares estimate of the mean reward vector at a weight vector.

    m(w) = w^T (S + ridge I)^-1 T,  S <- decay S + sum_i w_i w_i^T,  T <- decay T + sum_i w_i r_i^T

    w [K] on the simplex (its entries sum to 1, so the fit has an intercept), r [K] calibrated
    rewards. Linear in w: it misleads where the front bends strongly. Before any sample m = 0, the
    base model's mean in calibrated units.
    """

    def __init__(self, objectives: int, decay: float = 0.9, ridge: float = 1.0) -> None:
        self.decay = decay
        self.ridge = ridge
        self.moments = torch.zeros(objectives, objectives, dtype=torch.float64)
        self.products = torch.zeros(objectives, objectives, dtype=torch.float64)

    def update(
        self,
        weights: Float[Tensor, "batch objective"],
        rewards: Float[Tensor, "batch objective"],
    ) -> None:
        """Add one batch; the rewards carry no gradient into the state."""
        w, r = weights.detach().cpu().double(), rewards.detach().cpu().double()
        self.moments = self.decay * self.moments + w.T @ w
        self.products = self.decay * self.products + w.T @ r

    def at(self, weights: Float[Tensor, "batch objective"]) -> Float[Tensor, "batch objective"]:
        """The estimated mean reward vector at each weight vector."""
        eye = torch.eye(self.moments.shape[0], dtype=torch.float64)
        slope = torch.linalg.solve(self.moments + self.ridge * eye, self.products)
        return (weights.detach().cpu().double() @ slope).to(weights)

    def state_dict(self) -> dict[str, Tensor]:
        return {"moments": self.moments, "products": self.products}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.moments, self.products = state["moments"], state["products"]


@dataclass(frozen=True)
class Scored:
    """One scored batch in the units that the losses use."""

    rewards: Float[Tensor, "batch objective"]
    valid: Bool[Tensor, "batch objective"]
    coefficients: Float[Tensor, "batch objective"]
    """d utility / d reward at the running mean (on="mean") or at the sample (on="sample")."""
    penalty: Float[Tensor, " batch"]
    """Sum over constraints of multiplier times violation; to be subtracted from the utility."""


@dataclass(frozen=True)
class Observation:
    """What a step saw, without gradients: the input of every running estimate and of the log."""

    weights: Float[Tensor, "batch objective"]
    rewards: Float[Tensor, "batch objective"]
    valid: Bool[Tensor, "batch objective"]
    std: Float[Tensor, "batch objective"]
    costs: Float[Tensor, "batch constraint"]
    cost_valid: Bool[Tensor, "batch constraint"]
    contributions: Float[Tensor, "batch share"]
    """What each (objective, reward) of `Objective.shared` added; none until the step is whole."""

    @classmethod
    def of(
        cls, table: ObjectiveTable, scored: Scored, weights: Float[Tensor, "batch objective"]
    ) -> Observation:
        return cls(
            weights.detach(),
            scored.rewards.detach(),
            scored.valid,
            table.std.detach(),
            table.costs.detach(),
            table.cost_valid,
            weights.new_zeros(len(weights), 0),
        )

    def gathered(self, all_gather: Callable[[Tensor], Tensor]) -> Observation:
        """The same over all ranks, so that every rank keeps the same running estimates."""
        parts = (getattr(self, field.name) for field in fields(self))
        return Observation(*(all_gather(part).flatten(0, -2) for part in parts))

    def summary(self, objective: Objective) -> dict[str, float]:
        """Mean calibrated reward and disagreement of each objective, mean of each cost."""
        shown: dict[str, float] = {}
        for k, name in enumerate(objective.names):
            mask = self.valid[:, k]
            shown[f"reward/{name}"] = float(self.rewards[mask, k].mean()) if mask.any() else 0.0
            shown[f"uncertainty/{name}"] = float(self.std[:, k].mean())
        for j, name in enumerate(objective.constraint_names):
            mask = self.cost_valid[:, j]
            shown[f"cost/{name}"] = float(self.costs[mask, j].mean()) if mask.any() else 0.0
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


class TrainingUtility:
    """Scalarisation and constraints of one run, with their state."""

    def __init__(
        self, objective: Objective, calibration: Calibration, duals: DualAscent | None
    ) -> None:
        self.objective = objective
        self.calibration = calibration
        self.duals = duals
        self.means = MeanRewards(len(objective.names))
        self.shares = torch.ones(len(objective.names))
        """Factors on the objectives' coefficients, which a guard may lower."""

    def score(self, table: ObjectiveTable, weights: Float[Tensor, "batch objective"]) -> Scored:
        """Calibrate, scalarise and penalise; gradients flow to the images, never to the state."""
        rewards = self.calibration.apply(table.rewards)
        coefficients = self._coefficients(rewards, weights)
        return Scored(rewards, table.reward_valid, coefficients, self._penalty(table))

    def rescored(self, scored: Scored, weights: Float[Tensor, "batch objective"]) -> Scored:
        """The same images as other weight vectors see them."""
        return replace(scored, coefficients=self._coefficients(scored.rewards, weights))

    def utility(self, scored: Scored, weights: Float[Tensor, "batch objective"]) -> Tensor:
        """The differentiable utility [B] whose gradient the reward-gradient regime follows."""
        if self.objective.on == "sample":
            value = utility(self.objective.scalarization, self.objective.params)(
                scored.rewards, weights
            )
        else:
            value = (scored.coefficients * scored.rewards * scored.valid).sum(dim=1)
        return value - scored.penalty

    def advantages(
        self,
        scored: Scored,
        weights: Float[Tensor, "batch objective"],
        group: Int[Tensor, " batch"],
        clip: float,
    ) -> Float[Tensor, " batch"]:
        """Per-objective advantages, mixed by the utility's gradient, minus the penalty's.

        on="mean": A_i = sum_k a_ik A_ik - P_i with a the coefficients of `score`;
        on="sample": the advantage of each sample's own utility. All inside groups.
        """
        every = torch.ones_like(scored.valid[:, :1])
        penalty = group_advantages(scored.penalty[:, None], every, group, clip)[:, 0]
        if self.objective.on == "sample":
            own = utility(self.objective.scalarization, self.objective.params)(
                scored.rewards, weights
            )
            return group_advantages(own[:, None], every, group, clip)[:, 0] - penalty
        mixed = group_advantages(scored.rewards, scored.valid, group, clip)
        return (scored.coefficients * mixed).sum(dim=1) - penalty

    def observe(self, seen: Observation) -> dict[str, float]:
        """Update means and multipliers after a step; returns what the log should show."""
        self.means.update(seen.weights, seen.rewards)
        if self.duals is None:
            return {}
        logged = {}
        names = self.objective.constraint_names
        measured = torch.zeros(len(names), dtype=torch.float64)
        for j, constraint in enumerate(self.objective.constraints):
            amount, count = violation(
                seen.costs[:, j], seen.cost_valid[:, j], constraint.threshold, constraint.sense
            )
            measured[j] = amount if count else 0.0
            logged[f"violation/{names[j]}"] = float(measured[j])
        self.duals.update(measured)
        for name, value in zip(names, self.duals.multipliers.tolist(), strict=True):
            logged[f"multiplier/{name}"] = value
        return logged

    def _coefficients(
        self, rewards: Float[Tensor, "batch objective"], weights: Float[Tensor, "batch objective"]
    ) -> Float[Tensor, "batch objective"]:
        at = self.means.at(weights) if self.objective.on == "mean" else rewards.detach()
        gradient = utility_gradient(
            self.objective.scalarization, at, weights, **self.objective.params
        )
        return gradient * self.shares.to(gradient)

    def _penalty(self, table: ObjectiveTable) -> Float[Tensor, " batch"]:
        if self.duals is None:
            return torch.zeros(table.rewards.shape[0], device=table.rewards.device)
        constraints = self.objective.constraints
        return lagrangian_penalty(
            table.costs,
            table.cost_valid,
            torch.tensor([c.threshold for c in constraints]),
            self.duals.multipliers,
            [c.sense for c in constraints],
        )
