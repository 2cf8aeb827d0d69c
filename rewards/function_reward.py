"""A user's plain function as a reward."""

from __future__ import annotations

import torch

from rewards.registry import UserReward
from rewards.reward import ImageBatch, Reward, Scores


class FunctionReward(Reward):
    """Calls the function on images and prompts; a non-differentiable one sees no gradients."""

    def __init__(self, declared: UserReward) -> None:
        self.facts = declared.facts
        self._function = declared.function

    def score(self, batch: ImageBatch) -> Scores:
        """Return the function's scores; raises TypeError where it returns none."""
        images = batch.images if self.facts.differentiable else batch.images.detach()
        found = self._function(images, list(batch.prompts))
        if isinstance(found, Scores):
            return found
        if not isinstance(found, torch.Tensor):
            raise TypeError(
                f"it must return a tensor of shape [{len(batch)}]; got a {type(found).__name__}"
            )
        if found.shape != (len(batch),):
            raise ValueError(
                f"it must return a tensor of shape [{len(batch)}]; got {list(found.shape)}"
            )
        return Scores.of(found.float())
