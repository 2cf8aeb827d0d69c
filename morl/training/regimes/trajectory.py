"""Policy gradient: replay recorded steps and weigh their log-probabilities by advantages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from morl.algorithms.interface import LossOutput, PolicyGradientAlgorithm
from morl.diffusion.replay import replay_moments
from morl.diffusion.rollout import Rollout
from morl.diffusion.steps import StepMoments, gaussian_kl, gaussian_log_prob
from morl.training.collect import Collector, Draws, MicroStep, Parts
from morl.training.data import TrainingBatch


class TrajectoryCollector(Collector):
    """One micro-step a timestep and micro-batch: memory holds one network call."""

    def __init__(self, algorithm: PolicyGradientAlgorithm, parts: Parts) -> None:
        super().__init__(parts)
        self.algorithm = algorithm

    def collect(self, batch: TrainingBatch, draws: Draws) -> Iterator[MicroStep]:
        count = len(batch.prompts)
        parts = self._begin(count)
        rollouts = self.sampler.record(
            batch.prompts,
            batch.weights,
            self.sampler.noise(count, draws.generator("noise")),
            eta=self.algorithm.eta,
            noise_steps=self.algorithm.noise_steps,
            draw=lambda: draws.generator("steps"),
        )
        with torch.no_grad():
            images = self.sampler.decode(torch.cat([rollout.final for rollout in rollouts]))
            scored = self.score(images, list(batch.prompts), batch.weights, batch.group)
            advantages = self.utility.advantages(
                scored, batch.weights, batch.group, self.algorithm.advantage_clip
            )
        for epoch in range(self.algorithm.inner_epochs):
            chosen = self._timesteps(rollouts[0], draws.generator(f"timesteps {epoch}"))
            for step in chosen:
                for part, rollout in zip(parts, rollouts, strict=True):
                    output = self._loss(rollout, step, advantages[part])
                    share = len(rollout) / (count * len(chosen))
                    last = step == chosen[-1] and part == parts[-1]
                    yield self._micro(replace(output, loss=output.loss * share), last, len(rollout))

    def _micro(self, output: LossOutput, update: bool, images: int) -> MicroStep:
        evaluations = images * self.sampler.evaluations_per_step
        self.ledger.gradient_forwards += evaluations
        return MicroStep(output, update, evaluations)

    def _timesteps(self, rollout: Rollout, generator: torch.Generator) -> list[int]:
        """A random share of the steps that carry a log-probability, in sampling order."""
        steps = rollout.trajectory.has_log_prob.nonzero().flatten()
        count = max(1, int(self.algorithm.timestep_fraction * len(rollout.trajectory.schedule)))
        if count >= len(steps):
            return [int(step) for step in steps]
        picked = torch.randperm(len(steps), generator=generator)[:count]
        return sorted(int(step) for step in steps[picked])

    def _loss(self, rollout: Rollout, step: int, advantages: Float[Tensor, " batch"]) -> LossOutput:
        trajectory = rollout.trajectory
        if trajectory.log_probs is None:
            raise ValueError("the rollout has no log-probabilities; `eta` must be positive")
        with self.ledger.phase("replay"):
            moments = self._moments(rollout, step, reference=False)
        log_probs = gaussian_log_prob(trajectory.latents[step + 1], moments.mean, moments.std)
        elements = moments.mean[0].numel()
        kl = torch.zeros_like(log_probs)
        if self.algorithm.needs_reference:
            with torch.no_grad(), self.ledger.phase("reference"):
                base = self._moments(rollout, step, reference=True)
            self.ledger.reference_forwards += len(rollout) * self.sampler.evaluations_per_step
            kl = gaussian_kl(moments.mean, base.mean, moments.std) / elements
        return self.algorithm.loss(
            log_probs, trajectory.log_probs[:, step], advantages, kl, elements
        )

    def _moments(self, rollout: Rollout, step: int, *, reference: bool) -> StepMoments:
        return replay_moments(
            self.sampler.pipe,
            self.sampler.family,
            rollout,
            step,
            bind=self.sampler.reference if reference else self.sampler.adapter.bind,
        )
