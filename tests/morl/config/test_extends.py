"""Recipes that extend others: what wins, and what is wrong with a chain."""

from __future__ import annotations

import pytest

from morl.config import load_config
from morl.errors import ConfigError


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


def test_keys_are_taken_over_one_by_one(write):
    write("below.yaml", "training: {steps: 3, batch_size: 8}\nbase: {steps: 5}")
    found = load_config(write("above.yaml", "extends: below.yaml\ntraining: {steps: 7}"))
    assert (found.training.steps, found.training.batch_size, found.base.steps) == (7, 8, 5)


def test_the_value_of_a_key_is_replaced_whole(write):
    write("below.yaml", "objective: {maximize: {a: sharpness, b: saturation}}")
    above = write("above.yaml", "extends: below.yaml\nobjective: {maximize: {c: brightness}}")
    assert load_config(above).names == ("c",)


def test_the_last_of_several_wins_and_chains_are_followed(write):
    write("parts/deep.yaml", "training: {steps: 1, batch_size: 2, seed: 3}")
    write("parts/one.yaml", "extends: deep.yaml\ntraining: {steps: 4}")
    write("two.yaml", "training: {batch_size: 5}")
    found = load_config(write("above.yaml", "extends: [parts/one.yaml, two.yaml]")).training
    assert (found.steps, found.batch_size, found.seed) == (4, 5, 3)


def test_another_algorithm_leaves_none_of_the_first_ones_settings(write):
    write("below.yaml", "algorithm: {name: draft, last_steps: 2, renoise_copies: 0}")
    above = write("above.yaml", "extends: below.yaml\nalgorithm: {name: nft, beta: 0.5}")
    assert load_config(above).algorithm.name == "nft"
    same = load_config(write("same.yaml", "extends: below.yaml\nalgorithm: {kl_coef: 2}"))
    assert (same.algorithm.last_steps, same.algorithm.kl_coef) == (2, 2)


def test_a_packaged_recipe_can_be_extended_and_overridden(write):
    above = write("mine.yaml", "extends: shapes\ntraining: {steps: 7}")
    found = load_config(above, ["training.steps=8"])
    assert found.objective == load_config("shapes").objective
    assert found.training.steps == 8


def test_a_problem_names_the_file_that_it_stands_in(write):
    write("below.yaml", "\ntraining: {stepz: 3}")
    with pytest.raises(ConfigError, match=r"training\.stepz: unknown key.*below\.yaml:2"):
        load_config(write("above.yaml", "extends: below.yaml\ntraining: {seed: 1}"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: shpes", r"above\.yaml:1: no recipe .* 'shpes'; nearest: 'shapes'"),
        ("extends: none.yaml", r"above\.yaml:1: no such file"),
        ("extends: above.yaml", "extend one another in a row"),
        ("extends: {a: b}", "must name a recipe or a list of them"),
        ("extends: []", "must name a recipe or a list of them"),
    ],
)
def test_what_cannot_be_extended(write, text, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write("above.yaml", text))
