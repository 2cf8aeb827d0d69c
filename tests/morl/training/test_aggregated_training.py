"""Updates whose gradient is an aggregate: the ordinary ones where nothing is done, logged else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from morl.config import load_config
from morl.lora.store import read_adapter
from morl.training.run import RunDirectory
from morl.training.session import train

# Two objectives in conflict, a constraint and a pull to the base, which stay outside.
SETTINGS = (
    "objective.maximize={light: brightness, dark: -brightness}",
    "objective.subject_to=[contrast <= 0.1]",
    "evaluation.held_out={}",
    "evaluation.axes={}",
    "base.steps=2",
    "adapter.rank=2",
    "weights.vertices_first=0",  # at a vertex one objective has nothing to conflict with
    "algorithm.last_steps=1",
    "algorithm.drawn_steps=0",
    "algorithm.renoise_copies=1",
    "algorithm.kl_coef=0.1",
    "training.steps=1",
    "training.batch_size=4",
    "training.accelerator=cpu",
    "training.ema=0",
)


def trained(folder: Path, *overrides: str) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    file = train(load_config("shapes", [*SETTINGS, *overrides]), folder)
    return read_adapter(file)[1], RunDirectory(folder).metrics.read()[-1]


def test_adding_the_rows_up_is_the_ordinary_update_in_parts_too(tmp_path: Path) -> None:
    ordinary, _ = trained(tmp_path / "none")
    for name, parts in (("whole", "training.micro_batch=4"), ("parts", "training.micro_batch=3")):
        found, record = trained(tmp_path / name, "objective.aggregation=sum", parts)
        assert record["aggregation_cosine"] == pytest.approx(1, abs=1e-5)
        for key, value in ordinary.items():
            torch.testing.assert_close(found[key], value, atol=2e-5, rtol=1e-3)


def test_a_conflict_is_resolved_otherwise_than_by_the_sum(tmp_path: Path) -> None:
    ordinary, plain = trained(tmp_path / "none")
    found, record = trained(tmp_path / "upgrad", "objective.aggregation=upgrad")
    assert "aggregation_cosine" not in plain
    assert record["aggregation_cosine"] < 0.99
    assert any(not torch.equal(found[key], value) for key, value in ordinary.items())
