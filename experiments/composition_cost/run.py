"""Composing as a share of a training step: everything but the scorers' own forwards."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from experiments.interleaved import paired_ratio
from experiments.step_timer import StepTimer
from morl.config import load_config
from morl.prompts import load_prompts
from morl.training.assemble import Assembly, assemble, fit_calibration
from morl.training.module import AlignmentModule
from morl.training.observation import Observation
from morl.training.session import build_module, fit
from rewards.panel import RewardTable

CALLS = 20
"""Compositions in one measurement, which takes too short alone."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="shapes")
    parser.add_argument("--pairs", type=int, default=15, help="steps that are timed")
    parser.add_argument("--out", type=Path, default=Path("runs/composition_cost.json"))
    parser.add_argument("--set", action="append", default=[], help="override, as in `morl train`")
    given = parser.parse_args()
    row = measured(given.recipe, given.pairs, given.set)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(row, indent=1) + "\n")
    print(
        f"{given.recipe}: composing is {row['ratio']:.3%} of a step "
        f"[{row['low']:.3%}, {row['high']:.3%}], n = {row['pairs']}"
    )


def measured(recipe: str, pairs: int, overrides: Sequence[str]) -> dict[str, Any]:
    """Ratio of one composition to the training step before it, paired by step."""
    config = load_config(recipe, [*overrides, f"training.steps={pairs + 1}"])
    parts = assemble(config)
    prompts = load_prompts(config.prompts.train, "train", config.training.seed)
    module = build_module(parts, prompts, fit_calibration(parts, prompts, config.training.seed))
    scores = random_scores(parts)

    def compose_often() -> None:
        for _ in range(CALLS):
            compose(parts, module, scores)

    timer = StepTimer(compose_often)
    with TemporaryDirectory() as logs:
        fit(config, module, [timer], Path(logs))
    composing = [time / CALLS for time in timer.others[1:]]
    return paired_ratio(composing, timer.steps[1:])


def compose(parts: Assembly, module: AlignmentModule, raw: RewardTable) -> None:
    """From the scores of a step to its advantages, its gradient to the scores, and its log."""
    leaves = RewardTable(
        raw.values.detach().requires_grad_(), raw.valid, raw.std, raw.names, raw.group
    )
    count, objectives = len(raw.values), len(parts.objective.names)
    weights = torch.full((count, objectives), 1 / objectives, device=raw.values.device)
    table = parts.bound.table(leaves)
    scored = module.utility.score(table, weights)
    module.utility.utility(scored, weights).sum().backward()
    module.utility.advantages(scored, weights, raw.groups, clip=5.0)
    seen = Observation.of(table, scored, weights)
    seen = replace(seen, contributions=parts.bound.leaf_contributions(leaves))
    seen.summary(parts.objective)
    module.utility.observe(seen)


def random_scores(parts: Assembly) -> RewardTable:
    """As many scores as a step has."""
    names = parts.bound.leaves
    count = parts.config.training.batch_size
    values = torch.rand(count, len(names), generator=torch.Generator().manual_seed(0))
    values = values.to(parts.adapter.parameters()[0].device)
    return RewardTable(values, torch.ones_like(values).bool(), 0.1 * values, names)


if __name__ == "__main__":
    main()
