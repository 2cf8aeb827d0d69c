"""Several rewards on one batch: every scorer once, every encoder once, faults named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rewards.errors import RewardError, RewardFault
from rewards.reward import ImageBatch, Reward, Scores


@dataclass(frozen=True)
class RewardTable:
    """Raw scores of one batch, a column a reward, in the order of `names`.

    `valid` is False where a reward does not apply (or was masked after a fault; its value is then
    0). `std` is the members' disagreement, 0 where a reward has no ensemble.
    """

    values: Float[Tensor, "batch objective"]
    valid: Bool[Tensor, "batch objective"]
    std: Float[Tensor, "batch objective"]
    names: tuple[str, ...]

    def column(self, name: str) -> Scores:
        """The scores of one reward."""
        i = self.names.index(name)
        return Scores(self.values[:, i], self.valid[:, i], self.std[:, i])


class Panel:
    """Scores a batch with every reward.

    `chunk` images at most go through the scorers at once; a panel with a group-wise reward is
    never split. `on_fault` "raise" stops at the first fault, "mask" marks the faulty samples
    invalid and counts them in `faults`.
    """

    def __init__(
        self,
        rewards: Sequence[Reward],
        chunk: int | None = None,
        on_fault: Literal["raise", "mask"] = "raise",
    ) -> None:
        names = [reward.name for reward in rewards]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if not rewards or repeated:
            found = f"repeated: {', '.join(repeated)}" if repeated else "none"
            raise ValueError(f"`rewards` must be distinct and at least one; got {found}")
        if chunk is not None and chunk < 1:
            raise ValueError(f"`chunk` must be at least 1; got {chunk}")
        self.rewards = tuple(rewards)
        self.names = tuple(names)
        self.chunk = None if any(r.facts.granularity == "group" for r in rewards) else chunk
        self.on_fault = on_fault
        self.faults = dict.fromkeys(names, 0)

    def __call__(self, batch: ImageBatch) -> RewardTable:
        """Score the batch; raises RewardFault naming the scorer and the first bad prompt."""
        size = self.chunk or len(batch)
        if size >= len(batch):
            return self._table(batch)
        parts = [self._table(_slice(batch, i, i + size)) for i in range(0, len(batch), size)]
        return RewardTable(
            torch.cat([part.values for part in parts]),
            torch.cat([part.valid for part in parts]),
            torch.cat([part.std for part in parts]),
            self.names,
        )

    def _table(self, batch: ImageBatch) -> RewardTable:
        columns = [self._scores(reward, batch) for reward in self.rewards]
        zeros = torch.zeros_like(columns[0].values)
        return RewardTable(
            torch.stack([column.values for column in columns], dim=1),
            torch.stack([column.valid for column in columns], dim=1),
            torch.stack([zeros if c.std is None else c.std for c in columns], dim=1),
            self.names,
        )

    def _scores(self, reward: Reward, batch: ImageBatch) -> Scores:
        try:
            scores = reward.score(batch)
        except RewardError:
            raise
        except Exception as error:  # whatever a scorer raises, its name must reach the user
            if self.on_fault == "mask":
                return self._masked(reward, batch, torch.ones(len(batch), dtype=torch.bool))
            raise RewardFault(
                f"reward {reward.name!r} raised {type(error).__name__}: {error} "
                f"(first prompt: {batch.prompts[0]!r})"
            ) from error
        if scores.values.shape != (len(batch),):
            raise RewardFault(
                f"reward {reward.name!r} must return shape [{len(batch)}]; got "
                f"{list(scores.values.shape)} (first prompt: {batch.prompts[0]!r})"
            )
        scores = replace(
            scores,
            values=scores.values.to(batch.images.device, torch.float32),
            valid=scores.valid.to(batch.images.device),
        )
        bad = ~torch.isfinite(scores.values.detach()) & scores.valid
        if bad.any():
            if self.on_fault == "mask":
                return self._masked(reward, batch, bad.cpu(), scores)
            first = int(bad.nonzero()[0])
            raise RewardFault(
                f"reward {reward.name!r} returned {scores.values[first].item()} for prompt "
                f"{batch.prompts[first]!r}; a score that does not apply is `valid=False`, never NaN"
            )
        return scores

    def _masked(
        self, reward: Reward, batch: ImageBatch, bad: Tensor, scores: Scores | None = None
    ) -> Scores:
        self.faults[reward.name] += int(bad.sum())
        bad = bad.to(batch.images.device)
        if scores is None:
            return Scores(torch.zeros(len(batch), device=batch.images.device), ~bad)
        return replace(
            scores,
            values=torch.where(bad, torch.zeros_like(scores.values), scores.values),
            valid=scores.valid & ~bad,
        )


def _slice(batch: ImageBatch, start: int, stop: int) -> ImageBatch:
    return ImageBatch(
        batch.images[start:stop],
        batch.prompts[start:stop],
        None if batch.metadata is None else batch.metadata[start:stop],
        None if batch.group is None else batch.group[start:stop],
    )
