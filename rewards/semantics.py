"""What an expression is worth on a table of raw scores: value, validity, disagreement."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool
from torch import Tensor

from rewards.errors import CalibrationError
from rewards.expression import (
    Binary,
    Calibrated,
    Clip,
    Combine,
    Ensemble,
    Expression,
    Extreme,
    Leaf,
    Number,
    Operator,
)
from rewards.members import aggregate
from rewards.panel import RewardTable
from rewards.ranges import Direction, bounds, chained, child_directions
from rewards.reward import Scores

Statistics = Mapping[str, tuple[float, float]]
"""Mean and standard deviation on the base model's images, of expressions by their text."""


def value_of(
    node: Expression, raw: RewardTable, statistics: Statistics, direction: Direction = 1
) -> Scores:
    """Evaluate an expression; gradients flow to the raw values.

    A sample is valid where all rewards of the expression are. The disagreement is carried along to
    first order, and those of different rewards add up, which bounds it from above whatever their
    correlation:

    std(a + b) = std a + std b,  std(a b) = |a| std b + |b| std a,  std(a / b) = (std a + |a/b| std
    b) / |b|,  std min(a, b) = that of the smaller one,  std clip(a) = std a

    `direction` is -1 where a smaller value is the better one: pessimistic ensembles then take
    their upper end. `statistics` holds what `calibrated()` and `ensemble()` need; raises
    CalibrationError where it does not.
    """
    match node:
        case Leaf(name):
            return raw.column(name)
        case Number(constant):
            like = raw.values[:, 0]
            value = torch.full_like(like, constant)
            return Scores(value, torch.ones_like(like, dtype=torch.bool), torch.zeros_like(like))
    parts = [
        value_of(child, raw, statistics, chained(direction, own))
        for child, own in zip(node.children, child_directions(node), strict=True)
    ]
    valid = torch.stack([part.valid for part in parts]).all(dim=0)
    match node:
        case Binary(operator):
            return _arithmetic(operator, parts[0], parts[1], valid)
        case Combine(how):
            return _extreme(how, parts, valid)
        case Clip():
            return Scores(parts[0].values.clamp(*node.bounds), valid, parts[0].disagreement)
        case Calibrated(part):
            mean, std = _known(part, node, statistics)
            return Scores((parts[0].values - mean) / std, valid, parts[0].disagreement / std)
        case Ensemble():
            return _ensemble(node, parts, valid, statistics, direction)
    raise TypeError(f"no rule evaluates a {type(node).__name__}")


def _arithmetic(operator: Operator, a: Scores, b: Scores, valid: Bool[Tensor, " batch"]) -> Scores:
    x, y = a.values, b.values
    match operator:
        case "+":
            return Scores(x + y, valid, a.disagreement + b.disagreement)
        case "-":
            return Scores(x - y, valid, a.disagreement + b.disagreement)
        case "*":
            return Scores(x * y, valid, x.abs() * b.disagreement + y.abs() * a.disagreement)
        case "/":
            # Where the denominator does not apply its 0 means nothing, and must not spread a NaN.
            y = torch.where(b.valid, y, torch.ones_like(y))
            ratio = x / y
            return Scores(ratio, valid, (a.disagreement + ratio.abs() * b.disagreement) / y.abs())


def _extreme(how: Extreme, parts: list[Scores], valid: Bool[Tensor, " batch"]) -> Scores:
    values = torch.stack([part.values for part in parts])
    chosen = (values.argmin(dim=0) if how == "min" else values.argmax(dim=0))[None]
    stds = torch.stack([part.disagreement for part in parts])
    return Scores(values.gather(0, chosen)[0], valid, stds.gather(0, chosen)[0])


def _ensemble(
    node: Ensemble,
    parts: list[Scores],
    valid: Bool[Tensor, " batch"],
    statistics: Statistics,
    direction: Direction,
) -> Scores:
    """Aggregate the members, inside their declared range.

    Where members bring a disagreement of their own, variances within and between them add up.
    """
    members = torch.stack([part.values for part in parts], dim=1)
    known = [_known(member, node, statistics) for member in node.members]
    mean, std = members.new_tensor(known).unbind(dim=1)
    value, between = aggregate(
        members, mean, std, node.aggregate, direction=-1 if direction < 0 else 1
    )
    within = (torch.stack([part.disagreement for part in parts], dim=1) / std).square().mean(dim=1)
    spread = (between.square() + std.mean().square() * within).sqrt()
    return Scores(value.clamp(*bounds(node)), valid, spread)


def _known(part: Expression, node: Expression, statistics: Statistics) -> tuple[float, float]:
    if str(part) not in statistics:
        raise CalibrationError(
            f"{node} needs the base model's statistics of {part}; call `fit` with the raw scores "
            "of base-model images first"
        )
    return statistics[str(part)]
