"""Losses of a head's outputs against labels, some of which may be known to be wrong."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def choice_loss(
    first: Float[Tensor, "pair member"],
    second: Float[Tensor, "pair member"],
    chosen: Bool[Tensor, " pair"],
) -> Float[Tensor, "pair member"]:
    """Bradley-Terry: -log sigmoid(s_chosen - s_other).

    Source: arXiv 2203.02155, equation 1.
    """
    sign = torch.where(chosen, 1.0, -1.0)[:, None]
    return -F.logsigmoid(sign * (first - second))


def flag_loss(
    logits: Float[Tensor, "batch member"],
    flagged: Bool[Tensor, " batch"],
    flip_rate: float = 0.0,
) -> Float[Tensor, "batch member"]:
    """Cross-entropy against labels of which a known share is flipped ("forward correction").

    -log q(label), q(1) = (1 - e) p + e (1 - p), p = sigmoid(logit)

    e: `flip_rate` in [0, 0.5). Without it the probability of a clean image could not fall below e,
    and a bound near e could never be met. Source: arXiv 1609.03683, theorem 2.
    """
    if not flip_rate:  # in logits, where a sure and wrong answer keeps a finite loss
        target = flagged.to(logits)[:, None].expand_as(logits)
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    q = flip_rate + (1 - 2 * flip_rate) * torch.sigmoid(logits)
    return -torch.where(flagged[:, None], q, 1 - q).log()


@torch.enable_grad()
def fit_platt(
    logits: Float[Tensor, "batch member"],
    flagged: Bool[Tensor, " batch"],
    flip_rate: float = 0.0,
) -> tuple[float, float]:
    """Slope and offset that make the members' mean probability fit held-out labels.

    flip_rate: the share of them known to be wrong, see `flag_loss`. The likeliest under
    log slope ~ N(0, 1) and offset ~ N(0, 4): labels that a threshold separates have no finite
    likeliest slope of their own. Source: Platt's scaling; priors are ours.
    """
    log_slope = torch.zeros((), requires_grad=True)
    offset = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([log_slope, offset], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Float[Tensor, ""]:
        optimizer.zero_grad()
        p = torch.sigmoid(log_slope.exp() * logits + offset).mean(1)
        q = flip_rate + (1 - 2 * flip_rate) * p
        prior = log_slope.square() / 2 + offset.square() / 8
        # Both ends are kept off 0: without flips a sure and wrong answer would cost infinity.
        chance = torch.where(flagged, q, 1 - q).clamp(min=1e-12)
        loss = (prior - chance.log().sum()) / len(flagged)
        loss.backward()
        return loss

    optimizer.step(closure)
    return math.exp(log_slope.item()), offset.item()
