"""Train and measure every (method, seed) of the study, each once; finished ones are kept."""

from __future__ import annotations

import argparse
import gc
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from lightning import Callback

from experiments.arguments import read_names
from experiments.cells import Result, run_once, with_rate
from experiments.front import methods
from experiments.front.methods import Train, fixed, train_adapter
from experiments.front.rates import centre, exam_for_tuning, rate_of, settle, tune
from experiments.judging import JUDGING_SEED, Exam, Grid, Look, for_judging
from morl.config import load_config, require
from morl.config.tree import Config
from morl.errors import ConfigError, MorlError
from morl.fronts.front import Front
from morl.training.assemble import Assembly
from morl.training.evaluate import edge_paths, judge_constraints, weight_grid
from morl.training.module import AlignmentModule

Cell = Callable[[Config, Path, Exam], Result]
RESULTS = Path(__file__).parent / "results"
LOGS = Path("runs/front")
LOOKS = 3
BUDGETS = {"C/10": 10, "C/3": 3, "C": 1}
"""Points of a dedicated training with the whole compute C at which it is measured."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="shapes")
    parser.add_argument("--methods", default=",".join(CELLS))
    parser.add_argument("--seeds", default="0,1,2", help="`regret` runs for the first")
    parser.add_argument("--tune", action="store_true", help="try the learning rates, at C/3")
    parser.add_argument(
        "--settle", action="store_true", help="then the recipe's rate against the best, at C"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--set", action="append", default=[], help="override, as in `morl train`")
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    asked = read_names(parser, "methods", given.methods, CELLS)
    try:
        config = load_config(given.recipe, given.set)
        require(config)
        if given.tune:
            exam = cache(lambda: exam_for_tuning(config))
            for method in asked:
                tune(method, config, exam, given.results, LOGS)
            return
        seeds = [int(seed) for seed in given.seeds.split(",")]
        if given.settle:
            choose_rates(config, asked, seeds[0], given.results)
            return
        run(config, asked, seeds, given.results)
    except MorlError as error:
        raise SystemExit(f"{error}") from error


def run(config: Config, chosen: Sequence[str], seeds: Sequence[int], results: Path) -> None:
    """Run what is not stored yet; the base model answers the exam once."""
    if "regret" in chosen:
        corners(config)
    exam = cache(
        lambda: Exam.of(config, "held_out", JUDGING_SEED, config.evaluation.images_per_weight)
    )
    rates = {method: rate_of(method, config, results) for method in chosen}
    for seed in seeds:
        for method in chosen:
            if method == "regret" and seed != seeds[0]:
                continue
            setting, name = with_rate(config, rates[method], seed), f"{method}-{seed}"
            work = partial(_cell, method, setting, LOGS / name, exam)
            run_once(results, name, setting, work)
            gc.collect()


def choose_rates(config: Config, chosen: Sequence[str], seed: int, results: Path) -> None:
    """Settle the learning rate of each method by whole trainings; `regret` has several lengths."""
    exam = cache(
        lambda: Exam.of(config, "held_out", JUDGING_SEED, config.evaluation.images_per_weight)
    )
    for method in chosen:
        if method != "regret":
            logs = LOGS / f"{method}-{seed}"
            settle(method, config, results, seed, partial(_whole, method, logs, exam))
            gc.collect()


def conditioned(config: Config, logs: Path, exam: Exam) -> Result:
    """The product, measured in full: grid, curve on the way, edge paths, constraints."""
    grid, steps = weight_grid(config), config.training.steps
    # A quarter of the images: the curve is there to show a fall, not to compare methods.
    few = exam.first(max(2, len(exam.asked) // 4))
    curve: list[Result] = []

    def watch(parts: Assembly, module: AlignmentModule) -> Sequence[Callback]:
        def look(step: int) -> None:
            curve.append(_point(step, few.fronts([parts] * len(grid), grid)))

        every = max(1, steps // LOOKS)
        return [Look(module, range(every, steps, every), look)]

    parts = methods.conditioned(config, logs, grid, watch)[0]
    fronts = exam.fronts([parts] * len(grid), grid)
    last = {
        space: replace(
            front,
            samples=front.samples[:, : len(few.asked)],
            base=front.base[: len(few.asked)],
            groups=few.groups,
        )
        for space, front in fronts.items()
    }
    judged = for_judging(parts)
    paths = edge_paths(replace(judged, config=exam.config), exam.judge, exam.prompts)
    # Constraints are pooled over seeds, so each seed draws prompts and noise of its own for them.
    events = judge_constraints(judged, exam.judge, exam.prompts, grid)
    return {
        "names": list(config.names),
        "fronts": _plain(fronts),
        "curve": [*curve, _point(steps, last)],
        "paths": paths,
        "events": events,
        "compute": parts.ledger.to_dict(),
    }


def regret(config: Config, logs: Path, exam: Exam) -> Result:
    """Ordinary LoRAs with C each at the vertices and the centre, on their way there.

    Warm-up and average are those of the whole training at every point of it.
    """
    at, steps = corners(config), config.training.steps
    due = {name: max(1, round(steps / share)) for name, share in BUDGETS.items()}
    measured: dict[str, list[Front]] = {name: [] for name in due}
    common = None
    for weights in at:

        def watch(
            parts: Assembly, module: AlignmentModule, weights: Grid = weights[None]
        ) -> Sequence[Callback]:
            def look(step: int) -> None:
                front = exam.fronts([parts], weights)["gold"]
                for name in (name for name, when in due.items() if when == step):
                    measured[name].append(front)

            return [Look(module, due.values(), look)]

        one = fixed(config, weights, steps)
        _, common = train_adapter(one, logs, common=common, watch=watch)
    return {"budgets": {name: _joined(fronts).to_dict() for name, fronts in measured.items()}}


def on_grid(train: Train) -> Cell:
    """A cell that measures the grid alone."""

    def cell(config: Config, logs: Path, exam: Exam) -> Result:
        grid = weight_grid(config)
        return {"fronts": _plain(exam.fronts(train(config, logs, grid), grid))}

    return cell


def corners(config: Config) -> Grid:
    """The vertices and the centre of the simplex, where `regret` compares with the grid's points.

    Raises ConfigError where the grid has no centre.
    """
    at = torch.cat([torch.eye(len(config.names)), centre(config)])
    if (torch.cdist(at, weight_grid(config), p=1).min(dim=1).values > 1e-5).any():
        raise ConfigError(
            f"evaluation.partitions: `regret` compares at the centre of the simplex, which a grid "
            f"has whose partitions are a multiple of {len(config.names)}; got "
            f"{config.evaluation.partitions}"
        )
    return at


CELLS: dict[str, Cell] = {
    "conditioned": conditioned,
    "dedicated": on_grid(methods.dedicated),
    "soup": on_grid(methods.soup_of_experts),
    "random": on_grid(methods.random_weights),
    "shuffled": on_grid(methods.shuffled),
    "regret": regret,
}


def _cell(method: str, config: Config, logs: Path, exam: Callable[[], Exam]) -> Result:
    return CELLS[method](config, logs, exam())


def _whole(method: str, logs: Path, exam: Callable[[], Exam], config: Config) -> Result:
    return _cell(method, config, logs, exam)


def _plain(fronts: dict[str, Front]) -> Result:
    return {space: {**front.to_dict(), **front.summary()} for space, front in fronts.items()}


def _point(step: int, fronts: dict[str, Front]) -> Result:
    return {"step": step, **{space: front.mean.tolist() for space, front in fronts.items()}}


def _joined(fronts: Sequence[Front]) -> Front:
    """Fronts of one point each as one front."""
    return replace(
        fronts[0],
        weights=np.concatenate([front.weights for front in fronts]),
        samples=np.concatenate([front.samples for front in fronts]),
    )


if __name__ == "__main__":
    main()
