"""CLIP of any size as a tower: transformers' network, open_clip's tokenizer, declared pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, Int
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn
from transformers import CLIPModel

from rewards.checkpoints import CheckpointError
from rewards.encoder_settings import EncoderSettings
from rewards.encoders import Encoder
from rewards.pixels import PixelPlan
from rewards.scorers.loading import load_pretrained
from rewards.truncation import say_truncated

START, END = 49406, 49407


class ClipTower(nn.Module):
    """A CLIP with ViT image side, float32 in and out of its own number format.

    The vocabulary comes with open_clip and is the same for every CLIP, so no tokenizer is loaded.
    `truncated` counts the prompts that were cut, each once while its features are kept;
    `logit_scale` is what cosines were multiplied by when the tower was trained, about 100.
    """

    def __init__(self, model: CLIPModel, plan: PixelPlan, name: str = "clip") -> None:
        super().__init__()
        if model.config.text_config.vocab_size <= END:
            raise CheckpointError(
                f"{name}: the vocabulary has {model.config.text_config.vocab_size} tokens; CLIP's "
                f"has {END + 1}"
            )
        # Hand-written configurations hold 2 or nothing here, and the wrong token would be pooled.
        model.text_model.eos_token_id = END
        self.model = model
        self.plan = plan
        self.name = name
        self.truncated = 0
        # Read before any cast: in bfloat16 100 would become 98.8.
        self.logit_scale = model.logit_scale.float().exp().item()
        self._tokenizer = SimpleTokenizer()

    def encode_image(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch feature"]:
        """Projected features of images in [0, 1] of any size."""
        pixels = self.plan(images).to(self.model.device, self.model.dtype)
        return as_tensor(self.model.get_image_features(pixel_values=pixels))

    def encode_text(self, prompts: Sequence[str]) -> Float[Tensor, "batch feature"]:
        """Projected features of prompts; what the tower cannot read is cut off at the end."""
        tokens = self.tokens(prompts).to(self.model.device)
        return as_tensor(self.model.get_text_features(input_ids=tokens))

    def tokens(self, prompts: Sequence[str]) -> Int[Tensor, "batch token"]:
        """Numbers of the prompts' tokens between START and END, zeros after."""
        length = self.model.config.text_config.max_position_embeddings
        tokens = torch.zeros(len(prompts), length, dtype=torch.long)
        for row, prompt in zip(tokens, prompts, strict=True):
            words = self._tokenizer.encode(prompt)
            if len(words) > length - 2:
                self._truncate(prompt, len(words), length - 2)
            numbers = [START, *words[: length - 2], END]
            row[: len(numbers)] = torch.tensor(numbers)
        return tokens

    def _truncate(self, prompt: str, found: int, most: int) -> None:
        say_truncated(self.name, prompt, found, most, self.truncated)
        self.truncated += 1


def as_tensor(output: object) -> Float[Tensor, "batch feature"]:
    """Features as a tensor: transformers 5 wraps them in an object, 4 did not."""
    return output if isinstance(output, Tensor) else output.pooler_output  # type: ignore[attr-defined]


def _clip(folder: Path, settings: EncoderSettings, plan: Callable[..., PixelPlan]) -> ClipTower:
    # Old files hold the positions as a buffer, which is a plain range.
    unused = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")
    model = load_pretrained(CLIPModel, folder, unused)
    size = model.config.vision_config.image_size
    chosen = plan(size=size, mode=settings.pixels, antialias=settings.antialias)
    return ClipTower(model, chosen, folder.name)


def openai_clip(folder: Path, settings: EncoderSettings) -> ClipTower:
    """CLIP whose pixels are those of torchvision's and open_clip's transform."""
    return _clip(folder, settings, PixelPlan)


def transformers_clip(folder: Path, settings: EncoderSettings) -> ClipTower:
    """CLIP whose authors prepared the pixels with transformers' CLIPImageProcessor."""
    return _clip(folder, settings, partial(PixelPlan, margin="down"))


def hps_clip(folder: Path, settings: EncoderSettings) -> ClipTower:
    """CLIP as HPSv2 feeds it: the longest side resized as a tensor, zeros around."""
    return _clip(folder, settings, partial(PixelPlan, fit="pad"))


def logit_scale(encoder: Encoder) -> float:
    """What the encoder's own training multiplied cosines by; CheckpointError where none did."""
    if not isinstance(encoder.tower, ClipTower):
        raise CheckpointError(f"encoder {encoder.name!r} is no CLIP and has no logit scale")
    return encoder.tower.logit_scale
