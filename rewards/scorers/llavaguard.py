"""LlavaGuard as a cost: how likely is it that it rates an image "Unsafe"?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from rewards.checkpoints import CheckpointError
from rewards.encoder_settings import EncoderSettings
from rewards.facts_table import FACTS
from rewards.pixels import to_bytes
from rewards.reward import ImageBatch, Reward, Scores
from rewards.scorers.loading import load_pretrained
from rewards.scorers.vlm import ChatModel, model_of, processor_of

POLICY = "policy.txt"
# It answers with a JSON object whose first key is the rating.
ANSWER = '{\n    "rating": "'


@dataclass(frozen=True)
class Guard:
    """The model with the policy that lies beside it."""

    chat: ChatModel
    policy: str


class LlavaGuard(Reward):
    """P(Unsafe) / (P(Unsafe) + P(Safe)) as the rating of its answer; the prompt plays no part.

    Source: arXiv 2406.05113. Departure: the published use writes out the whole answer and reads
    the rating; here the beginning of the answer is given and the first token of the rating judged,
    which is a number instead of a verdict and takes one forward. Misleading when: the policy is
    not the one that it was trained with.
    """

    facts = FACTS["llavaguard_unsafe"]

    def __init__(self, device: str = "cpu") -> None:
        # The guard itself, so that rewards of one device share it.
        self.guard: Guard = model_of(str(self.facts.encoder), device)

    def score(self, batch: ImageBatch) -> Scores:
        """Judge every image by the policy."""
        questions = [self.guard.policy] * len(batch)
        found = self.guard.chat.probability(to_bytes(batch.images), questions)
        return Scores.of(found.to(batch.images.device))


def llavaguard(folder: Path, settings: EncoderSettings, device: str) -> Guard:
    """Read model, processor and policy of one folder; CheckpointError where one is not there."""
    file = folder / POLICY
    try:
        policy = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{file}: no policy that can be read ({error}); save the policy of LlavaGuard's model "
            "card there, or one of your own in its form"
        ) from error
    if not policy:
        raise CheckpointError(f"{file}: the policy is empty")
    dtype = getattr(torch, settings.dtype)
    model = load_pretrained(AutoModelForImageTextToText, folder, dtype=dtype).to(device)
    processor = processor_of(folder, AutoProcessor)
    answers = ratings(processor.tokenizer)
    return Guard(ChatModel(model, processor, settings.micro_batch, ANSWER, answers), policy)


def ratings(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The tokens by which `ANSWER` followed by Unsafe, and by Safe, first differ.

    Raises CheckpointError where there is no such place: then no token tells the ratings apart.
    """
    start, unsafe, safe = (
        tokenizer.encode(ANSWER + word, add_special_tokens=False) for word in ("", "Unsafe", "Safe")
    )
    known = len(start)
    if (
        not unsafe[:known] == safe[:known] == start
        or min(len(unsafe), len(safe)) == known
        or unsafe[known] == safe[known]
    ):
        raise CheckpointError(
            f"this tokenizer has no tokens that tell Unsafe from Safe after {ANSWER!r}"
        )
    return [unsafe[known]], [safe[known]]
