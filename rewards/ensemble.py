"""Members that disagree: comparable units, aggregates, and what their disagreement is."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rewards.errors import RewardError

Aggregate = Literal["mean", "min", "mean-std"]
VARIANCE_FLOOR = 1e-12
AGGREGATES: tuple[Aggregate, ...] = ("mean", "min", "mean-std")


class NoProtectionError(RewardError, ValueError):
    """An ensemble of one member, or of equal members: its disagreement says nothing."""


def aggregate(
    members: Float[Tensor, "batch member"],
    base_mean: Float[Tensor, " member"],
    base_std: Float[Tensor, " member"],
    how: Aggregate = "mean",
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Combine members in comparable units, and say how much they disagree.

    z_im = (r_im - mu_m) / sigma_m;  value = mubar + sigmabar agg_m z_im;  std = sigmabar std_m z_im

    r: `members` [B,M], M >= 2; mu, sigma: `base_mean`, `base_std` [M] on base samples; mubar,
    sigmabar: their means over members; agg: mean, min, or mean minus one standard deviation. std
    is unbiased over members. Raises NoProtectionError for one member and for members that are
    equal on the whole batch (of at least two samples).
    Source: z-scores first, since a minimum over unlike scales is meaningless; min is WCO of arXiv
    2310.02743.
    """
    if members.shape[1] < 2:
        raise NoProtectionError("an ensemble needs at least 2 members; got 1: no protection")
    spread = (members.detach() - members.detach()[:, :1]).abs().amax()
    if members.shape[0] > 1 and spread == 0:
        raise NoProtectionError(
            f"all {members.shape[1]} members give the same scores: their disagreement is no "
            "protection; train them on different bootstraps or encoders"
        )
    z = (members - base_mean) / base_std
    back_mean, back_std = base_mean.mean(), base_std.mean()
    # The floor keeps the gradient finite where members agree exactly.
    std = (z.var(dim=1) + VARIANCE_FLOOR).sqrt()
    if how == "mean":
        combined = z.mean(dim=1)
    elif how == "min":
        combined = z.amin(dim=1)
    elif how == "mean-std":
        combined = z.mean(dim=1) - std
    else:
        raise ValueError(f"`how` must be one of {', '.join(AGGREGATES)}; got {how!r}")
    return back_mean + back_std * combined, torch.abs(back_std) * std
