"""Scalarisations that look at where a reward vector points: PBI and COSMOS. Both can punish a gain.

They trade the sum of the rewards against the angle to a ray, so raising one reward may lower the
utility: each docstring says where it cannot.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from rewards.scalarization_facts import SCALARIZATIONS

_PBI = SCALARIZATIONS["pbi"].parameters
_COSMOS = SCALARIZATIONS["cosmos"].parameters
# Under a square root: the gradient of a norm stays finite at 0, and the value moves by <= 1e-6.
_SQUARED_FLOOR = 1e-12
# A weight of 0 has no inverse; below this one, the ray lies within 1e-6 of a face of the orthant.
_LEAST_WEIGHT = 1e-6


def pbi(
    rewards: Float[Tensor, "batch objective"],
    weights: Float[Tensor, "batch objective"],
    ideal: float = _PBI["ideal"].default,
    theta: float = _PBI["theta"].default,
) -> Float[Tensor, " batch"]:
    """Penalty boundary intersection: close to the ideal point along a ray, and close to the ray.

    s(r) = -(d1 + theta d2),  d1 = (z - r) . u,  d2 = |(z - r) - d1 u|,  u = v / |v|,  v_i = 1 / w_i

    z: `ideal`, an upper bound of every calibrated reward; theta >= 0. The paper's ray is w itself,
    under which a larger weight means a *larger* shortfall; with 1 / w it means a smaller one, and
    the ray is the one that Chebyshev scalarisation aims at, w_i (z - r_i) equal for all i. d s / d
    r_i >= u_i - theta sqrt(1 - u_i^2): monotone in each reward wherever it stands only for theta <=
    min_i u_i / sqrt(1 - u_i^2). Beyond it a sample far from the ray loses by a gain on one reward.
    Raises ValueError if theta < 0 or shapes differ.
    Source: Zhang and Li, IEEE Trans. Evol. Comput. 11(6), 2007, with the ray inverted.
    """
    require_same_shape(rewards, weights)
    if not theta >= 0:
        raise ValueError(f"`theta` must be at least 0; got {theta}")
    ray = _unit(1 / weights.clamp(min=_LEAST_WEIGHT))
    shortfall = ideal - rewards
    along = (shortfall * ray).sum(dim=1)
    across = shortfall - along[:, None] * ray
    return -(along + theta * (across.square().sum(dim=1) + _SQUARED_FLOOR).sqrt())


def cosmos(
    rewards: Float[Tensor, "batch objective"],
    weights: Float[Tensor, "batch objective"],
    nadir: float = _COSMOS["nadir"].default,
    cosine: float = _COSMOS["cosine"].default,
) -> Float[Tensor, " batch"]:
    """Weighted sum of gains, plus how well the vector of gains points along the weight vector.

    s(r) = sum_i w_i g_i + c cos(w, g),  g_i = r_i - n,  cos(w, g) = w . g / (|w| |g|)

    n: `nadir`, a lower bound of every calibrated reward; c: `cosine` >= 0, 0 leaves the weighted
    sum. Written for gains, so that both terms want more of what weighs more (the paper's losses
    make them disagree). |d cos / d g_i| <= 1 / |g|: monotone in reward i where w_i |g| >= c, not
    everywhere. Below the nadir the angle turns away from w and the cosine is negative; at g = 0 it
    is 0, with a finite but steep gradient. Raises ValueError if cosine < 0 or shapes differ.
    Source: arXiv 2103.13392, equation of the loss, for maximisation.
    """
    require_same_shape(rewards, weights)
    if not cosine >= 0:
        raise ValueError(f"`cosine` must be at least 0; got {cosine}")
    gain = rewards - nadir
    angle = (_unit(weights) * gain).sum(dim=1) / _length(gain)
    return (weights * gain).sum(dim=1) + cosine * angle


def require_same_shape(rewards: Tensor, weights: Tensor) -> None:
    """Raise ValueError unless both are [batch, objective]."""
    if rewards.shape != weights.shape or rewards.ndim != 2:
        raise ValueError(
            f"`weights` must have the shape of `rewards` [batch, objective] = "
            f"{list(rewards.shape)}; got {list(weights.shape)}"
        )


def _unit(vectors: Float[Tensor, "batch objective"]) -> Float[Tensor, "batch objective"]:
    return vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True)


def _length(vectors: Float[Tensor, "batch objective"]) -> Float[Tensor, " batch"]:
    return (vectors.square().sum(dim=1) + _SQUARED_FLOOR).sqrt()
