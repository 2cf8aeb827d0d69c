"""Rewards that apply to part of the samples: what is left of the weights."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor


def applicable_weights(
    weights: Float[Tensor, "batch objective"], valid: Bool[Tensor, "batch objective"]
) -> Float[Tensor, "batch objective"]:
    """Each sample's weights, renormalised over the objectives that apply to it.

    w'_ik = w_ik v_ik / sum_j w_ij v_ij

    Rows whose weight lies on inapplicable objectives alone are 0: such a sample counts nowhere.
    Where all objectives apply, the row is returned as it is.
    """
    kept = weights * valid
    total = kept.sum(dim=1, keepdim=True)
    shared = kept / total.where(total > 0, total.new_ones(()))
    return shared.where(~valid.all(dim=1, keepdim=True), weights)
