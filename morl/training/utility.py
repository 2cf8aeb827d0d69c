"""From a scored batch to what is optimised: calibrated rewards, scalarisation, multipliers.

The only state of the objective during training lives here: the running mean of the rewards as a
function of the weight vector, and the multipliers of the constraints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from morl.algorithms.advantages import group_advantages
from morl.training.feasibility import Feasibility
from morl.training.handling import Handling
from rewards.calibration import Calibration
from rewards.constraints import excesses, measured, violation, weighed
from rewards.controllers import Controller
from rewards.evaluate import ObjectiveTable
from rewards.limits import Limit, limits_of
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
    excess: Float[Tensor, "batch constraint"]
    """Each sample's part in each violation, which another weight vector weighs otherwise."""


@dataclass(frozen=True)
class Observation:
    """What a step saw, without gradients: the input of every running estimate and of the log."""

    weights: Float[Tensor, "batch objective"]
    rewards: Float[Tensor, "batch objective"]
    valid: Bool[Tensor, "batch objective"]
    std: Float[Tensor, "batch objective"]
    costs: Float[Tensor, "batch constraint"]
    cost_valid: Bool[Tensor, "batch constraint"]

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
        named = zip(objective.constraint_names, objective.constraints, strict=True)
        for j, (name, constraint) in enumerate(named):
            costs = self.costs[self.cost_valid[:, j], j]
            shown[f"cost/{name}"] = measured(costs, constraint.quantile) if len(costs) else 0.0
        return shown


class TrainingUtility:
    """Scalarisation and constraints of one run, with their state."""

    def __init__(
        self,
        objective: Objective,
        calibration: Calibration,
        duals: Controller | None,
        handling: Handling | None = None,
    ) -> None:
        self.objective = objective
        self.calibration = calibration
        self.duals = duals
        self.handling = handling or Handling()
        self.means = MeanRewards(len(objective.names))
        self.feasibility = None if duals is None else Feasibility(len(objective.constraints))

    def score(self, table: ObjectiveTable, weights: Float[Tensor, "batch objective"]) -> Scored:
        """Calibrate, scalarise and penalise; gradients flow to the images, never to the state."""
        rewards = self.calibration.apply(table.rewards)
        coefficients, excess = self._coefficients(rewards, weights), self._excess(table)
        penalty = self._penalty(excess, weights)
        return Scored(rewards, table.reward_valid, coefficients, penalty, excess)

    def rescored(self, scored: Scored, weights: Float[Tensor, "batch objective"]) -> Scored:
        """The same images as other weight vectors see them."""
        coefficients = self._coefficients(scored.rewards, weights)
        penalty = self._penalty(scored.excess, weights)
        return replace(scored, coefficients=coefficients, penalty=penalty)

    def utility(self, scored: Scored, weights: Float[Tensor, "batch objective"]) -> Tensor:
        """The differentiable utility [B] whose gradient the reward-gradient regime follows."""
        if self.objective.on == "sample":
            value = self.handling.utility_weight * utility(
                self.objective.scalarization, self.objective.params
            )(scored.rewards, weights)
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
            own = self.handling.utility_weight * utility(
                self.objective.scalarization, self.objective.params
            )(scored.rewards, weights)
            return group_advantages(own[:, None], every, group, clip)[:, 0] - penalty
        mixed = group_advantages(scored.rewards, scored.valid, group, clip)
        return (scored.coefficients * mixed).sum(dim=1) - penalty

    def observe(self, seen: Observation) -> dict[str, float]:
        """Update means and multipliers after a step; returns what the log should show."""
        self.means.update(seen.weights, seen.rewards)
        if self.duals is None or self.feasibility is None:
            return {}
        limits, dependence = self.limits(), self.handling.dependence
        found = [
            violation(
                limit.values(seen.costs[:, j]), seen.cost_valid[:, j], limit.budget, limit.side
            )
            for j, limit in enumerate(limits)
        ]
        if self.feasibility.updates >= self.handling.warmup:
            self.duals.update(
                dependence.attributed(seen.weights, seen.costs, seen.cost_valid, limits)
            )
        violations = torch.tensor([amount for amount, _ in found], dtype=torch.float64)
        capped = self.duals.capped.view(dependence.parameters, -1).any(dim=0)
        self.feasibility.update(self._mean_utility(seen), violations, capped)
        return self.handling.logged(
            self.objective, violations, limits, seen.weights, self.duals.multipliers
        )

    def limits(self) -> Sequence[Limit]:
        """The constraints in numbers."""
        if self.handling.limits is None:
            return limits_of(self.objective.constraints, {})
        return self.handling.limits()

    def _mean_utility(self, seen: Observation) -> float:
        """Mean utility of a batch before penalties; what does not apply counts as the base does."""
        rewards = torch.where(seen.valid, seen.rewards, 0.0)
        own = utility(self.objective.scalarization, self.objective.params)(rewards, seen.weights)
        return self.handling.utility_weight * float(own.mean())

    def _coefficients(
        self, rewards: Float[Tensor, "batch objective"], weights: Float[Tensor, "batch objective"]
    ) -> Float[Tensor, "batch objective"]:
        at = self.means.at(weights) if self.objective.on == "mean" else rewards.detach()
        gradient = utility_gradient(
            self.objective.scalarization, at, weights, **self.objective.params
        )
        return self.handling.utility_weight * gradient

    def _excess(self, table: ObjectiveTable) -> Float[Tensor, "batch constraint"]:
        if self.duals is None:
            return table.rewards.new_zeros(len(table.rewards), 0)
        limits = self.limits()
        values = [limit.values(table.costs[:, j]) for j, limit in enumerate(limits)]
        return excesses(
            torch.stack(values, dim=1),
            table.cost_valid,
            [limit.budget for limit in limits],
            [limit.side for limit in limits],
        )

    def _penalty(
        self,
        excess: Float[Tensor, "batch constraint"],
        weights: Float[Tensor, "batch objective"],
    ) -> Float[Tensor, " batch"]:
        if self.duals is None:
            return torch.zeros(len(excess), device=excess.device)
        return weighed(excess, self.handling.dependence.at(self.duals.multipliers, weights))
