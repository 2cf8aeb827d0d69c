"""The pipeline, the adapter and the sampling settings of one run, with every call counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float
from torch import Tensor

from morl.diffusion.families import Family, decode
from morl.diffusion.gradient import GradientSteps
from morl.diffusion.prompts import PromptCache
from morl.diffusion.recorder import Part
from morl.diffusion.rollout import Rollout, initial_latents, sample, sample_with_gradient
from morl.lora.conditioned import ConditionedAdapter
from morl.training.ledger import Ledger
from morl.training.micro_batch import MicroBatch


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
    size: tuple[int, int] | None = None
    """(height, width) in pixels; None: the pipeline's own."""
    micro: MicroBatch = field(default_factory=MicroBatch)
    anchor: dict[str, Tensor] = field(default_factory=dict)
    """Adapter parameters that training is pulled towards; empty: the base model."""

    @property
    def evaluations_per_step(self) -> int:
        """Network evaluations of one image at one step: 2 under classifier-free guidance."""
        return self.family.groups(self.guidance)

    def base(self, weights: Tensor) -> AbstractContextManager[None]:
        """The base model as a binding: it has no weights to read."""
        del weights
        return self.adapter.disabled()

    @contextmanager
    def reference(self, weights: Tensor) -> Iterator[None]:
        """What training is pulled towards, as a binding: the base model, or `anchor`."""
        with ExitStack() as stack:
            if self.anchor:
                stack.enter_context(self.adapter.using(self.anchor))
                stack.enter_context(self.adapter.bind(weights))
            else:
                stack.enter_context(self.base(weights))
            yield

    def noise(self, batch: int, generator: torch.Generator) -> Float[Tensor, "batch ..."]:
        return initial_latents(self.pipe, self.family, batch, generator, self.size)

    def sample(
        self,
        prompts: Sequence[str],
        weights: Float[Tensor, "batch objective"],
        noise: Float[Tensor, "batch channel height width"],
        *,
        reference: bool = False,
    ) -> Float[Tensor, "batch channel height width"]:
        """Sample finished latents without gradients or noise; `reference` samples the base."""
        final = [
            self._sample(prompts, weights, noise, part, reference=reference, record=False).final
            for part in self.micro.parts(len(prompts))
        ]
        return torch.cat(final)

    def record(
        self,
        prompts: Sequence[str],
        weights: Float[Tensor, "batch objective"],
        noise: Float[Tensor, "batch channel height width"],
        *,
        eta: float = 0.0,
        noise_steps: int | None = None,
        draw: Callable[[], torch.Generator] | None = None,
    ) -> list[Rollout]:
        """Sample without gradients and record it, one rollout for each micro-batch.

        `draw` makes the generator of the steps' noise, the same at every call: what an image gets
        does not depend on the size of the micro-batches.
        """
        return [
            self._sample(
                prompts,
                weights,
                noise,
                part,
                eta=eta,
                noise_steps=noise_steps,
                generator=None if draw is None else draw(),
            )
            for part in self.micro.parts(len(prompts))
        ]

    def _sample(
        self,
        prompts: Sequence[str],
        weights: Float[Tensor, "batch objective"],
        noise: Float[Tensor, "batch channel height width"],
        part: slice,
        *,
        eta: float = 0.0,
        noise_steps: int | None = None,
        generator: torch.Generator | None = None,
        record: bool = True,
        reference: bool = False,
    ) -> Rollout:
        chosen = prompts[part]
        with self.ledger.phase("sample"):
            rollout = sample(
                self.pipe,
                self.family,
                self.prompts(chosen),
                weights[part],
                latents=noise[part],
                steps=self.steps,
                guidance=self.guidance,
                eta=eta,
                noise_steps=noise_steps,
                generator=generator,
                bind=self.base if reference else self.adapter.bind,
                record=record,
                part=Part(part.start, len(prompts)),
            )
        evaluations = len(chosen) * self.steps * self.evaluations_per_step
        if reference:
            self.ledger.reference_forwards += evaluations
        else:
            self.ledger.forwards += evaluations
        self.ledger.images += len(chosen)
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
        """Decode finished latents to images in [0, 1], in micro-batches, in the caller's mode."""
        with self.ledger.phase("decode"):
            parts = self.micro.parts(len(latents))
            images = torch.cat([decode(self.pipe, latents[part]) for part in parts])
        self.ledger.decodes += len(latents)
        return images
