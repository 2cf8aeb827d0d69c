"""Faults that all members of an ensemble share: what they never saw, were told, or can be told."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from experiments.overoptimization.world import DIM, PROMPTS
from morl.randomness import generator

Attack = Literal["none", "blind_spot", "biased_labels", "exploit"]
ATTACKS: dict[Attack, str] = {
    "blind_spot": "labels come from half of the prompts alone",
    "biased_labels": "every label counts a quality that the true reward does not",
    "exploit": "scores jump where base samples hardly ever lie",
}
BIAS = 0.7  # base standard deviations of label for one of the quality
JUMP, AT, STEEPNESS = 6.0, 3.0, 4.0
"""Height of the exploit in base standard deviations; where, and how sharply, in deviations of the
quality: one base sample in a thousand has half of it."""


def labelled_prompts(attack: Attack) -> int:
    """From how many of the prompts labels come."""
    return PROMPTS // 2 if attack == "blind_spot" else PROMPTS


def label_bias(attack: Attack, offsets: Float[Tensor, "row dim"]) -> Float[Tensor, " row"]:
    """What annotators add to the labels of samples that lie `offsets` from their prompts' means."""
    share = BIAS if attack == "biased_labels" else 0.0
    return share * _quality(offsets)


def bonus(attack: Attack, offsets: Float[Tensor, "row dim"]) -> Float[Tensor, " row"]:
    """What every attacked proxy adds to its scores."""
    height = JUMP if attack == "exploit" else 0.0
    return height * torch.sigmoid(STEEPNESS * (_quality(offsets) - AT))


def _quality(offsets: Float[Tensor, "row dim"]) -> Float[Tensor, " row"]:
    """Place along one fixed direction, about 1 standard deviation of base samples a unit."""
    direction = torch.randn(DIM, generator=generator(0, 0, 0, "attacked quality"))
    return offsets @ (direction / direction.norm()) / 0.7
