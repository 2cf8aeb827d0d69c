"""Per-objective advantages inside (prompt, weight vector) groups."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# Below this many base standard deviations a spread is the rounding of batched arithmetic.
NO_SPREAD = 1e-6


def group_advantages(
    rewards: Float[Tensor, "batch objective"],
    valid: Bool[Tensor, "batch objective"],
    group: Int[Tensor, " batch"],
    clip: float,
) -> Float[Tensor, "batch objective"]:
    """Each reward minus the mean of the other members of its group, clipped.

    A_ik = clip(r_ik - mean_{j != i, g(j) = g(i)} r_jk, -clip, clip)

    r: calibrated `rewards`, units of base standard deviations; g: `group`, one number for each
    (prompt, weight vector), in 0..B-1; `clip` > 0 in the same units. There is no division by the
    group's own std: it would make the meaning of a weight depend on the prompt (the effective
    weight would be w_k / std_g). Invalid entries, and groups with one valid member, get 0.
    Source: leave-one-out baseline of LOOP, arXiv 2503.00897, eq. 4, applied to each objective.
    """
    if clip <= 0:
        raise ValueError(f"`clip` must be positive; got {clip}")
    group = group.to(rewards.device)
    weight = valid.to(rewards.dtype)
    masked = rewards.detach() * weight
    shape = (rewards.shape[0], rewards.shape[1])
    total = torch.zeros(shape, dtype=rewards.dtype, device=rewards.device)
    count = torch.zeros_like(total)
    total = total.index_add(0, group, masked)[group]
    count = count.index_add(0, group, weight)[group]
    others = (count - 1).clamp(min=1)
    advantages = torch.where(count > 1, masked - (total - masked) / others, 0.0)
    return (advantages * weight).clamp(-clip, clip)


def group_std(
    rewards: Float[Tensor, "batch objective"],
    valid: Bool[Tensor, "batch objective"],
    group: Int[Tensor, " batch"],
) -> Float[Tensor, "batch objective"]:
    """Standard deviation of each reward over the valid members of its group; without gradient.

    Unbiased (n - 1); infinite for a group with fewer than two valid members or a spread below
    `NO_SPREAD`, which teaches nothing: divided by it, advantages vanish. Units of `rewards`.
    """
    numbers = torch.unique(group, return_inverse=True)[1]
    weight = valid.to(rewards.dtype)
    known = rewards.detach() * weight

    def summed(values: Tensor) -> Tensor:
        return torch.zeros_like(values).index_add(0, numbers, values)[numbers]

    count = summed(weight)
    mean = summed(known) / count.clamp(min=1)
    square = summed((known - mean).square() * weight)
    std = (square / (count - 1).clamp(min=1)).sqrt()
    return torch.where((count > 1) & (std > NO_SPREAD), std, torch.inf)


def effective_weights(
    weights: Float[Tensor, "batch objective"], scale: Float[Tensor, "batch objective"]
) -> Float[Tensor, "batch objective"]:
    """The weights that dividing each calibrated reward by `scale` amounts to.

    e_ik = (w_ik / d_ik) / sum_j (w_ij / d_ij)

    w: `weights` [B,K], 0 where an objective does not apply; d: `scale` > 0, what a reward is
    divided by, in units of its std on the base model. d = 1 leaves w as it is; a reward whose
    spread in a group has shrunk to a tenth counts ten times. Rows without weight, and those that an
    infinite scale takes out, are 0.
    """
    found = weights / scale
    return found / found.sum(dim=1, keepdim=True).clamp(min=torch.finfo(found.dtype).tiny)


def zero_spread_share(advantages: Float[Tensor, "batch objective"]) -> Float[Tensor, ""]:
    """Share of samples whose advantages vanish in every objective: they teach nothing."""
    return (advantages == 0).all(dim=1).to(advantages.dtype).mean()
