"""The ship gate: constraints on held-out images, judged with a stated confidence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from morl.errors import ConfigError, DataError
from morl.fronts.verdict import Limit, Verdict, verdict
from morl.lora.store import ADAPTER_FILE, digest_of
from morl.prompts import load_prompts
from morl.training.device import choose_device
from morl.training.evaluate import drawn_anew, trained, weight_grid
from morl.training.judge import Judge, score_images
from morl.training.run import RunDirectory
from morl.weights import parse_weights
from rewards.evaluate import BoundObjective
from rewards.expression import Constraint
from rewards.objective import Objective
from rewards.parse import parse_constraint
from rewards.ranges import bounds

FORMAT = 1
ROUNDING = 1e-5  # how far float32 arithmetic may leave a declared range, relative to the values


@dataclass(frozen=True)
class Terms:
    """What is asked of an adapter, and how sure one wants to be.

    constraints: text as in a recipe; weights: weight vectors as text, the run's grid where empty;
    images: drawn anew for each weight vector; event: a value above this counts as an event, and
    constraints bound its rate; simultaneous: the confidence is that of all constraints and weight
    vectors together (Bonferroni) instead of each alone; budgets: where the bounds that slide are
    put, as text, the strictest where omitted.
    """

    constraints: tuple[str, ...]
    confidence: float = 0.95
    images: int = 500
    weights: tuple[str, ...] = ()
    event: float | None = None
    simultaneous: bool = False
    budgets: str | None = None

    def parsed(self) -> tuple[Constraint, ...]:
        """Read the constraints; raises ExpressionError or ConfigError with every problem."""
        found = Objective(()).subject_to(*map(parse_constraint, self.constraints)).constraints
        problems = []
        if not found:
            problems.append("--constraint: at least one is needed")
        if not 0 < self.confidence < 1:
            problems.append(f"--confidence: must lie between 0 and 1; got {self.confidence:g}")
        if self.images < 2:
            problems.append(f"--images: must be at least 2; got {self.images}")
        problems += [
            f"--constraint: {c}: baseline() is what a run measured at its start; write a number"
            for c in found
            if c.baseline
        ]
        problems += [
            f"--constraint: {c}: a verdict is on one bound; write a number, and the budget that "
            "the adapter is put at as --budgets"
            for c in found
            if c.budget is not None
        ]
        if self.event is not None:
            problems += [
                f"--event: {c} bounds the share beyond its own threshold already"
                for c in found
                if c.quantile is not None
            ]
            problems += [
                f"--constraint: {c} bounds a share of images, as --event is given, so its "
                "threshold must lie between 0 and 1"
                for c in found
                if not 0 <= c.threshold <= 1
            ]
        if problems:
            raise ConfigError(problems)
        return found


@dataclass(frozen=True)
class Gate:
    """The verdicts: one for each constraint and weight vector.

    level: the confidence of each verdict alone, which is higher than the stated one where all are
    meant to hold at once.
    """

    adapter_sha256: str
    names: tuple[str, ...]
    terms: Terms
    level: float
    weights: tuple[tuple[float, ...], ...]
    verdicts: dict[str, tuple[Verdict, ...]]
    budgets: dict[str, float]

    @property
    def holds(self) -> bool:
        """Whether every constraint holds at every weight vector."""
        return all(v.holds for column in self.verdicts.values() for v in column)

    def to_dict(self) -> dict[str, Any]:
        """Plain form for JSON."""
        return {
            "format": FORMAT,
            "holds": self.holds,
            "adapter_sha256": self.adapter_sha256,
            "objectives": list(self.names),
            "confidence": self.terms.confidence,
            "simultaneous": self.terms.simultaneous,
            "confidence_of_each": self.level,
            "images": self.terms.images,
            "event": self.terms.event,
            "budgets": self.budgets,
            "constraints": {
                text: [
                    {"weights": list(w), **v.to_dict()}
                    for w, v in zip(self.weights, column, strict=True)
                ]
                for text, column in self.verdicts.items()
            },
        }


def check_run(run_or_file: Path, terms: Terms) -> Gate:
    """Judge a run's adapter, or one of its adapter files, on held-out prompts.

    Prompts (with replacement) and noise are drawn independently for every weight vector, so that
    the images of each, and those of different ones, are independent. Raises DataError where a
    constraint applies to too few prompts to be judged.
    """
    constraints = terms.parsed()
    run, file = located(run_or_file)
    config = run.config()
    grid = weight_grid(config)
    if terms.weights:
        grid = torch.stack([parse_weights(text, config.names) for text in terms.weights])
    parts = trained(run, file, terms.budgets)
    bound = BoundObjective(
        Objective((), constraints), device=choose_device(config.training.accelerator)
    )
    bound.statistics = parts.bound.statistics
    prompts = load_prompts(config.prompts.held_out, "held_out", config.training.seed)
    together = len(constraints) * len(grid) if terms.simultaneous else 1
    level = 1 - (1 - terms.confidence) / together
    columns: dict[str, list[Verdict]] = {str(constraint): [] for constraint in constraints}
    for number, weights in enumerate(tqdm(grid, desc="check", leave=False)):
        asked = drawn_anew(parts, prompts, terms.images, number, weights, "gate")
        scores = score_images(parts, Judge(bound, None), *asked)["proxy"]
        for j, constraint in enumerate(constraints):
            seen = scores.costs[scores.cost_valid[:, j], j]
            columns[str(constraint)].append(_judged(seen, constraint, terms, level))
    return Gate(
        digest_of(file),
        config.names,
        terms,
        level,
        tuple(tuple(row) for row in grid.tolist()),
        {text: tuple(column) for text, column in columns.items()},
        parts.adapter.usual,
    )


def located(run_or_file: Path) -> tuple[RunDirectory, Path]:
    """The run, and the adapter file that is meant; an adapter file lies in its run's folder."""
    if run_or_file.is_dir():
        run, file = RunDirectory(run_or_file), run_or_file / ADAPTER_FILE
        run.require()
    else:
        near = (RunDirectory(folder) for folder in run_or_file.absolute().parents[:2])
        found = next((run for run in near if run.exists), None)
        if found is None:
            raise DataError(
                f"{run_or_file}: no run directory, nor an adapter file in one; the run's "
                "config.yaml says what base model, prompts and rewards to judge it by"
            )
        run, file = found, run_or_file
    if not file.is_file():
        raise DataError(
            f"{file}: no such file; training writes it at its end: resume the run, or give an "
            "adapter file"
        )
    return run, file


def _judged(
    values: Float[Tensor, " image"], constraint: Constraint, terms: Terms, level: float
) -> Verdict:
    if len(values) < 2:
        raise DataError(
            f"{constraint}: applies to {len(values)} of {terms.images} held-out images, too few "
            "to judge it; raise --images"
        )
    low, high = bounds(constraint.expression)
    beyond = float(torch.maximum(values.max() - high, low - values.min()))
    if beyond > ROUNDING * max(1.0, float(values.abs().max())):
        raise DataError(
            f"{constraint}: takes values {float(values.min()):g} .. {float(values.max()):g}, out "
            f"of its declared range {low:g} .. {high:g}; correct the range, or write clip(...)"
        )
    seen = values.double().clamp(low, high)
    if constraint.quantile is not None:
        return _share_beyond(seen, constraint, constraint.quantile, level)
    limit = Limit(constraint.threshold, constraint.sense == "<=", low, high, terms.event)
    return verdict(seen.numpy(), limit, level)


def _share_beyond(
    values: Float[Tensor, " image"], constraint: Constraint, quantile: float, level: float
) -> Verdict:
    """A quantile lies within its bound exactly where few enough images lie beyond it."""
    sign = 1.0 if constraint.sense == "<=" else -1.0
    share = 1 - quantile if sign > 0 else quantile
    limit = Limit(share, upper=True, event=sign * constraint.threshold)
    return verdict((sign * values).numpy(), limit, level)
