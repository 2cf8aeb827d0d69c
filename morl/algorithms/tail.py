"""The worst prompts of a batch: conditional value at risk (CVaR) as weights of samples."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def tail_weights(
    utilities: Float[Tensor, " batch"],
    valid: Bool[Tensor, " batch"],
    group: Int[Tensor, " batch"],
    share: float,
) -> Float[Tensor, " batch"]:
    """Weights under which a batch's mean is the mean of its worst groups: CVaR over prompts.

    t_g = clip(q G - n_g, 0, 1) / q,  n_g: how many groups have a lower mean utility

    q: `share` in (0, 1]; G: groups with a valid sample; group: one number for each (prompt, weight
    vector). The worst floor(q G) groups weigh 1/q, the next what is left, all others 0; the mean
    over groups is 1, and q = 1 is the plain mean. No gradient flows through the weights, which is
    exact (Danskin) but for ties. The estimator is the CVaR of the *batch*: its expectation lies
    above the CVaR of the prompt distribution, by O(1 / (q G)), as the worst of few are less bad
    than the worst of many; with q G <= 1 the one worst group is all there is. On the other side,
    noise in a group's mean of few samples counts as a difference of prompts and lowers it. Raises
    ValueError for a share out of range.
    Source: Rockafellar and Uryasev, J. Risk 2(3), 2000, for the estimator.
    """
    if not 0 < share <= 1:
        raise ValueError(f"`share` must lie in (0, 1]; got {share}")
    numbers = torch.unique(group, return_inverse=True)[1].to(utilities.device)
    weight = valid.to(utilities.dtype)
    zeros = torch.zeros(int(numbers.max()) + 1, dtype=utilities.dtype, device=utilities.device)
    count = zeros.index_add(0, numbers, weight)
    total = zeros.index_add(0, numbers, utilities.detach() * weight)
    counted = count > 0
    mean = torch.where(counted, total / count.clamp(min=1), torch.inf)
    rank = mean.argsort(stable=True).argsort().to(utilities.dtype)
    room = share * counted.sum()
    tail = (room - rank).clamp(0, 1) / share
    return torch.where(valid, tail[numbers], torch.zeros_like(utilities))
