"""How unsure a single head is, from one matrix in the space of its last layer's features."""

from __future__ import annotations

import torch
from jaxtyping import Float
from scipy.optimize import brentq
from torch import Tensor, nn

from rewards.learned.settings import RewardTrainingError

PRECISIONS = (-12.0, 18.0)  # log10 of the prior precisions that are looked at
RIDGE = 1e-3  # of the mean variance: a direction without any is far, and not infinitely far
# Keeps the gradient of a square root finite right at the centre, in squared units of the reward.
VARIANCE_FLOOR = 1e-12


class LastLayer(nn.Module):
    """std(x) = sqrt( |L^T (phi(x) - centre)|^2 + floor ), of a head's output, differentiable.

    phi [B,W]: what the last layer reads; L [W,W]: `factor`, a root of the covariance Sigma of the
    last layer's weights; floor: the variance of its offset, 0 where only differences mean
    anything. What lies along directions that the labels never varied is far, and unsure; what the
    features themselves do not see stays invisible.
    """

    centre: Tensor
    factor: Tensor
    floor: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("factor", torch.zeros(width, width))
        self.register_buffer("floor", torch.zeros(()))

    def forward(self, phi: Float[Tensor, "batch last"]) -> Float[Tensor, " batch"]:
        variance = ((phi - self.centre) @ self.factor).square().sum(1) + self.floor
        return (variance + VARIANCE_FLOOR).sqrt()

    def of_difference(
        self, first: Float[Tensor, "pair last"], second: Float[Tensor, "pair last"]
    ) -> Float[Tensor, " pair"]:
        """The std of s(first) - s(second), in which centre and offset cancel."""
        variance = ((first - second) @ self.factor).square().sum(1)
        return (variance + VARIANCE_FLOOR).sqrt()

    @classmethod
    def of(
        cls,
        centre: Float[Tensor, " last"],
        factor: Float[Tensor, "last last"],
        floor: float = 0.0,
    ) -> LastLayer:
        """From its three parts, in float32."""
        made = cls(len(centre))
        made.centre.copy_(centre)
        made.factor.copy_(factor)
        made.floor.fill_(floor)
        return made


def laplace(
    phi: Float[Tensor, "image last"],
    curvature: Float[Tensor, " image"],
    weights: Float[Tensor, " last"],
    precision: float | None = None,
) -> LastLayer:
    """Laplace's approximation for outputs s_i = w . phi_i + c that are labelled one by one.

    Sigma = (sum_i h_i psi_i psi_i^T + alpha I)^-1, psi_i = phi_i - sum_j h_j phi_j / sum_j h_j,
    floor = 1 / sum_i h_i: exactly the posterior of Bayesian linear regression under w ~ N(0, 1 /
    alpha) and a flat prior of c where h = 1 / noise variance.

    phi [N,W]; h: `curvature` [N] >= 0 of the negative log-likelihood by s (Gauss-Newton): 1 /
    noise variance for ratings, p (1 - p) for flags; w: `weights` [W], where the posterior is
    expanded; alpha: `precision`, by default the one of largest evidence at w. It takes w as the
    likeliest weights, which early stopping and weight decay bend. Raises RewardTrainingError where
    h is 0 throughout. Source: arXiv 2106.14806 (last layer, generalised Gauss-Newton).
    """
    x, h = phi.double(), curvature.double()
    total = h.sum()
    if not total > 0:
        raise RewardTrainingError("uncertainty: the head is sure of every label (no curvature)")
    centre = (h[:, None] * x).sum(0) / total
    return _posterior(x - centre, h, weights, centre, 1 / total.item(), precision)


def laplace_of_choices(
    first: Float[Tensor, "pair last"],
    second: Float[Tensor, "pair last"],
    curvature: Float[Tensor, " pair"],
    weights: Float[Tensor, " last"],
    centre: Float[Tensor, " last"],
    precision: float | None = None,
) -> LastLayer:
    """The same for Bradley-Terry: Sigma = (sum_i h_i d_i d_i^T + alpha I)^-1, d = first - second.

    A utility has no zero: `std` is that of s(x) - s(centre), `centre` a mean image. h: p (1 - p).
    Source: arXiv 2403.05171, without the curvature.
    """
    d = first.double() - second.double()
    return _posterior(d, curvature.double(), weights, centre.double(), 0.0, precision)


def mahalanobis(
    phi: Float[Tensor, "image last"], like: LastLayer, reference: Float[Tensor, "other last"]
) -> LastLayer:
    """Distance from the images that were labelled, whatever was said of them.

    std(x) = k sqrt( (phi - mean)^T (C + ridge)^-1 (phi - mean) ), C the covariance of `phi` [N,W],
    ridge `RIDGE` x its mean variance, k such that its root mean square on `reference` [M,W] is
    that of `like`: the level is Laplace's, only the metric is another. Source: arXiv 1807.03888,
    for one class.
    """
    x = phi.double()
    centre = x.mean(0)
    covariance = torch.cov(x.T).reshape(x.shape[1], x.shape[1])
    ridge = RIDGE * covariance.diagonal().mean().clamp(min=1e-12)
    variances, axes = torch.linalg.eigh(covariance)
    found = LastLayer.of(centre, axes / (variances.clamp(min=0) + ridge).sqrt())
    level = like(reference).square().mean() / found(reference).square().mean()
    found.factor.mul_(level.sqrt())
    return found


def _posterior(
    design: Float[Tensor, "item last"],
    curvature: Float[Tensor, " item"],
    weights: Float[Tensor, " last"],
    centre: Float[Tensor, " last"],
    floor: float,
    precision: float | None,
) -> LastLayer:
    values, axes = torch.linalg.eigh((design * curvature[:, None]).T @ design)
    values = values.clamp(min=0)
    alpha = likeliest_precision(values, weights) if precision is None else precision
    return LastLayer.of(centre, axes / (values + alpha).sqrt(), floor)


def likeliest_precision(
    eigenvalues: Float[Tensor, " last"], weights: Float[Tensor, " last"]
) -> float:
    """The prior precision alpha of largest evidence at given weights.

    The root of sum_i l_i / (l_i + alpha) = alpha |w|^2, l: `eigenvalues` >= 0 of the Hessian. The
    left side falls and the right one grows, so there is one. Source: MacKay 1992, Bayesian
    interpolation.
    """
    squared = float(weights.double().square().sum())
    values = eigenvalues.double()

    def gap(exponent: float) -> float:
        alpha = 10.0**exponent
        return float((values / (values + alpha)).sum()) - alpha * squared

    low, high = PRECISIONS
    if not gap(low) > 0:
        raise RewardTrainingError("uncertainty: the labels say nothing about the last layer")
    return 10.0 ** (high if gap(high) > 0 else brentq(gap, low, high))
