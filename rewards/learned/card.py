"""What the file of a learned reward says of itself, read from its header alone. No torch."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from rewards.checkpoints import CHECKPOINTS, CheckpointError, home
from rewards.facts import CATEGORIES, Category, RewardFacts
from rewards.learned.settings import TASKS, UNCERTAINTIES, Task, Uncertainty

FORMAT = 1
SUFFIX = ".safetensors"
KEY = "morl_reward"  # of the header's metadata; its value is the card as JSON
WORLD_ENCODER = "shapes_clip"
CATEGORY_OF: dict[Task, Category] = {
    "regression": "quality",
    "preference": "preference",
    "classification": "safety",
}
_MOST_BYTES = 100_000_000  # of a header, the format's own limit


@dataclass(frozen=True)
class Card:
    """Everything about a learned reward but its tensors."""

    task: Task
    encoder: str
    reads_prompt: bool = False
    category: Category = "quality"
    higher_is_better: bool = True
    summary: str = ""
    members: int = 1
    hidden: int = 64
    features: int = 0
    """Length of a row of the head's inputs."""
    uncertainty: Uncertainty = "none"
    initialisations: tuple[str, ...] = ()
    """A digest of the weights that each member started from: equal ones can be averaged."""
    averaged: int = 0
    """Members whose weights were averaged into one head; 0: none."""
    measures: Mapping[str, float] = field(default_factory=dict)
    """Of labels that took no part in training."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """The settings that it was trained with."""

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True)

    def facts(self, name: str) -> RewardFacts:
        """The facts of a reward, under the name or path that it was asked for."""
        known = CHECKPOINTS.get(self.encoder)
        probability = self.task == "classification"
        return RewardFacts(
            name=name,
            category=self.category,
            summary=self.summary or f"learned from labels: {self.task} on {self.encoder}",
            low=0.0 if probability else float("-inf"),
            high=1.0 if probability else float("inf"),
            higher_is_better=self.higher_is_better,
            differentiable=True,
            reads_prompt=self.reads_prompt,
            encoder=self.encoder,
            licence=known.licence if known else "Apache-2.0",
            uncertainty=self.uncertainty != "none",
            source="rewards.learned.scorer:LearnedReward",
        )


def trained() -> Path:
    """Folder of learned rewards that go by a name."""
    return home() / "trained"


def named() -> dict[str, Path]:
    """Learned rewards that go by a name, without a look into their files."""
    return {path.stem: path for path in sorted(trained().glob(f"*{SUFFIX}"))}


def located(name: str) -> Path | None:
    """The file of the learned reward `name`, a name or a path; None where it is neither."""
    if name.endswith(SUFFIX):
        return Path(name).expanduser()
    return named().get(name) if name.isidentifier() else None


def read_card(path: Path) -> Card:
    """The card of a file; CheckpointError, naming it, where that is no learned reward."""
    try:
        stamp = path.stat()
    except OSError as error:
        raise CheckpointError(
            f"the learned reward {str(path)!r} is not on this machine: {error.strerror}; train one "
            "with `morl rewards train`"
        ) from error
    # Facts are asked for at every step.
    return _read(path, stamp.st_mtime_ns, stamp.st_size)


@cache
def _read(path: Path, changed: int, size: int) -> Card:
    del changed  # part of the key
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > min(size, _MOST_BYTES):
                raise ValueError("truncated header")
            header = json.loads(stream.read(length))
            card = json.loads(header["__metadata__"][KEY])
        found = card.pop("format")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise CheckpointError(
            f"{path} is no learned reward: written by `morl rewards train`, its header would hold "
            f"a card ({type(error).__name__}: {error})"
        ) from error
    if found != FORMAT:
        raise CheckpointError(
            f"{path} has format {found}, and this version reads {FORMAT}; train it again"
        )
    try:
        made = Card(**{**card, "initialisations": tuple(card["initialisations"])})
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: its card is not complete: {error}") from error
    return _checked(made, path)


def _checked(card: Card, path: Path) -> Card:
    for key, value, known in (
        ("task", card.task, TASKS),
        ("uncertainty", card.uncertainty, UNCERTAINTIES),
        ("category", card.category, CATEGORIES),
    ):
        if value not in known:
            raise CheckpointError(f"{path}: `{key}` {value!r} of its card is none of {known}")
    return card
