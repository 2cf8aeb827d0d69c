"""Denoising regression: noise finished images again and contrast the predictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from morl.algorithms.interface import DenoisingAlgorithm, DenoisingTerms
from morl.diffusion.replay import denoise
from morl.diffusion.rollout import Bind, Rollout
from morl.training.collect import Collector, Draws, MicroStep, Parts
from morl.training.data import TrainingBatch
from morl.training.relabel import relabelled


class DenoisingCollector(Collector):
    """Samples with a slow copy of the adapter, and regresses the adapter on its images."""

    def __init__(self, algorithm: DenoisingAlgorithm, parts: Parts) -> None:
        super().__init__(parts)
        self.algorithm = algorithm
        self.old = {
            name: parameter.detach().clone()
            for name, parameter in self.sampler.adapter.named_parameters()
        }

    def collect(self, batch: TrainingBatch, draws: Draws) -> Iterator[MicroStep]:
        count = len(batch.prompts)
        parts = self._begin(count)
        with self.sampler.adapter.using(self.old), torch.no_grad():
            rollouts = self.sampler.record(
                batch.prompts,
                batch.weights,
                self.sampler.noise(count, draws.generator("noise")),
            )
            images = self.sampler.decode(torch.cat([rollout.final for rollout in rollouts]))
            scored = self.score(images, list(batch.prompts), batch.weights, batch.group)
        valid = scored.valid.any(dim=1)
        for draw in range(self.algorithm.noise_draws):
            weights = self._weights(batch, draw, draws)
            advantages = self.utility.advantages(
                self.utility.rescored(scored, weights),
                weights,
                batch.group,
                self.algorithm.advantage_clip,
            )
            latents, step = self._noise_again(rollouts, draws.generator(f"renoise {draw}"))
            for part, rollout in zip(parts, rollouts, strict=True):
                asked = replace(rollout, weights=weights[part])
                terms = self._terms(asked, latents[part], step[part])
                output = self.algorithm.loss(terms, advantages[part], valid[part])
                # The loss is a mean over valid images, so a part counts by how many it has.
                share = valid[part].sum() / (valid.sum().clamp(min=1) * self.algorithm.noise_draws)
                last = draw == self.algorithm.noise_draws - 1 and part == parts[-1]
                evaluations = len(rollout) * self.sampler.evaluations_per_step
                yield MicroStep(replace(output, loss=output.loss * share), last, evaluations)

    def after_update(self, step: int) -> None:
        decay = self.algorithm.old_decay(step)
        for name, parameter in self.sampler.adapter.named_parameters():
            self.old[name].lerp_(parameter.detach(), 1 - decay)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.old)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, value in state.items():
            self.old[name].copy_(value)

    def _weights(
        self, batch: TrainingBatch, draw: int, draws: Draws
    ) -> Float[Tensor, "batch condition"]:
        """Whom this copy of the images teaches; every second one may be a neighbour.

        Budgets stay: what exceeded the bound that was asked for need not exceed another.
        """
        radius = self.algorithm.relabel_radius
        if radius == 0 or draw % 2 == 0:
            return batch.weights
        near = draws.generator(f"relabel {draw}")
        conditions = self.utility.conditions
        asked = conditions.weights(batch.weights)
        positions = batch.weights[:, conditions.objectives :]
        return torch.cat([relabelled(asked, batch.group, radius, near), positions], dim=1)

    def _noise_again(
        self, rollouts: Sequence[Rollout], generator: torch.Generator
    ) -> tuple[Tensor, Int[Tensor, " batch"]]:
        schedule = rollouts[0].trajectory.schedule
        clean = torch.cat([rollout.trajectory.latents[-1] for rollout in rollouts])
        step = torch.randint(len(schedule), (len(clean),), generator=generator)
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        return schedule.add_noise(clean, noise, step), step

    def _terms(
        self, rollout: Rollout, latents: Tensor, step: Int[Tensor, " batch"]
    ) -> DenoisingTerms:
        adapter = self.sampler.adapter
        with torch.no_grad(), self.ledger.phase("reference"):
            with adapter.using(self.old):
                old = self._predict(rollout, latents, step, adapter.bind)
            reference = self._predict(rollout, latents, step, self.sampler.reference)
        with self.ledger.phase("replay"):
            current = self._predict(rollout, latents, step, adapter.bind)
        evaluations = len(rollout) * self.sampler.evaluations_per_step
        self.ledger.reference_forwards += 2 * evaluations
        self.ledger.gradient_forwards += evaluations
        return DenoisingTerms(rollout.trajectory.latents[-1], current, old, reference)

    def _predict(
        self, rollout: Rollout, latents: Tensor, step: Int[Tensor, " batch"], bind: Bind
    ) -> Float[Tensor, "batch ..."]:
        schedule = rollout.trajectory.schedule
        with bind(rollout.weights):
            prediction = denoise(
                self.sampler.pipe,
                self.sampler.family,
                latents,
                schedule.timesteps[step.to(schedule.timesteps.device)],
                rollout.trajectory.calls[-1],
                guidance=rollout.guidance,
            )
        return schedule.clean(prediction, latents, step)
