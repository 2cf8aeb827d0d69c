"""A KL penalty for the samples alone that a proxy likes better than others do."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def kl_gate(
    proxy: Float[Tensor, "*run batch"],
    auxiliary: Float[Tensor, "*run batch member"],
    share: float = 1.0,
) -> Float[Tensor, "*run batch"]:
    """1 where a sample's proxy rank exceeds its mean auxiliary rank, most of all; else 0.

    u_i = rank_i(proxy) - mean_m rank_i(aux_m),  g_i = [u_i > 0 and u_i among the largest]

    Ranks within the batch, 0 for the lowest score, ties sharing their mean; of u, at most `share`
    of the batch in (0, 1] is gated (more where it ties). Blind where all scorers err together, and
    at share 1 about half of any batch is gated, by chance alone. Raises ValueError for a share out
    of range. Source: GARDO, arXiv 2512.24138, from its stated intent: the published code ranks in
    descending order and so gates the samples that the proxy likes *less* than the others do.
    """
    if not 0 < share <= 1:
        raise ValueError(f"`share` must lie in (0, 1]; got {share}")
    others = ranks(auxiliary.movedim(-1, 0)).mean(dim=0)
    excess = ranks(proxy) - others
    count = max(1, round(share * proxy.shape[-1]))
    least = excess.topk(count, dim=-1).values[..., -1:]
    return ((excess > 0) & (excess >= least)).to(proxy.dtype)


def ranks(scores: Float[Tensor, "*run batch"]) -> Float[Tensor, "*run batch"]:
    """How many of the batch score lower, equal ones counting half; from 0 to batch - 1."""
    lower = scores[..., None, :] < scores[..., :, None]
    equal = scores[..., None, :] == scores[..., :, None]
    return lower.sum(dim=-1) + (equal.sum(dim=-1) - 1) / torch.tensor(2.0, dtype=scores.dtype)
