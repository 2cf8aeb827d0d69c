"""Evaluate an objective on images: one panel, one pass over each expression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rewards.calibration import Calibration, moments
from rewards.contributions import contributions
from rewards.errors import CalibrationError, RewardFault
from rewards.explanation import Explanation, explained
from rewards.expression import Calibrated, Ensemble, Expression, Leaf
from rewards.function_reward import FunctionReward
from rewards.limits import Limit, base_value, limits_of
from rewards.members import require_disagreement
from rewards.objective import Objective
from rewards.panel import FaultPolicy, Panel, RewardTable
from rewards.prompt_classes import members
from rewards.ranges import Direction, directions
from rewards.registry import UserReward, build
from rewards.reward import ImageBatch, Reward, Scores
from rewards.routing import matches
from rewards.semantics import value_of


@dataclass(frozen=True)
class ObjectiveTable:
    """An objective on one batch, in raw units; K or J may be 0.

    `rewards` [B,K]: maximised expressions, mean - pessimism x std; `costs` [B,J]: constrained
    expressions, mean + pessimism x std under "<=" and mean - pessimism x std under ">=";
    `std` [B,K]: the members' disagreement on each objective; `raw`: every leaf. Values are finite
    where they are valid, and 0 elsewhere.
    """

    rewards: Float[Tensor, "batch objective"]
    reward_valid: Bool[Tensor, "batch objective"]
    std: Float[Tensor, "batch objective"]
    costs: Float[Tensor, "batch constraint"]
    cost_valid: Bool[Tensor, "batch constraint"]
    raw: RewardTable

    def calibrated(self, calibration: Calibration) -> ObjectiveTable:
        """The maximised rewards and their disagreement in units of the base model's std."""
        std = torch.tensor(calibration.std).to(self.std)
        return replace(self, rewards=calibration.apply(self.rewards), std=self.std / std)


class BoundObjective:
    """An objective with its scorers loaded. Every leaf and every encoder runs once a batch.

    `statistics` holds what `calibrated()` and `ensemble()` inside the expressions, and constraints
    relative to the base model, know of it; it is plain data, to be kept with a run.
    """

    def __init__(
        self,
        objective: Objective,
        device: str = "cpu",
        chunk: int | None = None,
        on_fault: FaultPolicy = "raise",
    ) -> None:
        self.objective = objective
        self.statistics: dict[str, tuple[float, float]] = {}
        self.panel = Panel(
            [_built(leaf, device) for leaf in objective.leaf_nodes],
            chunk=chunk,
            on_fault=on_fault,
            names=objective.leaves,
        )

    @property
    def leaves(self) -> tuple[str, ...]:
        """Names of all rewards that run, each once."""
        return self.panel.names

    def __call__(self, batch: ImageBatch) -> ObjectiveTable:
        """Score the batch; raises RewardFault from a scorer, CalibrationError before `fit`."""
        table = self.table(self.panel(batch), self.applies(batch))
        return self.routed(table, batch.metadata)

    def applies(self, batch: ImageBatch) -> Bool[Tensor, "batch constraint"]:
        """On which prompts each constraint is declared to hold; all of them without a `where`."""
        rows = [
            members(c.where, batch.prompts, batch.metadata) if c.where else [True] * len(batch)
            for c in self.objective.constraints
        ]
        held = torch.tensor(rows, dtype=torch.bool).view(len(rows), len(batch))
        return held.T.to(batch.images.device)

    def limits(self) -> tuple[Limit, ...]:
        """Each constraint's bound in numbers; raises CalibrationError before `fit`."""
        return limits_of(self.objective.constraints, self.statistics)

    def table(
        self, raw: RewardTable, applies: Bool[Tensor, "batch constraint"] | None = None
    ) -> ObjectiveTable:
        """Evaluate all expressions on scores that exist already.

        applies: what `applies` says of their batch; raises ValueError where it is missing and a
        constraint holds on some prompts alone.
        """
        if applies is None and any(c.where for c in self.objective.constraints):
            raise ValueError("a constraint names a class of prompts: pass `applies` of their batch")
        found = [self._scores(*part, raw) for part in self._parts()]
        bounded = [
            self._pessimistic(scores, role)
            for scores, (_, _, role) in zip(found, self._parts(), strict=True)
        ]
        maximized = len(self.objective.maximized)
        rewards, costs = found[:maximized], found[maximized:]
        none = raw.values.new_zeros(len(raw.values), 0)
        held = torch.stack([scores.valid for scores in costs], dim=1) if costs else none.bool()
        return ObjectiveTable(
            torch.stack(bounded[:maximized], dim=1) if rewards else none,
            torch.stack([scores.valid for scores in rewards], dim=1) if rewards else none.bool(),
            torch.stack([s.disagreement.detach() for s in rewards], dim=1) if rewards else none,
            torch.stack(bounded[maximized:], dim=1) if costs else none,
            held if applies is None else held & applies,
            raw,
        )

    def routed(
        self, table: ObjectiveTable, records: Sequence[Mapping[str, Any]] | None
    ) -> ObjectiveTable:
        """Mark objectives as not valid on prompts whose record they do not apply to.

        records: one a row, as in `ImageBatch.metadata`; None for prompts without any.
        """
        applies = self.objective.applies
        if not applies:
            return table
        rows: Sequence[Mapping[str, Any]] = records or [{}] * len(table.rewards)
        found = [
            [name not in applies or matches(applies[name], row) for name in self.objective.names]
            for row in rows
        ]
        valid = table.reward_valid & torch.tensor(found).to(table.reward_valid.device)
        zero = torch.zeros_like(table.rewards)
        return replace(
            table,
            rewards=torch.where(valid, table.rewards, zero),
            reward_valid=valid,
            std=torch.where(valid, table.std, zero),
        )

    def fit(
        self,
        tables: Sequence[RewardTable],
        applies: Sequence[Bool[Tensor, "batch constraint"]] | None = None,
    ) -> None:
        """Learn what the expressions and constraints need from raw scores of base-model images.

        applies: what `applies` says of each table's batch, needed as in `table`.

        Raises CalibrationError for no scores at all and for a part that never varies,
        NoProtectionError for members that never disagree.
        """
        if not tables:
            raise CalibrationError("`fit` got no scores of base-model images")
        raw = RewardTable.joined(tables).detached()
        self.statistics = {}
        for _, expression, role in self._parts():
            # Parents come first, and a calibrated part may itself hold a calibrated part.
            for node, direction in reversed(list(directions(expression, role))):
                if isinstance(node, Calibrated | Ensemble):
                    self._fit_parts(node, direction, raw)
        self._fit_limits(raw, None if applies is None else torch.cat(list(applies)))

    def _fit_limits(
        self, raw: RewardTable, applies: Bool[Tensor, "batch constraint"] | None
    ) -> None:
        """Measure what relative constraints bound on the base model, without pessimism."""
        if applies is None and any(c.needs_base and c.where for c in self.objective.constraints):
            raise ValueError("a constraint names a class of prompts: pass `applies` of each batch")
        for j, constraint in enumerate(self.objective.constraints):
            if not constraint.needs_base:
                continue
            found = value_of(constraint.expression, raw, self.statistics, _role(constraint.sense))
            held = found.valid if applies is None else found.valid & applies[:, j]
            self.statistics[constraint.base_key] = base_value(constraint, found.values, held)

    def explain(
        self,
        batch: ImageBatch,
        weights: Tensor | Sequence[float] | None = None,
        calibration: Calibration | None = None,
    ) -> Explanation:
        """Say what each reward contributes to the utility of every image, and to its gradient.

        `weights`: [K], or [B,K] for a weight vector an image; equal where omitted. `calibration`: a
        run's; without it objectives count in raw units. Print the answer for a table. Raises
        ValueError for weights of another shape, and as a call does.
        """
        return explained(self, batch, weights, calibration)

    def leaf_contributions(self, raw: RewardTable) -> Float[Tensor, "batch share"]:
        """What each (objective, reward) of `Objective.shared` adds to its objective, in raw units.

        Against the table's mean sample: those of one objective sum to its value minus that of the
        mean sample. From scores alone: no scorer runs. All 0 for an objective without a value at
        some mixture of a sample and the mean, such as the root of a difference: they are for the
        log, which must not stop a run.
        """
        found = [raw.values.new_zeros(len(raw.values), 0)]
        for part, name in zip(self._parts(), self.objective.names, strict=False):
            leaves = [leaf for owner, leaf in self.objective.shared if owner == name]
            if not leaves:
                continue
            try:
                found.append(contributions(partial(self._bounded, *part), raw.detached(), leaves))
            except RewardFault:
                found.append(raw.values.new_zeros(len(raw.values), len(leaves)))
        return torch.cat(found, dim=1)

    def _fit_parts(
        self, node: Calibrated | Ensemble, direction: Direction, raw: RewardTable
    ) -> None:
        """Learn the base model's mean and std of everything that stands right under `node`."""
        parts = [value_of(part, raw, self.statistics, direction) for part in node.children]
        if isinstance(node, Ensemble):
            require_disagreement(torch.stack([part.values for part in parts], dim=1))
        for part, scores in zip(node.children, parts, strict=True):
            self.statistics[str(part)] = moments(str(part), scores.values, scores.valid)

    def _parts(self) -> list[tuple[str, Expression, Direction]]:
        """Key, expression, and whether it should be large (1) or small (-1)."""
        maximized: list[tuple[str, Expression, Direction]] = [
            (f"maximize.{name}", expression, 1) for name, expression in self.objective.maximized
        ]
        return [
            *maximized,
            *(
                (f"subject_to[{j}]", constraint.expression, _role(constraint.sense))
                for j, constraint in enumerate(self.objective.constraints)
            ),
        ]

    def _bounded(
        self, key: str, expression: Expression, role: Direction, raw: RewardTable
    ) -> Float[Tensor, " batch"]:
        return self._pessimistic(self._scores(key, expression, role, raw), role)

    def _pessimistic(self, scores: Scores, role: Direction) -> Float[Tensor, " batch"]:
        return scores.values - role * self.objective.pessimism * scores.disagreement

    def _scores(
        self, key: str, expression: Expression, role: Direction, raw: RewardTable
    ) -> Scores:
        scores = value_of(expression, raw, self.statistics, role)
        bad = scores.valid & ~(torch.isfinite(scores.values) & torch.isfinite(scores.disagreement))
        if bad.any():
            i = int(bad.nonzero()[0])
            seen = ", ".join(
                f"{name} = {raw.column(name).values[i].item():g}"
                for name in (leaf.name for leaf in expression.leaves())
            )
            raise RewardFault(
                f"{key}: {expression} is {scores.values[i].item():g} on sample {i} ({seen})"
            )
        zero = torch.zeros_like(scores.values)
        return Scores(
            torch.where(scores.valid, scores.values, zero),
            scores.valid,
            torch.where(scores.valid, scores.disagreement, zero),
        )


def _role(sense: str) -> Direction:
    """What a constraint bounds from above should be small."""
    return -1 if sense == "<=" else 1


def _built(leaf: Leaf, device: str) -> Reward:
    if leaf.target is None:
        return build(leaf.name, device)
    if isinstance(leaf.target, UserReward):
        return FunctionReward(leaf.target)
    return leaf.target
