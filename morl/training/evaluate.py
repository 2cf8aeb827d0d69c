"""Measure the front of a run: a weight grid on held-out prompts, in proxy and held-out space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from morl.budgets import OneBudgets, parse_budgets
from morl.config.tree import Config
from morl.fronts.events import EventRates, Rate
from morl.fronts.front import FORMAT, Front
from morl.fronts.indicators import FrontConstants, controllability
from morl.lora.store import ADAPTER_FILE, read_adapter
from morl.prompts import load_prompts
from morl.randomness import generator
from morl.training.assemble import Assembly, assemble
from morl.training.judge import Judge, Scores, judge_of, score_images
from morl.training.run import RunDirectory
from morl.training.state import read_statistics
from morl.weights import das_dennis, edge_path
from rewards.objective import Objective

IDEAL_SDS = 2.0  # an axis without a frozen ideal ends two base standard deviations above the base
EVENT = 0.5  # a held-out cost above this counts as an event


def evaluate_run(
    run_dir: str | Path,
    rewards: Sequence[str] | None = None,
    full: bool = False,
    budgets: OneBudgets | None = None,
) -> Path:
    """Write `front.json` for a trained run and return its path.

    rewards: further expressions, reported at each weight vector; full: also the edge paths that
    controllability is judged by; budgets: where the bounds that slide are put, the strictest where
    omitted. Held-out prompts and noise are shared by all weight vectors, so differences are
    paired; constraints are judged on prompts and noise drawn anew for each.
    """
    run = RunDirectory(run_dir)
    config = run.config()
    parts = trained(run, run.path / ADAPTER_FILE, budgets)
    judge = judge_of(config, parts, rewards or ())
    prompts = load_prompts(config.prompts.held_out, "held_out", config.training.seed)
    result = measure(parts, judge, prompts, full=full)
    run.write_json("evaluation_ledger.json", parts.ledger.to_dict())
    return run.write_json("front.json", result)


def trained(run: RunDirectory, file: Path, budgets: OneBudgets | None = None) -> Assembly:
    """Load a run with an adapter file of its own, to be judged: with evaluation's sampler.

    budgets: of all images that name none, and what the constraints then say; the strictest where
    omitted. Raises ConfigError for what does not slide or lies outside of its range.
    """
    config = _sampling(run.config())
    slid = Objective.from_dict(config.objective.to_objective()).budgets
    bounds = parse_budgets(budgets, slid)
    parts = assemble(config)
    _, parameters = read_adapter(file)
    parts.adapter.load_state_dict(parameters)
    parts.adapter.usual = bounds
    parts.bound.statistics = read_statistics(run)
    return replace(parts, objective=parts.objective.at_budgets(bounds))


def weight_grid(config: Config) -> Float[Tensor, "point objective"]:
    """The weight vectors at which a front is measured."""
    return das_dennis(len(config.names), config.evaluation.partitions)


@dataclass(frozen=True)
class ScoredGrid:
    """Scores of the same prompts and noise at the base model and at every weight vector.

    groups [P]: number of each image's prompt.
    """

    weights: Float[Tensor, "point objective"]
    base: dict[str, Scores]
    points: list[dict[str, Scores]]
    groups: tuple[int, ...]

    def fronts(self, config: Config) -> dict[str, Front]:
        """The front in each space."""
        return {
            space: _front(
                space,
                config,
                self.weights,
                torch.stack([point[space].rewards for point in self.points]),
                base.rewards,
                self.groups,
            )
            for space, base in self.base.items()
        }


@torch.no_grad()
def score_grid(parts_at: Sequence[Assembly], judge: Judge, prompts: Sequence[str]) -> ScoredGrid:
    """Sample and score the weight grid; point n comes from `parts_at[n]`, often all the same."""
    config, sampler = parts_at[0].config, parts_at[0].sampler
    grid = weight_grid(config)
    count = config.evaluation.images_per_weight
    asked = [prompts[i % len(prompts)] for i in range(count)]
    noise = sampler.noise(count, generator(config.training.seed, 0, 0, "held-out noise"))
    pairs = zip(parts_at, grid, strict=True)
    bar = tqdm(pairs, total=len(grid), desc="front", leave=False)
    return ScoredGrid(
        grid,
        score_images(parts_at[0], judge, asked, None, noise),
        [score_images(parts, judge, asked, w, noise) for parts, w in bar],
        tuple(i % len(prompts) for i in range(count)),
    )


@torch.no_grad()
def measure(
    parts: Assembly, judge: Judge, prompts: Sequence[str], *, full: bool = False
) -> dict[str, Any]:
    """Sample and score the grid, the constraint images and, if `full`, the edge paths."""
    config = parts.config
    grid = score_grid([parts] * len(weight_grid(config)), judge, prompts)
    result: dict[str, Any] = {
        "format": FORMAT,
        "names": list(config.names),
        "constraints": [str(c) for c in parts.objective.constraints],
        "budgets": parts.adapter.usual,
        "images_per_weight": config.evaluation.images_per_weight,
        "fronts": {
            space: {**front.to_dict(), **front.summary()}
            for space, front in grid.fronts(config).items()
        },
        "events": judge_constraints(parts, judge, prompts, grid.weights),
        "also": _also(judge, grid),
    }
    if full:
        result["paths"] = edge_paths(parts, judge, prompts)
    return result


def _sampling(config: Config) -> Config:
    """The configuration with evaluation's own sampler settings where it has some."""
    chosen = {
        key: value
        for key in ("guidance", "steps")
        if (value := getattr(config.evaluation, key)) is not None
    }
    return replace(config, base=replace(config.base, **chosen))


def _front(
    space: str,
    config: Config,
    grid: Float[Tensor, "point objective"],
    samples: Float[Tensor, "point image objective"],
    base: Float[Tensor, "image objective"],
    groups: tuple[int, ...],
) -> Front:
    k = len(config.names)
    base, samples = base[:, :k], samples[:, :, :k]
    applying = [column[~column.isnan()] for column in base.T]
    nadir = [float(column.mean() - column.std()) for column in applying]
    ideal = [float(column.mean() + IDEAL_SDS * column.std()) for column in applying]
    if space == "gold":
        for i, name in enumerate(config.names):
            if name in config.evaluation.axes:
                nadir[i], ideal[i] = config.evaluation.axes[name]
    return Front(
        space,
        config.names,
        grid.double().numpy(),
        samples.double().numpy(),
        base.double().numpy(),
        groups,
        FrontConstants(tuple(nadir), tuple(ideal)),
    )


@torch.no_grad()
def judge_constraints(
    parts: Assembly, judge: Judge, prompts: Sequence[str], grid: Tensor
) -> dict[str, Any]:
    """Held-out events (cost above 1/2) against each constraint, with exact binomial bounds."""
    count = parts.config.evaluation.judged_images
    bound = judge.gold
    if bound is None or not bound.objective.constraints or not count:
        return {}
    counted: dict[str, Any] = {}
    trials = [None, *grid]
    scored = [
        score_images(parts, judge, *drawn_anew(parts, prompts, count, number, weights))["gold"]
        for number, weights in enumerate(tqdm(trials, desc="constraints", leave=False))
    ]
    constraints = zip(bound.objective.constraint_names, bound.objective.constraints, strict=True)
    for j, (name, constraint) in enumerate(constraints):
        base, *weights = (
            Rate(
                int((s.costs[s.cost_valid[:, j], j] > EVENT).sum()),
                int(s.cost_valid[:, j].sum()),
            )
            for s in scored
        )
        budget = constraint.event_budget(base.value if constraint.baseline else 0.0)
        counted[name] = EventRates(name, budget, base, tuple(weights)).to_dict()
    return counted


def drawn_anew(
    parts: Assembly,
    prompts: Sequence[str],
    count: int,
    number: int,
    weights: Float[Tensor, " objective"] | None,
    purpose: str = "judged prompts and noise",
) -> tuple[list[str], Tensor | None, Tensor]:
    """Prompts (with replacement), weights and noise of trial `number`, independent of others."""
    draw = generator(parts.config.training.seed, number, 0, purpose)
    chosen = torch.randint(len(prompts), (count,), generator=draw).tolist()
    return [prompts[i] for i in chosen], weights, parts.sampler.noise(count, draw)


def _also(judge: Judge, grid: ScoredGrid) -> dict[str, Any]:
    """Mean of every further reward at the base and at each weight vector."""
    return {
        name: {
            "base": _mean_of(grid.base["proxy"], i),
            "weights": [_mean_of(point["proxy"], i) for point in grid.points],
        }
        for i, name in enumerate(judge.proxy.objective.names)
        if i >= grid.weights.shape[1]
    }


def _mean_of(scores: Scores, column: int) -> float | None:
    """Mean where the reward applies; None where it never does, as JSON has no NaN."""
    mean = float(scores.rewards[:, column].nanmean())
    return None if math.isnan(mean) else mean


@torch.no_grad()
def edge_paths(parts: Assembly, judge: Judge, prompts: Sequence[str]) -> dict[str, Any]:
    """Mean rewards on every edge of the simplex, and the controllability that they show."""
    config = parts.config
    k, count = len(config.names), config.evaluation.edge_images
    asked = [prompts[i % len(prompts)] for i in range(count)]
    noise = parts.sampler.noise(count, generator(config.training.seed, 1, 0, "held-out noise"))
    edges = [(i, j) for i, j in permutations(range(k), 2) if i < j]
    measured: dict[str, dict[tuple[int, int], np.ndarray[Any, Any]]] = {
        space: {} for space in judge.spaces()
    }
    for i, j in tqdm(edges, desc="edge paths", leave=False):
        path = edge_path(k, i, j, config.evaluation.edge_points)
        scored = [score_images(parts, judge, asked, w, noise) for w in path]
        for space in measured:
            means = [s[space].rewards[:, :k].nanmean(dim=0) for s in scored]
            measured[space][i, j] = torch.stack(means).double().numpy()
    return {
        space: {
            "controllability": dict(zip(config.names, controllability(paths, k), strict=True)),
            "edges": [
                {"from": config.names[i], "to": config.names[j], "rewards": means.tolist()}
                for (i, j), means in paths.items()
            ],
        }
        for space, paths in measured.items()
    }
