"""One denoising step as a Gaussian: its mean, its std, log-probabilities, divergence. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Prediction = Literal["epsilon", "v_prediction", "flow"]

SIGMA_ONE = 1e-6  # a shifted schedule starts at 1 up to fp32 rounding, 6e-8


@dataclass(frozen=True)
class StepMoments:
    """The Gaussian N(mean, std^2 I) that the next latents are drawn from; std 0 is deterministic.

    The mean is at least fp32: half-precision latents would lose the log-ratio in rounding.
    """

    mean: Float[Tensor, "batch ..."]
    std: float

    def draw(self, noise: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """Return mean + std * noise."""
        return torch.add(self.mean, noise, alpha=self.std)


def ddim_moments(
    noise_pred: Float[Tensor, "batch ..."],
    latents: Float[Tensor, "batch ..."],
    alpha_t: float,
    alpha_prev: float,
    eta: float,
    prediction: Prediction,
) -> StepMoments:
    """Moments of the DDIM step with noise level eta.

    std  = eta sqrt((1 - a') / (1 - a)) sqrt(1 - a / a')
    mean = sqrt(a') x0 + sqrt(1 - a' - std^2) e
    epsilon: e = p, x0 = (x - sqrt(1 - a) e) / sqrt(a)
    v_prediction: x0 = sqrt(a) x - sqrt(1 - a) p, e = sqrt(a) p + sqrt(1 - a) x

    p: `noise_pred`; x: `latents`; a, a': `alpha_t`, `alpha_prev`, cumulative alphas at this level
    and the next, 0 <= a <= a' <= 1, a < 1; eta in [0, 1]: 0 deterministic, 1 DDPM. At a' = 1 the
    std is 0 and the mean is x0. There is no clipping of x0: it would hide the gradient.
    Raises ValueError outside these ranges, and for epsilon at a = 0, where x0 is undefined.
    Source: DDIM, arXiv 2010.02502, eq. 12 and 16; v: arXiv 2202.00512, appendix D.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"`eta` must lie in [0, 1] for DDIM; got {eta}")
    if not (0 <= alpha_t <= alpha_prev <= 1 and alpha_t < 1):
        raise ValueError(
            f"cumulative alphas must obey 0 <= alpha_t <= alpha_prev <= 1 and alpha_t < 1; "
            f"got alpha_t={alpha_t}, alpha_prev={alpha_prev}"
        )
    signal, noise = math.sqrt(alpha_t), math.sqrt(1 - alpha_t)
    std = 0.0
    if eta > 0 and alpha_prev < 1:
        std = eta * math.sqrt((1 - alpha_prev) / (1 - alpha_t) * (1 - alpha_t / alpha_prev))
    keep = math.sqrt(alpha_prev)
    direction = math.sqrt(max(0.0, 1 - alpha_prev - std**2))
    if prediction == "epsilon":
        if signal == 0:
            raise ValueError("an epsilon prediction has no x0 at `alpha_t` = 0; use v_prediction")
        of_latents = keep / signal
        of_prediction = direction - keep * noise / signal
    elif prediction == "v_prediction":
        of_latents = keep * signal + direction * noise
        of_prediction = direction * signal - keep * noise
    else:
        raise ValueError(f"`prediction` must be epsilon or v_prediction for DDIM; got {prediction}")
    return StepMoments(_linear(latents, of_latents, noise_pred, of_prediction), std)


def flow_sde_moments(
    noise_pred: Float[Tensor, "batch ..."],
    latents: Float[Tensor, "batch ..."],
    sigma: float,
    sigma_next: float,
    eta: float,
) -> StepMoments:
    """Moments of one Euler-Maruyama step of the flow SDE; eta 0 is the plain ODE.

    mean = x + [v + g^2 / (2 sigma) (x + (1 - sigma) v)] d,   d = sigma_next - sigma < 0
    std  = g sqrt(-d),   g^2 = eta^2 sigma / (1 - sigma*)

    v: `noise_pred`, a velocity (noise minus data); x: `latents`; 0 <= sigma_next < sigma <= 1;
    eta >= 0, 0.7 is common. sigma* = sigma, but sigma_next at the first step (sigma = 1), where g
    would be infinite. The last step (sigma_next = 0) is the ODE step whatever eta is: noise added
    there would stay in the image. That departs from the paper, and such a step has no log-prob.
    Misleads at few steps: with eta = 0.7 and a late step of sigma 0.28 -> 0.01 the std is 0.22, far
    above the level of the next step. Raises ValueError outside the ranges.
    Source: Flow-GRPO, arXiv 2505.05470, eq. 9 and its noise schedule.
    """
    if eta < 0:
        raise ValueError(f"`eta` must be >= 0; got {eta}")
    if not 0 <= sigma_next < sigma <= 1:
        raise ValueError(
            f"sigmas must obey 0 <= sigma_next < sigma <= 1; got {sigma} -> {sigma_next}"
        )
    step = sigma_next - sigma
    pull, std = 0.0, 0.0
    if eta > 0 and sigma_next > 0:
        finite = sigma_next if sigma > 1 - SIGMA_ONE else sigma
        pull = eta**2 / (2 * (1 - finite))
        std = math.sqrt(2 * sigma * pull * -step)
    of_prediction = (1 + pull * (1 - sigma)) * step
    return StepMoments(_linear(latents, 1 + pull * step, noise_pred, of_prediction), std)


def gaussian_log_prob(
    x: Float[Tensor, "batch ..."],
    mean: Float[Tensor, "batch ..."],
    std: float,
    reduction: Literal["mean", "sum"] = "mean",
) -> Float[Tensor, " batch"]:
    """Log-density of x under N(mean, std^2 I), its mean or its sum over latent elements.

    l = reduce_d [-(x_d - mean_d)^2 / (2 std^2)] - c (log std + log(2 pi) / 2)

    c = 1 for "mean" (the convention of the field: 1/D of the log-density, so ratios stay near 1),
    c = D for "sum" (the true log-density). Computed in fp32 at least. Raises ValueError if
    std <= 0: a deterministic step has no density.
    """
    if std <= 0:
        raise ValueError(f"`std` must be positive, a deterministic step has no density; got {std}")
    scaled = ((_at_least_fp32(x) - mean) / std).square().flatten(1)
    constant = math.log(std) + 0.5 * math.log(2 * math.pi)
    if reduction == "mean":
        return -0.5 * scaled.mean(1) - constant
    if reduction == "sum":
        return -0.5 * scaled.sum(1) - scaled.shape[1] * constant
    raise ValueError(f"`reduction` must be mean or sum; got {reduction}")


def gaussian_kl(
    mean: Float[Tensor, "batch ..."], mean_ref: Float[Tensor, "batch ..."], std: float
) -> Float[Tensor, " batch"]:
    """True KL divergence, in nats, of two step Gaussians that share their std.

    KL(N(m, s^2 I) || N(m_ref, s^2 I)) = |m - m_ref|^2 / (2 s^2), summed over latent elements

    m, m_ref: `mean`, `mean_ref`; s: `std` > 0. Peers average over elements or drop the factor of
    the step length; their coefficients are not comparable. Raises ValueError if std <= 0.
    """
    if std <= 0:
        raise ValueError(f"`std` must be positive; got {std}")
    return ((mean - mean_ref) / std).square().flatten(1).sum(1) / 2


def clip_range_in_nats(clip_range: float, elements: int) -> float:
    """Trust region of the true log-ratio that a clip range of element-mean log-probs means.

    nats = clip_range * D

    D: `elements` of one latent. The published 1e-4 is 1.64 nats at D = 16,384 (512 px) and only
    0.1 at D = 1,024: state nats and divide by D to carry a setting over. Raises ValueError unless
    both are positive.

    >>> round(clip_range_in_nats(1e-4, 4 * 64 * 64), 2)
    1.64
    """
    if clip_range <= 0 or elements <= 0:
        raise ValueError(
            f"`clip_range` and `elements` must be positive; got {clip_range}, {elements}"
        )
    return clip_range * elements


def _linear(
    latents: Float[Tensor, "batch ..."],
    of_latents: float,
    noise_pred: Float[Tensor, "batch ..."],
    of_prediction: float,
) -> Float[Tensor, "batch ..."]:
    # Coefficients are Python floats (fp64), so both samplers cost two passes over the latents.
    return torch.add(
        _at_least_fp32(latents) * of_latents, _at_least_fp32(noise_pred), alpha=of_prediction
    )


def _at_least_fp32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
