"""Train and measure every (method, seed) of the study, each once; finished ones are kept."""

from __future__ import annotations

import argparse
import gc
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from experiments.arguments import read_names
from experiments.cells import Result, run_once
from experiments.front.methods import conditioned, with_steps
from experiments.judging import JUDGING_SEED, Exam
from morl.config import load_config, require
from morl.config.tree import Config
from morl.errors import ConfigError, MorlError
from morl.training.assemble import Assembly
from morl.training.evaluate import weight_grid
from morl.training.judge import Scores
from morl.training.module import AlignmentModule
from rewards.objective import Objective

RESULTS = Path(__file__).parent / "results"
LOGS = Path("runs/constraints")
STEPS = 48  # of the packaged recipe: about 120 s on two CPU cores
IMAGES = 200  # at each weight vector

UNCONSTRAINED = "unconstrained"
PENALTIES = {f"penalty_{value}": float(value) for value in (1, 3, 9)}
METHODS: dict[str, dict[str, Any]] = {
    UNCONSTRAINED: {"multiplier": "fixed", "multiplier_start": 0.0},
    **{n: {"multiplier": "fixed", "multiplier_start": value} for n, value in PENALTIES.items()},
    "dual_ascent": {},
    "nupi": {"multiplier": "nupi"},
    "per_vertex": {"multiplier_of_weights": "per_vertex"},
    "implicit": {"multiplier_of_weights": "implicit"},
}
"""What of the objective each method sets; all else is the recipe's."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="shapes")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--set", action="append", default=[], help="override, as in `morl train`")
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    asked = read_names(parser, "methods", given.methods, METHODS)
    try:
        config = study(load_config(given.recipe, given.set), given.steps, given.images)
        require(config)
        run(config, asked, [int(seed) for seed in given.seeds.split(",")], given.results)
    except MorlError as error:
        raise SystemExit(f"{error}") from error


def study(config: Config, steps: int, images: int) -> Config:
    """The recipe at the study's length; raises ConfigError unless it has one judged constraint."""
    objective = Objective.from_dict(config.objective.to_objective())
    judged = [name in config.evaluation.held_out for name in objective.constraint_names]
    if judged != [True] or objective.constraints[0].needs_base:
        raise ConfigError(
            "objective.subject_to: the study compares what one constraint on a mean costs, judged "
            f"by a measure of its own in evaluation.held_out; got {config.objective.subject_to}"
        )
    evaluation = replace(config.evaluation, images_per_weight=images, judged_images=0)
    return replace(with_steps(config, steps), evaluation=evaluation)


def setting(config: Config, method: str, seed: int) -> Config:
    """The recipe with a method's multipliers, on a seed."""
    objective = replace(config.objective, **METHODS[method])
    training = replace(config.training, seed=seed)
    return replace(config, objective=objective, training=training)


def run(config: Config, chosen: Sequence[str], seeds: Sequence[int], results: Path) -> None:
    """Run what is not stored yet; the base model answers the exam once."""
    exam = cache(
        lambda: Exam.of(config, "held_out", JUDGING_SEED, config.evaluation.images_per_weight)
    )
    for seed in seeds:
        for method in chosen:
            name, chosen_setting = f"{method}-{seed}", setting(config, method, seed)
            run_once(results, name, chosen_setting, partial(cell, chosen_setting, name, exam))
            gc.collect()


def cell(config: Config, name: str, exam: Callable[[], Exam]) -> Result:
    """Gold and proxy front, costs of every image, and the constraint on the way."""
    grid = weight_grid(config)
    trace: list[dict[str, float]] = []

    def watch(parts: Assembly, module: AlignmentModule) -> Sequence[Callback]:
        del parts
        return [Trace(module, trace)]

    parts = conditioned(config, LOGS / name, grid, watch)[0]
    asked = exam()
    scored = asked.grid([parts] * len(grid), grid)
    return {
        "names": list(config.names),
        "constraint": str(parts.objective.constraints[0]),
        "threshold": parts.objective.constraints[0].threshold,
        "fronts": {space: front.to_dict() for space, front in scored.fronts(asked.config).items()},
        "costs": {
            space: {
                "base": _plain(base),
                "weights": [_plain(point[space]) for point in scored.points],
            }
            for space, base in scored.base.items()
        },
        "trace": trace,
    }


class Trace(Callback):
    """Keeps violation and multiplier of every update."""

    def __init__(self, module: AlignmentModule, kept: list[dict[str, float]]) -> None:
        self.module = module
        self.kept = kept

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        shown = self.module.metrics.items()
        self.kept.append(
            {
                kind: next(value for name, value in shown if name.startswith(f"{kind}/"))
                for kind in ("violation", "multiplier")
            }
        )


def _plain(scores: Scores) -> list[float | None]:
    """The cost of each image of the one constraint; None where it does not apply."""
    rows = zip(scores.costs[:, 0].tolist(), scores.cost_valid[:, 0].tolist(), strict=True)
    return [cost if valid and math.isfinite(cost) else None for cost, valid in rows]


if __name__ == "__main__":
    main()
