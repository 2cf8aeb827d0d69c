"""A diffusion model known in closed form: 16 "prompts", each a mixture of two Gaussians."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from morl.randomness import generator

DIM, PROMPTS, COMPONENTS = 8, 16, 2
STD = 0.5  # of a component, along each axis
APART = 0.5  # standard deviation, along each axis, of a component's mean around its prompt's
STEPS = 10
LEVELS: list[float] = torch.sigmoid(torch.linspace(-6, 5, STEPS + 1, dtype=torch.float64)).tolist()
"""Cumulative alphas from noise to data. The last is 0.993, not 1: every step then draws noise, so
that the KL of two trajectories is finite and known."""


def prompt_means() -> Float[Tensor, "prompt component dim"]:
    """The components' means; the same in every run."""
    draw = generator(0, 0, 0, "overoptimization world")
    centres = torch.randn(PROMPTS, 1, DIM, generator=draw)
    return centres + APART * torch.randn(PROMPTS, COMPONENTS, DIM, generator=draw)


def log_density(
    latents: Float[Tensor, "batch dim"],
    means: Float[Tensor, "batch component dim"],
    alpha: float,
) -> Float[Tensor, " batch"]:
    """Log-density of x_t = sqrt(a) x_0 + sqrt(1 - a) e with x_0 from the row's mixture.

    log p_t(x) = log 1/J sum_j N(x; sqrt(a) mu_j, v I),  v = a s^2 + 1 - a

    a: `alpha` in [0, 1]; mu: `means`; s: `STD`; e standard normal.
    """
    variance = alpha * STD**2 + 1 - alpha
    squared = (latents[:, None] - math.sqrt(alpha) * means).square().sum(dim=2)
    constant = latents.shape[1] / 2 * math.log(2 * math.pi * variance)
    parts = -squared / (2 * variance) - constant
    return parts.logsumexp(dim=1) - math.log(means.shape[1])


def base_noise_pred(
    latents: Float[Tensor, "batch dim"],
    means: Float[Tensor, "batch component dim"],
    alpha: float,
) -> Float[Tensor, "batch dim"]:
    """What a perfect denoiser predicts: -sqrt(1 - a) times the gradient of `log_density`."""
    variance = alpha * STD**2 + 1 - alpha
    offsets = math.sqrt(alpha) * means - latents[:, None]
    shares = (offsets.square().sum(dim=2) / (-2 * variance)).softmax(dim=1)
    pull = (shares[..., None] * offsets).sum(dim=1)
    return pull * (-math.sqrt(1 - alpha) / variance)


def step_noise(seed: int, step: int, purpose: str, count: int) -> Float[Tensor, "level batch dim"]:
    """Noise of `count` samplings: the start, then one draw a step."""
    return torch.randn(STEPS + 1, count, DIM, generator=generator(seed, step, 0, purpose))


def drawn_prompts(seed: int, step: int, prompts: int, each: int) -> Int[Tensor, " batch"]:
    """Different prompts at random, `each` rows of every one."""
    order = torch.randperm(PROMPTS, generator=generator(seed, step, 0, "prompts"))
    return order[:prompts].repeat_interleave(each)
