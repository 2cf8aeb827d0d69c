"""Members that measure one thing: comparable units, aggregates, and how much they disagree."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rewards.errors import RewardError, nearest
from rewards.expression import AGGREGATES, Aggregate

UWO_PENALTY = 0.5  # per unit of variance of the z-scores; the authors' value for best-of-n
SOFT_MIN_TEMPERATURE = 1.0  # in z-scores; UWO with penalty 1/2 to second order

# Keeps the gradient of a standard deviation finite where members agree exactly, in z-scores.
VARIANCE_FLOOR = 1e-12


class NoProtectionError(RewardError, ValueError):
    """An ensemble of one member, or of equal members: its disagreement says nothing."""


def aggregate(
    members: Float[Tensor, "batch member"],
    base_mean: Float[Tensor, " member"],
    base_std: Float[Tensor, " member"],
    how: Aggregate = "mean",
    direction: Literal[-1, 1] = 1,
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Combine members in comparable units, and say how much they disagree.

    z_im = (r_im - mu_m) / sigma_m;  value_i = mubar + sigmabar agg_m z_im
    std_i = sigmabar sqrt( sum_m (z_im - zbar_i)^2 / (M - 1) )

    r: `members` [B,M], M >= 2; mu, sigma: `base_mean`, `base_std` [M] on base samples, sigma > 0;
    mubar, sigmabar: their means over members, so that the value is back in raw units. agg, with
    d = `direction`, -1 where less is better, so that every pessimistic one errs on the safe side:

    mean      zbar                          min       d min_m d z_m
    mean-std  zbar - d sqrt(v)              uwo       zbar - d v / 2
    soft-min  -d b log mean_m exp(-d z_m / b),  b = 1

    v: unbiased variance over the members. Small b gives min, large b the mean, and between them
    zbar - d v / (2 b) to second order. Members that share data or an encoder agree on their common
    errors: then std understates. Raises NoProtectionError for fewer than two members.
    Source: z-scores first, since a minimum over unlike scales is meaningless; min is WCO, and UWO
    takes the unbiased variance, in arXiv 2310.02743; soft-min: arXiv 2606.09073.
    """
    if members.shape[1] < 2:
        raise NoProtectionError(
            f"an ensemble needs at least 2 members to disagree; got {members.shape[1]}"
        )
    z = (members - base_mean) / base_std
    std = (z.var(dim=1) + VARIANCE_FLOOR).sqrt()
    match how:
        case "mean":
            combined = z.mean(dim=1)
        case "min":
            combined = z.amin(dim=1) if direction > 0 else z.amax(dim=1)
        case "mean-std":
            combined = z.mean(dim=1) - direction * std
        case "uwo":
            combined = z.mean(dim=1) - direction * UWO_PENALTY * z.var(dim=1)
        case "soft-min":
            worst = torch.logsumexp(-direction * z / SOFT_MIN_TEMPERATURE, dim=1)
            combined = -direction * SOFT_MIN_TEMPERATURE * (worst - math.log(z.shape[1]))
        case _:
            raise ValueError(f"unknown `how` {how!r}; {nearest(how, AGGREGATES)}")
    return base_mean.mean() + base_std.mean() * combined, base_std.mean() * std


def require_disagreement(members: Float[Tensor, "batch member"]) -> None:
    """Raise NoProtectionError where two members give the same scores on every base sample."""
    for i in range(members.shape[1]):
        for j in range(i):
            if torch.equal(members[:, i], members[:, j]):
                raise NoProtectionError(
                    f"members {j} and {i} of an ensemble give the same scores on all "
                    f"{len(members)} base samples: their disagreement protects from nothing; train "
                    "them on different bootstraps or encoders"
                )
