"""What the page says of the training: curves, constraints, distance from the base, speed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from morl.config.tree import Config
from morl.report.section import Section, section
from morl.report.training_figures import (
    SMOOTHING,
    constraint_figure,
    curves_figure,
    disagreement_figure,
    kl_figure,
    speed_figure,
)
from rewards.objective import Objective


def training_sections(metrics: Sequence[Mapping[str, Any]], config: Config) -> Iterator[Section]:
    """The sections of metrics.jsonl."""
    if not metrics:
        yield section("Training", "No update was logged yet.")
        return
    yield section(
        "Learning curves",
        "Mean proxy reward of a batch over random weight vectors: thin as measured, thick its mean "
        f"over {SMOOTHING} updates. They say what training saw; the front above is what counts.",
        curves_figure(metrics, config.names),
    )
    objective = Objective.from_dict(config.objective.to_objective())
    for name, constraint in zip(objective.constraint_names, objective.constraints, strict=True):
        yield section(
            f"Constraint in training: {constraint}",
            "What a batch measures of the learned cost, plus pessimism, and the multiplier (its "
            "mean over the batch where it depends on the weight vector).",
            constraint_figure(
                metrics, name, metrics[-1].get(f"threshold/{name}", constraint.threshold)
            ),
        )
    disagreement = disagreement_figure(metrics, config.names)
    if disagreement is not None:
        yield section(
            "Ensemble disagreement",
            "How much the members of each reward disagree, against the start of training: a rise "
            "says that images leave what the rewards were trained on.",
            disagreement,
        )
    drawn = [figure for figure in (kl_figure(metrics), speed_figure(metrics)) if figure is not None]
    yield section(
        "Distance from the base model, and speed",
        "How far the adapter has moved, as its algorithm measures it (absent where it does not), "
        "and how fast it trained.",
        *drawn,
    )
