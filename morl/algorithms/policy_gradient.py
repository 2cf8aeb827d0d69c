"""Clipped policy gradient on recorded denoising trajectories (the DDPO / GRPO family)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from morl.algorithms.interface import LossOutput
from morl.algorithms.settings import PolicyGradientSettings


def clipped_policy_loss(
    log_probs: Float[Tensor, " batch"],
    old_log_probs: Float[Tensor, " batch"],
    advantages: Float[Tensor, " batch"],
    clip_range: float,
) -> LossOutput:
    """The clipped surrogate of PPO for one denoising step.

    L = mean_i max(-A_i rho_i, -A_i clip(rho_i, 1 - c, 1 + c)),  rho_i = exp(l_i - l_i^old)

    l, l^old: `log_probs`, `old_log_probs` [B], means over latent elements; A: `advantages` [B],
    constants; c: `clip_range` > 0 of the *mean* log-ratio, so c = nats / D. The max keeps the
    gradient that undoes a step outside the range (a bare clamp would lose it). At l = l^old the
    gradient is the policy gradient -A grad l.
    Source: DDPO-IS, arXiv 2305.13301, eq. 5 with the clip of PPO, arXiv 1707.06347, eq. 7.
    """
    if clip_range <= 0:
        raise ValueError(f"`clip_range` must be positive; got {clip_range}")
    log_ratio = log_probs - old_log_probs
    ratio = log_ratio.exp()
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_range, 1 + clip_range)
    with torch.no_grad():
        terms = {
            "ratio": ratio.mean(),
            "clip_fraction": ((ratio - 1).abs() > clip_range).to(ratio.dtype).mean(),
            "approx_kl": 0.5 * log_ratio.square().mean(),
        }
    return LossOutput(torch.maximum(unclipped, clipped).mean(), terms)


@dataclass(frozen=True)
class PolicyGradient:
    """Clipped policy gradient with per-objective leave-one-out advantages."""

    settings: PolicyGradientSettings

    @property
    def group_size(self) -> int:
        return self.settings.group_size

    @property
    def weights_per_prompt(self) -> int:
        return self.settings.weights_per_prompt

    @property
    def inner_epochs(self) -> int:
        return self.settings.inner_epochs

    @property
    def timestep_fraction(self) -> float:
        return self.settings.timestep_fraction

    @property
    def eta(self) -> float:
        return self.settings.eta

    @property
    def noise_steps(self) -> int | None:
        return self.settings.noise_steps

    @property
    def advantage_clip(self) -> float:
        return self.settings.advantage_clip

    @property
    def needs_reference(self) -> bool:
        return self.settings.kl_coef > 0

    def loss(
        self,
        log_probs: Float[Tensor, " batch"],
        old_log_probs: Float[Tensor, " batch"],
        advantages: Float[Tensor, " batch"],
        kl: Float[Tensor, " batch"],
        elements: int,
    ) -> LossOutput:
        # The clip range is stated in nats of the whole latent; the log-probs are element means.
        surrogate = clipped_policy_loss(
            log_probs, old_log_probs, advantages, self.settings.clip_range / elements
        )
        pull = self.settings.kl_coef * kl.mean()
        return LossOutput(surrogate.loss + pull, {**surrogate.terms, "kl": kl.detach().mean()})
