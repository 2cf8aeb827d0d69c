"""Ask a vision-language model in this process a yes-no question, and read the probability of yes.

p = sum_y P(y) / (sum_y P(y) + sum_n P(n)),  P: the first token of the answer

y, n: spellings of "Yes" and "No" that are one token of the model. 0.5 where it is undecided.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakValueDictionary

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from rewards.checkpoints import CheckpointError
from rewards.encoder_settings import EncoderSettings
from rewards.encoders import Key, shared, source_of
from rewards.facts_table import FACTS
from rewards.pixels import to_bytes
from rewards.reward import ImageBatch, Reward, Scores
from rewards.scorers.loading import load_pretrained
from rewards.truncation import say_truncated

# Source: arXiv 2404.01291, the question of VQAScore.
QUESTION = 'Does this figure show "{prompt}"? Please answer yes or no.'
YES, NO = ("Yes", " Yes", "yes", " yes"), ("No", " No", "no", " no")
LONGEST_PROMPT = 2000  # characters; attention over a megabyte of text would fill any memory

Pixels = UInt8[np.ndarray, "batch height width 3"]
Values = Float[Tensor, " batch"]


class YesNoModel(Protocol):
    """A model that says how likely "yes" is."""

    def probability(self, images: Pixels, questions: Sequence[str]) -> Values:
        """P(yes) of each question about its own image, in [0, 1], without gradient."""


class ChatModel:
    """A frozen image-text-to-text model of transformers with its own processor and chat template.

    `micro_batch` questions at most go through at once. `start` is put into the model's mouth: what
    it would say next is judged. `answers`: tokens of the answers for and against, otherwise those
    of `YES` and `NO`.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        micro_batch: int | None = None,
        start: str = "",
        answers: tuple[list[int], list[int]] | None = None,
    ) -> None:
        self.model = model.requires_grad_(False).eval()
        self.processor = processor
        self.micro_batch = micro_batch
        tokenizer = processor.tokenizer
        # Padding on the left would move a prompt's positions with the length of its batch mates.
        tokenizer.padding_side = "right"
        self._start = start
        self._yes, self._no = answers or (_tokens(tokenizer, YES), _tokens(tokenizer, NO))
        special = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
        self._special = {*special, *filter(None, [vars(processor).get("image_token")])}

    def clean(self, text: str) -> str:
        """A text without the model's control tokens: `<image>` in a prompt is not an image."""
        text = text.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair
        for token in self._special:
            text = text.replace(token, " ")
        return text

    @torch.no_grad()
    def probability(self, images: Pixels, questions: Sequence[str]) -> Values:
        """P(yes) of each question about its own image."""
        size = self.micro_batch or len(images)
        parts = [
            self._log_odds(images[i : i + size], questions[i : i + size])
            for i in range(0, len(images), size)
        ]
        return torch.cat(parts).sigmoid()

    def _log_odds(self, images: Pixels, questions: Sequence[str]) -> Values:
        inputs = self.processor(
            text=[self._chat(question) for question in questions],
            images=[[Image.fromarray(pixels)] for pixels in images],
            padding=True,
            return_tensors="pt",
        ).to(self.model.device, self.model.dtype)
        last = inputs["attention_mask"].sum(dim=1) - 1
        # One row of the vocabulary an image: all of them would be 600 MB.
        kept, place = last.unique(return_inverse=True)
        logits = self.model(**inputs, logits_to_keep=kept, use_cache=False).logits.float()
        answer = logits[torch.arange(len(last), device=logits.device), place]
        yes, no = (answer[:, tokens].logsumexp(dim=1) for tokens in (self._yes, self._no))
        return yes - no

    def _chat(self, question: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        chat: str = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        return chat + self._start


def chat_model(folder: Path, settings: EncoderSettings, device: str) -> ChatModel:
    """Read model and processor of one folder; CheckpointError where they are not all there."""
    dtype = getattr(torch, settings.dtype)
    model = load_pretrained(AutoModelForImageTextToText, folder, dtype=dtype).to(device)
    return ChatModel(model, processor_of(folder, AutoProcessor), settings.micro_batch)


def processor_of(folder: Path, kind: Any) -> Any:
    """The folder's own processor; CheckpointError where it is absent or without a chat template."""
    try:
        processor = kind.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} holds no processor that can be read: {error}") from error
    if not vars(processor).get("chat_template"):
        raise CheckpointError(f"{folder} holds no chat template: it is no model that answers")
    return processor


def _tokens(tokenizer: Any, words: Sequence[str]) -> list[int]:
    """Numbers of the words that are one token each."""
    encoded = [tokenizer.encode(word, add_special_tokens=False) for word in words]
    found = {ids[0] for ids in encoded if len(ids) == 1} - {tokenizer.unk_token_id}
    if not found:
        raise CheckpointError(f"none of {', '.join(map(repr, words))} is one token of this model")
    return sorted(found)


# Rewards share a model as long as one of them lives; then its memory is free again.
_MODELS: WeakValueDictionary[Key, Any] = WeakValueDictionary()


def model_of(name: str, device: str = "cpu") -> Any:
    """The model of checkpoint `name` under its present settings, loaded at most once.

    Raises CheckpointError where the weights are absent, incomplete or not finite.
    """
    return shared(_MODELS, name, device, source_of(name))


class VqaScore(Reward):
    """P(yes) to "Does this figure show the prompt?"; no gradient, as the processor is PIL's.

    Source: arXiv 2404.01291. Departures: any model of transformers, and p is relative to yes and
    no, where the original multiplies P(Yes) by the probability of stopping there.
    """

    facts = FACTS["vqa_score"]

    def __init__(self, device: str = "cpu") -> None:
        self.model: ChatModel = model_of(str(self.facts.encoder), device)
        self.truncated = 0

    def score(self, batch: ImageBatch) -> Scores:
        """Ask about every image with its own prompt."""
        questions = [QUESTION.replace("{prompt}", self._read(p)) for p in batch.prompts]
        found = self.model.probability(to_bytes(batch.images), questions)
        return Scores.of(found.to(batch.images.device))

    def _read(self, prompt: str) -> str:
        prompt = self.model.clean(prompt)
        if len(prompt) <= LONGEST_PROMPT:
            return prompt
        say_truncated(self.name, prompt, len(prompt), LONGEST_PROMPT, self.truncated, "characters")
        self.truncated += 1
        return prompt[:LONGEST_PROMPT]
