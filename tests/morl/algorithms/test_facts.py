"""What every algorithm declares is true of it."""

from __future__ import annotations

import dataclasses
from importlib import import_module

import pytest

from morl.algorithms.facts import ALGORITHMS, NEEDS, facts_of
from morl.algorithms.settings import DraftSettings, NFTSettings, PolicyGradientSettings
from morl.errors import ConfigError

EVERY = pytest.mark.parametrize("facts", ALGORITHMS.values(), ids=list(ALGORITHMS))


@EVERY
class TestEveryAlgorithm:
    def test_its_row_is_complete(self, facts):
        assert ALGORITHMS[facts.name] is facts
        assert facts.settings.name == facts.name
        assert facts.needs <= set(NEEDS)
        assert "arXiv" in facts.paper
        assert facts.summary

    def test_its_class_is_built_from_its_settings(self, facts):
        module, _, name = facts.source.partition(":")
        settings = facts.settings()
        assert getattr(import_module(module), name)(settings).settings is settings

    def test_groups_are_needed_where_images_are_compared(self, facts):
        assert ("groups" in facts.needs) == (facts.settings().group_size > 1)

    def test_gradients_are_needed_by_the_regime_that_follows_them(self, facts):
        assert ("reward_gradient" in facts.needs) == (facts.regime == "reward_gradient")

    def test_its_defaults_go_together(self, facts):
        assert facts.settings().problems(steps=10) == []

    def test_it_samples_every_image_and_trains_on_something(self, facts):
        spent = facts.settings().evaluations(10)
        assert spent.forward + spent.backward >= 10
        assert spent.backward > 0

    def test_a_pull_to_the_base_costs_forwards_of_the_base(self, facts):
        without = dataclasses.replace(facts.settings(), kl_coef=0.0).evaluations(10)
        with_pull = dataclasses.replace(facts.settings(), kl_coef=0.1).evaluations(10)
        assert with_pull.forward > without.forward
        assert with_pull.backward == without.backward


@pytest.mark.parametrize(
    ("settings", "forward", "backward"),
    [
        # 10 sampling steps; each of them again with gradient
        (PolicyGradientSettings(), 10, 10),
        # half of the steps, twice, and the base model there
        (PolicyGradientSettings(timestep_fraction=0.5, inner_epochs=2, kl_coef=0.1), 20, 10),
        # 10 sampling steps, the old adapter at 4 draws; with the base model 4 more
        (NFTSettings(kl_coef=0.0), 14, 4),
        (NFTSettings(kl_coef=0.1), 18, 4),
        # the last 2 of 10 steps with gradient
        (DraftSettings(last_steps=2, renoise_copies=0), 8, 2),
        # 3 of the last 8 steps with gradient, the base model there
        (DraftSettings(last_steps=8, drawn_steps=3, renoise_copies=0, kl_coef=0.1), 10, 3),
    ],
)
def test_network_evaluations_of_ten_steps(settings, forward, backward):
    spent = settings.evaluations(10)
    assert (spent.forward, spent.backward) == (forward, backward)


def test_an_unknown_one_names_the_nearest():
    with pytest.raises(ConfigError, match="unknown algorithm 'drat'; nearest: 'draft'"):
        facts_of("drat")
