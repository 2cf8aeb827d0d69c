"""Reward gradient: differentiate the utility through the sampler's last steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from morl.algorithms.interface import LossOutput, RewardGradientAlgorithm
from morl.diffusion.gradient import GradientSteps
from morl.diffusion.recorder import Part
from morl.diffusion.replay import Renoised, denoise, renoise_last_step, replay_noise_pred
from morl.diffusion.rollout import Rollout
from morl.training.collect import Collector, Draws, MicroStep, Parts
from morl.training.data import TrainingBatch
from morl.training.observation import Scored


class RewardGradientCollector(Collector):
    """Every image carries its own weight vector; no groups are needed."""

    def __init__(self, algorithm: RewardGradientAlgorithm, parts: Parts) -> None:
        super().__init__(parts)
        self.algorithm = algorithm

    def collect(self, batch: TrainingBatch, draws: Draws) -> Iterator[MicroStep]:
        count = len(batch.prompts)
        parts = self._begin(count)
        noise = self.sampler.noise(count, draws.generator("noise"))
        gradient = self.algorithm.gradient_steps(self.sampler.steps, draws.generator("steps"))
        for part in parts:
            rollout = self.sampler.sample_with_gradient(
                batch.prompts[part], batch.weights[part], noise[part], gradient
            )
            renoised = self._renoise(rollout, Part(part.start, count), draws)
            output = self._loss(rollout, renoised, gradient, batch.group[part])
            differentiated = len(rollout) * (len(gradient.steps) + self.algorithm.renoise_copies)
            yield MicroStep(
                output.scaled(len(rollout) / count),
                part == parts[-1],
                differentiated * self.sampler.evaluations_per_step,
            )

    def _loss(
        self,
        rollout: Rollout,
        renoised: Renoised | None,
        gradient: GradientSteps,
        group: Int[Tensor, " batch"],
    ) -> LossOutput:
        copies = 1 + self.algorithm.renoise_copies
        latents = rollout.final if renoised is None else torch.cat([rollout.final, renoised.final])
        weights = rollout.weights.repeat(copies, 1)
        images = self.sampler.decode(latents)
        scored = self.score(images, list(rollout.prompts) * copies, weights, group)
        kl = self._kl(rollout, gradient, renoised)
        output = self.algorithm.loss(self.utility.utility(scored, weights), kl)
        if self.utility.aggregation == "none":
            return output
        return replace(
            output,
            loss=self.algorithm.loss(-scored.penalty, kl).loss,
            objectives=self._apart(scored, weights),
        )

    def _apart(
        self, scored: Scored, weights: Float[Tensor, "rows condition"]
    ) -> Float[Tensor, " objective"]:
        """The loss of each objective's share of the utility, by itself."""
        shares = self.utility.contributions(scored, weights).unbind(dim=1)
        return torch.stack([self.algorithm.loss(u, torch.zeros_like(u)).loss for u in shares])

    def _renoise(self, rollout: Rollout, part: Part, draws: Draws) -> Renoised | None:
        copies = self.algorithm.renoise_copies
        if not copies:
            return None
        with self.ledger.phase("renoise"):
            renoised = renoise_last_step(
                self.sampler.pipe,
                self.sampler.family,
                rollout,
                generator=draws.generator("renoise"),
                copies=copies,
                part=part,
                bind=self.sampler.adapter.bind,
            )
        self.ledger.gradient_forwards += len(renoised.final) * self.sampler.evaluations_per_step
        return renoised

    def _kl(
        self, rollout: Rollout, gradient: GradientSteps, renoised: Renoised | None
    ) -> Float[Tensor, " rows"]:
        """Mean squared distance of the predictions to the base model's, at the same latents."""
        sampler = self.sampler
        rows = len(rollout) + (0 if renoised is None else len(renoised.final))
        if not self.algorithm.needs_reference:
            return torch.zeros(rows, device=rollout.final.device)
        with torch.no_grad(), self.ledger.phase("reference"):
            references = [
                replay_noise_pred(
                    sampler.pipe, sampler.family, rollout, step, bind=sampler.reference
                )
                for step in sorted(gradient.steps)
            ]
            if renoised is not None:
                with sampler.reference(rollout.weights):
                    renoised_reference = denoise(
                        sampler.pipe,
                        sampler.family,
                        renoised.latents,
                        renoised.timestep,
                        rollout.trajectory.calls[-1],
                        guidance=rollout.guidance,
                    )
        self.ledger.reference_forwards += sampler.evaluations_per_step * (
            len(rollout) * len(references) + rows - len(rollout)
        )
        distances = [
            _distance(prediction, reference)
            for prediction, reference in zip(rollout.predictions, references, strict=True)
        ]
        kl = torch.stack(distances).mean(dim=0)
        if renoised is not None:
            kl = torch.cat([kl, _distance(renoised.prediction, renoised_reference)])
        return kl


def _distance(prediction: Tensor, reference: Tensor) -> Float[Tensor, " rows"]:
    return (prediction - reference).square().flatten(1).mean(dim=1)
