"""SigLIP as a tower, for similarity and for heads of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoTokenizer, SiglipModel

from rewards.checkpoints import CheckpointError
from rewards.encoder_settings import EncoderSettings
from rewards.pixels import PixelPlan
from rewards.scorers.clip_tower import as_tensor
from rewards.scorers.loading import load_pretrained
from rewards.truncation import say_truncated

HALF = (0.5, 0.5, 0.5)


class SiglipTower(nn.Module):
    """A SigLIP; images are squeezed to a square, prompts padded to the full length."""

    def __init__(
        self, model: SiglipModel, tokenizer: Any, plan: PixelPlan, name: str = "siglip"
    ) -> None:
        super().__init__()
        self.model = model
        self.plan = plan
        self.name = name
        self.truncated = 0
        self._tokenizer = tokenizer

    def encode_image(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch feature"]:
        """Attention-pooled features of images in [0, 1] of any size."""
        pixels = self.plan(images).to(self.model.device, self.model.dtype)
        return as_tensor(self.model.get_image_features(pixel_values=pixels))

    def encode_text(self, prompts: Sequence[str]) -> Float[Tensor, "batch feature"]:
        """Features of prompts; what the tower cannot read is cut off at the end."""
        most = self.model.config.text_config.max_position_embeddings
        for prompt in prompts:
            if (found := len(self._tokenizer(prompt)["input_ids"])) > most:
                say_truncated(self.name, prompt, found, most, self.truncated)
                self.truncated += 1
        tokens = self._tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=most,
            return_tensors="pt",
        )
        ids = tokens["input_ids"].to(self.model.device)
        return as_tensor(self.model.get_text_features(input_ids=ids))


def siglip(folder: Path, settings: EncoderSettings) -> SiglipTower:
    """Read model and tokenizer of one folder."""
    model = load_pretrained(SiglipModel, folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} holds no tokenizer that can be read: {error}") from error
    plan = PixelPlan(
        model.config.vision_config.image_size,
        "squash",
        HALF,
        HALF,
        settings.pixels,
        settings.antialias,
    )
    return SiglipTower(model, tokenizer, plan, folder.name)
