"""DRaFT: maximise the utility by differentiating through the sampler's last steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from morl.algorithms.interface import LossOutput
from morl.algorithms.settings import DraftSettings
from morl.diffusion.gradient import GradientSteps, drawn_steps, last_steps


def draft_loss(
    utility: Float[Tensor, " batch"], kl: Float[Tensor, " batch"], kl_coef: float
) -> LossOutput:
    """Mean negative utility plus a pull towards the base model.

    L = -mean_i u_i + kl_coef * mean_i d_i

    u_i: `utility` [B] of the finished image, differentiable; d_i: `kl` [B] >= 0, the mean squared
    difference of the predictions of adapter and base at the differentiated steps (for one Gaussian
    step the KL up to the factor D / (2 std^2)); `kl_coef` >= 0. Misleads when read as a trajectory
    KL: the steps before the last K are not in it. Raises ValueError for a negative `kl_coef`.
    Source: DRaFT, arXiv 2309.17400, eq. 2 (the reward term); the pull is ours.
    """
    if kl_coef < 0:
        raise ValueError(f"`kl_coef` must be >= 0; got {kl_coef}")
    loss = -utility.mean() + kl_coef * kl.mean()
    return LossOutput(loss, {"utility": utility.detach().mean(), "kl": kl.detach().mean()})


@dataclass(frozen=True)
class Draft:
    """DRaFT-K, DRaFT-LV (`renoise_copies` > 0 with K = 1) and DRTune (`drawn_steps` > 0)."""

    settings: DraftSettings

    def gradient_steps(self, steps: int, generator: torch.Generator) -> GradientSteps:
        window, drawn = self.settings.last_steps, self.settings.drawn_steps
        return drawn_steps(steps, window, drawn, generator) if drawn else last_steps(steps, window)

    @property
    def renoise_copies(self) -> int:
        return self.settings.renoise_copies

    @property
    def needs_reference(self) -> bool:
        return self.settings.kl_coef > 0

    def loss(self, utility: Float[Tensor, " batch"], kl: Float[Tensor, " batch"]) -> LossOutput:
        return draft_loss(utility, kl, self.settings.kl_coef)
