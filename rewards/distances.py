"""Distances between two sets of images, from their features: FID, KID, CMMD. They judge a set.

They are evaluation metrics and no rewards: one number a set, none an image.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

Features = Float[Tensor, "image feature"]
Reference = Float[Tensor, "other feature"]

CMMD_SIGMA = 10.0
CMMD_SCALE = 1000.0
KID_SUBSETS, KID_SUBSET = 100, 1000
# Rows of a kernel matrix held at once: 1,024 x 30,000 numbers are 250 MB.
ROWS = 1024


class _Given(nn.Module):
    """Stands in torchmetrics where its network would: what is given are features already."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Features) -> Features:
        return features


def fid(features: Features, reference: Reference) -> float:
    """Frechet distance of two Gaussians with the sets' moments, by torchmetrics; 0 is equal.

    d^2 = |m_1 - m_2|^2 + tr(S_1) + tr(S_2) - 2 tr (S_1 S_2)^(1/2)

    m, S: mean and unbiased covariance of `features` [N,d] and `reference` [M,d]; in squared units
    of the features. Misleading when: it grows as N or M shrinks (a set against itself re-drawn is
    not 0), so sets of different sizes do not compare, and with fewer images than d the covariances
    are singular. Raises ValueError for fewer than 2 images or other widths.
    Source: arXiv 1706.08500, with features of Inception; any others give another scale.
    """
    _require(features, reference)
    metric = FrechetInceptionDistance(feature=_Given(features.shape[1]))
    metric.update(features.double(), real=False)
    metric.update(reference.double(), real=True)
    distance: float = metric.compute().item()
    return distance


def kid(
    features: Features, reference: Reference, generator: torch.Generator
) -> tuple[float, float]:
    """Mean and deviation over random subsets of the unbiased MMD^2, by torchmetrics.

    k(x, y) = (x . y / d + 1)^3

    100 subsets of at most 1,000 of `features` [N,d] and `reference` [M,d], drawn by `generator`
    without replacement; 0 on average for equal distributions, and therefore also below 0. The
    deviation is that of subsets, not of the mean. Raises ValueError as `fid`.
    Source: arXiv 1801.01401, with features of Inception.
    """
    _require(features, reference)
    size = min(KID_SUBSET, len(features), len(reference))
    found = torch.stack(
        [
            poly_mmd(_drawn(reference, size, generator), _drawn(features, size, generator))
            for _ in range(KID_SUBSETS)
        ]
    )
    return found.mean().item(), found.std(unbiased=False).item()


def cmmd(features: Features, reference: Reference) -> float:
    """1,000 times the MMD^2 of a Gaussian kernel between unit-length embeddings; 0 is equal.

    MMD^2 = mean_ij k(x_i, x_j) + mean_ij k(y_i, y_j) - 2 mean_ij k(x_i, y_j)
    k(x, y) = exp(-|x - y|^2 / (2 sigma^2)),  sigma = 10

    x: `features` [N,d], y: `reference` [M,d], brought to length 1; all pairs count, those of an
    image with itself as well (the biased estimate), so that it is never below 0. In float64: k
    differs from 1 in the third digit. Raises ValueError as `fid`.
    Source: arXiv 2401.09603, with embeddings of CLIP ViT-L/14 at 336 pixels.
    """
    _require(features, reference)
    x, y = (F.normalize(rows.double(), dim=1) for rows in (features, reference))
    squared = _mean_kernel(x, x) + _mean_kernel(y, y) - 2 * _mean_kernel(x, y)
    return CMMD_SCALE * max(squared, 0.0)


def _drawn(rows: Features, size: int, generator: torch.Generator) -> Reference:
    chosen = torch.randperm(len(rows), generator=generator)[:size]
    return rows[chosen.to(rows.device)].double()


def _mean_kernel(x: Features, y: Reference) -> float:
    """Mean of exp(-|x - y|^2 / (2 sigma^2)) over all pairs of rows of length 1."""
    sums = [torch.exp((part @ y.T - 1) / CMMD_SIGMA**2).sum() for part in x.split(ROWS)]
    return math.fsum(part.item() for part in sums) / (len(x) * len(y))


def _require(features: Features, reference: Reference) -> None:
    if features.shape[1] != reference.shape[1]:
        raise ValueError(
            f"`features` and `reference` must be of one width; got {features.shape[1]} and "
            f"{reference.shape[1]}"
        )
    for name, rows in (("features", features), ("reference", reference)):
        if len(rows) < 2:
            raise ValueError(f"`{name}` must hold at least 2 images; got {len(rows)}")
        if not rows.isfinite().all():
            raise ValueError(f"`{name}` must be finite")
