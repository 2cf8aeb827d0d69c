"""A reward scores images for prompts; an image batch remembers what its encoders saw."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rewards.facts import RewardFacts

T = TypeVar("T")


@dataclass(frozen=True)
class Scores:
    """What one reward says of one batch, in the reward's own units and direction.

    `valid` is False where the reward does not apply (an unsafe rate on a prompt that asks for the
    mark); NaN is never "not applicable", it is a fault. `std` is the members' disagreement in the
    same units, None where the reward has no ensemble.
    """

    values: Float[Tensor, " batch"]
    valid: Bool[Tensor, " batch"]
    std: Float[Tensor, " batch"] | None = None

    @classmethod
    def of(cls, values: Float[Tensor, " batch"]) -> Scores:
        """Wrap values that apply to every sample."""
        return cls(values, torch.ones(values.shape, dtype=torch.bool, device=values.device))

    @property
    def disagreement(self) -> Float[Tensor, " batch"]:
        """The members' disagreement; 0 where the reward has no ensemble."""
        return torch.zeros_like(self.values) if self.std is None else self.std


@dataclass(frozen=True)
class ImageBatch:
    """Images with their prompts, and one memo of encoder outputs for the time of a batch.

    `images` [B,3,H,W] lie in [0,1]; gradients flow to them where they require it. `group` numbers
    the (prompt, weight vector) group of each image where there is one.
    """

    images: Float[Tensor, "batch channel height width"]
    prompts: Sequence[str]
    metadata: Sequence[Mapping[str, Any]] | None = None
    group: Sequence[int] | None = None
    _memo: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.shape[1] != 3:
            raise ValueError(
                f"`images` must have shape [batch, 3, height, width]; got {list(self.images.shape)}"
            )
        count = self.images.shape[0]
        if not count:
            raise ValueError("`images` must hold at least one image")
        if len(self.prompts) != count:
            raise ValueError(
                f"`prompts` must name one prompt an image: got {len(self.prompts)} prompts "
                f"for {count} images"
            )
        for name, entries in (("metadata", self.metadata), ("group", self.group)):
            if entries is not None and len(entries) != count:
                raise ValueError(
                    f"`{name}` must have one entry an image: got {len(entries)} for {count}"
                )

    def __len__(self) -> int:
        return self.images.shape[0]

    def remember(self, key: Hashable, compute: Callable[[ImageBatch], T]) -> T:
        """Return `compute(self)`, run at most once a batch for each `key`.

        An encoder uses itself as key: every scorer that reads it shares one forward, with
        gradients where the images require them.
        """
        if key not in self._memo:
            self._memo[key] = compute(self)
        value: T = self._memo[key]
        return value


class Reward(ABC):
    """One number an image. Subclasses are final; wrap a reward to modify it."""

    facts: RewardFacts

    @property
    def name(self) -> str:
        return self.facts.name

    @abstractmethod
    def score(self, batch: ImageBatch) -> Scores:
        """Score every image of the batch; lengths equal `len(batch)`, values are finite."""
