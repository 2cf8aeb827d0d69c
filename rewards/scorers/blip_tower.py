"""BLIP that reads a prompt with the image in view: transformers' two sides, one affine head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import BertTokenizer, BlipConfig, BlipTextModel, BlipVisionModel
from transformers.models.blip.modeling_blip import BlipPreTrainedModel

from rewards.checkpoints import CHECKPOINTS, CheckpointError
from rewards.encoder_settings import EncoderSettings
from rewards.pixels import PixelPlan
from rewards.scorers.heads import Values, affine
from rewards.scorers.loading import load_pretrained
from rewards.truncation import say_truncated

LENGTH = 35
"""Tokens of a prompt, [CLS] and [SEP] among them, that ImageReward was trained with."""
VOCABULARY = "vocab.txt"
# Added to BERT's vocabulary by BLIP, in this order; a prompt could spell them.
ADDED = ("[DEC]", "[ENC]")


class Network(BlipPreTrainedModel):
    """BLIP's image side, its text side with cross-attention in every layer, and an affine head."""

    def __init__(self, config: BlipConfig) -> None:
        super().__init__(config)
        self.vision_model = BlipVisionModel(config.vision_config)
        self.text_encoder = BlipTextModel(config.text_config, add_pooling_layer=False)
        self.head = nn.Linear(config.text_config.hidden_size, 1)
        self.post_init()


class BlipTower(nn.Module):
    """Image side once a batch; then every prompt is read with its own image in view.

    `truncated` counts the different prompts that were cut.
    """

    def __init__(
        self, network: Network, tokenizer: BertTokenizer, plan: PixelPlan, name: str = "blip"
    ) -> None:
        super().__init__()
        self.vision_model = network.vision_model
        self.text_encoder = network.text_encoder
        self.plan = plan
        self.name = name
        # No parameters, so that no cast reaches them: heads are in float32.
        self._head = (network.head.weight.detach(), network.head.bias.detach())
        self._tokenizer = tokenizer
        self._cut: set[str] = set()

    @property
    def truncated(self) -> int:
        return len(self._cut)

    def encode_image(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch patch feature"]:
        """Normalised states of the class token and all patches, for images in [0, 1]."""
        pixels = self.plan(images).to(self.vision_model.device, self.vision_model.dtype)
        return self.vision_model(pixel_values=pixels).last_hidden_state

    def rate(self, patches: Float[Tensor, "batch patch feature"], prompts: Sequence[str]) -> Values:
        """w . h + b, h: the text side's first state once it has read prompt and image.

        `patches` of `encode_image`, one prompt each. Differentiable in `patches`.
        """
        tokens, mask = (part.to(patches.device) for part in self.tokens(prompts))
        states = self.text_encoder(
            input_ids=tokens,
            attention_mask=mask,
            encoder_hidden_states=patches.to(self.text_encoder.dtype),
        ).last_hidden_state
        weight, bias = (part.to(states.device) for part in self._head)
        return affine(states[:, 0].float(), weight, bias)

    def tokens(
        self, prompts: Sequence[str]
    ) -> tuple[Int[Tensor, "batch token"], Int[Tensor, "batch token"]]:
        """Numbers of [CLS] prompt [SEP], filled up to `LENGTH`, and 1 where there is a token."""
        rows = [self._tokenizer(prompt)["input_ids"] for prompt in prompts]
        for prompt, row in zip(prompts, rows, strict=True):
            if len(row) > LENGTH and prompt not in self._cut:
                say_truncated(self.name, prompt, len(row) - 2, LENGTH - 2, self.truncated)
                self._cut.add(prompt)
        cut = [[*row[: LENGTH - 1], row[-1]] if len(row) > LENGTH else row for row in rows]
        tokens = torch.stack([F.pad(torch.tensor(row), (0, LENGTH - len(row))) for row in cut])
        lengths = torch.tensor([len(row) for row in cut])
        return tokens, (torch.arange(LENGTH) < lengths[:, None]).long()


def image_reward_blip(folder: Path, settings: EncoderSettings) -> BlipTower:
    """ImageReward, and BERT's vocabulary, of one folder."""
    network = load_pretrained(Network, folder)
    tokenizer = bert_tokenizer(folder / VOCABULARY, network.config.text_config.vocab_size)
    plan = PixelPlan(network.config.vision_config.image_size, mode=settings.pixels)
    return BlipTower(network, tokenizer, plan, folder.name)


def bert_tokenizer(file: Path, size: int) -> BertTokenizer:
    """BERT's lower-case tokenizer with BLIP's two tokens, `size` in all; padding is number 0."""
    try:
        words = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        repo, revision = CHECKPOINTS["image_reward"].beside_origin
        raise CheckpointError(
            f"{file}: no vocabulary that can be read ({error}); it is {VOCABULARY} of {repo}: "
            f"`hf download {repo} {VOCABULARY} --revision {revision} --local-dir {file.parent}`"
        ) from error
    if len(words) + len(ADDED) != size or words[0] != "[PAD]":
        raise CheckpointError(
            f"{file} must hold {size - len(ADDED)} words of which [PAD] is the first; got "
            f"{len(words)}: it is another vocabulary"
        )
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    tokenizer.add_tokens(list(ADDED), special_tokens=True)
    return tokenizer
