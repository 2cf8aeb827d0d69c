"""What a reward declares about itself; no torch, so that listing and checking cost nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Category = Literal["aesthetic", "alignment", "safety", "preference", "quality", "diversity"]
Granularity = Literal["sample", "group"]
CATEGORIES: tuple[Category, ...] = (
    "aesthetic",
    "alignment",
    "safety",
    "preference",
    "quality",
    "diversity",
)


@dataclass(frozen=True)
class RewardFacts:
    """Declared facts of one reward; tests check each claim against the scorer itself."""

    name: str
    category: Category
    summary: str
    low: float = -math.inf
    high: float = math.inf
    higher_is_better: bool = True
    differentiable: bool = False
    granularity: Granularity = "sample"
    reads_prompt: bool = True
    """False where a score is of the image alone, whatever was asked for."""
    record: str = ""
    """The field of a prompt's record that it reads, `ImageBatch.metadata`; empty: none."""
    encoder: str | None = None
    """Name of the shared encoder that the scorer reads; None: it reads pixels."""
    licence: str = "Apache-2.0"
    """Of the weights that it reads, encoder and head; what binds more than attribution is said."""
    needs: str = ""
    """What the user brings before it can be built: a judge, detector or recogniser."""
    uncertainty: bool | None = None
    """Whether a score says how unsure it is; None: not declared."""
    gold: bool = False
    """A computable truth of the embedded world: it never trains unless an experiment says so."""
    source: str = ""
    """`module:attribute` of the implementation, imported when the reward is built."""
