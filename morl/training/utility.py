"""From a scored batch to what is optimised: comparable rewards, scalarisation, multipliers.

The only state of the objective during training lives here: the running mean of the rewards as a
function of the weight vector, and the multipliers of the constraints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from morl.algorithms.advantages import group_advantages
from morl.algorithms.normalization import Normalize, divisors
from morl.algorithms.tail import tail_weights
from morl.training.conditions import Conditions
from morl.training.feasibility import Feasibility
from morl.training.handling import Handling
from morl.training.mean_rewards import MeanRewards
from morl.training.observation import Observation, Scored
from rewards.applicability import applicable_weights
from rewards.calibration import Calibration
from rewards.constraints import excesses, violation, weighed
from rewards.controllers import Controller
from rewards.evaluate import ObjectiveTable
from rewards.limits import Limit, limits_of
from rewards.multipliers import at_ends
from rewards.objective import Objective
from rewards.scalarization import utility, utility_gradient


class TrainingUtility:
    """Scalarisation and constraints of one run, with their state.

    Where an objective does not apply to a sample, that sample's weights are renormalised over the
    others. normalize: what advantages are divided by, beyond calibration, inside each group:
    nothing ("base"), each reward's own std ("group_std"), or the std of their weighted raw sum
    ("group_std_sum"). tail in (0, 1]: the share of the prompts, the worst ones, whose mean utility
    is optimised; constraints still hold on average over all. aggregation: how the gradients of the
    objectives become one (`morl.algorithms.aggregation_facts`). What is called `weights` here are
    rows of a `TrainingBatch`, read by `conditions`: each sample is held to its own bounds.
    """

    def __init__(
        self,
        objective: Objective,
        calibration: Calibration,
        duals: Controller | None,
        handling: Handling | None = None,
        *,
        normalize: Normalize = "base",
        tail: float = 1.0,
        aggregation: str = "none",
    ) -> None:
        self.objective = objective
        self.calibration = calibration
        self.duals = duals
        self.handling = handling or Handling()
        self.feasibility = None if duals is None else Feasibility(len(objective.constraints))
        self.normalize = normalize
        self.tail = tail
        self.aggregation = aggregation
        self.conditions = Conditions.of(objective)
        self.means = MeanRewards(len(objective.names), budgets=self.conditions.budgets)
        self.shares = torch.ones(len(objective.names))
        """Factors on the objectives' coefficients, which a guard may lower."""

    def score(
        self,
        table: ObjectiveTable,
        weights: Float[Tensor, "batch condition"],
        group: Int[Tensor, " batch"] | None = None,
    ) -> Scored:
        """Calibrate, scalarise and penalise; gradients flow to the images, never to the state.

        group: one number for each (prompt, weight vector); every sample its own where omitted.
        """
        calibrated = self.calibration.apply(table.rewards)
        rewards = torch.where(table.reward_valid, calibrated, torch.zeros_like(calibrated))
        if group is None:
            group = torch.arange(len(rewards))
        scored = Scored(
            rewards,
            table.reward_valid,
            torch.zeros_like(rewards),
            torch.zeros_like(rewards[:, 0]),
            self._excess(table, weights),
            torch.ones_like(rewards),
            group.to(rewards.device),
            torch.zeros_like(rewards),
        )
        return self.rescored(scored, weights)

    def rescored(self, scored: Scored, weights: Float[Tensor, "batch condition"]) -> Scored:
        """The same images as other weight vectors see them."""
        own = self.conditions.weights(weights).detach().to(scored.rewards)
        scored = replace(scored, weights=applicable_weights(own, scored.valid))
        scale = divisors(
            self.normalize,
            scored.rewards,
            scored.valid,
            scored.weights,
            scored.group,
            torch.tensor(self.calibration.std).to(scored.rewards),
        )
        return replace(
            scored,
            coefficients=self._coefficients(scored, weights),
            penalty=self._penalty(scored.excess, weights),
            scale=scale,
        )

    def utility(self, scored: Scored, weights: Float[Tensor, "batch condition"]) -> Tensor:
        """The differentiable utility [B] whose gradient the reward-gradient regime follows."""
        if self.objective.on == "sample":
            value = self._own(scored, scored.rewards)
        else:
            value = (scored.coefficients * scored.rewards * scored.valid).sum(dim=1)
        return self._in_tail(value, scored, weights) - scored.penalty

    def contributions(
        self, scored: Scored, weights: Float[Tensor, "batch condition"]
    ) -> Float[Tensor, "batch objective"]:
        """What each objective adds to each sample's utility, without the penalty; differentiable.

        c_ik = t_i a_ik r_ik,  a_ik = d u_i / d r_ik, t_i: weight of the sample in the tail

        a is held constant, so that sum_k of the gradients is the gradient of `utility` plus that of
        the penalty, for on="sample" too.
        """
        parts = scored.coefficients * scored.rewards * scored.valid
        every = torch.ones_like(parts[:, 0])
        return parts * self._in_tail(every, scored, weights)[:, None]

    def advantages(
        self,
        scored: Scored,
        weights: Float[Tensor, "batch condition"],
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
            own = self._own(scored, scored.rewards)[:, None]
            mixed = group_advantages(own, scored.counts[:, None], group, clip)[:, 0]
        else:
            each = group_advantages(scored.rewards / scored.scale, scored.valid, group, clip)
            mixed = (scored.coefficients * each).sum(dim=1)
        return self._in_tail(mixed, scored, weights) - penalty

    def observe(self, seen: Observation) -> dict[str, float]:
        """Update means and multipliers after a step; returns what the log should show."""
        self.means.update(seen.weights, seen.rewards, seen.valid)
        if self.duals is None or self.feasibility is None:
            return {}
        limits, dependence = self._limits_of(seen.weights.to(seen.costs)), self.handling.dependence
        own = self.conditions.weights(seen.weights)
        positions = self.conditions.positions(seen.weights)
        found = [
            violation(
                limit.values(seen.costs[:, j]), seen.cost_valid[:, j], limit.budget, limit.side
            )
            for j, limit in enumerate(limits)
        ]
        if self.feasibility.updates >= self.handling.warmup:
            self.duals.update(
                dependence.attributed(own, seen.costs, seen.cost_valid, limits, positions)
            )
        violations = torch.tensor([amount for amount, _ in found], dtype=torch.float64)
        capped = dependence.stuck(self.duals.capped, limits)
        # Slack at a loose budget must not hide that a strict one is broken.
        ends = at_ends(seen.costs, seen.cost_valid, limits, positions)
        self.feasibility.update(self._mean_utility(seen), ends.amax(dim=0), capped)
        theta = self.duals.multipliers
        shown = self.handling.logged(self.objective, violations, limits, own, positions, theta)
        return shown | self.handling.logged_at_ends(self.objective, ends, own, theta)

    def limits(self) -> Sequence[Limit]:
        """The constraints in numbers."""
        if self.handling.limits is None:
            return limits_of(self.objective.constraints, {})
        return self.handling.limits()

    def _limits_of(self, weights: Float[Tensor, "batch condition"]) -> list[Limit]:
        """The constraints in numbers, each sample's own where its bound slides."""
        positions = self.conditions.positions(weights)
        return [limit.at(positions[:, j]) for j, limit in enumerate(self.limits())]

    def _mean_utility(self, seen: Observation) -> float:
        """Mean utility of a batch before penalties; what does not apply counts as the base does."""
        rewards = torch.where(seen.valid, seen.rewards, 0.0)
        own = utility(self.objective.scalarization, self.objective.params)(
            rewards, self.conditions.weights(seen.weights)
        )
        return self.handling.utility_weight * float(own.mean())

    def _coefficients(
        self, scored: Scored, weights: Float[Tensor, "batch condition"]
    ) -> Float[Tensor, "batch objective"]:
        at = scored.rewards.detach()
        if self.objective.on == "mean":
            at = self.means.at(weights).to(at)
        name, params = self.objective.scalarization, self.objective.params
        found = utility_gradient(name, at, _readable(scored), **params)
        counts = scored.valid & scored.counts[:, None]
        factors = self.handling.utility_weight * self.shares.to(found)
        return torch.where(counts, found * factors, torch.zeros_like(found))

    def _own(
        self, scored: Scored, rewards: Float[Tensor, "batch objective"]
    ) -> Float[Tensor, " batch"]:
        """The scalarisation of each row of rewards; 0 for a sample that counts nowhere."""
        function = utility(self.objective.scalarization, self.objective.params)
        value = self.handling.utility_weight * function(rewards, _readable(scored))
        return torch.where(scored.counts, value, torch.zeros_like(value))

    def _in_tail(
        self,
        value: Float[Tensor, " batch"],
        scored: Scored,
        weights: Float[Tensor, "batch condition"],
    ) -> Float[Tensor, " batch"]:
        """Each sample's value times its weight in the tail; all of it for a tail of 1.

        Samples are ranked by how far their utility lies above what is usual at their weight
        vector, so that the tail holds the worst prompts and not the worst weight vectors.
        """
        if self.tail >= 1:
            return value
        usual = self.means.at(weights).to(scored.rewards)
        if self.objective.on == "sample":
            above = self._own(scored, scored.rewards).detach() - self._own(scored, usual)
        else:
            above = (scored.coefficients * (scored.rewards.detach() - usual) * scored.valid).sum(1)
        return value * tail_weights(above, scored.counts, scored.group, self.tail)

    def _excess(
        self, table: ObjectiveTable, weights: Float[Tensor, "batch condition"]
    ) -> Float[Tensor, "batch constraint"]:
        if self.duals is None:
            return table.rewards.new_zeros(len(table.rewards), 0)
        limits = self._limits_of(weights.detach().to(table.costs))
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
        weights: Float[Tensor, "batch condition"],
    ) -> Float[Tensor, " batch"]:
        if self.duals is None:
            return torch.zeros(len(excess), device=excess.device)
        own, positions = self.conditions.weights(weights), self.conditions.positions(weights)
        return weighed(excess, self.handling.dependence.at(self.duals.multipliers, own, positions))


def _readable(scored: Scored) -> Float[Tensor, "batch objective"]:
    """Weights on the simplex for the scalarisation; equal ones where nothing counts anyway."""
    equal = torch.full_like(scored.weights, 1 / scored.weights.shape[1])
    return torch.where(scored.counts[:, None], scored.weights, equal)
