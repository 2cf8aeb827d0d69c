"""A user's plain function as a reward."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rewards.errors import RewardFault
from rewards.reward import ImageBatch, Reward, Scores

if TYPE_CHECKING:
    from rewards.registry import UserReward


class FunctionReward(Reward):
    """Calls the function on images and prompts; a non-differentiable one sees no gradients."""

    def __init__(self, declared: UserReward) -> None:
        self.facts = declared.facts
        self._function = declared.function

    def score(self, batch: ImageBatch) -> Scores:
        """Return the function's values; raises RewardFault where it returns no tensor."""
        images = batch.images if self.facts.differentiable else batch.images.detach()
        values = self._function(images, list(batch.prompts))
        if not isinstance(values, torch.Tensor):
            raise RewardFault(
                f"reward {self.name!r} must return a tensor of shape [{len(batch)}]; got a "
                f"{type(values).__name__}"
            )
        values = values.float()
        return Scores(values, torch.ones(values.shape, dtype=torch.bool, device=values.device))
