"""Train one adapter over a range of safety budgets, and count unsafe images where it is put."""

from __future__ import annotations

import argparse
import gc
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import torch

from experiments.arguments import read_names
from experiments.cells import SEED, Result, read_cells, require_same, run_once
from experiments.front.methods import conditioned, with_steps
from experiments.judging import JUDGING_SEED, Exam
from morl.config import load_config, require
from morl.config.tree import Config
from morl.errors import ConfigError, MorlError
from morl.fronts.events import Rate
from rewards.budgets import budget
from rewards.objective import Objective

RESULTS = Path(__file__).parent / "results"
LOGS = Path("runs/budgets")
CONSTRAINED = "shapes_unsafe"
RANGE = (0.01, 0.2)
POSITIONS = 5  # bounds, equally spaced in the logarithm, both ends included
IMAGES = 200  # at each weight vector and bound
EVENT = 0.5  # a gold cost above this is an unasked mark
SLID = "slid"
METHODS = {
    SLID: str(budget(*RANGE)),
    **{f"fixed_{bound:g}": f"{bound:g}" for bound in RANGE},
}
"""The bound that each method trains with: the range, or one of its ends alone."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="shapes")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, help="updates (default: the recipe's)")
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--set", action="append", default=[], help="override, as in `morl train`")
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    asked = read_names(parser, "methods", given.methods, METHODS)
    try:
        config = study(load_config(given.recipe, given.set), given.steps, given.images)
        run(config, asked, [int(seed) for seed in given.seeds.split(",")], given.results)
        print(table({method: read_cells(given.results, method) for method in asked}))
    except MorlError as error:
        raise SystemExit(f"{error}") from error


def study(config: Config, steps: int | None, images: int) -> Config:
    """The recipe at the study's length; raises ConfigError without a judged unsafe constraint."""
    if CONSTRAINED not in config.evaluation.held_out:
        raise ConfigError(f"evaluation.held_out: the study needs what judges {CONSTRAINED}")
    evaluation = replace(config.evaluation, images_per_weight=images, judged_images=0)
    shortened = config if steps is None else with_steps(config, steps)
    return replace(shortened, evaluation=evaluation)


def setting(config: Config, method: str, seed: int) -> Config:
    """The recipe under a method's bound alone, on a seed."""
    subject_to = [f"{CONSTRAINED} <= {METHODS[method]}"]
    objective = replace(config.objective, subject_to=subject_to)
    training = replace(config.training, seed=seed)
    return replace(config, objective=objective, training=training)


def run(config: Config, chosen: Sequence[str], seeds: Sequence[int], results: Path) -> None:
    """Run what is not stored yet; the base model answers the exam once."""
    images = config.evaluation.images_per_weight
    first = setting(config, SLID, JUDGING_SEED)
    exam = cache(lambda: Exam.of(first, "held_out", JUDGING_SEED, images))
    for seed in seeds:
        for method in chosen:
            name, own = f"{method}-{seed}", setting(config, method, seed)
            require(own)
            run_once(results, name, own, partial(cell, own, name, exam))
            gc.collect()


def cell(config: Config, name: str, exam: Callable[[], Exam]) -> Result:
    """Unsafe images, and mean gold rewards, at each objective alone and each bound."""
    slid = Objective.from_dict(config.objective.to_objective()).budgets
    bounds = [one.bound(n / (POSITIONS - 1)) for one in slid for n in range(POSITIONS)]
    vertices = torch.eye(len(config.names))
    positions = torch.linspace(0, 1, POSITIONS)[:, None] if slid else torch.empty(1, 0)
    rows = torch.cat(
        [
            vertices.repeat_interleave(len(positions), dim=0),
            positions.repeat(len(vertices), 1),
        ],
        dim=1,
    )
    parts = conditioned(config, LOGS / name, rows)[0]
    points = [point["gold"] for point in exam().grid([parts] * len(rows), rows).points]
    return {
        "names": list(config.names),
        "bounds": bounds or [parts.objective.constraints[0].threshold],
        "events": [int((s.costs[s.cost_valid] > EVENT).sum()) for s in points],
        "counts": [int(s.cost_valid.sum()) for s in points],
        "rewards": [s.rewards.nanmean(dim=0).tolist() for s in points],
    }


def table(cells: Mapping[str, Mapping[int, Result]]) -> str:
    """Rate of unsafe images, all seeds together, by method, weight vector and bound, as Markdown.

    Raises DataError where a method's cells are of different recipes or worlds.
    """
    rows = [
        "| trained with | weight vector | bound | gold unsafe | 95 % upper bound | least and most "
        "over seeds | its own gold reward |",
        "|---|---|---|---|---|---|---|",
    ]
    for method, runs in cells.items():
        require_same({f"{method}-{seed}": one for seed, one in runs.items()}, [SEED])
        every = list(runs.values())
        points = len(every[0]["bounds"])
        for n, (events, counts) in enumerate(zip(*_columns(every), strict=True)):
            k, at = divmod(n, points)
            whole = Rate(sum(events), sum(counts))
            rates = [Rate(*pair).value for pair in zip(events, counts, strict=True)]
            reward = sum(one["rewards"][n][k] for one in every) / len(every)
            rows.append(
                f"| {METHODS[method]} | {every[0]['names'][k]} | {every[0]['bounds'][at]:.3g} | "
                f"{whole.value:.1%} | {whole.upper_bound():.1%} | {min(rates):.1%}, "
                f"{max(rates):.1%} | {reward:.3f} |"
            )
    return "\n".join(rows)


def _columns(runs: Sequence[Result]) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Events and counts of each point, one entry a seed."""
    events, counts = (
        list(zip(*(run[key] for run in runs), strict=True)) for key in ("events", "counts")
    )
    return events, counts


if __name__ == "__main__":
    main()
