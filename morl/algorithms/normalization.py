"""What rewards are divided by inside groups, and what that makes of the weights."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Normalize = Literal["base", "group_std", "group_std_sum"]
# Below this many base standard deviations a spread is the rounding of batched arithmetic.
NO_SPREAD = 1e-6
# Added to a group's std before it divides; raw or base units. Source: the Flow-GRPO repository.
STD_FLOOR = 1e-4


def divisors(
    normalize: Normalize,
    rewards: Float[Tensor, "batch objective"],
    valid: Bool[Tensor, "batch objective"],
    weights: Float[Tensor, "batch objective"],
    group: Int[Tensor, " batch"],
    base_std: Float[Tensor, " objective"],
) -> Float[Tensor, "batch objective"]:
    """What each calibrated reward is divided by, on top of its calibration.

    base: d_ik = 1
    group_std: d_ik = std_g(u_k) + 1e-4
    group_std_sum: d_ik = (std_g(sum_j w_j sigma_j u_j) + 1e-4) / sigma_k

    u: calibrated `rewards` [B,K]; sigma: `base_std` [K] > 0, so that sigma_k u_k is the raw reward
    up to a constant; w: `weights` [B,K], 0 where an objective does not apply; g: `group`. The last
    is the advantage of the weighted *raw* sum over the std of that sum, in which the reward of the
    largest scale wins. Infinite where a group shows no spread, which takes it out.
    Source: group_std: ParetoSlider, arXiv 2604.20816; group_std_sum: Flow-GRPO, arXiv 2505.05470.
    """
    if normalize == "base":
        return torch.ones_like(rewards)
    if normalize == "group_std":
        return group_std(rewards, valid, group) + STD_FLOOR
    summed = (weights * rewards * base_std).sum(dim=1, keepdim=True)
    counts = weights.sum(dim=1, keepdim=True) > 0
    return (group_std(summed, counts, group) + STD_FLOOR) / base_std


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
