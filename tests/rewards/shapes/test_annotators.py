"""Annotators scatter around the gold measures, by as much as they say."""

import math

import pytest
import torch

from rewards.shapes import annotators
from rewards.shapes.annotators import Population, flag, prefer, rate, recruit
from rewards.shapes.gold import AESTHETIC, PREFERENCE


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def typical(people: int = 1) -> Population:
    """Annotators who all have the mean taste."""
    return Population(
        torch.tensor(list(AESTHETIC.values())).expand(people, -1),
        torch.tensor(list(PREFERENCE.values())).expand(people, -1),
        torch.zeros(people),
    )


def test_mean_taste_is_the_gold_taste() -> None:
    # The mean of 20,000 draws with spread 0.15 has a standard error of 0.001.
    people = recruit(20_000, generator())
    torch.testing.assert_close(
        people.preference.mean(0), torch.tensor(list(PREFERENCE.values())), atol=5e-3, rtol=0
    )
    torch.testing.assert_close(
        people.aesthetic.mean(0), torch.tensor(list(AESTHETIC.values())), atol=5e-3, rtol=0
    )
    assert people.preference.std(0).tolist() == pytest.approx([annotators.TASTE_SPREAD] * 4, 0.05)


def test_ratings_are_tenths_around_the_gold_value() -> None:
    # 0.85 * 0.5 + 0.15 * 0.5 = 0.5, far from both ends, so that the cut does not bias the mean.
    features = torch.full((20_000, 2), 0.5)
    ratings = rate(features, typical(), generator())
    assert ratings.mean().item() == pytest.approx(0.5, abs=5e-3)
    torch.testing.assert_close((ratings * 10).round(), ratings * 10, atol=1e-5, rtol=0)
    assert 0 <= ratings.min() <= ratings.max() <= 1


def test_choice_frequency_is_bradley_terry() -> None:
    # Warmth differs by 0.1: utility by 0.05, so P = sigmoid(0.05 / 0.08) = 0.651.
    first = torch.tensor([1.0, 0.6, 0.5, 0.0]).expand(40_000, 4)
    second = torch.tensor([1.0, 0.5, 0.5, 0.0]).expand(40_000, 4)
    share = prefer(first, second, typical(), generator()).float().mean().item()
    expected = 1 / (1 + math.exp(-0.5 * 0.1 / annotators.CHOICE_SCALE))
    assert share == pytest.approx(expected, abs=0.01)  # standard error 0.0024


def test_equal_images_are_a_coin_toss_and_order_does_not_matter() -> None:
    a = torch.rand(20_000, 4, generator=generator())
    assert prefer(a, a, typical(), generator()).float().mean().item() == pytest.approx(
        0.5, abs=0.02
    )
    b = torch.rand(20_000, 4, generator=generator(1))
    forward = prefer(a, b, typical(3), generator(2)).float().mean()
    backward = prefer(b, a, typical(3), generator(3)).float().mean()
    assert (forward + backward).item() == pytest.approx(1.0, abs=0.02)


def test_flags_are_wrong_at_the_stated_rate() -> None:
    presence = torch.tensor([0.2, 0.9]).repeat(20_000)
    wrong = flag(presence, generator()) != (presence > 0.5)
    assert wrong.float().mean().item() == pytest.approx(annotators.FLIP_RATE, abs=4e-3)


def test_the_generator_is_the_only_randomness() -> None:
    features = torch.rand(50, 2, generator=generator())
    people = recruit(5, generator(1))
    first = rate(features, people, generator(2))
    torch.manual_seed(123)
    assert torch.equal(first, rate(features, people, generator(2)))
    assert not torch.equal(first, rate(features, people, generator(3)))


def test_nobody_cannot_be_recruited() -> None:
    with pytest.raises(ValueError, match="`n` must be >= 1; got 0"):
        recruit(0, generator())
