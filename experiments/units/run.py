"""Train every (normalisation, scale, seed) of the study once: one reward has 100 x the scale."""

from __future__ import annotations

import argparse
import gc
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer

from experiments.cells import Result, run_once, with_rate
from experiments.front.methods import train_adapter
from experiments.judging import JUDGING_SEED, Exam
from morl.algorithms.normalization import Normalize
from morl.config import load_config, require
from morl.config.tree import Config
from morl.errors import MorlError
from morl.training.assemble import Assembly
from morl.training.evaluate import weight_grid
from morl.training.module import AlignmentModule

RESULTS = Path(__file__).parent / "results"
LOGS = Path("runs/units")
RECIPE = "shapes_policy_gradient"
NORMALIZATIONS: tuple[Normalize, ...] = get_args(Normalize)
SCALED = "aesthetic"
SCALES = (1, 100)
IMAGES = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--normalizations", default=",".join(NORMALIZATIONS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--images", type=int, default=IMAGES, help="at each weight vector")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--set", action="append", default=[], help="override, as in `morl train`")
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    chosen = given.normalizations.split(",")
    overrides = [*given.set, f"evaluation.images_per_weight={given.images}"]
    try:
        run(chosen, [int(seed) for seed in given.seeds.split(",")], given.results, overrides)
    except MorlError as error:
        raise SystemExit(f"{error}") from error


def setting(normalization: str, scale: int, overrides: Sequence[str] = ()) -> Config:
    """The recipe with that normalisation, and with one reward in other units.

    Raises ConfigError for a normalisation that there is not.
    """
    config = load_config(RECIPE, [*overrides, f"objective.normalize={normalization}"])
    maximize = dict(config.objective.maximize)
    if scale != 1:
        maximize[SCALED] = f"{scale} * ({maximize[SCALED]})"
    config = replace(config, objective=replace(config.objective, maximize=maximize))
    require(config)
    return config


def kind(normalization: str, scale: int) -> str:
    """The name of a cell without its seed."""
    return f"{normalization}_{scale}"


def run(
    normalizations: Sequence[str], seeds: Sequence[int], results: Path, overrides: Sequence[str]
) -> None:
    """Run what is not stored yet; the base model answers the exam once, in gold units."""
    arms = {
        kind(n, scale): setting(n, scale, overrides) for n in normalizations for scale in SCALES
    }
    first = next(iter(arms.values()))
    exam = cache(
        lambda: Exam.of(first, "held_out", JUDGING_SEED, first.evaluation.images_per_weight)
    )
    for seed in seeds:
        for name, config in arms.items():
            chosen, cell = with_rate(config, 1.0, seed), f"{name}-{seed}"
            run_once(results, cell, chosen, partial(learn, chosen, LOGS / cell, exam))
            gc.collect()


def learn(config: Config, logs: Path, exam: Callable[[], Exam]) -> Result:
    """The gold front after training, and what each objective had counted on average."""
    grid = weight_grid(config)
    counted: list[list[float]] = []

    def watch(parts: Assembly, module: AlignmentModule) -> Sequence[Callback]:
        del parts
        return [Counted(module, config.names, counted)]

    parts, _ = train_adapter(config, logs, watch=watch)
    front = exam().fronts([parts] * len(grid), grid)["gold"]
    effective = np.mean(counted, axis=0).tolist()
    return {
        "gold": front.to_dict(),
        "effective": dict(zip(config.names, effective, strict=True)),
        "compute": parts.ledger.to_dict(),
    }


class Counted(Callback):
    """Notes the effective weights of every update."""

    def __init__(
        self, module: AlignmentModule, names: Sequence[str], counted: list[list[float]]
    ) -> None:
        self.module = module
        self.keys = [f"effective_weight/{name}" for name in names]
        self.counted = counted

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.counted.append([self.module.metrics[key] for key in self.keys])


if __name__ == "__main__":
    main()
