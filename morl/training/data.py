"""Which prompts and weight vectors a step trains on: a pure function of (seed, step, rank)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from morl.budgets import sample_positions
from morl.randomness import generator
from morl.weights import sample_weights


@dataclass(frozen=True)
class TrainingBatch:
    """The questions of one step, before any image exists.

    `group` numbers the (prompt, weight vector) pairs; images of one group share both. The same
    `weights` tensor reaches the gates, the scalarisation, the multipliers and the groups. Where
    bounds slide, its rows hold the position of each budget behind the weight vector
    (`morl.training.conditions`), and images of a group share those too.
    """

    step: int
    prompts: tuple[str, ...]
    weights: Float[Tensor, "batch condition"]
    group: Int[Tensor, " batch"]


@dataclass(frozen=True)
class BatchPlan:
    """How the images of a step divide into prompts, weight vectors and group members.

    `batch_size` images on each rank; `group_size` images share (prompt, weight vector);
    `weights_per_prompt` weight vectors share a prompt. Algorithms without groups use 1 and 1.
    The first `vertices_first` steps draw vertices alone, the others the strata of `sample_weights`.
    `budgets` bounds slide, the share `budget_ends` of their draws at the ends of their ranges.
    """

    prompts: Sequence[str]
    objectives: int
    batch_size: int
    seed: int
    group_size: int = 1
    weights_per_prompt: int = 1
    vertex: float = 0.25
    edge: float = 0.25
    vertices_first: int = 0
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    budgets: int = 0
    budget_ends: float = 0.5

    def __post_init__(self) -> None:
        per_prompt = self.group_size * self.weights_per_prompt
        if self.batch_size % per_prompt:
            near = max(1, self.batch_size // per_prompt) * per_prompt
            raise ValueError(
                f"`batch_size` must be a multiple of group_size x weights_per_prompt = "
                f"{self.group_size} x {self.weights_per_prompt} = {per_prompt}; "
                f"got {self.batch_size} (nearest: {near})"
            )

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> TrainingBatch:
        """The batch of `step` on `rank`; every rank sees other prompts and weight vectors."""
        repeats = self.group_size * self.weights_per_prompt
        distinct = self.batch_size // repeats
        first = (step * world_size + rank) * distinct
        prompts = [self._prompt(first + i) for i in range(distinct)]
        vertex, edge = (1.0, 0.0) if step < self.vertices_first else (self.vertex, self.edge)
        weights = sample_weights(
            generator(self.seed, step, rank, "weights"),
            self.batch_size // self.group_size,
            self.objectives,
            vertex=vertex,
            edge=edge,
            low=self.low,
            high=self.high,
        )
        positions = sample_positions(
            generator(self.seed, step, rank, "budgets"),
            len(weights),
            self.budgets,
            ends=self.budget_ends,
        )
        weights = torch.cat([weights, positions], dim=1)
        group = torch.arange(len(weights)).repeat_interleave(self.group_size)
        return TrainingBatch(
            step=step,
            prompts=tuple(prompt for prompt in prompts for _ in range(repeats)),
            weights=weights.repeat_interleave(self.group_size, dim=0),
            group=group,
        )

    def _prompt(self, position: int) -> str:
        """Prompts without replacement, in a new order for every pass over the set."""
        epoch, index = divmod(position, len(self.prompts))
        order = torch.randperm(
            len(self.prompts), generator=generator(self.seed, epoch, 0, "prompt order")
        )
        return self.prompts[int(order[index])]
