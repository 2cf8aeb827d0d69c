"""The pipeline, the adapter and the sampling settings of one run, with every call counted."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float
from torch import Tensor

from morl.diffusion.families import Family, decode
from morl.diffusion.gradient import GradientSteps
from morl.diffusion.prompts import PromptCache
from morl.diffusion.rollout import Rollout, initial_latents, sample, sample_with_gradient
from morl.lora.conditioned import ConditionedAdapter
from morl.training.ledger import Ledger


@dataclass(frozen=True)
class Sampler:
    """Draws images for (prompt, weight vector) pairs; one place counts what that costs."""

    pipe: DiffusionPipeline
    family: Family
    adapter: ConditionedAdapter
    prompts: PromptCache
    ledger: Ledger
    steps: int
    guidance: float

    @property
    def evaluations_per_step(self) -> int:
        """Network evaluations of one image at one step: 2 under classifier-free guidance."""
        return self.family.groups(self.guidance)

    def reference(self, weights: Tensor) -> AbstractContextManager[None]:
        """The base model as a binding: it has no weights to read."""
        del weights
        return self.adapter.disabled()

    def noise(self, batch: int, generator: torch.Generator) -> Float[Tensor, "batch ..."]:
        return initial_latents(self.pipe, self.family, batch, generator)

    def sample(
        self,
        prompts: Sequence[str],
        weights: Float[Tensor, "batch objective"],
        noise: Float[Tensor, "batch channel height width"],
        *,
        eta: float = 0.0,
        generator: torch.Generator | None = None,
        record: bool = False,
        reference: bool = False,
    ) -> Rollout:
        """Sample without gradients; `reference` samples the base model."""
        with self.ledger.phase("sample"):
            rollout = sample(
                self.pipe,
                self.family,
                self.prompts(prompts),
                weights,
                latents=noise,
                steps=self.steps,
                guidance=self.guidance,
                eta=eta,
                generator=generator,
                bind=self.reference if reference else self.adapter.bind,
                record=record,
            )
        evaluations = len(prompts) * self.steps * self.evaluations_per_step
        if reference:
            self.ledger.reference_forwards += evaluations
        else:
            self.ledger.forwards += evaluations
        self.ledger.images += len(prompts)
        return rollout

    def sample_with_gradient(
        self,
        prompts: Sequence[str],
        weights: Float[Tensor, "batch objective"],
        noise: Float[Tensor, "batch channel height width"],
        gradient: GradientSteps,
    ) -> Rollout:
        """Sample so that the final latents carry gradients of the chosen denoiser calls."""
        with self.ledger.phase("sample"):
            rollout = sample_with_gradient(
                self.pipe,
                self.family,
                self.prompts(prompts),
                weights,
                latents=noise,
                steps=self.steps,
                gradient=gradient,
                guidance=self.guidance,
                bind=self.adapter.bind,
            )
        per_step = len(prompts) * self.evaluations_per_step
        self.ledger.forwards += per_step * (self.steps - len(gradient.steps))
        self.ledger.gradient_forwards += per_step * len(gradient.steps)
        self.ledger.images += len(prompts)
        return rollout

    def decode(self, latents: Tensor) -> Float[Tensor, "batch 3 pixel_row pixel_column"]:
        """Decode finished latents to images in [0, 1], as one batch, in the caller's mode."""
        with self.ledger.phase("decode"):
            images = decode(self.pipe, latents)
        self.ledger.decodes += len(latents)
        return images
