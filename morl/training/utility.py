"""From a scored batch to what is optimised: comparable rewards, scalarisation, multipliers.

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
from morl.algorithms.normalization import Normalize, divisors, effective_weights
from morl.algorithms.tail import tail_weights
from morl.training.mean_rewards import MeanRewards
from rewards.applicability import applicable_weights
from rewards.calibration import Calibration
from rewards.constraints import DualAscent, lagrangian_penalty, violation
from rewards.evaluate import ObjectiveTable
from rewards.objective import Objective
from rewards.scalarization import utility, utility_gradient


@dataclass(frozen=True)
class Scored:
    """One scored batch in the units that the losses use."""

    rewards: Float[Tensor, "batch objective"]
    valid: Bool[Tensor, "batch objective"]
    coefficients: Float[Tensor, "batch objective"]
    """d utility / d reward at the running mean (on="mean") or at the sample (on="sample")."""
    penalty: Float[Tensor, " batch"]
    """Sum over constraints of multiplier times violation; to be subtracted from the utility."""
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
    """What a step saw, without gradients: the input of every running estimate and of the log."""

    weights: Float[Tensor, "batch objective"]
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
    """Scalarisation and constraints of one run, with their state.

    Where an objective does not apply to a sample, that sample's weights are renormalised over the
    others. normalize: what advantages are divided by, beyond calibration, inside each group:
    nothing ("base"), each reward's own std ("group_std"), or the std of their weighted raw sum
    ("group_std_sum"). tail in (0, 1]: the share of the prompts, the worst ones, whose mean utility
    is optimised; constraints still hold on average over all. aggregation: how the gradients of the
    objectives become one (`morl.algorithms.aggregation_facts`).
    """

    def __init__(
        self,
        objective: Objective,
        calibration: Calibration,
        duals: DualAscent | None,
        *,
        normalize: Normalize = "base",
        tail: float = 1.0,
        aggregation: str = "none",
    ) -> None:
        self.objective = objective
        self.calibration = calibration
        self.duals = duals
        self.normalize = normalize
        self.tail = tail
        self.aggregation = aggregation
        self.means = MeanRewards(len(objective.names))
        self.shares = torch.ones(len(objective.names))
        """Factors on the objectives' coefficients, which a guard may lower."""

    def score(
        self,
        table: ObjectiveTable,
        weights: Float[Tensor, "batch objective"],
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
            self._penalty(table),
            torch.ones_like(rewards),
            group.to(rewards.device),
            torch.zeros_like(rewards),
        )
        return self.rescored(scored, weights)

    def rescored(self, scored: Scored, weights: Float[Tensor, "batch objective"]) -> Scored:
        """The same images as other weight vectors see them."""
        own = weights.detach().to(scored.rewards)
        scored = replace(scored, weights=applicable_weights(own, scored.valid))
        scale = divisors(
            self.normalize,
            scored.rewards,
            scored.valid,
            scored.weights,
            scored.group,
            torch.tensor(self.calibration.std).to(scored.rewards),
        )
        return replace(scored, coefficients=self._coefficients(scored, weights), scale=scale)

    def utility(self, scored: Scored, weights: Float[Tensor, "batch objective"]) -> Tensor:
        """The differentiable utility [B] whose gradient the reward-gradient regime follows."""
        if self.objective.on == "sample":
            value = self._own(scored, scored.rewards)
        else:
            value = (scored.coefficients * scored.rewards * scored.valid).sum(dim=1)
        return self._in_tail(value, scored, weights) - scored.penalty

    def contributions(
        self, scored: Scored, weights: Float[Tensor, "batch objective"]
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
            own = self._own(scored, scored.rewards)[:, None]
            mixed = group_advantages(own, scored.counts[:, None], group, clip)[:, 0]
        else:
            each = group_advantages(scored.rewards / scored.scale, scored.valid, group, clip)
            mixed = (scored.coefficients * each).sum(dim=1)
        return self._in_tail(mixed, scored, weights) - penalty

    def observe(self, seen: Observation) -> dict[str, float]:
        """Update means and multipliers after a step; returns what the log should show."""
        self.means.update(seen.weights, seen.rewards, seen.valid)
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
        self, scored: Scored, weights: Float[Tensor, "batch objective"]
    ) -> Float[Tensor, "batch objective"]:
        at = scored.rewards.detach()
        if self.objective.on == "mean":
            at = self.means.at(weights).to(at)
        name, params = self.objective.scalarization, self.objective.params
        found = utility_gradient(name, at, _readable(scored), **params)
        counts = scored.valid & scored.counts[:, None]
        return torch.where(counts, found * self.shares.to(found), torch.zeros_like(found))

    def _own(
        self, scored: Scored, rewards: Float[Tensor, "batch objective"]
    ) -> Float[Tensor, " batch"]:
        """The scalarisation of each row of rewards; 0 for a sample that counts nowhere."""
        function = utility(self.objective.scalarization, self.objective.params)
        value = function(rewards, _readable(scored))
        return torch.where(scored.counts, value, torch.zeros_like(value))

    def _in_tail(
        self,
        value: Float[Tensor, " batch"],
        scored: Scored,
        weights: Float[Tensor, "batch objective"],
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


def _readable(scored: Scored) -> Float[Tensor, "batch objective"]:
    """Weights on the simplex for the scalarisation; equal ones where nothing counts anyway."""
    equal = torch.full_like(scored.weights, 1 / scored.weights.shape[1])
    return torch.where(scored.counts[:, None], scored.weights, equal)
