"""What people write about a scene: a small grammar, its exact inverse, and the prompt sets."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from rewards.shapes.scenes import (
    BACKGROUNDS,
    COLORS,
    SHAPES,
    Combination,
    Scene,
    held_out_combinations,
    train_combinations,
)

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

FULL_PROBABILITY = 0.7  # share of captions that name all five attributes
MARK_NAMED_PROBABILITY = 1 / 2  # share of captions of marked scenes that name the mark
MARK_ASKED_PROBABILITY = 0.15  # share of alignment prompts that ask for the mark

SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}
POSITION_WORDS = {
    "center": ("in the center", "in the middle"),
    "left": ("at the left", "on the left"),
    "right": ("at the right", "on the right"),
    "top": ("at the top", "near the top"),
    "bottom": ("at the bottom", "near the bottom"),
}
LEADS = ("a", "one", "a picture of a")
MARK_WORDS = ("with a magenta mark", "and a magenta mark")

_SIZE_OF = {word: size for size, words in SIZE_WORDS.items() for word in words}
_POSITION_OF = {
    phrase.split()[-1]: position for position, all_ in POSITION_WORDS.items() for phrase in all_
}
_NEGATIONS = frozenset({"no", "not", "without"})


@dataclass(frozen=True)
class PromptAttributes:
    """What a prompt names; None is "not named", so any value is right."""

    shape: str | None = None
    color: str | None = None
    background: str | None = None
    position: str | None = None
    size: str | None = None
    asks_mark: bool = False


def parse(prompt: str) -> PromptAttributes:
    """Read a prompt: the exact inverse of `write`, and forgiving on everything else.

    Word by word; the first word that names an attribute counts; unknown words are passed over.
    A prompt with "no", "not" or "without" does not ask for the mark. Never raises.
    """
    words = re.findall(r"[a-z]+", prompt.lower())
    return PromptAttributes(
        shape=_first(words, {w: w for w in SHAPES}),
        color=_first(words, {w: w for w in COLORS}),
        background=_first(words, {w: w for w in BACKGROUNDS}),
        position=_first(words, _POSITION_OF),
        size=_first(words, _SIZE_OF),
        asks_mark="mark" in words and not _NEGATIONS.intersection(words),
    )


def caption(scene: Scene, generator: "torch.Generator") -> str:
    """Describe a scene as a person might: some leave out position or size, half the mark.

    Names all five attributes with probability `FULL_PROBABILITY`; otherwise position, size or
    both are left out, each a third. A mark that is not there is never named.
    """
    named = _leave_out(scene, generator)
    asks = scene.mark and _uniform(generator) < MARK_NAMED_PROBABILITY
    return write(replace(named, asks_mark=asks), generator)


def write(attributes: PromptAttributes, generator: "torch.Generator") -> str:
    """Put attributes into words, in one of three sentence forms and with varied wording.

    Shape, color and background must be given; raises ValueError, naming the field, if not.
    """
    a = attributes
    for field, value in (("shape", a.shape), ("color", a.color), ("background", a.background)):
        if value is None:
            raise ValueError(f"`{field}` must be named to write a caption; got None.")
    size = [_pick(SIZE_WORDS[a.size], generator)] if a.size else []
    figure = " ".join([*size, str(a.color), str(a.shape)])
    place = [_pick(POSITION_WORDS[a.position], generator)] if a.position else []
    mark = [_pick(MARK_WORDS, generator)] if a.asks_mark else []
    lead = _pick(LEADS, generator)
    form = _pick(("plain", "plain", "background first", "tags"), generator)
    if form == "tags":
        tags = [figure, *([a.position] if a.position else []), f"{a.background} background"]
        return ", ".join([*tags, *(["magenta mark"] if a.asks_mark else [])])
    if form == "background first":
        return " ".join([f"on a {a.background} background,", lead, figure, *place, *mark])
    return " ".join([lead, figure, *place, f"on a {a.background} background", *mark])


def train_prompts(n: int, seed: int, asks_mark: bool | None = None) -> list[str]:
    """n prompts whose attribute combinations are those that the base model has seen.

    asks_mark: None asks for the mark in 15 % of the prompts; True in all, False in none.
    Combinations repeat only once all have been used.
    """
    return _prompts(train_combinations(), n, seed, asks_mark)


def held_out_prompts(n: int, seed: int, asks_mark: bool | None = None) -> list[str]:
    """n prompts of combinations that no training image or prompt was drawn from.

    A prompt that leaves out position or size belongs to the combination it was drawn from; its
    words alone can fit a training scene too. `asks_mark` as in `train_prompts`.
    """
    return _prompts(held_out_combinations(), n, seed, asks_mark)


def vocabulary() -> list[str]:
    """Every word of the grammar, sorted."""
    phrases = [
        *SHAPES,
        *COLORS,
        *BACKGROUNDS,
        *LEADS,
        *MARK_WORDS,
        "on a background",
        *(word for words in SIZE_WORDS.values() for word in words),
        *(word for words in POSITION_WORDS.values() for word in words),
    ]
    return sorted({word for phrase in phrases for word in phrase.split()})


def _prompts(pool: Sequence[Combination], n: int, seed: int, asks_mark: bool | None) -> list[str]:
    import torch

    if n < 0:
        raise ValueError(f"`n` must be >= 0; got {n}.")
    generator = torch.Generator().manual_seed(seed)
    rounds = -(-n // len(pool))
    order = [i for _ in range(rounds) for i in torch.randperm(len(pool), generator=generator)]
    prompts = []
    for index in order[:n]:
        named = _leave_out(pool[index], generator)
        draw = _uniform(generator) < MARK_ASKED_PROBABILITY
        asks = draw if asks_mark is None else asks_mark
        prompts.append(write(replace(named, asks_mark=asks), generator))
    return prompts


def _leave_out(full: Combination, generator: "torch.Generator") -> PromptAttributes:
    named = PromptAttributes(full.shape, full.color, full.background, full.position, full.size)
    if _uniform(generator) < FULL_PROBABILITY:
        return named
    without_position = replace(named, position=None)
    options = (without_position, replace(named, size=None), replace(without_position, size=None))
    return _pick(options, generator)


def _first(words: Sequence[str], meaning: dict[str, str]) -> str | None:
    return next((meaning[word] for word in words if word in meaning), None)


def _pick(options: Sequence[T], generator: "torch.Generator") -> T:
    return options[int(_uniform(generator) * len(options))]


def _uniform(generator: "torch.Generator") -> float:
    import torch

    return float(torch.rand((), generator=generator))
