"""Which sampler steps are differentiated."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from morl.diffusion.gradient import GradientSteps, drawn_steps, last_steps


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_last_steps_in_full():
    assert last_steps(10, 3) == GradientSteps(frozenset({7, 8, 9}))
    assert last_steps(4, 4).first == 0


@pytest.mark.parametrize("count", [0, 5])
def test_last_steps_out_of_range(count):
    with pytest.raises(ValueError, match=r"`last_steps` must lie in 1..4"):
        last_steps(4, count)


def test_drawn_steps_take_one_from_each_part():
    for seed in range(50):
        early, late = sorted(drawn_steps(10, 8, 2, seeded(seed)).steps)
        assert 2 <= early < 6 <= late < 10


def test_every_step_has_its_turn():
    generator = seeded(0)
    turns = Counter(step for _ in range(900) for step in drawn_steps(10, 9, 3, generator).steps)
    assert sorted(turns) == list(range(1, 10))
    assert all(240 < count < 360 for count in turns.values())  # 300 each, SD 14


def test_drawing_all_is_all():
    chosen = drawn_steps(4, 3, 3, seeded(0))
    assert chosen == GradientSteps(frozenset({1, 2, 3}), through_latents=False)


@pytest.mark.parametrize(("window", "count"), [(5, 0), (3, 4), (11, 2)])
def test_drawn_steps_out_of_range(window, count):
    with pytest.raises(ValueError, match="1 <= count <= window <= total"):
        drawn_steps(10, window, count, seeded(0))


@pytest.mark.parametrize("steps", [set(), {-1}, {4}])
def test_steps_that_do_not_exist(steps):
    with pytest.raises(ValueError, match=r"must lie in 0..3, one at least"):
        GradientSteps(frozenset(steps), through_latents=False).check(4)


@pytest.mark.parametrize("steps", [{0, 2, 3}, {1, 2}])
def test_a_gradient_through_the_latents_needs_an_unbroken_run(steps):
    with pytest.raises(ValueError, match="needs every step from its first to the last, 3"):
        GradientSteps(frozenset(steps)).check(4)
    GradientSteps(frozenset(steps), through_latents=False).check(4)
