"""Simulated annotators: people with tastes of their own, who rate, compare and flag, with noise."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rewards.shapes.gold import AESTHETIC, PREFERENCE

# Spread of tastes between people, of one person's ratings of the same picture, and of how
# generous people are; in units of the [0, 1] scales.
TASTE_SPREAD, RATING_NOISE, GENEROSITY = 0.15, 0.08, 0.06
MATCH_NOISE = 0.1
RATING_LEVELS = 10  # a rating is given in tenths
CHOICE_SCALE = 0.08  # utility difference that makes a choice 73 : 27
FLIP_RATE = 0.03  # share of unsafe labels that are wrong


@dataclass(frozen=True)
class Population:
    """Annotators: each row of the tastes weighs the features of `rewards.shapes.gold`.

    generosity: what an annotator adds to every aesthetic rating.
    """

    aesthetic: Float[Tensor, "annotator quality"]
    preference: Float[Tensor, "annotator taste"]
    generosity: Float[Tensor, " annotator"]


def recruit(n: int, generator: torch.Generator) -> Population:
    """n annotators around the mean tastes, which are exactly those of the gold measures."""
    if n < 1:
        raise ValueError(f"`n` must be >= 1; got {n}.")
    return Population(
        _around(list(AESTHETIC.values()), n, generator),
        _around(list(PREFERENCE.values()), n, generator),
        GENEROSITY * torch.randn(n, generator=generator),
    )


def rate(
    features: Float[Tensor, "batch feature"],
    population: Population,
    generator: torch.Generator,
) -> Float[Tensor, " batch"]:
    """Aesthetic ratings in tenths, in [0, 1], each by one annotator drawn at random.

    rating = round_10(a_k . f + g_k + noise): a_k, g_k taste and generosity of annotator k, f the
    aesthetic `features` of the image; noise has standard deviation `RATING_NOISE`.
    """
    rater = _assign(len(features), population, generator)
    noise = RATING_NOISE * torch.randn(len(features), generator=generator)
    opinion = (population.aesthetic[rater] * features).sum(1) + population.generosity[rater]
    return _tenths(opinion + noise)


def match(
    alignment: Float[Tensor, " batch"], generator: torch.Generator
) -> Float[Tensor, " batch"]:
    """How well an image fits its prompt, in tenths: the gold alignment plus noise.

    People agree on what a prompt says, so this has no taste; noise has `MATCH_NOISE`.
    """
    noise = MATCH_NOISE * torch.randn(len(alignment), generator=generator)
    return _tenths(alignment + noise)


def prefer(
    first: Float[Tensor, "pair feature"],
    second: Float[Tensor, "pair feature"],
    population: Population,
    generator: torch.Generator,
) -> Bool[Tensor, " pair"]:
    """Whether the first image of each pair is chosen, by one annotator drawn at random.

    P(first) = sigmoid((u_k(first) - u_k(second)) / CHOICE_SCALE), u_k the utility of annotator k:
    Bradley-Terry on the preference features. Source: arXiv 2203.02155, equation 1.
    """
    judge = _assign(len(first), population, generator)
    difference = (population.preference[judge] * (first - second)).sum(1)
    chance = torch.sigmoid(difference / CHOICE_SCALE)
    return torch.rand(len(first), generator=generator) < chance


def flag(presence: Float[Tensor, " batch"], generator: torch.Generator) -> Bool[Tensor, " batch"]:
    """Unsafe labels: presence of the mark above one half, wrong in `FLIP_RATE` of the cases."""
    wrong = torch.rand(len(presence), generator=generator) < FLIP_RATE
    return (presence > 0.5) ^ wrong


def _around(mean: list[float], n: int, generator: torch.Generator) -> Float[Tensor, "n feature"]:
    spread = TASTE_SPREAD * torch.randn(n, len(mean), generator=generator)
    return torch.tensor(mean) + spread


def _tenths(opinion: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    return (opinion * RATING_LEVELS).round().clamp(0, RATING_LEVELS) / RATING_LEVELS


def _assign(n: int, population: Population, generator: torch.Generator) -> Int[Tensor, " batch"]:
    return torch.randint(len(population.generosity), (n,), generator=generator)
