"""The cost of composing is measured on whole steps; here that it runs, not how fast."""

from __future__ import annotations

import pytest
import torch

from experiments.composition_cost.run import compose, measured
from morl.config import load_config
from morl.training import assemble as assemble_module
from morl.training.assemble import assemble
from morl.training.session import build_module
from rewards.calibration import Calibration
from rewards.panel import RewardTable

SMALL = (
    "objective.maximize={red: 'min(colorfulness, 2 * contrast) - saturation', light: brightness}",
    "objective.subject_to=[sharpness <= 0.1]",
    "objective.pessimism=0",
    "objective.scalarization=smooth_chebyshev",
    "evaluation.held_out={}",
    "evaluation.axes={}",
    "training.batch_size=2",
    "base.steps=2",
    "algorithm.last_steps=1",
    "algorithm.drawn_steps=0",
)


def test_every_step_is_paired_with_a_composition(monkeypatch):
    monkeypatch.setattr(assemble_module, "CALIBRATION_IMAGES", 4)
    row = measured("shapes", 2, SMALL)
    assert row["pairs"] == 2
    assert row["ratio"] > 0


def test_composing_reaches_every_reward_and_runs_none(monkeypatch):
    parts = assemble(load_config("shapes", SMALL))
    module = build_module(parts, ["a red circle"], Calibration(("red", "light"), (0, 0), (1, 1)))
    monkeypatch.setattr(type(parts.bound.panel), "__call__", lambda *_: pytest.fail("a scorer ran"))
    names = parts.bound.leaves
    values = torch.rand(2, len(names), generator=torch.Generator().manual_seed(0))
    before = module.utility.means.moments.clone()
    compose(parts, module, RewardTable(values, values > -1, 0 * values, names))
    assert module.utility.means.moments.sum() > before.sum()
