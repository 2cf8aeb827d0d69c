"""Measure the front of a run: a weight grid on held-out prompts, in proxy and held-out space."""

from __future__ import annotations

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

from morl.config.tree import Config
from morl.fronts.events import EventRates, Rate
from morl.fronts.front import FORMAT, Front
from morl.fronts.indicators import FrontConstants, controllability
from morl.lora.store import ADAPTER_FILE, read_adapter
from morl.prompts import load_prompts
from morl.randomness import generator
from morl.training.assemble import Assembly, assemble
from morl.training.run import RunDirectory
from morl.training.state import read_statistics
from morl.weights import das_dennis, edge_path
from rewards.evaluate import BoundObjective
from rewards.expression import Constraint
from rewards.objective import Objective
from rewards.parse import parse_expression
from rewards.reward import ImageBatch

IDEAL_SDS = 2.0  # an axis without a frozen ideal ends two base standard deviations above the base
EVENT = 0.5  # a held-out cost above this counts as an event


@dataclass(frozen=True)
class Judge:
    """The measures of one evaluation: spaces share encoders, and images are scored once."""

    proxy: BoundObjective
    gold: BoundObjective | None

    def spaces(self) -> dict[str, BoundObjective]:
        """Each space by name; `gold` is any measure that never trained."""
        return {"proxy": self.proxy} | ({} if self.gold is None else {"gold": self.gold})


@dataclass(frozen=True)
class Scores:
    """What a set of images scored in one space: rewards [P,K], costs [P,J] and where they apply."""

    rewards: Float[Tensor, "image objective"]
    costs: Float[Tensor, "image constraint"]
    cost_valid: Tensor


def evaluate_run(
    run_dir: str | Path, rewards: Sequence[str] | None = None, full: bool = False
) -> Path:
    """Write `front.json` for a trained run and return its path.

    rewards: further expressions, reported at each weight vector; full: also the edge paths that
    controllability is judged by. Held-out prompts and noise are shared by all weight vectors, so
    differences are paired; constraints are judged on prompts and noise drawn anew for each.
    """
    run = RunDirectory(run_dir)
    config = run.config()
    parts = assemble(_sampling(config))
    _, parameters = read_adapter(run.path / ADAPTER_FILE)
    parts.adapter.load_state_dict(parameters)
    parts.bound.statistics = read_statistics(run)
    judge = _judge(config, parts, rewards or ())
    prompts = load_prompts(config.prompts.held_out, "held_out", config.training.seed)
    result = measure(parts, judge, prompts, full=full)
    run.write_json("evaluation_ledger.json", parts.ledger.to_dict())
    return run.write_json("front.json", result)


@torch.no_grad()
def measure(
    parts: Assembly, judge: Judge, prompts: Sequence[str], *, full: bool = False
) -> dict[str, Any]:
    """Sample and score the grid, the constraint images and, if `full`, the edge paths."""
    config = parts.config
    names = config.names
    grid = das_dennis(len(names), config.evaluation.partitions)
    count = config.evaluation.images_per_weight
    asked = [prompts[i % len(prompts)] for i in range(count)]
    noise = parts.sampler.noise(count, generator(config.training.seed, 0, 0, "held-out noise"))
    base = _score(parts, judge, asked, None, noise)
    groups = tuple(i % len(prompts) for i in range(count))
    points = [_score(parts, judge, asked, w, noise) for w in tqdm(grid, desc="front", leave=False)]
    result: dict[str, Any] = {
        "format": FORMAT,
        "names": list(names),
        "constraints": [str(c) for c in parts.objective.constraints],
        "images_per_weight": count,
        "fronts": {},
        "events": _events(parts, judge, prompts, grid),
    }
    for space in judge.spaces():
        samples = torch.stack([point[space].rewards for point in points])
        front = _front(space, config, grid, samples, base[space].rewards, groups)
        result["fronts"][space] = {**front.to_dict(), **front.summary()}
    result["also"] = _also(judge, grid, points, base)
    if full:
        result["paths"] = _paths(parts, judge, prompts)
    return result


def _sampling(config: Config) -> Config:
    """The configuration with evaluation's own sampler settings where it has some."""
    chosen = {
        key: value
        for key in ("guidance", "steps")
        if (value := getattr(config.evaluation, key)) is not None
    }
    return replace(config, base=replace(config.base, **chosen))


def _judge(config: Config, parts: Assembly, also: Sequence[str]) -> Judge:
    """Proxies without pessimism, and the held-out measures under the names they judge."""
    proxy = replace(parts.objective, pessimism=0.0)
    extra = tuple((text, parse_expression(text)) for text in also)
    proxy = replace(proxy, maximized=(*proxy.maximized, *extra))
    bound = parts.bound if not extra and not parts.objective.pessimism else proxy.bind()
    bound.statistics.update(parts.bound.statistics)
    held_out = config.evaluation.held_out
    if not all(name in held_out for name in config.names):
        return Judge(bound, None)
    constraints = tuple(
        Constraint(parse_expression(held_out[name]), constraint.sense, constraint.threshold)
        for name, constraint in zip(
            parts.objective.constraint_names, parts.objective.constraints, strict=True
        )
        if name in held_out
    )
    gold = Objective(
        tuple((name, parse_expression(held_out[name])) for name in config.names), constraints
    )
    return Judge(bound, gold.bind())


def _score(
    parts: Assembly,
    judge: Judge,
    prompts: Sequence[str],
    weights: Float[Tensor, " objective"] | None,
    noise: Tensor,
) -> dict[str, Scores]:
    """Sample at one weight vector (None: the base model), and score in every space."""
    size = parts.config.training.batch_size
    columns: dict[str, list[Scores]] = {space: [] for space in judge.spaces()}
    for start in range(0, len(prompts), size):
        part = list(prompts[start : start + size])
        rows = torch.zeros(len(part), len(parts.config.names)) if weights is None else weights
        rollout = parts.sampler.sample(
            part,
            rows.expand(len(part), -1),
            noise[start : start + size],
            reference=weights is None,
        )
        batch = ImageBatch(parts.sampler.decode(rollout.final), part)
        with parts.ledger.phase("score"):
            for space, bound in judge.spaces().items():
                table = bound(batch)
                columns[space].append(Scores(table.rewards, table.costs, table.cost_valid))
    return {
        space: Scores(
            torch.cat([s.rewards for s in scores]).cpu(),
            torch.cat([s.costs for s in scores]).cpu(),
            torch.cat([s.cost_valid for s in scores]).cpu(),
        )
        for space, scores in columns.items()
    }


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
    mean, std = base.mean(dim=0), base.std(dim=0)
    nadir = (mean - std).tolist()
    ideal = (mean + IDEAL_SDS * std).tolist()
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


def _events(parts: Assembly, judge: Judge, prompts: Sequence[str], grid: Tensor) -> dict[str, Any]:
    """Held-out events (cost above 1/2) against each constraint, with exact binomial bounds."""
    count = parts.config.evaluation.judged_images
    bound = judge.gold
    if bound is None or not bound.objective.constraints or not count:
        return {}
    counted: dict[str, Any] = {}
    trials = [None, *grid]
    scored = [
        _score(parts, judge, *_drawn_anew(parts, prompts, count, number, weights))["gold"]
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
        counted[name] = EventRates(name, constraint.threshold, base, tuple(weights)).to_dict()
    return counted


def _drawn_anew(
    parts: Assembly,
    prompts: Sequence[str],
    count: int,
    number: int,
    weights: Float[Tensor, " objective"] | None,
) -> tuple[list[str], Tensor | None, Tensor]:
    draw = generator(parts.config.training.seed, number, 0, "judged prompts and noise")
    chosen = torch.randint(len(prompts), (count,), generator=draw).tolist()
    return [prompts[i] for i in chosen], weights, parts.sampler.noise(count, draw)


def _also(
    judge: Judge, grid: Tensor, points: list[dict[str, Scores]], base: dict[str, Scores]
) -> dict[str, Any]:
    """Mean of every further reward at the base and at each weight vector."""
    names = judge.proxy.objective.names
    return {
        name: {
            "base": float(base["proxy"].rewards[:, i].mean()),
            "weights": [float(point["proxy"].rewards[:, i].mean()) for point in points],
        }
        for i, name in enumerate(names)
        if i >= grid.shape[1]
    }


def _paths(parts: Assembly, judge: Judge, prompts: Sequence[str]) -> dict[str, Any]:
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
        scored = [_score(parts, judge, asked, w, noise) for w in path]
        for space in measured:
            means = [s[space].rewards[:, :k].mean(dim=0) for s in scored]
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
