"""Per-objective advantages inside (prompt, weight vector) groups."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


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


def zero_spread_share(advantages: Float[Tensor, "batch objective"]) -> Float[Tensor, ""]:
    """Share of samples whose advantages vanish in every objective: they teach nothing."""
    return (advantages == 0).all(dim=1).to(advantages.dtype).mean()
