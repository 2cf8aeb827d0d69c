"""A learned reward among the others: shared encoder, gradient, uncertainty with the value."""

from __future__ import annotations

from dataclasses import replace

from rewards.checkpoints import CheckpointError
from rewards.encoders import Encoder
from rewards.learned.file import load_reward
from rewards.learned.inputs import (
    MOST_DEPARTURE,
    departure,
    encoder_called,
    fingerprint,
    head_inputs,
)
from rewards.learned.model import RewardModel
from rewards.reward import ImageBatch, Reward, Scores


class LearnedReward(Reward):
    """What a reward model says; `std` is its uncertainty, so that pessimism by role applies.

    Raises CheckpointError where the encoder has other weights than the one it was trained on.
    """

    def __init__(
        self,
        model: RewardModel,
        name: str = "learned",
        device: str = "cpu",
        encoder: Encoder | None = None,
    ) -> None:
        self.facts = model.card.facts(name)
        self.encoder = encoder or encoder_called(model.card.encoder, device)
        if not (far := departure(fingerprint(self.encoder), model.probe)) <= MOST_DEPARTURE:
            raise CheckpointError(
                f"reward {name!r} was trained on another {model.card.encoder!r}: the features of "
                f"a fixed picture differ by {100 * far:.0f} %; bring that encoder, or train again"
            )
        self.model = model.to(str(self.encoder.device))

    @classmethod
    def called(cls, name: str, device: str = "cpu") -> LearnedReward:
        """Load the reward of that name or path."""
        return cls(load_reward(name), name, device)

    def score(self, batch: ImageBatch) -> Scores:
        """Score every image; a prompt plays a part only where the reward reads it."""
        inputs = head_inputs(self.encoder, batch, self.model.card.reads_prompt)
        values, std = self.model.score(inputs)
        return replace(Scores.of(values), std=std)
