"""Smaller parts of the same update: the same images and gradients, for less memory at once."""

from __future__ import annotations

import functools

import pytest
import torch

from morl.config import Config, load_config
from morl.errors import ResourceError
from morl.lora.store import read_adapter
from morl.prompts import load_prompts
from morl.training.assemble import assemble
from morl.training.collect import Draws
from morl.training.micro_batch import MicroBatch, MicroBatchNote
from morl.training.module import AlignmentModule
from morl.training.session import build_module, train
from rewards.calibration import Calibration

SMALL = (
    "objective.maximize={red: colorfulness, light: brightness}",
    "objective.subject_to=[sharpness <= 0.1]",
    "objective.pessimism=0",
    "evaluation.held_out={}",
    "evaluation.axes={}",
    "training.batch_size=4",
    "base.steps=2",
    "base.guidance=2",
)
SETTINGS = {
    "policy_gradient": ("algorithm.group_size=2", "algorithm.kl_coef=0.1"),
    "draft": (
        "algorithm.last_steps=1",
        "algorithm.drawn_steps=0",
        "algorithm.renoise_copies=1",
        "algorithm.kl_coef=1",
    ),
    "nft": ("algorithm.group_size=2", "algorithm.noise_draws=2"),
}


def config(algorithm: str, *more: str) -> Config:
    chosen = (f"algorithm.name={algorithm}", *SETTINGS[algorithm])
    return load_config("shapes", [*SMALL, *chosen, *more])


def module_of(*arguments: str) -> AlignmentModule:
    """A module whose adapter has moved, so that every gradient has something to say."""
    parts = assemble(config(*arguments))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in parts.adapter.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    calibration = Calibration(parts.objective.names, (0.2, 0.4), (0.1, 0.1))
    return build_module(parts, load_prompts("shapes", "train", 0), calibration)


def gradients(module: AlignmentModule) -> torch.Tensor:
    """What one step accumulates before its update, with two multipliers at work."""
    module.utility.duals.multipliers.fill_(0.5)
    draws = Draws(module.plan.seed, 0, 0)
    for micro in module.collector.collect(module.plan.batch(0), draws):
        micro.output.loss.backward()
    return torch.cat([p.grad.flatten() for p in module.adapter.parameters()])


def test_parts_cover_the_batch() -> None:
    assert MicroBatch().parts(5) == [slice(0, 5)]
    assert MicroBatch(2).parts(5) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    with pytest.raises(ValueError, match="`size` must be at least 1; got 0"):
        MicroBatch(0)


@pytest.mark.parametrize("algorithm", sorted(SETTINGS))
def test_the_gradient_does_not_depend_on_the_parts(algorithm: str) -> None:
    whole = module_of(algorithm)
    split = module_of(algorithm, "training.micro_batch=3")
    expected, found = gradients(whole), gradients(split)
    assert expected.norm() > 0
    torch.testing.assert_close(found, expected, atol=2e-4 * float(expected.abs().max()), rtol=1e-3)
    # Re-noised copies stand behind the images of their own part, so the order is another.
    seen, split_seen = whole.collector.observation(), split.collector.observation()
    assert len(split_seen.weights) == len(seen.weights)
    for name in ("weights", "rewards", "costs"):
        means = (getattr(found, name).mean(dim=0) for found in (split_seen, seen))
        torch.testing.assert_close(*means, atol=1e-3, rtol=1e-3)


def test_shares_are_of_the_whole_step() -> None:
    several = "objective.maximize={red: colorfulness - 0.5 * contrast, light: brightness}"
    found = []
    for size in ("null", "1"):  # a sample alone is its own mean: it would contribute nothing
        module = module_of("draft", several, f"training.micro_batch={size}")
        gradients(module)
        found.append(module.collector.observation().summary(module.utility.objective))
    keys = ["share/red/colorfulness", "share/red/contrast"]
    assert [key for key in found[0] if key.startswith("share/")] == keys
    assert sum(found[0][key] for key in keys) == pytest.approx(1.0)
    assert [found[1][key] for key in keys] == pytest.approx(
        [found[0][key] for key in keys], abs=1e-3
    )


def test_checkpointing_changes_no_gradient() -> None:
    kept = gradients(module_of("draft"))
    again = gradients(module_of("draft", "base.gradient_checkpointing=true"))
    torch.testing.assert_close(again, kept, atol=1e-5 * float(kept.abs().max()), rtol=1e-4)


def out_of_memory_above(limit: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let every differentiated denoiser call of more than `limit` rows fail as a full GPU does."""
    from diffusers import UNet2DConditionModel

    forward, rows = UNet2DConditionModel.forward, []

    @functools.wraps(forward)
    def limited(self, sample, *args, **kwargs):
        if torch.is_grad_enabled():
            rows.append(len(sample))
            if len(sample) > limit:
                raise torch.OutOfMemoryError("no memory left")
        return forward(self, sample, *args, **kwargs)

    monkeypatch.setattr(UNet2DConditionModel, "forward", limited)
    return rows


def test_memory_that_runs_out_halves_the_parts_and_keeps_the_update(tmp_path, monkeypatch) -> None:
    chosen = config("draft", "training.steps=1", "training.ema=0", "base.guidance=1")
    _, expected = read_adapter(train(chosen, tmp_path / "whole"))
    rows = out_of_memory_above(2, monkeypatch)
    with pytest.warns(MicroBatchNote, match=r"4 images at once; going on with .* = 2"):
        file = train(chosen, tmp_path / "halved")
    _, found = read_adapter(file)
    assert max(rows[1:]) == 2
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-3)


def test_one_image_that_does_not_fit_says_what_helps() -> None:
    micro = MicroBatch(1)
    with pytest.raises(
        ResourceError, match=r"single image does not fit .*base\.gradient_checkpointing: true"
    ):
        micro.halve(8)
