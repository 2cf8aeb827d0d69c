"""Policies that take a weight vector: one answer, or a draw among several."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from experiments.concave_fronts.problems import Problem
from rewards.scalarization import Utility

HIDDEN = 64
BATCH = 128
LEARNING_RATE = 3e-3
LEAST_WEIGHT = 0.02
"""At a weight of 0 any reward of that objective is optimal: nothing there to be reached."""


class Policy(nn.Module):
    """Weight vector -> probabilities of `answers` points x in [0, 1]^n; with one, deterministic.

    K answers of K objectives can be any mixture that a Pareto optimal mean needs (Caratheodory).
    """

    def __init__(self, problem: Problem, answers: int) -> None:
        super().__init__()
        self.problem = problem
        self.answers = answers
        self.body = nn.Sequential(
            nn.Linear(problem.objectives, HIDDEN),
            nn.SiLU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.SiLU(),
            nn.Linear(HIDDEN, answers * (problem.variables + 1)),
        )

    def forward(
        self, weights: Float[Tensor, "batch objective"]
    ) -> Float[Tensor, "batch objective"]:
        """The mean reward vector at each weight vector, over the policy's own draws; exact."""
        output = self.body(weights).view(len(weights), self.answers, -1)
        probabilities = output[..., 0].softmax(dim=1)
        rewards = self.problem.rewards(output[..., 1:].sigmoid())
        return (probabilities[..., None] * rewards).sum(dim=1)


def inside(weights: Float[Tensor, "batch objective"]) -> Float[Tensor, "batch objective"]:
    """The same weight vectors shrunk towards the centre, none below `LEAST_WEIGHT`."""
    return LEAST_WEIGHT + (1 - LEAST_WEIGHT * weights.shape[1]) * weights


def trained(problem: Problem, score: Utility, answers: int, steps: int, seed: int) -> Policy:
    """Follow the gradient of the utility of the mean, at weight vectors drawn uniformly."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = Policy(problem, answers)
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(policy.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        # Exponentials over their sum are uniform on the simplex.
        draws = torch.empty(BATCH, problem.objectives).exponential_(generator=generator)
        weights = inside(draws / draws.sum(dim=1, keepdim=True))
        loss = -score(policy(weights), weights).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return policy
