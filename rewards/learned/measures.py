"""How good a learned reward is on labels that it has not seen."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

BINS = 15  # arXiv 1706.04599


def accuracy(logits: Float[Tensor, " label"], answers: Bool[Tensor, " label"]) -> float:
    """Share of the answers on whose side the logit is; a logit of 0 is half right."""
    right = torch.where(answers, logits, -logits).sign()
    return ((right + 1) / 2).mean().item()


def correlation(values: Float[Tensor, " item"], target: Float[Tensor, " item"]) -> float:
    """Pearson's r in [-1, 1]; 0 where either never varies."""
    x, y = (t.double() - t.double().mean() for t in (values, target))
    scale = (x.square().sum() * y.square().sum()).sqrt()
    return ((x * y).sum() / scale).item() if scale else 0.0


def calibration_error(
    probability: Float[Tensor, " label"], answers: Bool[Tensor, " label"], bins: int = BINS
) -> float:
    """Expected calibration error of probabilities of "yes", in [0, 1].

    ECE = sum_b |b| / N |share of yes in b - mean probability in b|, b: bins of equal width on
    [0, 1]. Few labels a bin leave a positive error of chance. Source: arXiv 1706.04599,
    equation 3, for the probability of yes instead of the confidence.
    """
    number = (probability * bins).long().clamp(max=bins - 1)
    gap = torch.zeros(bins, dtype=torch.double)
    gap.index_add_(0, number, answers.double() - probability.double())
    return (gap.abs().sum() / len(probability)).item()
