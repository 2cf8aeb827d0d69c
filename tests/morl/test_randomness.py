"""Draws depend on seed, step, rank and purpose, and on nothing else."""

from __future__ import annotations

import itertools

import torch

from morl.randomness import derive_seed, generator


def draw(*key) -> list[float]:
    return torch.rand(4, generator=generator(*key)).tolist()


def test_the_same_key_gives_the_same_draws_whatever_was_drawn_before():
    first = draw(0, 1, 0, "weights")
    draw(0, 1, 0, "latents")
    torch.manual_seed(123)
    assert draw(0, 1, 0, "weights") == first


def test_each_part_of_the_key_matters():
    keys = [(0, 1, 0, "a"), (1, 1, 0, "a"), (0, 2, 0, "a"), (0, 1, 1, "a"), (0, 1, 0, "b")]
    for one, other in itertools.combinations(keys, 2):
        assert draw(*one) != draw(*other)


def test_parts_do_not_run_into_each_other():
    # Joined without a mark between them, these two would be the same text "1100a".
    assert derive_seed(1, 10, 0, "a") != derive_seed(11, 0, 0, "a")


def test_seeds_fit_a_generator():
    seeds = [derive_seed(seed, step, 0, "x") for seed in range(20) for step in range(20)]
    assert len(set(seeds)) == 400
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_known_value_guards_stored_runs_against_a_new_derivation():
    # sha256("0/0/0/weights") begins with 0ab2f145d73b2029; without its last bit it is the seed.
    assert derive_seed(0, 0, 0, "weights") == 0x0AB2F145D73B2029 // 2
