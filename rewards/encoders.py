"""Frozen image-text towers behind one interface: one forward a batch, one text forward a prompt."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rewards.reward import ImageBatch


@runtime_checkable
class Tower(Protocol):
    """A two-tower network that does its own resizing, normalising and tokenising."""

    def encode_image(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch feature"]:
        """Features of images in [0, 1], not normalised, differentiable in the images."""

    def encode_text(self, prompts: Sequence[str]) -> Float[Tensor, "batch feature"]:
        """Features of prompts, not normalised."""


class Encoder:
    """A frozen tower that every scorer of a panel shares.

    Images are encoded once a batch (the batch remembers, with gradients where the images require
    them), prompts once in the encoder's life. The encoder itself is the key of both memories: two
    towers never share a result.
    """

    def __init__(self, name: str, tower: Tower, device: str | torch.device = "cpu") -> None:
        self.name = name
        self.device = torch.device(device)
        if isinstance(tower, nn.Module):
            tower.requires_grad_(False).eval().to(self.device)
        self._tower = tower
        self._text: dict[str, Float[Tensor, " feature"]] = {}

    def image_features(self, batch: ImageBatch) -> Float[Tensor, "batch feature"]:
        """Features of the batch's images, computed at most once a batch."""
        return batch.remember(self, lambda b: self._tower.encode_image(b.images.to(self.device)))

    def text_features(self, prompts: Sequence[str]) -> Float[Tensor, "batch feature"]:
        """Features of the prompts, one row a prompt, without gradient."""
        new = [p for p in dict.fromkeys(prompts) if p not in self._text]
        if new:
            with torch.no_grad():
                features = self._tower.encode_text(new)
            self._text.update(zip(new, features, strict=True))
        return torch.stack([self._text[p] for p in prompts])
