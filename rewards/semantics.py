"""What an expression is worth on a table of raw scores: value, validity, disagreement."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
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
from rewards.pointwise_values import applied
from rewards.ranges import Direction, bounds, chained, child_directions
from rewards.reward import Scores
from rewards.selection import Rank, Where
from rewards.user_functions import Apply

Statistics = Mapping[str, tuple[float, float]]
"""Mean and standard deviation on the base model's images, of expressions by their text."""


def value_of(
    node: Expression, raw: RewardTable, statistics: Statistics, direction: Direction = 1
) -> Scores:
    """Evaluate an expression; gradients flow to the raw values.

    A sample is valid where all rewards of the expression are; `where` needs its condition and the
    branch that it takes. The disagreement is carried along to first order, and those of different
    rewards add up, which bounds it from above whatever their correlation:

    std(a + b) = std a + std b,  std(a b) = |a| std b + |b| std a,  std(a / b) = (std a + |a/b| std
    b) / |b|,  std min(a, b) = that of the smaller one,  std clip(a) = std a,  std where(c, a, b) =
    that of the branch,  std f(a) = |f(a + std a) - f(a - std a)| / 2 for rank and user functions

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
        case Where():
            return _branch(node, *parts)
        case Rank():
            return _ranks(parts[0], raw)
        case Apply():
            return applied(node, parts, valid)
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


def _branch(node: Where, tested: Scores, yes: Scores, no: Scores) -> Scores:
    at_most = node.sense == "<="
    holds = tested.values <= node.threshold if at_most else tested.values >= node.threshold
    return Scores(
        torch.where(holds, yes.values, no.values),
        tested.valid & torch.where(holds, yes.valid, no.valid),
        torch.where(holds, yes.disagreement, no.disagreement),
    )


def _ranks(part: Scores, raw: RewardTable) -> Scores:
    """Ranks inside groups among valid samples; moved by its std a sample takes another rank."""
    at, std = part.values.detach(), part.disagreement.detach()
    others = (raw.groups[:, None] == raw.groups) & part.valid
    others &= ~torch.eye(len(at), dtype=torch.bool, device=at.device)
    low, middle, high = (_share_below(at + sign * std, at, others) for sign in (-1, 0, 1))
    return Scores(middle, part.valid, (high - low) / 2)


def _share_below(
    values: Float[Tensor, " batch"],
    among: Float[Tensor, " batch"],
    others: Bool[Tensor, "batch batch"],
) -> Float[Tensor, " batch"]:
    """Share of the others that lie below a value; ties count half, nobody there counts as 1/2."""
    below = (among < values[:, None]) & others
    tied = (among == values[:, None]) & others
    count = others.sum(dim=1)
    share = (below.sum(dim=1) + 0.5 * tied.sum(dim=1)) / count.clamp(min=1)
    return torch.where(count > 0, share, 0.5).to(values)


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
