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
    effective_figure,
    kl_figure,
    shares_figure,
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
    if config.objective.normalize != "base":
        yield section(
            "Effective weights",
            f"Rewards were divided by the spread of their group ({config.objective.normalize}), "
            "which changes what a weight means: the batch mean of the weights that this comes to, "
            "in units of the base model's spread. With frozen units they would follow the weights "
            "that were drawn, equal on average unless weights.low or weights.high say otherwise.",
            effective_figure(metrics, config.names),
        )
    objective = Objective.from_dict(config.objective.to_objective())
    for name, constraint in zip(objective.constraint_names, objective.constraints, strict=True):
        slides = " Every image was held to a bound of its own; the line is the strictest."
        yield section(
            f"Constraint in training: {constraint}",
            "What a batch measures of the learned cost, plus pessimism, and the multiplier (its "
            "mean over the batch where it depends on the weight vector)."
            + ("" if constraint.budget is None else slides),
            constraint_figure(
                metrics, name, metrics[-1].get(f"threshold/{name}", constraint.threshold)
            ),
        )
    for name in dict.fromkeys(owner for owner, _ in objective.shared):
        shares = shares_figure(metrics, name, [r for owner, r in objective.shared if owner == name])
        if shares is not None:
            yield section(
                f"What {name} is made of: {dict(objective.maximized)[name]}",
                "Share of each reward in what sets the images of an update apart in this "
                "objective: mean size of its contribution against the mean image (Shapley values). "
                "A reward whose share shrinks no longer steers, whatever its coefficient.",
                shares,
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
