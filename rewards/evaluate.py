"""Evaluate an objective on images: one panel, one pass over each expression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rewards.ensemble import aggregate
from rewards.errors import CalibrationError
from rewards.expression import (
    Binary,
    Calibrated,
    Clip,
    Combine,
    Ensemble,
    Expression,
    Leaf,
    Number,
)
from rewards.function_reward import FunctionReward
from rewards.objective import Objective
from rewards.panel import Panel, RewardTable
from rewards.registry import build
from rewards.reward import ImageBatch, Reward

Statistics = dict[str, tuple[float, float]]
"""Mean and standard deviation on the base model's images, of expressions by their text."""


@dataclass(frozen=True)
class ObjectiveTable:
    """An objective on one batch, in raw units; J may be 0.

    `rewards` [B,K]: maximised expressions, mean - pessimism x std; `costs` [B,J]: constrained
    expressions, mean + pessimism x std under "<=" and mean - pessimism x std under ">=";
    `std` [B,K]: the members' disagreement on each objective; `raw`: every leaf.
    """

    rewards: Float[Tensor, "batch objective"]
    reward_valid: Bool[Tensor, "batch objective"]
    std: Float[Tensor, "batch objective"]
    costs: Float[Tensor, "batch constraint"]
    cost_valid: Bool[Tensor, "batch constraint"]
    raw: RewardTable


@dataclass(frozen=True)
class _Value:
    mean: Tensor
    valid: Tensor
    std: Tensor


class BoundObjective:
    """An objective with its scorers loaded. Every leaf and every encoder runs once a batch."""

    def __init__(
        self, objective: Objective, device: str = "cpu", chunk: int | None = None
    ) -> None:
        self.objective = objective
        self.statistics: Statistics = {}
        rewards: list[Reward] = [
            build(leaf.name, device) if leaf.target is None else FunctionReward(leaf.target)
            for leaf in objective.leaf_nodes
        ]
        self.panel = Panel(rewards, chunk=chunk)

    @property
    def leaves(self) -> tuple[str, ...]:
        return self.panel.names

    def __call__(self, batch: ImageBatch) -> ObjectiveTable:
        """Score the batch; raises RewardFault from a scorer, CalibrationError before `fit`."""
        return self.table(self.panel(batch))

    def table(self, raw: RewardTable) -> ObjectiveTable:
        """Evaluate all expressions on scores that exist already."""
        p = self.objective.pessimism
        maximized = [_evaluate(e, raw, self.statistics) for _, e in self.objective.maximized]
        costs = [
            _evaluate(c.expression, raw, self.statistics) for c in self.objective.constraints
        ]
        bounds = [
            value.mean + (p if constraint.sense == "<=" else -p) * value.std
            for value, constraint in zip(costs, self.objective.constraints, strict=True)
        ]
        empty = raw.values.new_zeros(len(raw.values), 0)
        return ObjectiveTable(
            torch.stack([value.mean - p * value.std for value in maximized], dim=1),
            torch.stack([value.valid for value in maximized], dim=1),
            torch.stack([value.std.detach() for value in maximized], dim=1),
            torch.stack(bounds, dim=1) if bounds else empty,
            torch.stack([value.valid for value in costs], dim=1) if costs else empty.bool(),
            raw,
        )

    def fit(self, tables: Sequence[RewardTable]) -> None:
        """Learn what `calibrated()` and `ensemble()` need from scores of base-model images."""
        raw = RewardTable(
            torch.cat([table.values for table in tables]).detach(),
            torch.cat([table.valid for table in tables]),
            torch.cat([table.std for table in tables]).detach(),
            tables[0].names,
        )
        for expression in self.objective.expressions:
            # Children first: a calibrated part may itself hold a calibrated part.
            for node in reversed(list(expression.walk())):
                parts: tuple[Expression, ...] = ()
                if isinstance(node, Calibrated | Ensemble):
                    parts = node.children
                for part in parts:
                    value = _evaluate(part, raw, self.statistics)
                    mean, std = value.mean[value.valid].mean(), value.mean[value.valid].std()
                    if not float(std) > 0:
                        raise CalibrationError(
                            f"{part} takes one value on the base model's images; it cannot be "
                            f"calibrated in {node}"
                        )
                    self.statistics[str(part)] = (float(mean), float(std))


def _evaluate(node: Expression, raw: RewardTable, statistics: Statistics) -> _Value:
    if isinstance(node, Leaf):
        scores = raw.column(node.name)
        std = torch.zeros_like(scores.values) if scores.std is None else scores.std
        return _Value(scores.values, scores.valid, std)
    if isinstance(node, Number):
        like = raw.values[:, 0]
        value = torch.full_like(like, node.value)
        return _Value(value, torch.ones_like(like, dtype=torch.bool), torch.zeros_like(like))
    parts = [_evaluate(child, raw, statistics) for child in node.children]
    valid = torch.stack([part.valid for part in parts]).all(dim=0)
    if isinstance(node, Binary):
        return _arithmetic(node.operator, *parts, valid)
    if isinstance(node, Combine):
        return _extreme(node.how, parts, valid)
    if isinstance(node, Clip):
        return _Value(parts[0].mean.clamp(node.low, node.high), valid, parts[0].std)
    known = [_known(child, node, statistics) for child in node.children]
    if isinstance(node, Calibrated):
        (mean, std), part = known[0], parts[0]
        return _Value((part.mean - mean) / std, valid, part.std / std)
    if isinstance(node, Ensemble):
        members = torch.stack([part.mean for part in parts], dim=1)
        mean, std = members.new_tensor(known).unbind(dim=1)
        how = node.aggregate
        value, spread = aggregate(members, mean, std, how)  # type: ignore[arg-type]
        return _Value(value, valid, spread)
    raise TypeError(f"no rule evaluates a {type(node).__name__}")


def _arithmetic(operator: str, a: _Value, b: _Value, valid: Tensor) -> _Value:
    """Arithmetic; disagreements add up, which bounds the std whatever their correlation."""
    if operator == "+":
        return _Value(a.mean + b.mean, valid, a.std + b.std)
    if operator == "-":
        return _Value(a.mean - b.mean, valid, a.std + b.std)
    if operator == "*":
        return _Value(a.mean * b.mean, valid, a.mean.abs() * b.std + b.mean.abs() * a.std)
    ratio = a.mean / b.mean
    return _Value(ratio, valid, (a.std + ratio.abs() * b.std) / b.mean.abs())


def _extreme(how: str, parts: list[_Value], valid: Tensor) -> _Value:
    means = torch.stack([part.mean for part in parts])
    chosen = means.argmin(dim=0) if how == "min" else means.argmax(dim=0)
    stds = torch.stack([part.std for part in parts])
    pick = chosen[None]
    return _Value(means.gather(0, pick)[0], valid, stds.gather(0, pick)[0])


def _known(part: Expression, node: Expression, statistics: Statistics) -> tuple[float, float]:
    if str(part) not in statistics:
        raise CalibrationError(f"{node} needs the statistics of {part}; call `fit` on base images")
    return statistics[str(part)]
