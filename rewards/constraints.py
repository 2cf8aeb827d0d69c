"""Constraints on rewards: what violates them by how much, and what that costs a sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from rewards.expression import Sense

SOFTNESS = 0.25
"""Share of the base model's spread over which the push of a quantile constraint fades out."""


def violation(
    costs: Float[Tensor, " batch"],
    valid: Bool[Tensor, " batch"],
    threshold: float | Float[Tensor, " batch"],
    sense: Sense,
    shares: Float[Tensor, " batch"] | None = None,
) -> tuple[float, int]:
    """Mean excess over the threshold on valid samples, and how many there were.

    v = mean_{i valid} p_i (c_i - d)  for "<=",  mean_{i valid} p_i (d - c_i)  for ">=";
    positive: violated

    c_i: `costs` [B], raw units; d: `threshold`, or d_i where each sample has its own; p_i: `shares`
    [B], how far each sample's excess is attributed to what asks, 1 where omitted. Without a valid
    sample v is 0 and the count 0.
    """
    count = int(valid.sum())
    if count == 0:
        return 0.0, 0
    values = costs.detach()[valid].double()
    if isinstance(threshold, Tensor):
        values, threshold = values - threshold.detach().to(values)[valid], 0.0
    if shares is not None:
        part = shares.detach().to(values)[valid]
        values, threshold = values * part, threshold * float(part.mean())
    excess = float(values.mean()) - threshold
    return (excess if sense == "<=" else -excess), count


def measured(costs: Float[Tensor, " batch"], quantile: float | None) -> float:
    """What is bounded, in raw units: the mean of the costs, or their empirical quantile."""
    if quantile is None:
        return float(costs.mean())
    return float(torch.quantile(costs.double(), quantile))


def exceedances(
    costs: Float[Tensor, " batch"],
    threshold: float | Float[Tensor, " batch"],
    sense: Sense,
    spread: float,
) -> Float[Tensor, " batch"]:
    """Whether each sample breaks its bound, with a gradient that pushes it back.

    x_i = 1 if z_i > 0 else 0,  dx_i = dz_i sigmoid(z_i / h),  z_i = s (c_i - d) / spread

    c_i: `costs` [B], raw units; d: `threshold`, or each sample's own; s = +1 for "<=", -1 for ">=";
    spread > 0: the base model's standard deviation of c; h: `SOFTNESS`. The mean of x is the share
    of samples beyond the bound, and Q_p(c) <= d exactly where that share is at most 1 - p: this is
    what a quantile constraint measures, and what the policy gradient weighs. Its own derivative is
    0 everywhere, so a reward gradient follows that of a softened hinge, which does not vanish where
    a sample is furthest out. Misleads as an estimate of the quantile itself, which it never forms.
    Source: proxy constraints of Cotter et al., arXiv 1804.06500 (the player of the parameters
    follows a surrogate, that of the multipliers the true rate).
    """
    z = (costs - threshold) * (1.0 if sense == "<=" else -1.0) / spread
    hinge = SOFTNESS * F.softplus(z / SOFTNESS)
    return (z > 0).to(z) + (hinge - hinge.detach())


def lagrangian_penalty(
    costs: Float[Tensor, "batch constraint"],
    valid: Bool[Tensor, "batch constraint"],
    thresholds: Sequence[float] | Float[Tensor, " constraint"],
    multipliers: Float[Tensor, " constraint"] | Float[Tensor, "batch constraint"],
    senses: Sequence[Sense],
) -> Float[Tensor, " batch"]:
    """What constraints take from the utility of each sample.

    p_i = sum_j lambda_ij s_j (c_ij - d_j) [i valid for j] B / n_j

    c: `costs` [B,J], differentiable; d: `thresholds` [J]; lambda >= 0: `multipliers` [J], or [B,J]
    where each sample has its own, constant here; s_j = +1 for "<=", -1 for ">="; n_j: valid
    samples of constraint j. The factor B / n_j makes the batch mean of p the Lagrangian term over
    *valid* samples, however few they are. Raises ValueError if there are not J of each.
    """
    counts = {len(thresholds), multipliers.shape[-1], len(senses), costs.shape[1]}
    if len(counts) > 1:
        raise ValueError(
            f"`costs` has {costs.shape[1]} constraints, but there are {len(thresholds)} "
            f"thresholds, {multipliers.shape[-1]} multipliers and {len(senses)} senses"
        )
    return weighed(excesses(costs, valid, thresholds, senses), multipliers)


def excesses(
    costs: Float[Tensor, "batch constraint"],
    valid: Bool[Tensor, "batch constraint"],
    thresholds: Sequence[float | Float[Tensor, " batch"]] | Float[Tensor, " constraint"],
    senses: Sequence[Sense],
) -> Float[Tensor, "batch constraint"]:
    """Each sample's part in each violation: the batch mean of a column is its violation.

    e_ij = s_j (c_ij - d_j) [i valid for j] B / n_j, with the symbols of `lagrangian_penalty`; d_ij
    where a bound is each sample's own.
    """
    sign = costs.new_tensor([1.0 if sense == "<=" else -1.0 for sense in senses])
    limit = torch.zeros_like(costs)
    for j, threshold in enumerate(thresholds):
        limit[:, j] = threshold
    scale = len(costs) / valid.sum(dim=0).clamp(min=1)
    # `where`, not a product: what does not apply may be anything, even NaN.
    return torch.where(valid, (costs - limit) * sign, 0.0) * scale


def weighed(
    excess: Float[Tensor, "batch constraint"],
    multipliers: Float[Tensor, " constraint"] | Float[Tensor, "batch constraint"],
) -> Float[Tensor, " batch"]:
    """The penalty of each sample from its `excesses`; multipliers are constants."""
    return (excess * multipliers.detach().to(excess)).sum(dim=1)
