"""What an algorithm promises to the collector of its regime; the only thing that training knows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from morl.diffusion.gradient import GradientSteps


@dataclass(frozen=True)
class LossOutput:
    """A scalar to minimise, and detached diagnostics under names shared by all algorithms.

    objectives: where gradients are aggregated, the loss of each objective by itself; `loss` is then
    the rest (penalties of constraints, the pull to the base), whose gradient is added.
    """

    loss: Float[Tensor, ""]
    terms: dict[str, Tensor]
    objectives: Float[Tensor, " objective"] | None = None

    def scaled(self, share: float) -> LossOutput:
        """The same with its losses times `share`: a part of a batch in the batch's mean."""
        apart = None if self.objectives is None else self.objectives * share
        return replace(self, loss=self.loss * share, objectives=apart)


@dataclass(frozen=True)
class DenoisingTerms:
    """Predictions of the clean latents for one noised batch, all [batch, ...] of one shape.

    `target`: the finished latents; `current`, `old`, `reference`: x0 predictions at the same noise
    of the adapter in training (with gradients), of the adapter that sampled, and of the base.
    """

    target: Tensor
    current: Tensor
    old: Tensor
    reference: Tensor


@runtime_checkable
class RewardGradientAlgorithm(Protocol):
    """Differentiates the utility through some of the sampler's steps."""

    def gradient_steps(self, steps: int, generator: torch.Generator) -> GradientSteps:
        """Choose what is differentiated when sampling with `steps` steps."""

    @property
    def renoise_copies(self) -> int:
        """Fresh re-noisings of each finished image at the last step."""

    @property
    def needs_reference(self) -> bool:
        """Whether `kl` needs a forward of the base model."""

    def loss(self, utility: Float[Tensor, " batch"], kl: Float[Tensor, " batch"]) -> LossOutput:
        """Turn utilities (to be maximised) and distances from the base into a loss."""


@runtime_checkable
class PolicyGradientAlgorithm(Protocol):
    """Weighs recorded log-probabilities by advantages."""

    @property
    def group_size(self) -> int:
        """Images of one (prompt, weight vector) group."""

    @property
    def weights_per_prompt(self) -> int:
        """Distinct weight vectors of one prompt in a batch."""

    @property
    def inner_epochs(self) -> int:
        """Optimiser steps on one recorded batch."""

    @property
    def timestep_fraction(self) -> float:
        """Share of the steps that carry a log-probability which is trained."""

    @property
    def eta(self) -> float:
        """Noise level of the sampler: 0 is deterministic and has no log-probabilities."""

    @property
    def noise_steps(self) -> int | None:
        """Steps from the start that draw noise; None: all of them."""

    @property
    def advantage_clip(self) -> float:
        """Bound on each per-objective advantage, in base standard deviations."""

    @property
    def needs_reference(self) -> bool:
        """Whether `kl` needs a forward of the base model."""

    def loss(
        self,
        log_probs: Float[Tensor, " batch"],
        old_log_probs: Float[Tensor, " batch"],
        advantages: Float[Tensor, " batch"],
        kl: Float[Tensor, " batch"],
        elements: int,
    ) -> LossOutput:
        """Loss of one timestep; log-probs are means over the `elements` of a latent."""


@runtime_checkable
class DenoisingAlgorithm(Protocol):
    """Regresses denoising predictions on finished images, weighted by their advantage."""

    @property
    def group_size(self) -> int:
        """Images of one (prompt, weight vector) group."""

    @property
    def weights_per_prompt(self) -> int:
        """Distinct weight vectors of one prompt in a batch."""

    @property
    def noise_draws(self) -> int:
        """Noised copies of each finished image in one update."""

    @property
    def advantage_clip(self) -> float:
        """Bound on each per-objective advantage, in base standard deviations."""

    @property
    def relabel_radius(self) -> float:
        """How far every second noised copy's weight vector may move, in L1; 0: not at all."""

    def old_decay(self, step: int) -> float:
        """Share of the sampling adapter that is kept after update `step`."""

    def loss(
        self,
        terms: DenoisingTerms,
        advantages: Float[Tensor, " batch"],
        valid: Bool[Tensor, " batch"],
    ) -> LossOutput:
        """Loss of one noised batch; samples that are not `valid` carry no weight."""
