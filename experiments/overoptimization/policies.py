"""Many small policies trained side by side: the exact denoiser plus a network of each run's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from experiments.overoptimization.world import DIM, LEVELS, STEPS, base_noise_pred
from morl.diffusion.steps import ddim_moments, gaussian_kl, gaussian_log_prob
from morl.randomness import generator

FEATURES = 64
Parameters = dict[str, Tensor]


class Policies(nn.Module):
    """What is added to the base's noise_pred, one network a run; zero at the start.

    Only the last layer is trained, on random features, so that a steady gradient moves the samples
    at a steady pace.

    Rows of all runs lie one after another, the same number for each run. Runs share no parameter,
    so one backward pass of a sum over runs gives each its own gradient.
    """

    first: Float[Tensor, "run input feature"]

    def __init__(self, seeds: Sequence[int]) -> None:
        super().__init__()
        draws = [
            torch.randn(2 * DIM + 1, FEATURES, generator=generator(seed, 0, 0, "policy"))
            for seed in seeds
        ]
        self.runs = len(seeds)
        self.register_buffer("first", torch.stack(draws) / (2 * DIM + 1) ** 0.5)
        self.last = nn.Parameter(torch.zeros(self.runs, FEATURES, DIM))
        self.last_bias = nn.Parameter(torch.zeros(self.runs, 1, DIM))

    def forward(
        self, latents: Float[Tensor, "rows dim"], centres: Float[Tensor, "rows dim"], step: int
    ) -> Float[Tensor, "rows dim"]:
        time = latents.new_full((len(latents), 1), 1 - 2 * step / (STEPS - 1))
        given = torch.cat([latents, centres, time], dim=1).view(self.runs, -1, 2 * DIM + 1)
        hidden = (given @ self.first).tanh()
        return torch.baddbmm(self.last_bias, hidden, self.last).flatten(0, 1)

    def snapshot(self) -> Parameters:
        return {name: value.detach().clone() for name, value in self.named_parameters()}

    @torch.no_grad()
    def restore(self, kept: Parameters, runs: Bool[Tensor, " run"]) -> None:
        """Give the chosen runs the parameters that were kept."""
        for name, value in self.named_parameters():
            value[runs] = kept[name][runs]


@dataclass(frozen=True)
class Rollout:
    """Finished samples of all runs; log-probs are means over elements, `kl` true sums in nats."""

    final: Float[Tensor, "rows dim"]
    log_probs: Float[Tensor, "step rows"]
    kl: Float[Tensor, "step rows"]


def rollout(
    policies: Policies,
    means: Float[Tensor, "rows component dim"],
    noise: Float[Tensor, "level rows dim"],
    *,
    through_latents: bool,
) -> Rollout:
    """Sample ten DDPM steps; differentiable from the end, or step by step with latents held.

    The KL to the base of the whole trajectory is the sum over steps of `kl`, in expectation over
    the policy's own draws (Girsanov): an upper bound of the KL of the finished samples alone.
    """
    centres = means.mean(dim=1)
    latents, log_probs, kl = noise[0], list[Tensor](), list[Tensor]()
    for step in range(STEPS):
        if not through_latents:
            latents = latents.detach()
        base = base_noise_pred(latents, means, LEVELS[step])
        alpha, after = LEVELS[step], LEVELS[step + 1]
        changed = base + policies(latents, centres, step)
        moments = ddim_moments(changed, latents, alpha, after, 1.0, "epsilon")
        reference = ddim_moments(base, latents, alpha, after, 1.0, "epsilon")
        latents = moments.draw(noise[step + 1])
        kl.append(gaussian_kl(moments.mean, reference.mean, moments.std))
        log_probs.append(gaussian_log_prob(latents.detach(), moments.mean, moments.std))
    return Rollout(latents, torch.stack(log_probs), torch.stack(kl))


class RunAdam:
    """Adam whose count of steps belongs to each run, so that one run can start afresh."""

    DECAY, SQUARE_DECAY, FLOOR = 0.9, 0.999, 1e-8

    def __init__(self, policies: Policies, learning_rate: float) -> None:
        self.policies = policies
        self.learning_rate = learning_rate
        self.taken = torch.zeros(policies.runs)
        self.mean = [torch.zeros_like(value) for value in policies.parameters()]
        self.square = [torch.zeros_like(value) for value in policies.parameters()]

    @torch.no_grad()
    def step(self, loss: Float[Tensor, ""], active: Bool[Tensor, " run"]) -> None:
        """One update of the active runs down the gradient of a sum of the runs' losses."""
        parameters = list(self.policies.parameters())
        gradients = torch.autograd.grad(loss, parameters)
        self.taken += 1
        taken = self.taken.view(-1, 1, 1)
        rate = self.learning_rate * active.float().view(-1, 1, 1) / (1 - self.DECAY**taken)
        for value, gradient, mean, square in zip(
            parameters, gradients, self.mean, self.square, strict=True
        ):
            mean.lerp_(gradient, 1 - self.DECAY)
            square.lerp_(gradient.square(), 1 - self.SQUARE_DECAY)
            spread = (square / (1 - self.SQUARE_DECAY**taken)).sqrt() + self.FLOOR
            value.sub_(rate * mean / spread)

    def forget(self, runs: Bool[Tensor, " run"]) -> None:
        """Start the chosen runs afresh: moments of the way given up would lead back to it."""
        self.taken[runs] = 0
        for moment in (*self.mean, *self.square):
            moment[runs] = 0
