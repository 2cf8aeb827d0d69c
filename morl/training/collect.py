"""Three collectors, one for each regime: questions in, losses out. No algorithm is named here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from morl.algorithms.interface import LossOutput
from morl.prompts import records
from morl.randomness import generator
from morl.training.data import TrainingBatch
from morl.training.ledger import Ledger
from morl.training.observation import Observation, Scored
from morl.training.sampler import Sampler
from morl.training.utility import TrainingUtility
from rewards.evaluate import BoundObjective
from rewards.panel import RewardTable
from rewards.reward import ImageBatch


@dataclass(frozen=True)
class Draws:
    """Every random draw of a step is a function of (seed, step, rank, purpose)."""

    seed: int
    step: int
    rank: int

    def generator(self, purpose: str) -> torch.Generator:
        return generator(self.seed, self.step, self.rank, purpose)


@dataclass(frozen=True)
class MicroStep:
    """A loss to differentiate; `update` closes an optimiser step."""

    output: LossOutput
    update: bool
    gradient_samples: int
    """Images whose denoiser forward the loss differentiates: what a backward costs."""


@dataclass(frozen=True)
class Parts:
    """What every collector works with."""

    sampler: Sampler
    objective: BoundObjective
    utility: TrainingUtility
    ledger: Ledger


class Collector(ABC):
    """Turns the questions of a step into losses; keeps what the step saw for the log."""

    algorithm: Any

    def __init__(self, parts: Parts) -> None:
        self.sampler = parts.sampler
        self.objective = parts.objective
        self.utility = parts.utility
        self.ledger = parts.ledger
        self._seen: list[Observation] = []
        self._raw: list[RewardTable] = []

    @abstractmethod
    def collect(self, batch: TrainingBatch, draws: Draws) -> Iterator[MicroStep]:
        """Yield the losses of one step in order; begins with `_begin`."""

    def observation(self) -> Observation:
        """What the last step saw; known once `collect` has been exhausted."""
        if not self._seen:
            raise RuntimeError("`observation` is known only after `collect` has been exhausted")
        columns = zip(*(vars(seen).values() for seen in self._seen), strict=True)
        seen = Observation(*(torch.cat(rows) for rows in columns))
        # Only the whole step has the mean sample that contributions are measured against.
        contributions = self.objective.leaf_contributions(RewardTable.joined(self._raw))
        return replace(seen, contributions=contributions)

    def _begin(self, count: int) -> list[slice]:
        """Forget what the step before saw; return the micro-batches of `count` images."""
        self._seen.clear()
        self._raw.clear()
        return self.sampler.micro.parts(count)

    def after_update(self, step: int) -> None:  # noqa: B027 (most regimes keep nothing)
        """Called once a step, after the optimiser."""

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters that this collector keeps beside the adapter's."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:  # noqa: B027
        """Restore `state_dict`."""

    def score(
        self,
        images: Float[Tensor, "rows 3 pixel_row pixel_column"],
        prompts: Sequence[str],
        weights: Float[Tensor, "rows condition"],
        group: Int[Tensor, " batch"],
    ) -> Scored:
        """Score images and add them to what the step saw; rows repeat the batch, as `group`."""
        groups = group.repeat(len(prompts) // len(group))
        with self.ledger.phase("score"):
            batch = ImageBatch(images, prompts, records(prompts), groups.tolist())
            table = self.objective(batch)
            scored = self.utility.score(table, weights, groups)
        self.ledger.reward_calls += len(prompts) * len(self.objective.leaves)
        self._seen.append(Observation.of(table, scored, weights))
        self._raw.append(table.raw.detached())
        return scored
