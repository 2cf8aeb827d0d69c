"""The embedded world's own CLIP: a small open_clip model with a word tokenizer."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from open_clip.model import CLIP
from torch import Tensor, nn

from rewards.shapes.captions import vocabulary
from rewards.shapes.distortions import KINDS
from rewards.shapes.render import IMAGE_SIZE

QUALITY_WORDS = ("sharp", *KINDS)

STAGES = ("layer1", "layer2", "layer3", "layer4")  # of the ResNet
POOLED = STAGES[:2]  # what heads read beside the embedding

# Mean and spread of the pixels of the world, one value for all channels: a grey level stays grey.
PIXEL_MEAN, PIXEL_STD = 0.6, 0.25


@dataclass(frozen=True)
class ClipConfig:
    """Size of the model; the defaults are the shipped one (1.3 M parameters, 2.7 MB as fp16)."""

    embed_dim: int = 128
    vision_layers: tuple[int, int, int, int] = (1, 2, 2, 1)
    """Blocks of each stage of the ResNet: at 5 ms for 64 images it is 20 x cheaper than a ViT."""
    vision_width: int = 14
    text_width: int = 96
    text_layers: int = 2
    context_length: int = 22
    """Tokens, with start and end; the longest caption of the grammar has 18 words."""


class WordTokenizer:
    """Words to numbers: 0 pads, 1 starts, 2 is any unknown word, the last number ends.

    open_clip reads a caption's features at its highest number, which must therefore be the end.
    """

    def __init__(self, context_length: int) -> None:
        words = sorted({*vocabulary(), *QUALITY_WORDS})
        self._index = {word: 3 + i for i, word in enumerate(words)}
        self._context_length = context_length
        self.size = 4 + len(words)

    def __call__(self, prompts: Sequence[str]) -> Int[Tensor, "batch token"]:
        """Numbers of the prompts' words; a longer prompt is cut, as with any CLIP."""
        tokens = torch.zeros(len(prompts), self._context_length, dtype=torch.long)
        for row, prompt in zip(tokens, prompts, strict=True):
            words = re.findall(r"[a-z]+", prompt.lower())[: self._context_length - 2]
            numbers = [1, *(self._index.get(word, 2) for word in words), self.size - 1]
            row[: len(numbers)] = torch.tensor(numbers)
        return tokens


class ShapesClip(nn.Module):
    """The `Tower` of the embedded world: open_clip's CLIP with a ModifiedResNet image side."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = WordTokenizer(config.context_length)
        self.model = CLIP(
            config.embed_dim,
            vision_cfg={
                "layers": config.vision_layers,
                "width": config.vision_width,
                "head_width": 32,
                "image_size": IMAGE_SIZE,
            },
            text_cfg={
                "context_length": config.context_length,
                "vocab_size": self.tokenizer.size,
                "width": config.text_width,
                "heads": 4,
                "layers": config.text_layers,
            },
        )

    @property
    def features(self) -> int:
        """Length of a row of `encode_image`."""
        pooled = (getattr(self.model.visual, name)[-1].conv3.out_channels for name in POOLED)
        return self.config.embed_dim + sum(pooled)

    def encode_image(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch feature"]:
        """What the proxies' heads read of 64 x 64 images in [0, 1].

        The embedding first (`config.embed_dim` features), then the mean over places of `POOLED`:
        contrastive training keeps words in the embedding, and lets go of how strong a contrast is.
        """
        embedding, pooled = self._look(images)
        return torch.cat([embedding, *pooled], dim=1)

    def embed_image(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch feature"]:
        """The embedding alone, what is compared with `encode_text`."""
        return self._look(images)[0]

    def _look(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> tuple[Float[Tensor, "batch feature"], list[Tensor]]:
        if images.shape[-2:] != (IMAGE_SIZE, IMAGE_SIZE):
            raise ValueError(
                f"`images` must be {IMAGE_SIZE} x {IMAGE_SIZE} for the embedded world's CLIP; "
                f"got {images.shape[-2]} x {images.shape[-1]}."
            )
        visual, pooled = self.model.visual, []
        x = visual.stem((images - PIXEL_MEAN) / PIXEL_STD)
        for name in STAGES:
            x = getattr(visual, name)(x)
            if name in POOLED:
                pooled.append(x.mean(dim=(2, 3)))
        return visual.attnpool(x), pooled

    def encode_text(self, prompts: Sequence[str]) -> Float[Tensor, "batch feature"]:
        """Features of the prompts."""
        return self.model.encode_text(self.tokenizer(prompts).to(self.model.logit_scale.device))

    def to_config(self) -> dict[str, Any]:
        """The configuration as plain JSON values."""
        return asdict(self.config)

    @classmethod
    def from_config(cls, values: Mapping[str, Any]) -> "ShapesClip":
        """Rebuild the (untrained) model that `to_config` described."""
        plain = dict(values)
        return cls(ClipConfig(**{**plain, "vision_layers": tuple(plain["vision_layers"])}))
