"""What rewards declare, held against what they do."""

from __future__ import annotations

import dataclasses
import importlib
import math

import pytest
import torch

from rewards.errors import RewardError, UnknownRewardError, nearest
from rewards.facts import CATEGORIES, RewardFacts
from rewards.facts_table import FACTS
from rewards.panel import Panel
from rewards.registry import build, facts_of
from rewards.reward import ImageBatch

# Learned scorers load their weights; their claims are tested next to them.
CLOSED_FORMS = [name for name, row in FACTS.items() if row.encoder is None and not row.needs]
# The gold measures prepare templates once a process, so one worker takes them all.
ONCE_A_PROCESS = [
    pytest.param(name, marks=pytest.mark.xdist_group("gold") if FACTS[name].gold else ())
    for name in CLOSED_FORMS
]
PROMPT = "a small red circle on dark"


def extreme_images() -> torch.Tensor:
    """Random, black, white, noise of two colours, one bright pixel, plain colours."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(9, 3, 64, 64, generator=generator)
    images[1] = 0
    images[2] = 1
    images[3] = (images[3] > 0.5).float()
    images[4] = 0
    images[4, :, 30, 30] = 1
    images[5:8] = torch.eye(3)[:, :, None, None]
    images[8] = (torch.arange(64)[:, None] + torch.arange(64)) % 2
    return images


class TestTable:
    def test_a_key_is_the_name_of_its_row(self):
        assert all(name == facts.name for name, facts in FACTS.items())

    @pytest.mark.parametrize("name", FACTS)
    def test_a_row_is_complete(self, name):
        facts = FACTS[name]
        assert facts.category in CATEGORIES
        assert facts.low < facts.high
        assert facts.summary
        assert facts.licence
        module, _, attribute = facts.source.partition(":")
        assert module.startswith("rewards.")
        assert attribute

    @pytest.mark.parametrize("name", CLOSED_FORMS)
    def test_the_implementation_declares_the_same_facts(self, name):
        module, _, attribute = FACTS[name].source.partition(":")
        assert getattr(importlib.import_module(module), attribute).facts is FACTS[name]
        assert build(name).facts is FACTS[name]

    def test_what_never_trains_is_marked(self):
        assert {name for name, facts in FACTS.items() if facts.gold} == {
            name for name in FACTS if name.startswith("gold_")
        }

    def test_lower_is_better_is_declared(self):
        for name in ("shapes_unsafe", "gold_unsafe"):
            assert not FACTS[name].higher_is_better

    def test_facts_are_frozen(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            FACTS["brightness"].low = -1.0

    def test_defaults_claim_nothing(self):
        facts = RewardFacts("x", "quality", "")
        assert (facts.low, facts.high) == (-math.inf, math.inf)
        assert not facts.differentiable
        assert facts.granularity == "sample"


@pytest.mark.parametrize("name", ONCE_A_PROCESS)
class TestClaims:
    def test_values_stay_in_the_declared_range(self, name):
        images = extreme_images()
        scores = build(name).score(ImageBatch(images, [PROMPT] * len(images)))
        facts = facts_of(name)
        assert scores.values.shape == scores.valid.shape == (len(images),)
        assert torch.isfinite(scores.values).all()
        assert scores.values.min() >= facts.low - 1e-6
        assert scores.values.max() <= facts.high + 1e-6

    def test_gradients_are_as_declared(self, name):
        images = extreme_images()[:1].requires_grad_()
        values = build(name).score(ImageBatch(images, [PROMPT])).values
        assert values.requires_grad == facts_of(name).differentiable
        if values.requires_grad:
            values.sum().backward()
            assert torch.isfinite(images.grad).all()
            assert images.grad.abs().max() > 0

    def test_scores_are_deterministic(self, name):
        images = extreme_images()[:3]
        first, second = (
            build(name).score(ImageBatch(images.clone(), [PROMPT] * 3)).values for _ in range(2)
        )
        assert torch.equal(first, second)

    def test_the_prompt_plays_no_part_where_none_is_read(self, name):
        images = extreme_images()[:3]
        first, second = (
            build(name).score(ImageBatch(images, prompts))
            for prompts in ([PROMPT] * 3, ["", "a blue ring with a mark", "x"])
        )
        same = torch.equal(first.values, second.values) and torch.equal(first.valid, second.valid)
        assert same or facts_of(name).reads_prompt

    def test_a_panel_takes_it(self, name):
        images = extreme_images()[:3].requires_grad_()
        table = Panel([build(name)])(ImageBatch(images, [PROMPT] * 3))
        assert table.names == (name,)
        assert table.values.requires_grad == facts_of(name).differentiable


class TestNearest:
    def test_close_names_come_first(self):
        hint = nearest("asthetic", ["alignment", "aesthetic"])
        assert hint == "nearest: 'aesthetic'; known: aesthetic, alignment"

    def test_without_a_close_name_all_are_listed(self):
        assert nearest("zzz", ["b", "a"]) == "known: a, b"

    def test_nothing_is_known(self):
        assert nearest("x", []) == "known: none"

    def test_an_error_prints_as_its_message(self):
        # KeyError alone would print it in quotes
        assert str(UnknownRewardError("no such reward")) == "no such reward"
        assert str(RewardError()) == ""
